//! Where servers of one user are found: the directory of their control sockets.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use hmmgpu_sandbox::Grant;
use rustix::process::geteuid;

use crate::socket::{BoundSocket, SocketError};

/// Longest `$XDG_RUNTIME_DIR` that is used: the path of a socket has 107 bytes at most.
const MAX_BASE_BYTES: usize = 80;
/// Each try fails only if another server has removed the empty directory in between.
const TRIES: usize = 16;

/// The directory of control sockets: `$XDG_RUNTIME_DIR/hmmgpu`, or `/tmp/hmmgpu-UID` where the
/// variable names no directory of this user that can hold a socket.
pub fn runtime_directory() -> PathBuf {
    let uid = geteuid().as_raw();
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|base| base.is_absolute() && base.as_os_str().len() <= MAX_BASE_BYTES)
        .filter(|base| {
            std::fs::metadata(base).is_ok_and(|found| found.is_dir() && found.uid() == uid)
        })
        .map_or_else(
            || PathBuf::from(format!("/tmp/hmmgpu-{uid}")),
            |base| base.join("hmmgpu"),
        )
}

/// Where the server of this process has its control socket unless it was told otherwise.
pub fn default_control_path(pid: u32) -> PathBuf {
    runtime_directory().join(format!("{pid}.control"))
}

/// Removes what a server that was killed has left in the directory; for whoever started it, after
/// its end. One that ended by itself has left nothing.
pub fn remove_left_control_socket(pid: u32) {
    remove_left(&default_control_path(pid));
}

fn remove_left(path: &Path) {
    // The number may belong to another server by now, which listens.
    let refused = UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        // Both fail only if somebody else was quicker, or has a socket in the directory.
        let _ = std::fs::remove_file(path);
        let _ = path.parent().map(std::fs::remove_dir);
    }
}

/// A socket in a directory of this user alone, which is made if it is not there.
#[derive(Debug)]
pub(crate) struct PrivateSocket {
    socket: Option<BoundSocket>,
    directory: PathBuf,
}

impl PrivateSocket {
    /// Binds `path`.
    ///
    /// # Errors
    /// Those of [`BoundSocket::bind`], and [`SocketError::NotPrivate`].
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let mut tries = 1..;
        let socket = loop {
            make_private(&directory)?;
            let last = tries.next() == Some(TRIES);
            match BoundSocket::bind(path) {
                Err(SocketError::NoDirectory { .. }) if !last => {}
                Err(SocketError::System { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && !last => {}
                result => break result?,
            }
        };
        Ok(Self {
            socket: Some(socket),
            directory,
        })
    }

    /// What dropping it needs of the file system.
    pub(crate) fn grants(&self) -> Vec<Grant> {
        let base = self.directory.parent().unwrap_or(Path::new("/"));
        let folder = Grant::RemoveFolders(base.to_owned());
        let socket = self.socket.as_ref().map(BoundSocket::grant);
        socket.into_iter().chain([folder]).collect()
    }

    pub(crate) fn socket(&self) -> Option<&BoundSocket> {
        self.socket.as_ref()
    }
}

impl Drop for PrivateSocket {
    /// The last one leaves nothing behind.
    fn drop(&mut self) {
        self.socket = None;
        // It fails while other servers have their sockets there.
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// Makes a directory for this user alone, or sees that it is one: who can rename what is in it
/// could stand in for a server.
fn make_private(directory: &Path) -> Result<(), SocketError> {
    let system = |source| SocketError::Directory {
        directory: directory.to_owned(),
        source,
    };
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(system(error)),
    }
    match directory.symlink_metadata() {
        // Another server has just removed it; binding says so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system(error)),
        Ok(found) => match problem(&found) {
            None => Ok(()),
            Some(problem) => Err(SocketError::NotPrivate {
                directory: directory.to_owned(),
                problem,
            }),
        },
    }
}

fn problem(found: &Metadata) -> Option<&'static str> {
    if !found.is_dir() {
        Some("is not a directory")
    } else if found.uid() != geteuid().as_raw() {
        Some("belongs to another user")
    } else if found.mode() & 0o077 != 0 {
        Some("is open to other users")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refused(path: &Path) -> String {
        let error = PrivateSocket::bind(path).expect_err("refused");
        assert!(matches!(error, SocketError::NotPrivate { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn the_directory_is_made_private_and_goes_with_its_last_socket() {
        let base = tempfile::tempdir().expect("tempdir");
        let directory = base.path().join("hmmgpu");
        let first = PrivateSocket::bind(&directory.join("1.control")).expect("bind");
        let mode = directory.metadata().expect("metadata").mode();
        assert_eq!(mode & 0o7777, 0o700);
        let second = PrivateSocket::bind(&directory.join("2.control")).expect("bind");
        drop(first);
        assert!(!directory.join("1.control").exists());
        assert!(directory.join("2.control").exists());
        drop(second);
        assert!(!directory.exists());
    }

    #[test]
    fn what_a_killed_server_has_left_goes_and_what_a_live_one_has_stays() {
        let base = tempfile::tempdir().expect("tempdir");
        let directory = base.path().join("hmmgpu");
        std::fs::create_dir(&directory).expect("create_dir");
        let (dead, live) = (directory.join("1.control"), directory.join("2.control"));
        drop(UnixListener::bind(&dead).expect("bind"));
        let listener = UnixListener::bind(&live).expect("bind");
        remove_left(&dead);
        remove_left(&live);
        assert!(!dead.exists() && live.exists());
        drop(listener);
        remove_left(&live);
        remove_left(&live);
        assert!(!directory.exists());
    }

    #[test]
    fn a_directory_that_others_can_use_is_refused() {
        let base = tempfile::tempdir().expect("tempdir");
        let directory = base.path().join("hmmgpu");
        let path = directory.join("1.control");
        std::fs::create_dir(&directory).expect("create_dir");
        for mode in [0o755, 0o777, 0o710, 0o701] {
            std::fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).expect("chmod");
            let text = refused(&path);
            assert!(text.contains("is open to other users"), "{text}");
            assert!(text.contains("XDG_RUNTIME_DIR"), "{text}");
        }
        std::fs::remove_dir(&directory).expect("remove_dir");
        // Not even if it leads to one that is private.
        let target = base.path().join("target");
        DirBuilder::new()
            .mode(0o700)
            .create(&target)
            .expect("mkdir");
        std::os::unix::fs::symlink(&target, &directory).expect("symlink");
        assert!(refused(&path).contains("is not a directory"));
        std::fs::remove_file(&directory).expect("remove_file");
        std::fs::write(&directory, "").expect("write");
        assert!(refused(&path).contains("is not a directory"));
    }

    #[test]
    fn one_that_cannot_be_made_is_an_error() {
        let base = tempfile::tempdir().expect("tempdir");
        let error = PrivateSocket::bind(&base.path().join("no/such/1.control"));
        let error = error.expect_err("refused");
        assert!(matches!(error, SocketError::Directory { .. }), "{error:?}");
    }

    #[test]
    fn of_many_that_come_and_go_none_fails() {
        let base = tempfile::tempdir().expect("tempdir");
        let directory = base.path().join("hmmgpu");
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let directory = &directory;
                scope.spawn(move || {
                    for _ in 0..100 {
                        let path = directory.join(format!("{thread}.control"));
                        drop(PrivateSocket::bind(&path).expect("bind"));
                    }
                });
            }
        });
        assert!(!directory.exists());
    }
}
