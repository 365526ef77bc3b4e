//! The runner of tests: each in a process of its own, so that time, output and the kernel's log of
//! each are known, and said to the host as soon as it has ended.
//!
//! It is this program under another name, [`RUNNER`], and the command of a job.

mod harness;
mod process;
mod selftest;
mod stress;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use hmmgpu_guest_protocol::runner::{RUNNER, RunnerPlan, TestEvent};

/// Whether this program was started as the runner.
pub(crate) fn is_asked_for() -> bool {
    let name = std::env::args_os().next();
    name.is_some_and(|name| Path::new(&name).file_name().is_some_and(|n| n == RUNNER))
}

/// Does what its argument says; errors go to standard error.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let plan = std::env::args().nth(1).context("the plan is missing")?;
    match serde_json::from_str(&plan).context("the plan is not understood")? {
        RunnerPlan::Selftest(plan) => selftest::run(&plan),
        RunnerPlan::Stress(plan) => stress::run(&plan),
    }
}

fn say(event: &TestEvent) -> Result<()> {
    let mut line = serde_json::to_vec(event).context("cannot write an event")?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&line)
        .and_then(|()| stdout.flush())
        .context("cannot send an event")
}
