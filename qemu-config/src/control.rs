//! Device servers' control sockets: finding those that run, and asking them.
//!
//! The protocol is [`hmmgpu_telemetry::control`]. Whatever the other side does, a call here ends
//! in the time it was given, with at most one reply in memory.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::server_fault::ServerProcess;
pub use hmmgpu_server::runtime_directory as directory;
use hmmgpu_telemetry::Event;
use hmmgpu_telemetry::control::{
    Answer, Command, Hello, INTERVAL_MS, MAX_REPLY_BYTES, PROTOCOL, Reply, Request,
};
use hmmgpu_telemetry::snapshot::{SCHEMA, Snapshot};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How a socket's name ends; the server's process id is in front.
pub const EXTENSION: &str = "control";
/// How long a server may take to greet, and to answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Longest greeting that is read, in bytes.
const MAX_HELLO_BYTES: usize = 64 << 10;
/// A socket that nobody listens on is a dead server's from this age on, whatever its process id
/// says: the id may be another process's by now. A server makes and opens its socket at once.
const STALE: Duration = Duration::from_secs(60);

/// Why a server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The runtime directory cannot be trusted or read.
    #[error(
        "{} is not used: {reason}; remove it, or name sockets with --control PATH",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody listens.
    #[error("no server listens on {}", .0.display())]
    NobodyListens(PathBuf),
    /// Anything else that keeps from connecting, or breaks the connection.
    #[error("{}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What failed.
        #[source]
        error: io::Error,
    },
    /// It is another program's socket, or that of another version.
    #[error(
        "{} speaks {theirs}, this program {PROTOCOL}: use the hmmgpu that started it",
        path.display()
    )]
    OtherProtocol {
        /// The socket.
        path: PathBuf,
        /// What it speaks.
        theirs: String,
    },
    /// The server has ended.
    #[error("the server has ended")]
    Ended,
    /// No answer in time.
    #[error("the server does not answer (waited {0:.1?})")]
    Silent(Duration),
    /// What came cannot be understood.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
    /// The server said no.
    #[error("the server refuses: {0}")]
    Refused(String),
}

/// The sockets in a runtime directory, those of older processes first. None where there is no
/// directory.
///
/// # Errors
/// When the directory is not this user's alone: another user could show made-up GPUs in it.
pub fn discover(directory: &Path) -> Result<Vec<PathBuf>, ControlError> {
    let refused = |reason: String| ControlError::Directory {
        path: directory.to_owned(),
        reason,
    };
    let metadata = match std::fs::symlink_metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(refused(error.to_string())),
    };
    if !metadata.is_dir() {
        return Err(refused("it is no directory".into()));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused("it belongs to another user".into()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(refused("other users have access to it".into()));
    }
    let entries = std::fs::read_dir(directory).map_err(|error| refused(error.to_string()))?;
    let mut sockets: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .filter_map(|entry| Some((pid_of(&entry.path())?, entry.path())))
        .collect();
    sockets.sort();
    Ok(sockets.into_iter().map(|(_, path)| path).collect())
}

/// The process that a socket in the runtime directory is named after.
fn pid_of(path: &Path) -> Option<u32> {
    let is_control = path.extension().is_some_and(|found| found == EXTENSION);
    path.file_stem()
        .filter(|_| is_control)
        .and_then(|stem| stem.to_str()?.parse().ok())
}

/// Removes the socket of a server that was killed, if it is one.
fn remove_if_dead(path: &Path) {
    let Some(pid) = pid_of(path)
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw)
    else {
        return;
    };
    let gone = rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
    let age = std::fs::symlink_metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|made| SystemTime::now().duration_since(made).ok());
    if (gone || age.is_some_and(|age| age > STALE)) && std::fs::remove_file(path).is_ok() {
        tracing::debug!(
            "removed {}, left by a server that was killed",
            path.display()
        );
    }
}

/// A conversation with a server.
#[derive(Debug)]
pub struct Connection {
    path: PathBuf,
    stream: UnixStream,
    hello: Hello,
    /// What has been read beyond the last line.
    pending: Vec<u8>,
    last_id: u64,
}

impl Connection {
    /// Connects and reads the greeting. A socket in a runtime directory that a killed server has
    /// left is removed.
    ///
    /// # Errors
    /// When nobody listens, or what listens is no server of this protocol's version.
    pub fn open(path: &Path, patience: Duration) -> Result<Self, ControlError> {
        let stream = match connect(path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::NotFound
                ) =>
            {
                if error.kind() == ErrorKind::ConnectionRefused {
                    remove_if_dead(path);
                }
                return Err(ControlError::NobodyListens(path.to_owned()));
            }
            Err(error) => return Err(io_error(path, error)),
        };
        let mut connection = Self {
            path: path.to_owned(),
            stream,
            hello: Hello {
                protocol: String::new(),
                revision: String::new(),
                pid: 0,
                label: String::new(),
                socket: String::new(),
            },
            pending: Vec::new(),
            last_id: 0,
        };
        let line = connection
            .line(patience, MAX_HELLO_BYTES)?
            .ok_or(ControlError::Silent(patience))?;
        connection.hello = greeting(path, &line)?;
        Ok(connection)
    }

    /// The server's process, as the kernel knows it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn process(&self) -> Result<ServerProcess, ControlError> {
        let process = ServerProcess::behind(&self.stream);
        process.map_err(|error| io_error(&self.path, error.into()))
    }

    /// What the server said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks for one snapshot.
    ///
    /// # Errors
    /// When the server ends, stays silent for [`PATIENCE`], or answers with anything else.
    pub fn snapshot(&mut self, windows: bool) -> Result<Snapshot, ControlError> {
        match self.ask(Command::Snapshot { windows })? {
            Answer::Snapshot(snapshot) => Ok(*snapshot),
            _ => Err(ControlError::Nonsense("no snapshot was in it".into())),
        }
    }

    /// Asks for the last events of the device, the oldest first.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn events(&mut self, last: usize) -> Result<Vec<Event>, ControlError> {
        match self.ask(Command::Events { last })? {
            Answer::Events(events) => Ok(events),
            _ => Err(ControlError::Nonsense("no events were in it".into())),
        }
    }

    /// Arms faults.
    ///
    /// # Errors
    /// When the server refuses them, or as [`Self::snapshot`].
    pub fn inject(&mut self, faults: Vec<String>) -> Result<(), ControlError> {
        self.done(Command::Inject { faults })
    }

    /// Disarms all faults.
    ///
    /// # Errors
    /// As [`Self::snapshot`].
    pub fn clear_injected(&mut self) -> Result<(), ControlError> {
        self.done(Command::ClearInjected)
    }

    /// Models a link.
    ///
    /// # Errors
    /// When the server refuses it, or as [`Self::snapshot`].
    pub fn set_link(&mut self, link: String) -> Result<(), ControlError> {
        self.done(Command::SetLink { link })
    }

    /// Has something done.
    fn done(&mut self, command: Command) -> Result<(), ControlError> {
        match self.ask(command)? {
            Answer::Done {} => Ok(()),
            _ => Err(ControlError::Nonsense("it is no answer to that".into())),
        }
    }

    /// The answer to a command.
    fn ask(&mut self, command: Command) -> Result<Answer, ControlError> {
        let deadline = Instant::now() + PATIENCE;
        let id = self.send(command)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .line(left, MAX_REPLY_BYTES)?
                .ok_or(ControlError::Silent(PATIENCE))?;
            let reply = parse(&line)?;
            match reply.answer {
                Answer::Error(reason) => return Err(ControlError::Refused(reason)),
                answer if reply.id == id => return Ok(answer),
                // One of a subscription that was on its way.
                _ => {}
            }
        }
    }

    /// Asks for a snapshot now and after every interval; they come with [`next`](Self::next). An
    /// interval out of the protocol's bounds becomes the nearest within.
    ///
    /// # Errors
    /// When the server has ended or takes no more.
    pub fn subscribe(&mut self, interval: Duration) -> Result<(), ControlError> {
        let interval_ms = u64::try_from(interval.as_millis())
            .unwrap_or(u64::MAX)
            .clamp(*INTERVAL_MS.start(), *INTERVAL_MS.end());
        self.send(Command::Subscribe { interval_ms }).map(|_| ())
    }

    /// The next snapshot of the subscription, or nothing if none came in the time given.
    ///
    /// # Errors
    /// When the server has ended, or says what makes no sense.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Snapshot>, ControlError> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(line) = self.line(left, MAX_REPLY_BYTES)? else {
                return Ok(None);
            };
            match parse(&line)?.answer {
                Answer::Snapshot(snapshot) => return Ok(Some(*snapshot)),
                Answer::Events(_) | Answer::Done {} => {}
                Answer::Error(reason) => return Err(ControlError::Refused(reason)),
            }
        }
    }

    fn send(&mut self, command: Command) -> Result<u64, ControlError> {
        self.last_id += 1;
        let request = Request {
            id: self.last_id,
            command,
        };
        let mut line = serde_json::to_vec(&request)
            .map_err(|error| ControlError::Nonsense(error.to_string()))?;
        line.push(b'\n');
        self.stream
            .set_write_timeout(Some(PATIENCE))
            .and_then(|()| self.stream.write_all(&line))
            .map_err(|error| match error.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ControlError::Ended,
                ErrorKind::WouldBlock | ErrorKind::TimedOut => ControlError::Silent(PATIENCE),
                _ => io_error(&self.path, error),
            })?;
        Ok(self.last_id)
    }

    /// The next line without its end, or nothing if it is not complete in time; what has come of
    /// it is kept.
    fn line(&mut self, patience: Duration, limit: usize) -> Result<Option<Vec<u8>>, ControlError> {
        let deadline = Instant::now() + patience;
        let mut searched = 0;
        loop {
            if let Some(end) = self.pending[searched..].iter().position(|b| *b == b'\n') {
                let rest = self.pending.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.pending.len();
            if searched > limit {
                return Err(ControlError::Nonsense(format!(
                    "it is longer than {limit} bytes"
                )));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut chunk = [0; 64 << 10];
            let read = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut chunk));
            match read {
                Ok(0) => return Err(ControlError::Ended),
                Ok(bytes) => self.pending.extend_from_slice(&chunk[..bytes]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(None),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset => return Err(ControlError::Ended),
                    _ => return Err(io_error(&self.path, error)),
                },
            }
        }
    }
}

/// Connects without waiting: a server whose backlog is full is as good as none.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match rustix::net::connect(&socket, &address) {
        Err(rustix::io::Errno::AGAIN) => {
            return Err(io::Error::other("the server is busy with other readers"));
        }
        result => result?,
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn io_error(path: &Path, error: io::Error) -> ControlError {
    ControlError::Io {
        path: path.to_owned(),
        error,
    }
}

fn greeting(path: &Path, line: &[u8]) -> Result<Hello, ControlError> {
    let other = |theirs: &str| ControlError::OtherProtocol {
        path: path.to_owned(),
        theirs: crate::text::printable(theirs.as_bytes())
            .chars()
            .take(60)
            .collect(),
    };
    let document: serde_json::Value =
        serde_json::from_slice(line).map_err(|_| other("something else"))?;
    match document["protocol"].as_str() {
        Some(PROTOCOL) => serde_json::from_value(document)
            .map_err(|error| ControlError::Nonsense(error.to_string())),
        Some(theirs) => Err(other(theirs)),
        None => Err(other("something else")),
    }
}

fn parse(line: &[u8]) -> Result<Reply, ControlError> {
    let reply: Reply = serde_json::from_slice(line)
        .map_err(|error| ControlError::Nonsense(format!("{error} (expected {SCHEMA})")))?;
    match &reply.answer {
        Answer::Snapshot(snapshot) if snapshot.schema != SCHEMA => Err(ControlError::Nonsense(
            format!("its snapshots are not {SCHEMA}"),
        )),
        _ => Ok(reply),
    }
}
