//! The tool root: QEMU, a kernel with its compiler, and what building and booting it needs.

use crate::ImageError;
use crate::cache::Cache;
use crate::context::Context;
use crate::debian::STABLE;
use crate::debian::root::{self, Recipe};
use crate::sandbox::ToolRoot;

/// QEMU with `vfio-user-pci` (10.1 or later), a kernel with device-private huge pages (7.2 or
/// later) with its headers and compiler, and what kbuild and the initramfs need.
const PACKAGES: &[&str] = &[
    "base-files",
    "bash",
    "binutils",
    "busybox-static",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "gcc-14",
    "grep",
    "gzip",
    "kmod",
    "libc6-dev",
    "linux-headers-amd64",
    "linux-image-amd64",
    "make",
    "mawk",
    "qemu-system-x86",
    "sed",
    "xz-utils",
    "zstd",
];
/// 250 MB of packages and 700 MB unpacked, and some reserve.
const ROOM: u64 = 1300 << 20;
/// The compiler in it.
pub(crate) const COMPILER: &str = "gcc-14";

/// The root, made if need be. `mirror`: what to ask instead of mmdebstrap's choice.
pub(crate) fn get(
    context: &Context,
    cache: &Cache,
    mirror: Option<&str>,
) -> Result<ToolRoot, ImageError> {
    let recipe = Recipe {
        kind: "root",
        what: "tool root",
        sources: STABLE,
        packages: PACKAGES,
        room: ROOM,
    };
    root::get(context, cache, &recipe, mirror)
}
