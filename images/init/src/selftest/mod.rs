//! The runner of upstream's tests: each in a process of its own, so that time, output and the
//! kernel's log of each are known, and said to the host as soon as it has ended.
//!
//! It is this program under another name, [`RUNNER`], and the command of a job.

mod harness;
mod test;

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hmmgpu_guest_protocol::selftest::{RUNNER, SelftestEvent, SelftestPlan};

use crate::driver;

/// Device nodes appear a moment after their module is loaded.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let plan: SelftestPlan = serde_json::from_str(&plan).context("the plan is not understood")?;
    if let Some(module) = &plan.module {
        driver::insert(module, "")?;
    }
    wait_for(&plan.devices)?;

    let all = harness::tests(&listing(&plan.program)?, &plan.variants);
    if all.is_empty() {
        bail!("{} has no tests of {:?}", plan.program, plan.variants);
    }
    let unknown = plan
        .only
        .iter()
        .chain(&plan.skip)
        .find(|pattern| !all.iter().any(|name| harness::matches(pattern, name)));
    if let Some(pattern) = unknown {
        return say(&SelftestEvent::NoSuchTest {
            pattern: pattern.clone(),
            tests: all,
        });
    }
    let any = |patterns: &[String], name: &str| patterns.iter().any(|p| harness::matches(p, name));
    let tests: Vec<String> = all
        .into_iter()
        .filter(|name| plan.only.is_empty() || any(&plan.only, name))
        .filter(|name| !any(&plan.skip, name))
        .collect();
    say(&SelftestEvent::Listed {
        tests: tests.clone(),
    })?;
    for round in 1..=plan.loops {
        for name in &tests {
            say(&SelftestEvent::Began {
                round,
                name: name.clone(),
            })?;
            say(&SelftestEvent::Ended(test::run(
                &plan.program,
                name,
                round,
            )?))?;
        }
    }
    say(&SelftestEvent::Done)
}

/// What the program prints for `-l`; it ends with the status of a skipped test then.
fn listing(program: &str) -> Result<String> {
    let output = Command::new(program)
        .arg("-l")
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn wait_for(devices: &[String]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for device in devices {
        while !Path::new(device).exists() {
            if Instant::now() > deadline {
                bail!("the driver made no {device}; {}", driver::kernel_log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn say(event: &SelftestEvent) -> Result<()> {
    let mut line = serde_json::to_vec(event).context("cannot write an event")?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&line)
        .and_then(|()| stdout.flush())
        .context("cannot send an event")
}
