//! The endpoint for metrics of a launcher: one for all of its devices, whichever runs.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hmmgpu_server::{MetricsListener, MetricsServer};
use hmmgpu_telemetry::snapshot::Snapshot;

use crate::control::{Connection, PATIENCE};

/// Control sockets of the servers that run, by the number of their GPU.
type Sources = Arc<Mutex<BTreeMap<u32, PathBuf>>>;

/// An endpoint. Dropping it closes it.
#[derive(Debug)]
pub struct Metrics {
    address: SocketAddr,
    sources: Sources,
    _server: MetricsServer,
}

impl Metrics {
    /// Listens on `address`; port 0 is any that is free. It has no devices yet.
    ///
    /// # Errors
    /// When the address is taken or not this host's, or there is no thread to be had.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let sources = Sources::default();
        let listener = MetricsListener::bind(address)?;
        let address = listener.address();
        let asked = Arc::clone(&sources);
        let server = MetricsServer::start(listener, Arc::new(move || snapshots(&asked)))?;
        Ok(Self {
            address,
            sources,
            _server: server,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server of a GPU listens here now.
    pub(super) fn add(&self, gpu: u32, control: PathBuf) {
        lock(&self.sources).insert(gpu, control);
    }

    /// No server runs any more.
    pub(super) fn clear(&self) {
        lock(&self.sources).clear();
    }
}

fn lock(sources: &Sources) -> MutexGuard<'_, BTreeMap<u32, PathBuf>> {
    sources.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks all servers. One that does not answer is on its way out.
fn snapshots(sources: &Sources) -> Vec<(u32, Snapshot)> {
    let sources = lock(sources).clone();
    sources
        .into_iter()
        .filter_map(|(gpu, control)| {
            Connection::open(&control, PATIENCE)
                .and_then(|mut server| server.snapshot(false))
                .inspect_err(|error| tracing::debug!("no metrics of GPU {gpu}: {error}"))
                .ok()
                .map(|snapshot| (gpu, snapshot))
        })
        .collect()
}
