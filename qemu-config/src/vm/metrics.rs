//! The endpoint for metrics of a launcher: one for all of its devices, whichever runs.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hmmgpu_server::{MetricsListener, MetricsServer};
use hmmgpu_telemetry::control::{Answer, Command, MAX_REPLY_BYTES, Reply, Request};
use hmmgpu_telemetry::snapshot::Snapshot;

/// How long a device server may be silent.
const PATIENCE: Duration = Duration::from_secs(2);

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
        .filter_map(|(gpu, control)| match ask(&control) {
            Ok(snapshot) => Some((gpu, snapshot)),
            Err(error) => {
                tracing::debug!("no metrics of GPU {gpu}: {error}");
                None
            }
        })
        .collect()
}

/// Asks for one snapshot. The server is a child of this process.
fn ask(control: &Path) -> io::Result<Snapshot> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = Request {
        id: 1,
        command: Command::Snapshot { windows: false },
    };
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut lines = BufReader::new(stream.take(MAX_REPLY_BYTES as u64));
    // The greeting, then the answer.
    for _ in 0..2 {
        line.clear();
        lines.read_until(b'\n', &mut line)?;
    }
    match serde_json::from_slice::<Reply>(&line)?.answer {
        Answer::Snapshot(snapshot) => Ok(*snapshot),
        Answer::Done {} => Err(io::ErrorKind::InvalidData.into()),
        Answer::Error(why) => Err(io::Error::other(why)),
    }
}
