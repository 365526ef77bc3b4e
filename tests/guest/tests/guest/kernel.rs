//! Kernels that the user names. The tool root's own is taken for one that somebody has built: its
//! image, its modules and its headers by their paths.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_images::{Images, ImagesOptions};
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::Program;
use libtest_mimic::Trial;

use crate::{short_folder, trial};

/// Time for the driver's build and for a guest to boot, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let program = program.clone();
    vec![trial("kernel::an_image_with_its_modules", move || {
        image_with_modules(&program)
    })]
}

fn image_with_modules(program: &Program) -> Result<()> {
    let images = Images::new(ImagesOptions::default())?;
    let root = images.tool_root()?;
    let kernel = images.kernel(&root, None)?;
    let modules = root.path().join("usr/lib/modules").join(&kernel.release);

    // Links to them: a kernel that is named by path is not known by its place in the root.
    let folder = short_folder()?;
    let (image, installed) = (folder.path().join("bzImage"), folder.path().join("modules"));
    std::os::unix::fs::symlink(&kernel.image, &image)?;
    std::os::unix::fs::symlink(&modules, &installed)?;
    let text = format!("{},{}", image.display(), installed.display());

    let runtime = short_folder()?;
    let arguments = [
        ["run", "--memory", "1G", "--vram", "64M"].as_slice(),
        &["--kernel", &text, "--"],
        &["sh", "-c", "uname -r; ls /dev/hmmgpu0"],
    ]
    .concat();
    let finished = program.run(&arguments, b"", runtime.path(), LIMIT)?;
    finished.expect_code(0)?;
    let mut lines = finished.stdout.lines();
    let release = lines.next().context("nothing on standard output")?;
    ensure!(
        release == kernel.release,
        "{release} runs instead of {}",
        kernel.release
    );
    ensure!(
        lines.next() == Some("/dev/hmmgpu0"),
        "the driver is not there: {}",
        finished.stdout
    );
    leftovers::nothing_in(runtime.path())
}
