//! Upstream's tests.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hmmgpu_guest_protocol::runner::TestEvent;
use hmmgpu_guest_protocol::selftest::SelftestPlan;

use super::{harness, process, say};
use crate::driver;

/// Device nodes appear a moment after their module is loaded.
const PATIENCE: Duration = Duration::from_secs(10);
/// The harness ends a test by itself, after 120 s at most; one that takes so long is stuck.
const LIMIT: Duration = Duration::from_secs(300);

/// Does what the plan says.
pub(super) fn run(plan: &SelftestPlan) -> Result<()> {
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
        return say(&TestEvent::NoSuchTest {
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
    say(&TestEvent::Listed {
        tests: tests.clone(),
    })?;
    for round in 1..=plan.loops {
        for name in &tests {
            say(&TestEvent::Began {
                round,
                name: name.clone(),
            })?;
            let mut command = Command::new(&plan.program);
            command.args(["-r", name]);
            let end = process::run(command, name, round, LIMIT, |_| false)?;
            say(&TestEvent::Ended(end))?;
        }
    }
    say(&TestEvent::Done)
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
