//! Names of artefacts: the hash of everything they are made from.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::ImageError;

/// Hashes labelled fields; each is delimited by its length, so that two lists of fields never
/// give the same bytes.
#[derive(Debug)]
pub(crate) struct Key(Sha256);

impl Key {
    /// `kind` and `version` of the recipe set keys apart when the way of making changes.
    pub(crate) fn new(kind: &str, version: u32) -> Self {
        let mut key = Self(Sha256::new());
        key.field(kind, &version.to_le_bytes());
        key
    }

    pub(crate) fn field(&mut self, label: &str, value: &[u8]) {
        for part in [label.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// The name and content of a file.
    pub(crate) fn file(&mut self, label: &str, path: &Path) -> Result<(), ImageError> {
        let error = || ImageError::io("read", path);
        let mut file = File::open(path).map_err(error())?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => hash.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(error()(e)),
            }
        }
        self.field(label, &hash.finalize());
        Ok(())
    }

    /// All files below `folder` that `wanted` says yes to, by relative path, in order of path.
    pub(crate) fn tree(
        &mut self,
        folder: &Path,
        wanted: &dyn Fn(&Path) -> bool,
    ) -> Result<(), ImageError> {
        for relative in files_below(folder, wanted)? {
            self.file(&relative.to_string_lossy(), &folder.join(&relative))?;
        }
        Ok(())
    }

    /// 32 hex digits: half of the hash is plenty against chance.
    pub(crate) fn finish(self) -> String {
        let digest = self.0.finalize();
        digest[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Relative paths of all files below a folder that `wanted` says yes to, sorted.
pub(crate) fn files_below(
    folder: &Path,
    wanted: &dyn Fn(&Path) -> bool,
) -> Result<Vec<PathBuf>, ImageError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let here = folder.join(&relative);
        for entry in std::fs::read_dir(&here).map_err(ImageError::io("read", &here))? {
            let entry = entry.map_err(ImageError::io("read", &here))?;
            let path = relative.join(entry.file_name());
            let kind = entry.file_type().map_err(ImageError::io("read", &here))?;
            if kind.is_dir() {
                // Hidden folders hold what tools leave behind, never sources.
                if !entry.file_name().to_string_lossy().starts_with('.') {
                    folders.push(path);
                }
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fields: &[(&str, &[u8])]) -> String {
        let mut key = Key::new("test", 1);
        for (label, value) in fields {
            key.field(label, value);
        }
        key.finish()
    }

    #[test]
    fn fields_do_not_run_together() {
        assert_ne!(key(&[("a", b"bc")]), key(&[("ab", b"c")]));
        assert_ne!(key(&[("a", b""), ("b", b"")]), key(&[("a", b"b")]));
        assert_eq!(key(&[("a", b"b")]), key(&[("a", b"b")]));
    }

    #[test]
    fn kind_and_version_count() {
        assert_ne!(Key::new("a", 1).finish(), Key::new("a", 2).finish());
        assert_ne!(Key::new("a", 1).finish(), Key::new("b", 1).finish());
    }

    #[test]
    fn a_tree_is_its_names_and_contents() {
        let tree = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = folder.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            let mut key = Key::new("tree", 1);
            key.tree(folder.path(), &|p| p.extension().is_none_or(|e| e != "o"))
                .unwrap();
            key.finish()
        };
        let base = tree(&[("a.c", "1"), ("sub/b.h", "2")]);
        assert_eq!(base, tree(&[("sub/b.h", "2"), ("a.c", "1")]));
        assert_eq!(base, tree(&[("a.c", "1"), ("sub/b.h", "2"), ("a.o", "x")]));
        assert_eq!(
            base,
            tree(&[("a.c", "1"), ("sub/b.h", "2"), (".git/x", "x")])
        );
        assert_ne!(base, tree(&[("a.c", "1"), ("sub/b.h", "3")]));
        assert_ne!(base, tree(&[("a.c", "1"), ("sub/c.h", "2")]));
    }
}
