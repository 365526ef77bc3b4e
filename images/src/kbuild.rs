//! Building kernel modules outside the kernel's tree, with the compiler of the tool root.

use std::path::Path;

use crate::context::Context;
use crate::kernel::Kernel;
use crate::sandbox::{Bind, ToolRoot};
use crate::{ImageError, run};

/// Builds the modules whose sources and Kbuild are in `folder`, there. `inside` is its path for
/// the compiler: short and the same for everybody, for it appears in messages and debug
/// information.
pub(crate) fn modules(
    context: &Context,
    root: &ToolRoot,
    kernel: &Kernel,
    folder: &Path,
    inside: &str,
    what: &str,
    log: &Path,
) -> Result<(), ImageError> {
    let bind = Bind {
        host: folder.to_owned(),
        inside: inside.into(),
        writable: true,
    };
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut command = root.command("env", &[bind]);
    command
        // The caller's environment may hold variables that mean something to make or gcc.
        .args(["-i", "PATH=/usr/bin:/usr/sbin", "LC_ALL=C", "make"])
        .arg(format!("-j{jobs}"))
        .args(["-C", &format!("/lib/modules/{}/build", kernel.release)])
        .args([&format!("M={inside}"), "modules"]);
    run::run(context, what, &mut command, log, |line| {
        context.progress.update(None, line.trim());
    })
}
