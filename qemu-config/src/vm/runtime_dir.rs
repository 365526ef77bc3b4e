//! A folder for sockets and files of one VM, which never outlives it for long.
//!
//! The folder is locked (flock) as long as its launcher lives. It is removed when the value is
//! dropped, on a panic too; what a killed launcher has left is removed by the next one, which
//! recognises it by the missing lock.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use tempfile::TempDir;

/// Every folder's name begins so. That of control sockets (`hmmgpu-UID`) does not.
pub const PREFIX: &str = "hmmgpu-run-";
/// Longest path of a folder: a socket's path has 107 bytes, and names in the folder are short.
const MAX_PATH: usize = 80;

/// See the module.
#[derive(Debug)]
pub struct RuntimeDir {
    folder: TempDir,
    /// Holds the lock.
    _lock: File,
}

/// `$XDG_RUNTIME_DIR` where it is a folder of this user that can be used, else `/tmp`.
pub fn base() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.as_os_str().len() < MAX_PATH - 20)
        .filter(|path| {
            std::fs::metadata(path).is_ok_and(|found| {
                found.is_dir() && found.uid() == rustix::process::geteuid().as_raw()
            })
        })
        .unwrap_or_else(|| PathBuf::from("/tmp"))
}

impl RuntimeDir {
    /// Makes a folder, for this user only, after sweeping what killed launchers have left.
    pub fn new() -> io::Result<Self> {
        Self::new_in(&base())
    }

    /// As [`new`](Self::new), in another base folder.
    pub fn new_in(base: &Path) -> io::Result<Self> {
        sweep(base);
        // Another launcher's sweep can remove the folder before it is locked: then once more.
        for _ in 0..16 {
            let folder = tempfile::Builder::new()
                .prefix(PREFIX)
                .rand_bytes(8)
                .permissions(PermissionsExt::from_mode(0o700))
                .tempdir_in(base)?;
            let lock = open_folder(folder.path())?;
            rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
            let (ours, there) = (lock.metadata()?, std::fs::metadata(folder.path()));
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Self {
                    folder,
                    _lock: lock,
                });
            }
        }
        Err(io::Error::other(
            "another process keeps removing new runtime folders",
        ))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Removes the folders of launchers that are no more; returns how many. Folders of others and
/// what cannot be removed are left alone.
pub fn sweep(base: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(base) else {
        return 0;
    };
    let mut swept = 0;
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(lock) = open_folder(&path) else {
            continue;
        };
        let ours = lock.metadata().is_ok_and(|found| {
            found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o7777 == 0o700
        });
        if !ours || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if std::fs::remove_dir_all(&path).is_ok() {
            tracing::debug!(
                "removed {}, left by a launcher that was killed",
                path.display()
            );
            swept += 1;
        }
    }
    swept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_short_and_goes_away() {
        let base = tempfile::tempdir().expect("a folder");
        let folder = RuntimeDir::new_in(base.path()).expect("makes one");
        let path = folder.path().to_owned();
        let mode = std::fs::metadata(&path)
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700);
        std::fs::write(path.join("socket"), "x").expect("writes");
        drop(folder);
        assert!(!path.exists());
        let longest = super::base().join(format!("{PREFIX}12345678/telemetry.json"));
        assert!(longest.as_os_str().len() < 107, "{}", longest.display());
    }

    #[test]
    fn it_goes_away_on_a_panic() {
        let base = tempfile::tempdir().expect("a folder");
        let inside = base.path().to_owned();
        let result = std::thread::spawn(move || {
            let _folder = RuntimeDir::new_in(&inside).expect("makes one");
            panic!("on purpose");
        })
        .join();
        assert!(result.is_err());
        assert_eq!(std::fs::read_dir(base.path()).expect("reads").count(), 0);
    }

    #[test]
    fn what_is_left_is_swept_and_what_lives_is_not() {
        let base = tempfile::tempdir().expect("a folder");
        let living = RuntimeDir::new_in(base.path()).expect("makes one");
        // A killed launcher leaves its folder without the lock.
        let stale = base.path().join("hmmgpu-run-dead");
        std::fs::create_dir(&stale).expect("makes");
        std::fs::set_permissions(&stale, PermissionsExt::from_mode(0o700)).expect("sets");
        std::fs::write(stale.join("qmp"), "x").expect("writes");
        // Nothing of anybody else is touched.
        let other = base.path().join("hmmgpu-run-other");
        std::fs::create_dir(&other).expect("makes");
        std::fs::set_permissions(&other, PermissionsExt::from_mode(0o755)).expect("sets");
        let unrelated = base.path().join("hmmgpu-0");
        std::fs::create_dir(&unrelated).expect("makes");
        std::fs::set_permissions(&unrelated, PermissionsExt::from_mode(0o700)).expect("sets");
        std::os::unix::fs::symlink(&unrelated, base.path().join("hmmgpu-run-link")).expect("links");

        assert_eq!(sweep(base.path()), 1);
        assert!(!stale.exists());
        assert!(living.path().exists() && other.exists() && unrelated.exists());

        let next = RuntimeDir::new_in(base.path()).expect("makes one");
        assert!(living.path().exists() && next.path().exists());
    }
}
