//! Which of a kernel's modules the guest needs, and in what order they load.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::ImageError;
use crate::kernel::Kernel;

/// What the guest needs before it can speak with the host. Debian builds most of them in.
pub(crate) const NEEDED: &[&str] = &["virtio_pci", "virtio_console"];

/// Modules by name, and what each needs, from `modules.dep` and `modules.builtin`.
#[derive(Debug, Default)]
pub(crate) struct ModuleIndex {
    /// Path relative to the folder, and those it depends on, nearest first.
    loadable: HashMap<String, (PathBuf, Vec<PathBuf>)>,
    built_in: Vec<String>,
}

impl ModuleIndex {
    pub(crate) fn read(folder: &Path) -> Result<Self, ImageError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(ImageError::io("read", path))
        };
        Ok(Self::parse(
            &read("modules.dep")?,
            &read("modules.builtin")?,
        ))
    }

    fn parse(dep: &str, builtin: &str) -> Self {
        let loadable = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| {
                let needs = needs.split_whitespace().map(PathBuf::from).collect();
                (name_of(Path::new(path)), (PathBuf::from(path), needs))
            })
            .collect();
        let built_in = builtin
            .lines()
            .map(|line| name_of(Path::new(line)))
            .collect();
        Self { loadable, built_in }
    }

    /// Paths to load, in order, for `wanted` to be there; those built in need none.
    pub(crate) fn resolve(
        &self,
        kernel: &Kernel,
        wanted: &[&str],
    ) -> Result<Vec<PathBuf>, ImageError> {
        let mut order: Vec<PathBuf> = Vec::new();
        for name in wanted {
            if self.built_in.iter().any(|b| b == name) {
                continue;
            }
            let (path, needs) = self
                .loadable
                .get(*name)
                .ok_or_else(|| ImageError::NoModule {
                    release: kernel.release.clone(),
                    module: (*name).to_owned(),
                })?;
            // modules.dep lists all that a module needs, each before those that it needs itself.
            for path in needs.iter().rev().chain([path]) {
                if !order.contains(path) {
                    order.push(path.clone());
                }
            }
        }
        Ok(order)
    }
}

/// The module's name: the file's without endings, `-` and `_` being the same.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko")
        .next()
        .unwrap_or_default()
        .replace('-', "_")
}

/// The program of the tool root that unpacks a module, and the file's name without the ending.
pub(crate) fn unpacker(path: &Path) -> Option<(&'static str, PathBuf)> {
    let program = match path.extension()?.to_str()? {
        "xz" => "xz",
        "zst" => "zstd",
        "gz" => "gzip",
        _ => return None,
    };
    Some((program, path.with_extension("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a.ko.xz:\n\
        kernel/b.ko.xz: kernel/a.ko.xz\n\
        kernel/drivers/virtio-c.ko: kernel/b.ko.xz kernel/a.ko.xz\n\
        kernel/d.ko.zst: kernel/a.ko.xz\n";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\n";

    fn kernel() -> Kernel {
        Kernel {
            release: "7.3".into(),
            image: "/".into(),
            modules: "/".into(),
            headers: "/".into(),
        }
    }

    fn resolve(wanted: &[&str]) -> Vec<String> {
        ModuleIndex::parse(DEP, BUILTIN)
            .resolve(&kernel(), wanted)
            .unwrap()
            .iter()
            .map(|p| p.display().to_string())
            .collect()
    }

    #[test]
    fn what_is_built_in_needs_no_file() {
        assert!(resolve(&["virtio_pci"]).is_empty());
    }

    #[test]
    fn what_a_module_needs_loads_first_and_once() {
        assert_eq!(
            resolve(&["virtio_c", "d"]),
            [
                "kernel/a.ko.xz",
                "kernel/b.ko.xz",
                "kernel/drivers/virtio-c.ko",
                "kernel/d.ko.zst"
            ]
        );
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let error = ModuleIndex::parse(DEP, BUILTIN)
            .resolve(&kernel(), &["nope"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("nope") && error.contains("7.3"), "{error}");
    }

    #[test]
    fn packed_modules_lose_their_ending() {
        assert_eq!(unpacker(Path::new("a.ko.xz")), Some(("xz", "a.ko".into())));
        assert_eq!(
            unpacker(Path::new("a.ko.zst")),
            Some(("zstd", "a.ko".into()))
        );
        assert_eq!(unpacker(Path::new("a.ko")), None);
    }
}
