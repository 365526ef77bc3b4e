//! Scenarios of stress.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use hmmgpu_guest_protocol::reports;
use hmmgpu_guest_protocol::runner::{TestEnd, TestEvent, TestResult};
use hmmgpu_guest_protocol::stress::{LIMIT, PROGRAM, StressPlan, seed_of_round};

use super::{process, say};
use crate::uptime;

/// The scenario in which the kernel has to say that it ends processes.
const OUT_OF_MEMORY: &str = "out-of-memory";

/// Does what the plan says, and ends after the first failure: what the guest is like then nobody
/// knows.
pub(super) fn run(plan: &StressPlan) -> Result<()> {
    say(&TestEvent::Listed {
        tests: plan.scenarios.clone(),
    })?;
    // How long each took, of which the next time is not much shorter.
    let mut took: BTreeMap<&str, Duration> = BTreeMap::new();
    let (mut round, mut next) = plan.from;
    while plan.last.is_none_or(|last| round <= last) {
        for name in plan.scenarios.iter().skip(next) {
            let up = Duration::try_from_secs_f64(uptime()?)?;
            let end = up + took.get(name.as_str()).copied().unwrap_or_default();
            let time = plan.seconds.map(Duration::from_secs);
            if round > 1 && time.is_some_and(|time| end >= time) {
                return say(&TestEvent::Done);
            }
            say(&TestEvent::Began {
                round,
                name: name.clone(),
            })?;
            let since = Instant::now();
            let end = scenario(plan, name, round)?;
            took.insert(name, since.elapsed());
            let failed = end.result == TestResult::Fail;
            say(&TestEvent::Ended(end))?;
            if failed {
                return say(&TestEvent::Done);
            }
        }
        next = 0;
        round += 1;
    }
    say(&TestEvent::Done)
}

fn scenario(plan: &StressPlan, name: &str, round: u32) -> Result<TestEnd> {
    let seed = seed_of_round(plan.seed, round);
    let mut command = Command::new(PROGRAM);
    command.args([name, "--seed", &seed.to_string()]);
    command.args(["--seconds", &plan.work.to_string()]);
    let expected = |line: &str| {
        reports::is_upstreams(line) || (name == OUT_OF_MEMORY && reports::is_out_of_memory(line))
    };
    let mut end = process::run(command, name, round, LIMIT, expected)?;
    end.seed = Some(seed);
    // A scenario in which the kernel complains has found something, however it ended.
    if end.kernel_warned && end.result != TestResult::Fail {
        end.result = TestResult::Fail;
        "the kernel complained while it ran".clone_into(&mut end.reason);
    }
    Ok(end)
}
