//! The HTTP side: one path, one page, and bounds for everything a client can do.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::{SnapshotSource, text};
use crate::network::Pace;

/// Most connections at once; more wait until one has ended. Stops clients that only connect from
/// taking all of the process's files.
const MAX_CONNECTIONS: usize = 16;
/// Longest request line with headers, in bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Longest time from a connection to the end of its request's headers. Stops clients that say
/// nothing from keeping others out.
const HEADER_PATIENCE: Duration = Duration::from_secs(2);
/// Longest that a connection may last, for one request. Stops those that read slowly.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time until the next try when the process may open no more files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

const PAGE: &str = "<!doctype html>\n<html lang=\"en\"><title>hmmgpu</title>\n\
    <p>hmmgpu: <a href=\"/metrics\">metrics</a> of the virtual GPUs of this process, \
    for Prometheus.</p></html>\n";

struct Endpoint {
    source: SnapshotSource,
    pace: Pace,
}

pub(super) async fn listen(listener: StdListener, source: SnapshotSource) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!("metrics are not served: {error}"),
    };
    let endpoint = Arc::new(Endpoint {
        source,
        pace: Pace::default(),
    });
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // It is never closed.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("a client of the metrics could not be accepted: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let endpoint = Arc::clone(&endpoint);
        tokio::spawn(async move {
            let _slot = slot;
            let answer = service_fn(|request| answer(request, Arc::clone(&endpoint)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_PATIENCE)
                .max_buf_size(MAX_HEADER_BYTES)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            match timeout(PATIENCE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("a client of the metrics has gone: {error}"),
                Err(_) => debug!("a client of the metrics was too slow"),
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    endpoint: Arc<Endpoint>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    Ok(match request.uri().path() {
        "/metrics" => metrics(&endpoint).await,
        "/" => body(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"),
    })
}

async fn metrics(endpoint: &Endpoint) -> Response<Full<Bytes>> {
    let source = Arc::clone(&endpoint.source);
    let turn = endpoint.pace.turn().await;
    // The snapshots may come from other processes.
    let text = tokio::task::spawn_blocking(move || text::prometheus_text(&source())).await;
    drop(turn);
    match text {
        Ok(text) => body(StatusCode::OK, text::CONTENT_TYPE, text),
        Err(error) => {
            warn!("no metrics: {error}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "no metrics\n")
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    body(status, "text/plain; charset=utf-8", text)
}

fn body(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
