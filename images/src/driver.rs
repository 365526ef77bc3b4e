//! Building the guest driver for a kernel.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Artefact, Cache};
use crate::context::Context;
use crate::kernel::Kernel;
use crate::keys::{Key, files_below};
use crate::{ImageError, kbuild};

/// Counts changes in how the driver is built.
const VERSION: u32 = 1;
/// The module that kbuild makes.
const MODULE: &str = "hmmgpu.ko";
/// Objects and debug information of a small module.
const ROOM: u64 = 100 << 20;

/// What kbuild reads; not what it left in the folder, nor the Rust crate that shares it.
fn is_source(path: &Path) -> bool {
    if path.starts_with("uapi") {
        return false;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(".mod.c") {
        return false;
    }
    matches!(&*name, "Kbuild" | "Makefile" | "Kconfig")
        || path
            .extension()
            .is_some_and(|e| e == "c" || e == "h" || e == "S")
}

/// What the driver is built from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// The folder with its sources.
    pub(crate) folder: &'a Path,
    /// Variables for make, as `NAME=VALUE`.
    pub(crate) variables: &'a [String],
}

/// `hmmgpu.ko` for a kernel, built if need be.
pub(crate) fn get(
    context: &Context,
    cache: &Cache,
    kernel: &Kernel,
    source: &Source<'_>,
) -> Result<PathBuf, ImageError> {
    let key = key(kernel, source)?;
    let what = format!("driver for {}", kernel.release);
    let artefact = Artefact {
        kind: "driver",
        key: &key,
        what: &what,
        room: ROOM,
    };
    let path = cache.get(context, &artefact, |partial| {
        make(context, cache, &key, kernel, source, partial)?;
        // What was compiled may be newer than what was hashed.
        if self::key(kernel, source)? != key {
            return Err(ImageError::SourcesChange { what: what.clone() });
        }
        Ok(())
    })?;
    Ok(path.join(MODULE))
}

fn key(kernel: &Kernel, source: &Source<'_>) -> Result<String, ImageError> {
    let mut key = Key::new("driver", VERSION);
    kernel.add_to(&mut key);
    for variable in source.variables {
        key.field("variable", variable.as_bytes());
    }
    key.tree(source.folder, &is_source)?;
    Ok(key.finish())
}

fn make(
    context: &Context,
    cache: &Cache,
    key: &str,
    kernel: &Kernel,
    source: &Source<'_>,
    partial: &Path,
) -> Result<(), ImageError> {
    fs::create_dir(partial).map_err(ImageError::io("create", partial))?;
    let build = partial.join("build");
    for file in files_below(source.folder, &is_source)? {
        let (from, to) = (source.folder.join(&file), build.join(&file));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(ImageError::io("create", parent))?;
        }
        fs::copy(&from, &to).map_err(ImageError::io("copy", &from))?;
    }
    let log = cache.log("driver", key)?;
    let doing = "building the driver";
    kbuild::modules(
        context,
        kernel,
        &build,
        "/driver",
        source.variables,
        doing,
        &log,
    )?;
    let module = partial.join(MODULE);
    fs::rename(build.join(MODULE), &module).map_err(ImageError::io("find", &module))?;
    crate::cache::remove(&build)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_from_products_and_from_the_crate() {
        for path in ["main.c", "include/uapi/hmmgpu.h", "Kbuild", "Makefile"] {
            assert!(is_source(Path::new(path)), "{path}");
        }
        for path in [
            "main.o",
            "hmmgpu.mod.c",
            "hmmgpu.ko",
            ".main.o.cmd",
            "uapi/src/x.h",
        ] {
            assert!(!is_source(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn the_key_follows_sources_and_kernel() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("main.c"), "1").unwrap();
        let with = |identity: &str, release: &str, variables: &[String]| {
            let kernel = Kernel {
                identity: identity.into(),
                ..Kernel::named(release)
            };
            let folder = folder.path();
            key(&kernel, &Source { folder, variables }).unwrap()
        };
        let of = |identity, release| with(identity, release, &[]);
        let base = of("r", "k");
        assert_eq!(base, of("r", "k"));
        assert_ne!(base, of("s", "k"));
        assert_ne!(base, of("r", "l"));
        assert_ne!(base, with("r", "k", &["A=1".to_owned()]));
        fs::write(folder.path().join("main.c"), "2").unwrap();
        assert_ne!(base, of("r", "k"));
    }
}
