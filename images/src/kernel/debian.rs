//! Kernels of Debian's archive: each in a root of its own, with the compiler that built it.
//!
//! A kernel of another suite has another compiler, and programs of another C library to build
//! modules with; so it does not go into the tool root. QEMU still comes from there.

use std::path::{Path, PathBuf};

use super::Kernel;
use super::config::Config;
use super::tree::check_pagemap;
use crate::ImageError;
use crate::cache::Cache;
use crate::context::Context;
use crate::debian::archive::{self, Found};
use crate::debian::kernels::ArchiveKernel;
use crate::debian::root::{self, Recipe};
use crate::sandbox::ToolRoot;

/// What kbuild needs beside the kernel's headers, which bring the compiler.
const TOOLS: &[&str] = &[
    "base-files",
    "bash",
    "binutils",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "kmod",
    "make",
    "mawk",
    "sed",
    "xz-utils",
    "zstd",
];
/// 200 MB of packages and 500 MB unpacked, and some reserve.
const ROOM: u64 = 1000 << 20;

/// The kernel of this name, fetched if need be: the tool root's own if it is that one.
pub(crate) fn by_name(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    tool_root: &ToolRoot,
    name: &str,
) -> Result<Kernel, ImageError> {
    let found = archive::find(context, cache, mirror, name, false)?;
    match fetched(context, cache, mirror, tool_root, &found.kernel) {
        // The archive may have gone on to the next version since it was asked.
        Err(ImageError::Command { .. }) if found.from_memory => {
            let Found { kernel, .. } = archive::find(context, cache, mirror, name, true)?;
            fetched(context, cache, mirror, tool_root, &kernel)
        }
        kernel => kernel,
    }
}

fn fetched(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
    tool_root: &ToolRoot,
    found: &ArchiveKernel,
) -> Result<Kernel, ImageError> {
    let (image, headers) = (&found.image, found.headers());
    let here = |package| root::package_version(tool_root, package);
    let version = Some(&found.version);
    if here(image)?.as_ref() == version && here(&headers)?.as_ref() == version {
        return super::of_root(tool_root, &found.release, found.sources());
    }
    let exact = [image, &headers].map(|package| format!("{package}={}", found.version));
    let packages: Vec<&str> = exact
        .iter()
        .map(String::as_str)
        .chain(TOOLS.iter().copied())
        .collect();
    let what = format!("kernel {} of {}", found.release, found.suite());
    let recipe = Recipe {
        kind: "kernel",
        what: &what,
        sources: found.sources(),
        packages: &packages,
        room: ROOM,
    };
    let root = root::get(context, cache, &recipe, mirror)?;
    check(root.path(), &found.release).map_err(|why| ImageError::NotKernel {
        path: format!("debian:{}", found.release).into(),
        why,
    })?;
    super::of_root(&root, &found.release, found.sources())
}

/// Refuses a kernel that no guest could run, by what it lacks.
fn check(root: &Path, release: &str) -> Result<(), String> {
    let common = headers_of(root, release, "common");
    if common.is_dir() {
        check_pagemap(&common)?;
    }
    let config = headers_of(root, release, "amd64").join("include/config/auto.conf");
    let faults = Config::read(&config)
        .map_err(|error| error.to_string())?
        .faults();
    if faults.is_empty() {
        return Ok(());
    }
    Err(format!("it needs {}", faults.join("; ")))
}

/// Debian has what depends on the architecture and what does not in two folders.
fn headers_of(root: &Path, release: &str, part: &str) -> PathBuf {
    let base = release.strip_suffix("-amd64").unwrap_or(release);
    root.join(format!("usr/src/linux-headers-{base}-{part}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::config::tests::complete;
    use super::*;
    use crate::debian::kernels::{choose, parse, tests::LIST};

    const RELEASE: &str = "7.3.4+deb13-amd64";

    fn put(root: &Path, name: &str, content: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_tool_roots_own_kernel_is_not_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        put(&root, "usr/lib/modules/7.3.4+deb13-amd64/vmlinuz", "");
        put(
            &root,
            "packages",
            "linux-headers-7.3.4+deb13-amd64_7.3.4-1~bpo13+1_amd64.deb\n\
             linux-image-7.3.4+deb13-amd64_7.3.4-1~bpo13+1_amd64.deb\n",
        );
        let tool_root = ToolRoot {
            path: root,
            identity: "identity".into(),
        };
        let cache = Cache::new(folder.path().join("cache"));
        let kernels = parse(LIST);
        let found = choose(&kernels, "7.3").unwrap();
        let kernel = fetched(&Context::silent(), &cache, None, &tool_root, found).unwrap();
        assert!(!cache.folder().exists());
        assert_eq!(
            (kernel.release.as_str(), kernel.identity.as_str()),
            (RELEASE, "identity")
        );
    }

    #[test]
    fn a_kernel_that_cannot_do_it_is_refused_by_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let pagemap = "usr/src/linux-headers-7.3.4+deb13-common/include/linux/memremap.h";
        let config = "usr/src/linux-headers-7.3.4+deb13-amd64/include/config/auto.conf";
        put(root, pagemap, "void (*page_free)(void);");
        assert!(check(root, RELEASE).unwrap_err().contains("cannot be huge"));
        put(root, pagemap, "void (*folio_split)(void);");
        put(root, config, "CONFIG_64BIT=y\n");
        let error = check(root, RELEASE).unwrap_err();
        assert!(error.contains("CONFIG_DEVICE_PRIVATE=y"), "{error}");
        put(root, config, &complete());
        assert_eq!(check(root, RELEASE), Ok(()));
    }
}
