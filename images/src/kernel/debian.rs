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
    let config = headers_of(root.path(), &found.release, "amd64").join("include/config/auto.conf");
    if config.is_file() {
        Config::read(&config)?.check(&config)?;
    }
    let common = headers_of(root.path(), &found.release, "common");
    if common.is_dir() {
        check_pagemap(&common)?;
    }
    super::of_root(&root, &found.release, found.sources())
}

/// Debian has what depends on the architecture and what does not in two folders.
fn headers_of(root: &Path, release: &str, part: &str) -> PathBuf {
    let base = release.strip_suffix("-amd64").unwrap_or(release);
    root.join(format!("usr/src/linux-headers-{base}-{part}"))
}
