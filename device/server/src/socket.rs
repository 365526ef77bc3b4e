//! Whose a socket path is: bound, refused because a server listens there, or taken over from a
//! server that died.
//!
//! Between looking at a path and binding it another server could do the same. So both happen
//! under a lock on the directory, which leaves no file behind and ends with its holder.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hmmgpu_sandbox::Grant;
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Longest path of a socket, in bytes.
const MAX_PATH_BYTES: usize = 107;

/// Clients that may wait while another one is served.
const BACKLOG: i32 = 16;

/// How long another server may need to bind in the same directory; it needs milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A server listens there.
    #[error(
        "a server is listening on {path}: choose another socket, or stop that server first (`ss -xlp` names it)"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} exists and is not a socket: choose another path, or remove it")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path does not fit into a socket address.
    #[error(
        "the socket path {path} is {length} bytes long, and a socket's may have at most {MAX_PATH_BYTES}: choose a shorter one, for example in /tmp"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// QEMU could not be told the path.
    #[error("the socket path {path} is not UTF-8, as QEMU wants it: choose another one")]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// A lock on the directory was not to be had.
    #[error(
        "another process keeps the directory of the socket {path} locked: end it, or choose another directory"
    )]
    Locked {
        /// The socket.
        path: PathBuf,
    },
    /// The directory is not there.
    #[error("there is no directory {directory} for the socket: make it, or choose another path")]
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory of control sockets is not this user's alone.
    #[error(
        "{directory} {problem}: remove it, set XDG_RUNTIME_DIR to a directory of your own, or name another control socket"
    )]
    NotPrivate {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The directory of control sockets cannot be had.
    #[error("cannot make the directory of control sockets {directory}")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot {action} the socket {path}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A socket that listens, only for its owner. Dropping it removes the path.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    path: PathBuf,
    /// Device and inode of the path, to tell it from what may have replaced it.
    identity: (u64, u64),
    listener: UnixListener,
}

impl BoundSocket {
    /// Binds `path`, with mode 0600, and listens.
    ///
    /// # Errors
    /// See [`SocketError`]. Nothing is left behind then.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let system = |action| {
            move |source: io::Error| SocketError::System {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let absolute = std::path::absolute(path).map_err(system("name"))?;
        let path = absolute.as_path();
        let system = |action| {
            move |source: io::Error| SocketError::System {
                action,
                path: path.to_owned(),
                source,
            }
        };
        if path.to_str().is_none() {
            return Err(SocketError::NotUtf8 {
                path: path.to_owned(),
            });
        }
        let length = path.as_os_str().len();
        if length > MAX_PATH_BYTES {
            return Err(SocketError::TooLong {
                path: path.to_owned(),
                length,
            });
        }
        let address = SocketAddrUnix::new(path).map_err(|errno| system("name")(errno.into()))?;
        let socket = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
            .map_err(|errno| system("create")(errno.into()))?;
        // The path gets the mode of the socket: at no time may others connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| system("set the mode of")(errno.into()))?;

        // Held until the socket listens: only then can another server see that it lives.
        let _lock = lock_directory(path)?;
        match path.symlink_metadata() {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Ok(_) => {
                if is_live(&address).map_err(|errno| system("probe")(errno.into()))? {
                    return Err(SocketError::InUse {
                        path: path.to_owned(),
                    });
                }
                tracing::info!(path = %path.display(), "replacing the socket of a dead server");
                std::fs::remove_file(path).map_err(system("replace"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system("look at")(error)),
        }
        bind(&socket, &address).map_err(|errno| system("bind")(errno.into()))?;
        let metadata = path.symlink_metadata().map_err(system("look at"))?;
        let bound = Self {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            listener: UnixListener::from(socket),
        };
        listen(&bound.listener, BACKLOG).map_err(|errno| system("listen on")(errno.into()))?;
        Ok(bound)
    }

    /// What dropping it needs of the file system.
    pub(crate) fn grant(&self) -> Grant {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        Grant::RemoveFiles(folder.to_owned())
    }

    /// The listening socket, which does not block.
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // While the socket still listens no server takes the path for dead, so that what is
        // there is either ours or put there by a user.
        let ours = self
            .path
            .symlink_metadata()
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if !ours {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), "cannot remove the socket: {error}");
        }
    }
}

fn new_socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Whether somebody listens at `address`. One who does sees a client that leaves at once.
fn is_live(address: &SocketAddrUnix) -> Result<bool, Errno> {
    let probe = new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match connect(&probe, address) {
        // EAGAIN: so many wait already that there is no room; EPROTOTYPE: another kind of socket.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS | Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Locks the directory of `path` against other servers that bind there.
fn lock_directory(path: &Path) -> Result<File, SocketError> {
    let system = |source| SocketError::System {
        action: "lock the directory of",
        path: path.to_owned(),
        source,
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    let directory = File::open(directory).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SocketError::NoDirectory {
            directory: directory.to_owned(),
        },
        _ => system(error),
    })?;
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(SocketError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(errno) => return Err(system(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    #[test]
    fn of_many_that_find_a_dead_socket_at_once_one_wins() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("s");
        for _ in 0..200 {
            drop(UnixListener::bind(&path).expect("bind"));
            let start = Arc::new(Barrier::new(4));
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (path, start) = (path.clone(), Arc::clone(&start));
                    std::thread::spawn(move || {
                        start.wait();
                        BoundSocket::bind(&path)
                    })
                })
                .collect();
            // All are kept until the last has tried.
            let results: Vec<_> = threads
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .collect();
            let won = results.iter().filter(|result| result.is_ok()).count();
            assert_eq!(won, 1, "{results:?}");
            let in_use = results
                .iter()
                .filter(|result| matches!(result, Err(SocketError::InUse { .. })))
                .count();
            assert_eq!(in_use, 3, "{results:?}");
        }
        assert!(!path.exists());
    }
}
