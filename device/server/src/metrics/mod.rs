//! Metrics: snapshots as Prometheus wants them, over HTTP.

mod families;
mod http;
mod text;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use hmmgpu_telemetry::snapshot::Snapshot;

pub use families::metric_names;
pub use text::prometheus_text;

use crate::network::{Network, Service};

/// Where snapshots come from: those of all GPUs that answer, with their numbers. Called on a
/// thread where it may wait for a moment.
pub type SnapshotSource = Arc<dyn Fn() -> Vec<(u32, Snapshot)> + Send + Sync>;

/// An address that is listened on; nothing is answered yet.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl MetricsListener {
    /// Listens on `address`; port 0 is any that is free.
    ///
    /// # Errors
    /// When the address is taken, or not this host's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens, with the port that was found.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the network's thread runs.
    pub(crate) fn service(self, source: SnapshotSource) -> Service {
        Box::pin(http::listen(self.listener, source))
    }
}

/// An endpoint for a process that is not a device server itself. Dropping it closes it.
#[derive(Debug)]
pub struct MetricsServer {
    _network: Network,
}

impl MetricsServer {
    /// Answers on a thread of its own.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(listener: MetricsListener, source: SnapshotSource) -> io::Result<Self> {
        Ok(Self {
            _network: Network::start(vec![listener.service(source)])?,
        })
    }
}
