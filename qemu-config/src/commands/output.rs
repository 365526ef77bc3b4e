//! A file for a result that is known at the end of long work.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Error;

/// Where a result goes.
#[derive(Debug)]
pub(super) enum Output {
    /// Standard output.
    Stdout,
    /// Into what is open: a device, a pipe, or a file in a folder that takes no other.
    Open(File, PathBuf),
    /// A whole file takes the place of the path, and of an older file there (whose permissions it
    /// gets), at once.
    Replace(PathBuf, Option<Permissions>),
}

impl Output {
    /// Sees to it, before the work, that the result can be written after it. An older result
    /// stays as it is until then.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let output = Self::at(path);
        Ok(output.with_context(|| format!("cannot write {}", path.display()))?)
    }

    fn at(path: &Path) -> io::Result<Self> {
        let (open, metadata) = match File::options().write(true).open(path) {
            Ok(file) => {
                let metadata = file.metadata()?;
                (Some(file), Some(metadata))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (None, None),
            Err(error) => return Err(error),
        };
        if let (Some(file), false) = (&open, metadata.as_ref().is_none_or(Metadata::is_file)) {
            return Ok(Self::Open(file.try_clone()?, path.to_owned()));
        }
        // A link stays one: what it leads to is replaced.
        let target = if open.is_some() {
            path.canonicalize()?
        } else {
            path.to_owned()
        };
        match (tempfile::tempfile_in(folder(&target)), open) {
            (Ok(_), _) => {}
            (Err(_), Some(file)) => return Ok(Self::Open(file, path.to_owned())),
            (Err(error), None) => return Err(error),
        }
        let permissions = metadata.map(|metadata| metadata.permissions());
        Ok(Self::Replace(target, permissions))
    }

    /// Writes the result, all of it or nothing where that can be had.
    pub(super) fn write(self, document: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(document)?;
                Ok(stdout.flush()?)
            }
            Self::Open(file, path) => write_into(&file, document)
                .with_context(|| format!("cannot write {}", path.display())),
            Self::Replace(path, permissions) => replace(&path, permissions, document)
                .with_context(|| format!("cannot write {}", path.display())),
        }
    }
}

fn write_into(mut file: &File, document: &[u8]) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(document)
}

fn replace(path: &Path, permissions: Option<Permissions>, document: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".hmmgpu-")
        // As the shell's redirection would make it: the umask takes its part away.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder(path))?;
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions)?;
    }
    file.write_all(document)?;
    file.persist(path)?;
    Ok(())
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(path: &Path) -> Output {
        Output::at(path).unwrap()
    }

    #[test]
    fn an_older_result_stays_until_there_is_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        std::fs::write(&path, "an older and longer result").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        drop(open(&path));
        let output = open(&path);
        let older = std::fs::read_to_string(&path).unwrap();
        assert_eq!(older, "an older and longer result");
        output.write(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_file_is_made_before_there_is_a_result() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        let output = open(&path);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        output.write(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        let link = folder.path().join("link");
        std::fs::write(&target, "old").unwrap();
        symlink("target", &link).unwrap();
        open(&link).write(b"new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
    }

    #[test]
    fn a_device_is_written_directly() {
        let null = Path::new("/dev/null");
        assert!(matches!(open(null), Output::Open(..)));
        open(null).write(b"new").unwrap();
        assert!(!null.metadata().unwrap().is_file());
    }

    #[test]
    fn an_open_file_loses_what_it_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        std::fs::write(&path, "an older and longer result").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        Output::Open(file, path.clone()).write(b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn what_cannot_be_written_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Output::open(folder.path()).is_err());
        assert!(Output::open(&folder.path().join("none/result.json")).is_err());
    }
}
