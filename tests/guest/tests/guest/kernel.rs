//! Kernels that the user names. The tool root's own is taken for one that somebody has built: its
//! image, its modules and its headers by their paths.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_images::{Images, ImagesOptions};
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::Program;
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Check, short_folder, trials_of};

/// Time for the driver's build and for a guest to boot, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let checks: [Check; 2] = [
        ("kernel::an_image_with_its_modules", image_with_modules),
        ("kernel::two_by_turns", two_by_turns),
    ];
    trials_of(program, &checks)
}

/// A kernel that is named by its paths.
struct Named {
    /// As it is written on the command line.
    text: String,
    release: String,
    /// Holds the links that the paths are of.
    _folder: TempDir,
}

impl Named {
    fn of_the_tool_root() -> Result<Self> {
        let images = Images::new(ImagesOptions::default())?;
        let root = images.tool_root()?;
        let kernel = images.kernel(&root, None)?;
        let modules = root.path().join("usr/lib/modules").join(&kernel.release);

        // Links to them: a kernel that is named by path is not known by its place in the root.
        let folder = short_folder()?;
        let (image, installed) = (folder.path().join("bzImage"), folder.path().join("modules"));
        std::os::unix::fs::symlink(&kernel.image, &image)?;
        std::os::unix::fs::symlink(&modules, &installed)?;
        Ok(Self {
            text: format!("{},{}", image.display(), installed.display()),
            release: kernel.release,
            _folder: folder,
        })
    }
}

fn image_with_modules(program: &Program) -> Result<()> {
    let kernel = Named::of_the_tool_root()?;
    let runtime = short_folder()?;
    let arguments = [
        ["run", "--memory", "1G", "--vram", "64M"].as_slice(),
        &["--kernel", &kernel.text, "--"],
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

/// Two boots of each are too few for any verdict, so that a busy host cannot make it fail.
fn two_by_turns(program: &Program) -> Result<()> {
    let kernel = Named::of_the_tool_root()?;
    let (runtime, results) = (short_folder()?, tempfile::tempdir()?);
    let json = results.path().join("both.json");
    let json = json.to_str().context("the path is no text")?;
    let arguments = [
        ["bench", "--memory", "1G", "--vram", "64M"].as_slice(),
        &["--kernel-a", &kernel.text, "--kernel-b", &kernel.text],
        &["--rounds", "2", "--orders", "9", "--size", "32M"],
        &["--repeat", "1", "--json", json],
    ]
    .concat();
    let finished = program.run(&arguments, b"", runtime.path(), LIMIT)?;
    finished.expect_code(0)?;
    ensure!(
        finished.stdout.contains("order 9: inconclusive"),
        "no verdict of the order: {}",
        finished.stdout
    );
    for boot in ["Boot 1 of 4: A", "Boot 2 of 4: B", "Boot 4 of 4: B"] {
        ensure!(finished.stderr.contains(boot), "{}", finished.stderr);
    }
    leftovers::nothing_in(runtime.path())?;

    let both: Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
    let boots = both["boots"].as_array().context("no boots")?;
    let sides: Vec<&str> = boots
        .iter()
        .filter_map(|boot| boot["side"].as_str())
        .collect();
    ensure!(sides == ["a", "b", "a", "b"], "{sides:?}");
    for boot in boots {
        let result = &boot["result"];
        let rows = result["rows"].as_array().context("no rows")?;
        ensure!(
            rows.len() == 3 && rows.iter().all(|row| row["verified"] == true),
            "{result}"
        );
        ensure!(result["errors"] == serde_json::json!([]), "{result}");
        ensure!(
            result["environment"]["kernel"] == kernel.release.as_str(),
            "{result}"
        );
    }
    let compared = &both["comparison"];
    ensure!(compared["unit"] == "boot", "{compared}");
    for row in compared["rows"].as_array().context("no comparison")? {
        ensure!(row["a"]["values"] == 2 && row["b"]["values"] == 2, "{row}");
    }
    Ok(())
}
