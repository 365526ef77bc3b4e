//! Where telemetry goes when a server ends.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmmgpu_sandbox::Grant;
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// Most symbolic links on the way to a file, as for the kernel. Stops a circle of them.
const MAX_LINKS: usize = 40;

/// Where a server writes its telemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TelemetryOutput {
    /// A file. It is replaced in one step: a reader sees the old one or the new one, whole. What
    /// is not a regular file (a pipe, a terminal) is written to.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// An output that was found to work before anything was done that is worth writing.
#[derive(Debug)]
pub(crate) enum Output {
    Replace(PathBuf),
    Write(File),
    Stdout,
}

impl Output {
    /// Opens the output, or tries whether it can be made.
    ///
    /// # Errors
    /// When there is no such directory, when it is not writable, and when the path is a directory.
    pub(crate) fn open(output: &TelemetryOutput) -> io::Result<Self> {
        let path = match output {
            TelemetryOutput::Stdout => return Ok(Self::Stdout),
            TelemetryOutput::File(path) => path,
        };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => {
                // Without waiting: a pipe that nobody reads is an error now, not a hang.
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = open(path, flags | OFlags::NONBLOCK, Mode::empty())?;
                fcntl_setfl(&file, flags)?;
                return Ok(Self::Write(file.into()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let path = behind_links(path)?;
        // Removed again at once: a server that is killed leaves nothing half-made behind.
        beside(&path, None)?.close()?;
        Ok(Self::Replace(path))
    }

    /// What [`Self::write`] needs of the file system.
    pub(crate) fn grant(&self) -> Option<Grant> {
        match self {
            Self::Replace(path) => Some(Grant::ReplaceFiles(folder(path).to_owned())),
            Self::Write(_) | Self::Stdout => None,
        }
    }

    /// Writes `text`. A reader that has gone from standard output or a pipe is no error.
    ///
    /// # Errors
    /// When the disk is full, and the like; the old file is then still there.
    pub(crate) fn write(self, text: &[u8]) -> io::Result<()> {
        let result = match self {
            Self::Replace(path) => {
                let old = std::fs::metadata(&path).ok();
                let mut file = beside(&path, old.map(|old| old.permissions()))?;
                file.write_all(text)?;
                return file.persist(&path).map(drop).map_err(|error| error.error);
            }
            Self::Write(mut file) => file.write_all(text),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text).and_then(|()| stdout.flush())
            }
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// Where a path leads that need not exist: behind a symbolic link its target is replaced, not the
/// link, and a target that is not there yet is made.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..MAX_LINKS {
        match (std::fs::read_link(&path), path.parent()) {
            (Ok(target), Some(directory)) => path = directory.join(target),
            // No link.
            _ => return Ok(path),
        }
    }
    Err(Errno::LOOP.into())
}

/// The directory of an absolute path.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// A temporary file in the directory of `path`, with the permissions of the file that it is to
/// replace, or those of any new file. Its name is in no error: it is not what the user chose.
fn beside(path: &Path, permissions: Option<Permissions>) -> io::Result<NamedTempFile> {
    let directory = folder(path);
    let mode = permissions.as_ref().map_or(0o666, PermissionsExt::mode) & 0o777;
    // From the first moment nobody can open it who could not open the old one.
    let mut options = File::options();
    options.write(true).create_new(true).mode(mode);
    let file = tempfile::Builder::new()
        .prefix(".hmmgpu-telemetry-")
        .make_in(directory, |path| options.open(path))
        .map_err(|error| {
            if directory.exists() {
                return error;
            }
            let text = format!("there is no directory {}", directory.display());
            io::Error::new(error.kind(), text)
        })?;
    if let Some(permissions) = permissions {
        // What the process's mask has taken away. Where it cannot be had, the file is narrower.
        let _ = file.as_file().set_permissions(permissions);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .expect("read_dir")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn opening_leaves_nothing_and_keeps_the_old_file() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("t.json");
        std::fs::write(&path, "old").expect("write");
        let output = Output::open(&TelemetryOutput::File(path.clone())).expect("open");
        assert_eq!(entries(directory.path()), ["t.json"]);
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "old");
        output.write(b"new").expect("write");
        assert_eq!(entries(directory.path()), ["t.json"]);
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "new");
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().expect("tempdir");
        let (path, link) = (
            directory.path().join("t.json"),
            directory.path().join("link"),
        );
        std::fs::write(&path, "old").expect("write");
        std::os::unix::fs::symlink(&path, &link).expect("symlink");
        let output = Output::open(&TelemetryOutput::File(link.clone())).expect("open");
        output.write(b"new").expect("write");
        assert!(link.symlink_metadata().expect("metadata").is_symlink());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "new");
    }

    #[test]
    fn a_link_to_what_is_not_there_yet_stays_a_link() {
        let directory = tempfile::tempdir().expect("tempdir");
        let inner = directory.path().join("inner");
        std::fs::create_dir(&inner).expect("create_dir");
        // One is relative to its own directory, the other is not.
        let (first, second) = (directory.path().join("first"), inner.join("second"));
        std::os::unix::fs::symlink(&second, &first).expect("symlink");
        std::os::unix::fs::symlink("../t.json", &second).expect("symlink");
        let output = Output::open(&TelemetryOutput::File(first.clone())).expect("open");
        assert_eq!(entries(directory.path()), ["first", "inner"]);
        output.write(b"new").expect("write");
        for link in [&first, &second] {
            assert!(link.symlink_metadata().expect("metadata").is_symlink());
        }
        let path = directory.path().join("t.json");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "new");
    }

    #[test]
    fn the_old_files_mode_is_kept() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("t.json");
        // Less than a new file has, and more.
        for mode in [0o600, 0o666] {
            std::fs::write(&path, "old").expect("write");
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
            let output = Output::open(&TelemetryOutput::File(path.clone())).expect("open");
            output.write(b"new").expect("write");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), "new");
            let now = path.metadata().expect("metadata").permissions().mode();
            assert_eq!(now & 0o7777, mode);
        }
    }

    #[test]
    fn a_device_file_is_written_to_and_stays() {
        let output = Output::open(&TelemetryOutput::File("/dev/null".into())).expect("open");
        output.write(b"gone").expect("write");
        assert!(!std::fs::metadata("/dev/null").expect("metadata").is_file());
    }

    #[test]
    fn what_cannot_work_is_refused_at_once() {
        let directory = tempfile::tempdir().expect("tempdir");
        let open = |path: PathBuf| Output::open(&TelemetryOutput::File(path)).map(drop);
        let kind = |path: PathBuf| open(path).expect_err("refused").kind();
        assert_eq!(kind(directory.path().into()), io::ErrorKind::IsADirectory);
        assert_eq!(
            kind(directory.path().join("no/t.json")),
            io::ErrorKind::NotFound
        );
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .expect("mkfifo");
        open(pipe).expect_err("nobody reads the pipe");
    }
}
