//! The driver while the GPU breaks: faults that nobody notices, and those that take what is in VRAM.

use std::sync::Arc;

use anyhow::{Result, ensure};
use hmmgpu_telemetry::snapshot::FaultSite;
use hmmgpu_vm_tests::program::Program;
use hmmgpu_vm_tests::session::{Machine, Session, Step};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::guest::{Guest, summary};
use crate::trial;

/// Each alone is something that the driver can make good.
const GLITCHES: Machine = Machine {
    inject: &[
        "copy:fail@every:7",
        "fence.copy:drop@every:41",
        "fence.invalidation:fail@every:23",
        "interrupt:drop@every:3",
        "fault:drop@every:13",
    ],
    ..Machine::SMALL
};

/// After these only a reset helps, or they are one.
const BREAKS: Machine = Machine {
    inject: &["gpu:reset@every:50*3", "engine:hang@200"],
    ..Machine::SMALL
};

/// It goes, and does not come back.
const GOES: Machine = Machine {
    inject: &["gpu:gone@40"],
    ..Machine::SMALL
};

const GLITCHES_STEPS: &[Step] = &[Step {
    name: "glitches",
    command: "hmmgpu-recovery --rounds 150",
    limit: 120,
}];

const BREAKS_STEPS: &[Step] = &[
    Step {
        name: "breaks",
        command: "sh -c 'echo 1000 >/sys/module/hmmgpu/parameters/fence_timeout_ms; \
                  hmmgpu-recovery --recoveries 4'",
        limit: 120,
    },
    Step {
        name: "bus",
        command: "hmmgpu-recovery --cause reset",
        limit: 120,
    },
    Step {
        name: "unbind",
        command: "hmmgpu-recovery --cause unbind",
        limit: 120,
    },
    Step {
        name: "replug",
        command: "hmmgpu-recovery --cause replug",
        limit: 120,
    },
    Step {
        name: "after",
        command: "hmmgpu-random-mix --rounds 100",
        limit: 60,
    },
];

const GOES_STEPS: &[Step] = &[
    Step {
        name: "gone",
        command: "hmmgpu-recovery --gone",
        limit: 120,
    },
    Step {
        name: "unbound",
        command: "sh -c 'echo 0000:00:02.0 >/sys/bus/pci/drivers/hmmgpu/unbind'",
        limit: 60,
    },
];

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let glitches = Guest::new(program, GLITCHES, GLITCHES_STEPS);
    let breaks = Guest::new(program, BREAKS, BREAKS_STEPS);
    let goes = Guest::new(program, GOES, GOES_STEPS);
    let mut trials = Vec::new();
    let mut add = |name: &str, guest: &Arc<Guest>, check: fn(&Session) -> Result<()>| {
        let guest = guest.clone();
        trials.push(trial(format!("recovery::{name}"), move || {
            check(guest.session()?)
        }));
    };
    add("glitches_lose_nothing", &glitches, glitches_lose_nothing);
    add("resets_and_hangs_are_recovered_from", &breaks, |session| {
        recovered(session, "breaks", 4)
    });
    add("resets_by_the_bus_are_recovered_from", &breaks, |session| {
        recovered(session, "bus", 3)
    });
    add("unbinding_loses_nothing", &breaks, |session| {
        goes_and_comes(session, "unbind")
    });
    add("taking_out_and_finding_again_loses_nothing", &breaks, |s| {
        goes_and_comes(s, "replug")
    });
    add("all_is_as_before_afterwards", &breaks, |session| {
        ensure!(summary(session, "after")?["ok"] == true);
        Ok(())
    });
    add("one_that_goes_takes_what_it_has", &goes, gone);
    trials.extend(glitches.sound("recovery::glitches"));
    trials.extend(breaks.sound("recovery::breaks"));
    trials
}

fn number(summary: &Value, key: &str) -> u64 {
    summary[key].as_u64().unwrap_or(0)
}

fn glitches_lose_nothing(session: &Session) -> Result<()> {
    let summary = summary(session, "glitches")?;
    ensure!(
        summary["errors"] == serde_json::json!({})
            && number(&summary, "recoveries") == 0
            && number(&summary, "lost_pages") == 0,
        "{summary}"
    );
    for key in ["copy_retries", "fences_missed", "jobs", "verified_bytes"] {
        ensure!(number(&summary, key) > 0, "no {key}: {summary}");
    }
    for fault in &session.outcome.telemetry[0].injected {
        ensure!(fault.hits > 0, "it never hit: {fault:?}");
    }
    Ok(())
}

fn recovered(session: &Session, step: &str, times: u64) -> Result<()> {
    let summary = summary(session, step)?;
    ensure!(number(&summary, "recoveries") >= times, "{summary}");
    for key in ["lost_pages", "jobs", "verified_bytes"] {
        ensure!(number(&summary, key) > 0, "no {key}: {summary}");
    }
    let faults = &session.outcome.telemetry[0].injected;
    for fault in faults {
        let wanted = if fault.site == FaultSite::Gpu { 3 } else { 1 };
        ensure!(fault.hits == wanted, "{fault:?}");
    }
    Ok(())
}

fn goes_and_comes(session: &Session, step: &str) -> Result<()> {
    let summary = summary(session, step)?;
    ensure!(
        number(&summary, "times") == 3 && number(&summary, "lost_pages") == 0,
        "{summary}"
    );
    ensure!(number(&summary, "jobs") > 0, "{summary}");
    Ok(())
}

/// Its owners lose what was in VRAM; the kernel has no complaint, and the driver can be unbound.
fn gone(session: &Session) -> Result<()> {
    let summary = summary(session, "gone")?;
    ensure!(number(&summary, "lost_pages") > 0, "{summary}");
    session.succeeded("unbound")?;
    let warnings = &session.outcome.kernel_warnings;
    ensure!(warnings.is_empty(), "{warnings:?}");
    Ok(())
}
