//! Tests that share three guests. In one the kernel zeroes memory, as it does by itself: it runs the
//! scenarios and the reload. The other does not zero, as in the bench: it runs the random mix,
//! and its driver is loaded once, so that its counters can be compared with the host's. The third
//! is for what happens at the same time: that may end a guest, and no other test shall fail then.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail, ensure};
use hmmgpu_guest_protocol::{Event, ExitStatus};
use hmmgpu_guest_workloads::scenario_names;
use hmmgpu_telemetry::snapshot::{Direction, Transfers};
use hmmgpu_vm_tests::program::Program;
use hmmgpu_vm_tests::session::{Session, Step, VRAM};
use hmmgpu_vm_tests::tap::{self, Verdict};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::trial;

const ZEROING: &[Step] = &[
    Step {
        name: "scenarios",
        command: "hmmgpu-scenarios --limit 60",
        limit: 300,
    },
    Step {
        // As in a guest with little memory, where the kernel switches it off by itself.
        name: "zeropage",
        command: "sh -c 'echo 0 >/sys/kernel/mm/transparent_hugepage/use_zero_page; \
                  hmmgpu-scenarios huge_zero_page_is_filled'",
        limit: 60,
    },
    Step {
        name: "code",
        command: "hmmgpu-exec-code",
        limit: 120,
    },
    Step {
        name: "reload",
        command: "hmmgpu-reload",
        limit: 120,
    },
];

const NOT_ZEROING: &[Step] = &[
    Step {
        name: "code",
        command: "hmmgpu-exec-code",
        limit: 120,
    },
    Step {
        name: "mix",
        command: "hmmgpu-random-mix --rounds 1000",
        limit: 240,
    },
    Step {
        name: "mix2",
        command: "hmmgpu-random-mix --rounds 1000 --seed 2 --processes 3 --memory 192M",
        limit: 240,
    },
    Step {
        name: "stats",
        command: "hmmgpu-stats",
        limit: 30,
    },
];

const RACES: &[Step] = &[
    Step {
        name: "threads",
        command: "hmmgpu-races --rounds 1500",
        limit: 120,
    },
    Step {
        name: "exits",
        command: "hmmgpu-reload --exits --times 6",
        limit: 120,
    },
];

/// A guest that boots when it is first needed. That it failed is remembered, too.
struct Guest {
    program: Arc<Program>,
    zeroing: bool,
    steps: &'static [Step],
    session: OnceLock<std::result::Result<Session, String>>,
}

impl Guest {
    fn new(program: &Arc<Program>, zeroing: bool, steps: &'static [Step]) -> Arc<Guest> {
        let program = program.clone();
        Arc::new(Guest {
            program,
            zeroing,
            steps,
            session: OnceLock::new(),
        })
    }

    fn session(&self) -> Result<&Session> {
        let run = || {
            Session::run(&self.program.path(), self.zeroing, self.steps)
                .map_err(|error| format!("{error:#}"))
        };
        match self.session.get_or_init(run) {
            Ok(session) => Ok(session),
            Err(error) => bail!("{error}"),
        }
    }
}

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let zeroing = Guest::new(program, true, ZEROING);
    let plain = Guest::new(program, false, NOT_ZEROING);
    let races = Guest::new(program, false, RACES);
    let mut trials = Vec::new();
    let mut add = |name: String, guest: &Arc<Guest>, check: fn(&Session) -> Result<()>| {
        let guest = guest.clone();
        trials.push(trial(name, move || check(guest.session()?)));
    };
    add(
        "boot::the_driver_is_loaded".into(),
        &zeroing,
        the_driver_is_loaded,
    );
    for (part, guest) in [("scenarios", &zeroing), ("mix", &plain), ("races", &races)] {
        add(
            format!("{part}::the_kernel_has_no_complaint"),
            guest,
            the_kernel_has_no_complaint,
        );
        add(
            format!("{part}::vram_is_empty_at_the_end"),
            guest,
            vram_is_empty_at_the_end,
        );
        add(
            format!("{part}::the_device_has_seen_no_error"),
            guest,
            the_device_has_seen_no_error,
        );
    }
    add(
        "scenarios::the_huge_zero_page_is_switched_on".into(),
        &zeroing,
        |session| session.succeeded("zeropage").map(drop),
    );
    add("code::runs_with_zeroing".into(), &zeroing, code_runs);
    add("code::runs_without_zeroing".into(), &plain, code_runs);
    add(
        "reload::data_comes_home_and_the_driver_back".into(),
        &zeroing,
        |session| session.succeeded("reload").map(drop),
    );
    add(
        "mix::a_thousand_rounds_keep_all_data".into(),
        &plain,
        |session| mix(session, "mix"),
    );
    add(
        "mix::three_processes_with_another_seed".into(),
        &plain,
        |session| mix(session, "mix2"),
    );
    add(
        "telemetry::host_and_driver_agree".into(),
        &plain,
        host_and_driver_agree,
    );
    add(
        "races::threads_keep_all_data".into(),
        &races,
        threads_keep_all_data,
    );
    add(
        "races::processes_end_while_the_driver_goes".into(),
        &races,
        |session| session.succeeded("exits").map(drop),
    );
    for name in scenario_names() {
        let guest = zeroing.clone();
        trials.push(trial(format!("scenarios::{name}"), move || {
            scenario(guest.session()?, name)
        }));
    }
    trials
}

fn scenario(session: &Session, name: &str) -> Result<()> {
    let step = &session.steps["scenarios"];
    match tap::parse(&step.output).remove(name) {
        Some(Verdict::Ok) => Ok(()),
        Some(Verdict::NotOk(said)) => bail!("{said}"),
        // The guest is made for these tests: all of them have to run.
        Some(Verdict::Skipped(said)) => bail!("it was skipped: {said}"),
        None => bail!(
            "it has no result (status {}):\n{}",
            step.status,
            step.output
        ),
    }
}

fn the_driver_is_loaded(session: &Session) -> Result<()> {
    let events = &session.outcome.events;
    let loaded = events.iter().find_map(|event| match event {
        Event::DriverLoaded { devices } => Some(devices),
        _ => None,
    });
    let devices = loaded.context("the guest did not say that the driver is loaded")?;
    ensure!(
        devices.as_slice() == ["/dev/hmmgpu0"],
        "devices: {devices:?}"
    );
    ensure!(
        session.outcome.status == ExitStatus::Code(0),
        "{:?}",
        session.outcome.status
    );
    Ok(())
}

fn the_kernel_has_no_complaint(session: &Session) -> Result<()> {
    let warnings = &session.outcome.kernel_warnings;
    ensure!(
        warnings.is_empty(),
        "the kernel's log has warnings:\n{}\n--- the last lines of the console\n{}",
        warnings.join("\n"),
        session.outcome.console.join("\n")
    );
    // An unsigned module from outside the tree taints the kernel; nothing else may.
    let allowed = 1 << 12 | 1 << 13;
    ensure!(
        session.outcome.tainted & !allowed == 0,
        "the kernel is tainted: {:#x}",
        session.outcome.tainted
    );
    Ok(())
}

fn vram_is_empty_at_the_end(session: &Session) -> Result<()> {
    let vram = &session.outcome.telemetry[0].vram;
    ensure!(
        vram.used_bytes == 0 && vram.folios.is_empty(),
        "{} bytes of VRAM are in use, folios by order {:?}",
        vram.used_bytes,
        vram.folios
    );
    ensure!(
        vram.bytes == VRAM.0 && vram.peak_bytes > VRAM.0 / 2,
        "of {} bytes of VRAM {} were in use at most",
        vram.bytes,
        vram.peak_bytes
    );
    ensure!(
        vram.inconsistent_notes == 0,
        "{} notes contradict others",
        vram.inconsistent_notes
    );
    Ok(())
}

fn the_device_has_seen_no_error(session: &Session) -> Result<()> {
    let events = &session.outcome.telemetry[0].events;
    ensure!(
        events.descriptor_errors.is_empty(),
        "{:?}",
        events.descriptor_errors
    );
    ensure!(
        events.unknown_register_accesses == 0,
        "registers that do not exist: {:?}",
        events.unknown_registers
    );
    ensure!(
        events.unmatched_spans == 0,
        "{} spans did not begin",
        events.unmatched_spans
    );
    ensure!(
        events.lost_spans == 0,
        "{} spans did not end",
        events.lost_spans
    );
    ensure!(
        events.dma_map_errors == 0,
        "{} DMA maps were refused",
        events.dma_map_errors
    );
    ensure!(
        events.fences > 0 && events.descriptors > events.fences,
        "{events:?}"
    );
    Ok(())
}

fn code_runs(session: &Session) -> Result<()> {
    let output = session.succeeded("code")?;
    ensure!(
        output.contains("all functions returned their numbers"),
        "{output}"
    );
    Ok(())
}

fn mix(session: &Session, step: &str) -> Result<()> {
    let output = session.succeeded(step)?;
    let summary = output
        .lines()
        .find(|line| line.starts_with('{'))
        .with_context(|| format!("no summary:\n{output}"))?;
    let summary: Value = serde_json::from_str(summary).context("the summary is no JSON")?;
    let number = |key: &str| summary[key].as_u64().unwrap_or(0);
    ensure!(summary["ok"] == true, "{summary}");
    ensure!(number("rounds") >= 1000, "{summary}");
    ensure!(
        number("memory_bytes") > number("vram_bytes"),
        "memory fits into VRAM: {summary}"
    );
    ensure!(
        number("to_device_bytes") > number("vram_bytes"),
        "little moved: {summary}"
    );
    ensure!(
        number("verified_bytes") > number("memory_bytes"),
        "little was verified: {summary}"
    );
    ensure!(number("refused") > 0, "VRAM was never full: {summary}");
    ensure!(
        number("vram_free_after") == number("vram_bytes"),
        "VRAM is not free: {summary}"
    );
    for operation in [
        "munmap", "mprotect", "fork", "mremap", "dontneed", "collapse", "free",
    ] {
        let count = summary["operations"][operation].as_u64();
        ensure!(
            count.is_some_and(|count| count > 0),
            "no {operation}: {summary}"
        );
    }
    Ok(())
}

fn threads_keep_all_data(session: &Session) -> Result<()> {
    let output = session.succeeded("threads")?;
    let summary = output
        .lines()
        .find(|line| line.starts_with('{'))
        .with_context(|| format!("no summary:\n{output}"))?;
    let summary: Value = serde_json::from_str(summary).context("the summary is no JSON")?;
    ensure!(
        summary["ok"] == true && summary["wrong_bytes"] == 0,
        "{summary}"
    );
    for count in [
        "dropped",
        "written",
        "verified_bytes",
        "to_device_bytes",
        "to_system_bytes",
    ] {
        ensure!(
            summary[count].as_u64().is_some_and(|count| count > 0),
            "no {count}: {summary}"
        );
    }
    Ok(())
}

/// Both sides count the same things, each on its own.
fn host_and_driver_agree(session: &Session) -> Result<()> {
    let output = session.succeeded("stats")?;
    let driver: Value =
        serde_json::from_str(output.trim()).context("the statistics are no JSON")?;
    let stats = &driver["stats"];
    let host = &session.outcome.telemetry[0];
    let by_order = |pick: fn(&Transfers) -> bool, value: fn(&Transfers) -> u64| {
        let mut sums = [0; 10];
        for transfers in host.transfers.iter().filter(|transfers| pick(transfers)) {
            sums[usize::from(transfers.order)] += value(transfers);
        }
        sums
    };
    let there = |transfers: &Transfers| transfers.direction == Direction::SysToDev;
    let home = |transfers: &Transfers| transfers.direction == Direction::DevToSys;
    let pairs = [
        (
            "sys_to_dev_folios",
            by_order(there, |transfers| transfers.folios),
        ),
        (
            "dev_to_sys_folios",
            by_order(home, |transfers| transfers.folios),
        ),
        (
            "filled_folios",
            by_order(there, |transfers| transfers.filled_folios),
        ),
    ];
    for (name, seen) in pairs {
        let counted: Vec<u64> = stats[name]
            .as_array()
            .with_context(|| format!("no {name}"))?
            .iter()
            .filter_map(Value::as_u64)
            .collect();
        ensure!(
            counted == seen,
            "{name} by order: driver {counted:?}, host {seen:?}"
        );
        ensure!(
            seen[0] > 0 && seen[9] > 0 || name == "filled_folios",
            "{name}: {seen:?}"
        );
    }
    let splits: u64 = host.events.splits.iter().map(|(_, folios)| folios).sum();
    ensure!(
        stats["splits"] == splits,
        "splits: driver {}, host {splits}",
        stats["splits"]
    );
    let free = &driver["query"]["vram_free_bytes"];
    ensure!(
        *free == host.vram.bytes - host.vram.used_bytes,
        "free VRAM: driver {free}"
    );
    Ok(())
}
