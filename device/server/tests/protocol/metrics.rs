//! Metrics over HTTP: what is answered, what is refused, and that the numbers are the snapshot's.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use hmmgpu_server::metric_names;

use crate::common::*;
use crate::serve::Running;
use crate::whole_path::{Driver, from_vram, to_vram};

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("time-out");
    stream
}

/// The answer to these bytes: status line with headers, and body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = connect(address);
    // It fails where the answer came before the end of the request.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

/// Metrics by name and labels.
fn scrape(address: SocketAddr) -> BTreeMap<String, f64> {
    let (head, body) = get(address, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    body.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn values_are_those_of_the_snapshot() {
    let server = Running::start();
    let (socket, address) = (server.socket.clone(), server.metrics);
    let (before, after) = bounded(move || {
        let mut driver = Driver::new(&socket);
        driver.run(&[to_vram(0)]);
        driver.idle();
        let before = scrape(address);
        driver.run(&[to_vram(0), from_vram(0)]);
        driver.idle();
        (before, scrape(address))
    });
    let snapshot = server.stop();
    for row in &snapshot.transfers {
        let class = serde_json::to_value(row).expect("a row");
        let labels = format!(
            "gpu=\"0\",order=\"{}\",direction={},trigger={}",
            row.order, class["direction"], class["trigger"]
        );
        // Both are rounded to what a float holds.
        let is = |name: &str, more: &str, value: u64| {
            let name = format!("{name}{{{labels}{more}}}");
            assert_eq!(after.get(&name), Some(&(value as f64)), "{name}");
        };
        is("hmmgpu_transfer_bytes_total", ",kind=\"copy\"", row.bytes);
        is("hmmgpu_transfer_folios_total", ",kind=\"copy\"", row.folios);
        is(
            "hmmgpu_transfer_duration_seconds_count",
            "",
            row.latency.count,
        );
        is(
            "hmmgpu_transfer_duration_seconds_bucket",
            ",le=\"+Inf\"",
            row.latency.count,
        );
        is(
            "hmmgpu_transfer_queue_wait_seconds_count",
            "",
            row.queue_wait.count,
        );
        let busy = after[&format!("hmmgpu_transfer_engine_seconds_total{{{labels}}}")];
        assert_eq!(busy, row.engine_ns as f64 / 1e9);
    }
    assert_eq!(snapshot.transfers.len(), 2);
    let moved = |of: &BTreeMap<String, f64>| of["hmmgpu_transfer_bytes_total{gpu=\"0\",order=\"0\",direction=\"sys_to_dev\",trigger=\"prefetch\",kind=\"copy\"}"];
    assert_eq!(2.0 * moved(&before), moved(&after));
    assert_eq!(after["hmmgpu_fences_total{gpu=\"0\"}"], 2.0);
    assert_eq!(after["hmmgpu_link_connected{gpu=\"0\"}"], 1.0);
    // Nothing is there that has no name in the list.
    let names = metric_names();
    for series in after.keys() {
        let name = series.split('{').next().expect("a name");
        assert!(names.iter().any(|known| known == name), "{series}");
    }
}

#[test]
fn every_family_is_described() {
    let server = Running::start();
    let (_, body) = get(server.metrics, "/metrics");
    let of = |what: &str| -> Vec<String> {
        let lines = body.lines().filter_map(|line| line.strip_prefix(what));
        lines
            .map(|line| line.split(' ').next().expect("a name").to_owned())
            .collect()
    };
    let types = of("# TYPE ");
    assert!(types.len() > 50, "{types:?}");
    assert_eq!(of("# HELP "), types);
    assert!(
        body.contains("# UNIT hmmgpu_vram_used_bytes bytes\n"),
        "{body}"
    );
    server.stop();
}

#[test]
fn there_is_a_page_and_nothing_else() {
    let server = Running::start();
    let address = server.metrics;
    let (head, body) = get(address, "/");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(body.contains("href=\"/metrics\""), "{body}");
    for path in ["/metrics/", "/../etc/passwd", "/x?metrics"] {
        let (head, _) = get(address, path);
        assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
    }
    assert!(get(address, "/metrics?x=1").0.starts_with("HTTP/1.1 200"));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let (head, _) = ask(address, &request);
        assert!(head.starts_with("HTTP/1.1 405"), "{method}: {head}");
        assert!(head.contains("allow: GET, HEAD"), "{head}");
    }
    let (head, body) = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-length: "), "{head}");
    assert_eq!(body, "");
    server.stop();
}

#[test]
fn what_is_no_request_is_refused() {
    let server = Running::start();
    let address = server.metrics;
    for request in ["nonsense\r\n\r\n", "GET\r\n\r\n", "\0\0\0\0\r\n\r\n"] {
        let (head, _) = ask(address, request);
        assert!(!head.contains(" 200 "), "{request:?}: {head}");
    }
    // Headers without end; what was not read may reset the connection.
    let mut stream = connect(address);
    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n");
    let line = format!("X: {}\r\n", "x".repeat(1000));
    let sent = (0..10_000).find(|_| stream.write_all(line.as_bytes()).is_err());
    assert!(sent.is_some(), "it is read without end");
    assert!(get(address, "/metrics").0.starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn clients_that_say_nothing_keep_nobody_out_for_long() {
    let server = Running::start();
    let address = server.metrics;
    // More than are served at once, and some that stop in the middle.
    let mut silent: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
    for stream in silent.iter_mut().step_by(2) {
        stream.write_all(b"GET /metrics HT").expect("send");
    }
    assert!(get(address, "/metrics").0.starts_with("HTTP/1.1 200"));
    server.stop();
}

#[test]
fn the_dashboard_uses_only_metrics_that_exist() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/grafana-dashboard.json"
    );
    let text = std::fs::read_to_string(path).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let names = metric_names();
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() > 10);
    for panel in panels {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("a query");
            let used: Vec<&str> = query
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .filter(|word| word.starts_with("hmmgpu_"))
                .collect();
            assert!(!used.is_empty(), "{query}");
            for name in used {
                assert!(names.iter().any(|known| known == name), "{name}: {query}");
            }
        }
    }
}
