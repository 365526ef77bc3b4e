//! The life of a server: bind, clients in sequence, shutdown, telemetry.

use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown as Half;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hmmgpu_model::{Config, ConfigError, Device, FaultSpec, HostMemory, LinkSpec, TooManyFaults};
use hmmgpu_sandbox::{Role, SandboxError, confine_calls, confine_files};
use hmmgpu_telemetry::CheckMode;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::backend::ModelBackend;
use crate::client_log::ClientLog;
use crate::connection::ConnectionError;
use crate::control::{ControlOptions, ControlSocket};
use crate::dispatch::serve_client;
use crate::metrics::MetricsListener;
use crate::network::{Network, Service};
use crate::output::{Output, TelemetryOutput};
use crate::shutdown::Shutdown;
use crate::socket::{BoundSocket, SocketError};
use crate::trace::{TraceWriter, create as create_trace, now_ns};

/// Longest silence of a client before it has negotiated; those in use do so at once. Stops one that
/// only connects from keeping the others out.
const NEGOTIATION_PATIENCE: Duration = Duration::from_secs(5);

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Path of the socket.
    pub socket: PathBuf,
    /// VRAM size in bytes: 64 MiB to 64 GiB, a multiple of 2 MiB.
    pub vram_bytes: u64,
    /// How closely the driver's use of VRAM is checked.
    pub check: CheckMode,
    /// Where telemetry goes at the end; `None`: nowhere.
    pub telemetry: Option<TelemetryOutput>,
    /// The control socket; `None`: there is none.
    pub control: Option<ControlOptions>,
    /// The trace; `None`: there is none.
    pub trace: Option<TraceOptions>,
    /// Faults that are armed from the beginning.
    pub inject: Vec<FaultSpec>,
    /// The link that is modelled.
    pub link: LinkSpec,
    /// Give up what a server does not need, see [`hmmgpu_sandbox`]. It holds for the thread that
    /// binds the server, and for all that it starts later, whatever these are for.
    pub sandbox: bool,
}

/// Where a trace is written.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The file.
    pub path: PathBuf,
    /// What the device is called in it.
    pub label: String,
}

/// Why a server could not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There cannot be such a device.
    #[error(transparent)]
    Device(#[from] ConfigError),
    /// More faults than can be.
    #[error(transparent)]
    Faults(#[from] TooManyFaults),
    /// The telemetry cannot be written.
    #[error("cannot write the telemetry to {output}, choose another file")]
    Telemetry {
        /// The file, or `-`.
        output: String,
        /// Why not.
        source: io::Error,
    },
    /// The telemetry could not be written at the end, when it was too late to choose.
    #[error("cannot write the telemetry to {output}, so it is on standard error")]
    TelemetryAside {
        /// The file, or `-`.
        output: String,
        /// Why not.
        source: io::Error,
    },
    /// The trace cannot be written.
    #[error("cannot write the trace to {}, choose another file", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The process cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The system refused something that a server cannot do without.
    #[error("cannot serve clients")]
    System(#[source] io::Error),
}

/// A device, and the socket where clients find it.
#[derive(Debug)]
pub struct Server {
    device: Arc<Device>,
    socket: BoundSocket,
    control: Option<ControlSocket>,
    metrics: Option<MetricsListener>,
    trace: Option<TraceWriter>,
    output: Option<(String, Output)>,
}

/// Serves the device until `shutdown` is triggered: [`Server::bind`], then [`Server::run`].
///
/// # Errors
/// Those of both.
pub fn serve(options: &ServeOptions, shutdown: &Shutdown) -> Result<(), ServeError> {
    Server::bind(options)?.run(shutdown)
}

impl Server {
    /// Makes the device and its sockets, and tries the output. When it returns, clients can
    /// connect; they are served as soon as the server runs. Dropping it removes the socket.
    ///
    /// # Errors
    /// When a socket belongs to a live server, cannot be bound, the size of VRAM is not
    /// possible, or the output cannot be written. Nothing is left behind then.
    pub fn bind(options: &ServeOptions) -> Result<Self, ServeError> {
        let output = match &options.telemetry {
            None => None,
            Some(output) => {
                let name = match output {
                    TelemetryOutput::File(path) => path.display().to_string(),
                    TelemetryOutput::Stdout => "-".to_owned(),
                };
                match Output::open(output) {
                    Ok(output) => Some((name, output)),
                    Err(source) => {
                        return Err(ServeError::Telemetry {
                            output: name,
                            source,
                        });
                    }
                }
            }
        };
        let config = Config {
            vram_bytes: options.vram_bytes,
            check: options.check,
            ..Config::default()
        };
        let device = match options.sandbox {
            false => Device::new(config)?,
            true => confined_device(config)?,
        };
        device.inject(options.inject.clone())?;
        device.set_link(options.link.clone());
        let socket = BoundSocket::bind(&options.socket)?;
        let control = options
            .control
            .as_ref()
            .map(|control| ControlSocket::bind(control, &options.socket))
            .transpose()?;
        let trace = options.trace.as_ref().map(|trace| {
            create_trace(&trace.path).map_err(|source| ServeError::Trace {
                path: trace.path.clone(),
                source,
            })
        });
        let trace = trace.transpose()?;
        if options.sandbox {
            let output = output.as_ref().and_then(|(_, output)| output.grant());
            let control = control.as_ref().map(ControlSocket::grants);
            let grants = [socket.grant()].into_iter().chain(output);
            let grants: Vec<_> = grants.chain(control.into_iter().flatten()).collect();
            confine_files(&grants)?;
            confine_calls(Role::Server)?;
        }
        let trace = trace.zip(options.trace.as_ref());
        let trace = trace.map(|(file, trace)| start_trace(&device, file, trace));
        let trace = trace.transpose()?;
        Ok(Self {
            device: Arc::new(device),
            socket,
            control,
            metrics: None,
            trace,
            output,
        })
    }

    /// Answers requests for metrics too, as those of GPU 0.
    #[must_use]
    pub fn with_metrics(mut self, listener: MetricsListener) -> Self {
        self.metrics = Some(listener);
        self
    }

    /// Serves one client after the other until `shutdown` is triggered, then writes the telemetry
    /// and removes the socket. The trigger ends a client's connection wherever it is.
    ///
    /// # Errors
    /// When no client can be accepted any more, or the telemetry cannot be written; what can
    /// still be done is done before it returns.
    pub fn run(self, shutdown: &Shutdown) -> Result<(), ServeError> {
        let Self {
            device,
            socket,
            control,
            metrics,
            trace,
            output,
        } = self;
        let served = start_network(&device, control.as_ref(), metrics)
            .and_then(|_network| serve_clients(&device, &socket, shutdown))
            .map_err(ServeError::System);
        drop(control);
        // Engines tell what they did a little later than the driver sees it.
        device.halt();
        // Before the snapshot, which tells what came of it.
        drop(trace);
        let written = match output {
            None => Ok(()),
            Some((name, output)) => write_telemetry(&device, name, output, &mut io::stderr()),
        };
        drop(socket);
        served.and(written)
    }
}

/// Makes the device on a thread that has given up all but memory and threads: its engines are
/// threads of that one, and stay as confined.
fn confined_device(config: Config) -> Result<Device, ServeError> {
    hmmgpu_sandbox::prepare();
    // The first look at the clock finds out, from a file, how it is read without a system call.
    let _ = now_ns();
    let memory = HostMemory::open();
    let make = || {
        confine_files(&[])?;
        confine_calls(Role::Engine)?;
        Ok(Device::with_host_memory(config, memory)?)
    };
    let thread = std::thread::Builder::new().name("device".to_owned());
    std::thread::scope(|scope| {
        let thread = thread
            .spawn_scoped(scope, make)
            .map_err(ServeError::System)?;
        let made = thread.join();
        made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Lets a trace see what the device does.
fn start_trace(
    device: &Device,
    file: File,
    options: &TraceOptions,
) -> Result<TraceWriter, ServeError> {
    let TraceOptions { path, label } = options;
    let trace = TraceWriter::start(file, path, label, now_ns());
    let trace = trace.map_err(ServeError::System)?;
    // The device is new: nobody else observes it.
    let _ = device.observe(trace.observer());
    Ok(trace)
}

/// Starts to serve those who only look.
fn start_network(
    device: &Arc<Device>,
    control: Option<&ControlSocket>,
    metrics: Option<MetricsListener>,
) -> io::Result<Network> {
    let mut services: Vec<Service> = Vec::new();
    if let Some(control) = control {
        services.push(Box::pin(control.service(device)?));
    }
    if let Some(metrics) = metrics {
        let device = Arc::clone(device);
        let source = move || vec![(0, device.snapshot_without_windows())];
        services.push(metrics.service(Arc::new(source)));
    }
    Network::start(services)
}

/// Writes the telemetry to `output`, and where that fails to `aside`: what was measured cannot be
/// had again.
fn write_telemetry(
    device: &Device,
    name: String,
    output: Output,
    aside: &mut dyn Write,
) -> Result<(), ServeError> {
    let written = serde_json::to_vec_pretty(&device.snapshot())
        .map_err(io::Error::from)
        .and_then(|mut text| {
            text.push(b'\n');
            match output.write(&text) {
                Err(error) if aside.write_all(&text).is_ok() => Ok(Some(error)),
                result => result.map(|()| None),
            }
        });
    match written {
        Ok(None) => Ok(()),
        Ok(Some(source)) => Err(ServeError::TelemetryAside {
            output: name,
            source,
        }),
        Err(source) => Err(ServeError::Telemetry {
            output: name,
            source,
        }),
    }
}

/// Triggers when it goes out of scope, however that comes.
struct OnDrop<'a>(&'a Shutdown);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.trigger();
    }
}

/// The client's socket is blocking, which saves a system call for each message. So a second
/// thread waits for the trigger, or for the loss of the client's memory, and shuts the socket down,
/// which ends any call on it.
fn serve_clients(device: &Device, socket: &BoundSocket, shutdown: &Shutdown) -> io::Result<()> {
    let current: Mutex<Option<Arc<UnixStream>>> = Mutex::new(None);
    let replace = |client: Option<Arc<UnixStream>>| {
        *current.lock().unwrap_or_else(PoisonError::into_inner) = client;
    };
    let finished = Shutdown::new()?;
    let log = ClientLog::default();
    std::thread::scope(|scope| {
        let _finish = OnDrop(&finished);
        std::thread::Builder::new()
            .name("shutdown".to_owned())
            .spawn_scoped(scope, || {
                let lost = device.memory_lost_event();
                // Even when this thread first runs after the trigger, a client may be served by
                // then: it ends only behind a look at the client.
                let mut ends = false;
                while !ends {
                    wait_for(&[shutdown.as_fd(), finished.as_fd(), lost]);
                    ends = shutdown.is_triggered() || finished.is_triggered();
                    // It is told of once. It fails when that is not why the wait is over.
                    let _ = rustix::io::read(lost, &mut [0; 8]);
                    // Until the lock is given back, the current client is the one that lost it.
                    let client = current.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(client) = &*client
                        && (ends || device.memory_lost().is_some())
                    {
                        // It fails when the client has gone already.
                        let _ = client.shutdown(Half::Both);
                    }
                }
            })?;
        while let Some(client) = accept(socket, shutdown)? {
            log.connected();
            let client = Arc::new(client);
            replace(Some(Arc::clone(&client)));
            // Before the line above, the other thread had no client to shut down.
            if shutdown.is_triggered() {
                break;
            }
            serve_one(device, &client, &log, shutdown);
            replace(None);
        }
        Ok(())
    })
}

fn serve_one(device: &Device, client: &UnixStream, log: &ClientLog, shutdown: &Shutdown) {
    let description = ModelBackend::describe(device);
    let mut backend = ModelBackend::new(device, log);
    let patience = |time| {
        if let Err(error) = client.set_read_timeout(time) {
            warn!("a client's time is not limited as it should be: {error}");
        }
    };
    patience(Some(NEGOTIATION_PATIENCE));
    let (negotiated, result) = serve_client(client, &description, &mut backend, log, &mut || {
        // From now on it may be silent for as long as its guest needs nothing.
        patience(None);
        device.client_connected(true);
    });
    match (device.memory_lost(), result) {
        (None, Err(ConnectionError::Silent)) if !negotiated => log.silent(NEGOTIATION_PATIENCE),
        (Some(lost), _) => log.lost_memory(&lost),
        (None, Ok(())) => log.gone(negotiated),
        (None, Err(_)) if shutdown.is_triggered() => info!("client was cut off by the shutdown"),
        (None, Err(error)) => log.dropped(&error),
    }
    // At shutdown the device is left as it is, for the telemetry to show.
    if negotiated && !shutdown.is_triggered() {
        device.client_connected(false);
        backend.disconnect();
    }
}

/// The next client, or `None` once `shutdown` is triggered.
fn accept(socket: &BoundSocket, shutdown: &Shutdown) -> io::Result<Option<UnixStream>> {
    loop {
        let mut waited = [
            PollFd::new(socket.listener(), PollFlags::IN),
            PollFd::new(shutdown, PollFlags::IN),
        ];
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if shutdown.is_triggered() {
            return Ok(None);
        }
        match socket.listener().accept() {
            Ok((client, _)) => return Ok(Some(client)),
            Err(error) => match error.kind() {
                // The client went again, or the poll was interrupted.
                io::ErrorKind::WouldBlock
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

/// Waits until one of some is readable.
fn wait_for(events: &[BorrowedFd<'_>; 3]) {
    let mut waited = events
        .each_ref()
        .map(|event| PollFd::new(event, PollFlags::IN));
    loop {
        match poll(&mut waited, None) {
            Ok(_) => return,
            Err(Errno::INTR) => {}
            // Of poll's errors only a lack of memory can occur, and it passes.
            Err(_) => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod confined;
#[cfg(test)]
mod tests {
    use hmmgpu_telemetry::snapshot::{SCHEMA, Snapshot};

    use super::*;

    #[test]
    fn telemetry_whose_directory_has_gone_is_put_aside() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("gone/t.json");
        let parent = path.parent().expect("a directory");
        std::fs::create_dir(parent).expect("create_dir");
        let output = Output::open(&TelemetryOutput::File(path.clone())).expect("open");
        std::fs::remove_dir(parent).expect("remove_dir");
        let device = Device::new(Config {
            vram_bytes: 64 << 20,
            ..Config::default()
        });
        let (device, mut aside) = (device.expect("a device"), Vec::new());
        let error = write_telemetry(&device, "t.json".to_owned(), output, &mut aside);
        let error = error.expect_err("it is not where it should be");
        assert!(
            matches!(error, ServeError::TelemetryAside { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("standard error"), "{error}");
        let snapshot: Snapshot = serde_json::from_slice(&aside).expect("a snapshot");
        assert_eq!(snapshot.schema, SCHEMA);
        assert!(!path.exists());
    }
}
