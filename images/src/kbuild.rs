//! Building kernel modules outside the kernel's tree, with the compiler that fits the kernel.

use std::ffi::OsString;
use std::path::Path;

use crate::context::Context;
use crate::kernel::{Kernel, Place};
use crate::sandbox::{self, Bind};
use crate::{ImageError, run};

/// Programs of a root.
const ROOT_PATH: &str = "/usr/bin:/usr/sbin";

/// Builds the modules whose sources and Kbuild are in `folder`, there. `inside` is its path for
/// the compiler: short and the same for everybody, for it appears in messages and debug
/// information. `variables` go to make.
pub(crate) fn modules(
    context: &Context,
    kernel: &Kernel,
    folder: &Path,
    inside: &str,
    variables: &[String],
    what: &str,
    log: &Path,
) -> Result<(), ImageError> {
    let build = &kernel.build;
    // The host's own folders cannot be added to, but for /tmp, which is a new one.
    let (inside, path) = match &build.place {
        Place::Root(_) => (inside.to_owned(), OsString::from(ROOT_PATH)),
        Place::Host => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            (format!("/tmp{inside}"), path)
        }
    };
    let mut binds = build.binds.clone();
    binds.push(Bind {
        host: folder.to_owned(),
        inside: inside.clone().into(),
        writable: true,
    });
    let mut command = match &build.place {
        Place::Root(root) => root.command("env", &binds),
        Place::Host => sandbox::on_host("env", &binds),
    };
    let mut path_variable = OsString::from("PATH=");
    path_variable.push(path);
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
    command
        // The caller's environment may hold variables that mean something to make or gcc.
        .arg("-i")
        .arg(path_variable)
        .args(["LC_ALL=C", "make"])
        .arg(format!("-j{jobs}"))
        .arg("-C")
        .arg(&build.headers)
        .args(&build.arguments)
        .args(variables)
        // Where to write is said too: headers that are not where they were installed take the
        // folder that make runs in for it.
        .args([&format!("M={inside}"), &format!("MO={inside}"), "modules"]);
    run::run(context, what, &mut command, log, |line| {
        context.progress.update(None, line.trim());
    })
}
