//! The control socket: snapshots for whoever of the user's programs asks.
//!
//! The protocol's types are in [`hmmgpu_telemetry::control`]. A client costs one task and at most
//! one reply in memory; one that does not read waits for itself alone.

mod client;

use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hmmgpu_model::Device;
use hmmgpu_sandbox::Grant;
use hmmgpu_telemetry::Event;
use hmmgpu_telemetry::control::{Answer, Hello, PROTOCOL, Reply};
use hmmgpu_telemetry::snapshot::Snapshot;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::network::Pace;
use crate::runtime_directory::{PrivateSocket, default_control_path};
use crate::socket::{BoundSocket, SocketError};

/// Most clients at once. Stops a script that forgets to close from taking all of the process's
/// files.
pub const MAX_CONTROL_CLIENTS: usize = 16;
/// Time until the next try when the process may open no more files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Where the control socket is, and what it says of the server.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// Path of the socket; `None`: [`default_control_path`] of this process.
    pub path: Option<PathBuf>,
    /// What the server is for, see [`Hello::label`].
    pub label: String,
    /// Revision of the program.
    pub revision: String,
}

/// A control socket that listens. Dropping it removes the path.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    bound: Bound,
    hello: Hello,
}

#[derive(Debug)]
enum Bound {
    Default(PrivateSocket),
    Chosen(BoundSocket),
}

impl ControlSocket {
    /// Binds it, for a server whose vfio-user socket is `socket`.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub(crate) fn bind(options: &ControlOptions, socket: &Path) -> Result<Self, SocketError> {
        let pid = std::process::id();
        let bound = match &options.path {
            None => Bound::Default(PrivateSocket::bind(&default_control_path(pid))?),
            Some(path) => Bound::Chosen(BoundSocket::bind(path)?),
        };
        let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
        Ok(Self {
            bound,
            hello: Hello {
                protocol: PROTOCOL.to_owned(),
                revision: options.revision.clone(),
                pid,
                label: options.label.clone(),
                socket: socket.display().to_string(),
            },
        })
    }

    /// What dropping it needs of the file system.
    pub(crate) fn grants(&self) -> Vec<Grant> {
        match &self.bound {
            Bound::Default(private) => private.grants(),
            Bound::Chosen(socket) => vec![socket.grant()],
        }
    }

    /// What the network's thread runs.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub(crate) fn service(
        &self,
        device: &Arc<Device>,
    ) -> std::io::Result<impl Future<Output = ()> + Send + use<>> {
        let socket = match &self.bound {
            Bound::Default(private) => private.socket(),
            Bound::Chosen(socket) => Some(socket),
        };
        let listener = match socket {
            Some(socket) => socket.listener().try_clone()?,
            None => return Err(std::io::ErrorKind::NotConnected.into()),
        };
        let shared = Shared {
            hello: self.hello.clone(),
            device: Arc::clone(device),
            pace: Pace::default(),
        };
        Ok(listen(listener, Arc::new(shared)))
    }
}

/// Serves one client that somebody else has accepted, until it closes or sends a line that is too
/// long. It is told `hello`.
///
/// # Errors
/// When it can no more be written to.
pub async fn serve_control_client(
    stream: UnixStream,
    device: Arc<Device>,
    hello: Hello,
) -> std::io::Result<()> {
    let shared = Shared {
        hello,
        device,
        pace: Pace::default(),
    };
    client::serve(stream, &shared).await
}

/// What all clients share.
struct Shared {
    hello: Hello,
    device: Arc<Device>,
    pace: Pace,
}

impl Shared {
    /// A snapshot of now, as soon as it is due.
    async fn snapshot(&self, windows: bool) -> Snapshot {
        let _turn = self.pace.turn().await;
        if windows {
            self.device.snapshot()
        } else {
            self.device.snapshot_without_windows()
        }
    }

    /// The last events, as soon as they are due.
    async fn events(&self, last: usize) -> Vec<Event> {
        let _turn = self.pace.turn().await;
        self.device.last_events(last)
    }
}

/// A message as it goes over the socket.
fn line(message: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

async fn listen(listener: StdListener, shared: Arc<Shared>) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!("the control socket is not served: {error}"),
    };
    let slots = Arc::new(Semaphore::new(MAX_CONTROL_CLIENTS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let shared = Arc::clone(&shared);
                    tokio::spawn(async move {
                        let _slot = slot;
                        if let Err(error) = client::serve(stream, &shared).await {
                            debug!("a control client has gone: {error}");
                        }
                    });
                }
                Err(_) => refuse(stream, &shared.hello),
            },
            Err(error) => {
                debug!("a control client could not be accepted: {error}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Says that there is no room. The few bytes fit into a new socket's buffer; whoever cannot be
/// told without waiting is not told.
fn refuse(stream: UnixStream, hello: &Hello) {
    let full = Reply {
        id: 0,
        answer: Answer::Error(format!(
            "{MAX_CONTROL_CLIENTS} clients are connected, which is as many as there may be: \
             close one and try again"
        )),
    };
    let text = line(hello).and_then(|mut text| {
        text.extend(line(&full)?);
        Ok(text)
    });
    if let (Ok(text), Ok(mut stream)) = (text, stream.into_std()) {
        let _ = std::io::Write::write(&mut stream, &text);
    }
}
