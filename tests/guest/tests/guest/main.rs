//! End-to-end tests: real guests with the driver and the device.
//!
//! Guests run one after another, because a host may have only two cores. Two of them run several
//! programs each, for all the tests that need no guest of their own; the first test that needs
//! one boots it. The first run on a machine also makes tool root, driver and initramfs.
//!
//! A host that cannot run guests fails these tests, with the reason; there is no other way to
//! pass them. To run one: `cargo test -p hmmgpu-vm-tests -- NAME`.
#![forbid(unsafe_code)]

mod bench;
mod bench_beside;
mod compute;
mod confined;
mod counters;
mod faults;
mod guest;
mod kernel;
mod kills;
mod listening;
mod mutations;
mod program_run;
mod recovery;
mod selftest;
mod serve;
mod shared;
mod stress;
mod views;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::{self, Finished, Program};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

fn main() -> ExitCode {
    if program::called_as_program() {
        return hmmgpu::cli::main();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let program = match Program::install() {
        Ok(program) => Arc::new(program),
        Err(error) => {
            eprintln!("the tests cannot start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = shared::trials(&program);
    trials.extend(mutations::trials(&program));
    trials.extend(compute::trials(&program));
    trials.extend(program_run::trials(&program));
    trials.extend(faults::trials(&program));
    trials.extend(kills::trials(&program));
    trials.extend(recovery::trials(&program));
    trials.extend(kernel::trials(&program));
    trials.extend(bench::trials(&program));
    trials.extend(bench_beside::trials(&program));
    trials.extend(selftest::trials(&program));
    trials.extend(stress::trials(&program));
    trials.extend(serve::trials(&program));
    trials.extend(views::trials(&program));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // `exit` would not drop the program's folder.
    drop(program);
    if !arguments.list {
        println!(
            "{} passed, {} failed",
            conclusion.num_passed, conclusion.num_failed
        );
    }
    conclusion.exit_code()
}

/// A test of this name.
fn trial(
    name: impl Into<String>,
    check: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    Trial::test(name, move || {
        check().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// A test: its name and what it does.
type Check = (&'static str, fn(&Program) -> anyhow::Result<()>);

/// Tests that need nothing but the program.
fn trials_of(program: &Arc<Program>, checks: &[Check]) -> Vec<Trial> {
    checks
        .iter()
        .map(|&(name, check)| {
            let program = program.clone();
            trial(name, move || check(&program))
        })
        .collect()
}

/// A folder for sockets and temporary files; its path is short, because a socket's has to be.
fn short_folder() -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("vmt-")
        .tempdir_in("/tmp")
        .context("cannot make a folder in /tmp")
}

/// Runs a command that is to end with this exit code and to leave nothing behind. Returns what it said,
/// and its result (`--json`).
fn run_for_json(
    program: &Program,
    arguments: &[&str],
    code: i32,
    limit: Duration,
) -> anyhow::Result<(Finished, Value)> {
    let runtime = short_folder()?;
    let results = tempfile::tempdir()?;
    let json = results.path().join("result.json");
    let path = json.to_str().context("the path is no text")?;
    let arguments = [arguments, &["--json", path]].concat();
    let finished = program.run(&arguments, b"", runtime.path(), limit)?;
    finished.expect_code(code)?;
    leftovers::nothing_in(runtime.path())?;
    let text = std::fs::read_to_string(json).context("no result")?;
    let result = serde_json::from_str(&text).context("the result is no JSON")?;
    Ok((finished, result))
}
