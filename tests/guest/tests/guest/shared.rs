//! Tests that share three guests. In one the kernel zeroes memory, as it does by itself: it runs the
//! scenarios and the reload. The other does not zero, as in the bench: it runs the random mix,
//! and its driver is loaded once, so that its counters can be compared with the host's. The third
//! is for what happens at the same time: that may end a guest, and no other test shall fail then.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use hmmgpu_guest_protocol::{Event, ExitStatus};
use hmmgpu_guest_workloads::scenario_names;
use hmmgpu_telemetry::CheckMode;
use hmmgpu_telemetry::snapshot::{Direction, Trigger};
use hmmgpu_vm_tests::program::Program;
use hmmgpu_vm_tests::session::{Machine, Session, Step};
use hmmgpu_vm_tests::tap::{self, Verdict};
use libtest_mimic::Trial;

use crate::counters;
use crate::guest::{Guest, summary};
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
        command: "hmmgpu-stats --settle",
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

/// Free VRAM is poisoned, and looked at when it is allocated anew.
const POISONED: Machine = Machine {
    check: CheckMode::Full,
    ..Machine::SMALL
};

/// Memory is not zeroed, as in the bench.
const PLAIN: Machine = Machine {
    zeroing: false,
    ..Machine::SMALL
};

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let zeroing = Guest::new(program, POISONED, ZEROING);
    let plain = Guest::new(program, PLAIN, NOT_ZEROING);
    let races = Guest::new(program, PLAIN, RACES);
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
        "telemetry::the_host_knows_whose_memory_moved".into(),
        &plain,
        the_host_knows_whose_memory_moved,
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
    add(
        "telemetry::one_fault_moves_one_huge_page".into(),
        &zeroing,
        one_fault_moves_one_huge_page,
    );
    for (part, guest) in [("scenarios", &zeroing), ("mix", &plain), ("races", &races)] {
        trials.extend(guest.general(part));
    }
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

fn code_runs(session: &Session) -> Result<()> {
    let output = session.succeeded("code")?;
    ensure!(
        output.contains("all functions returned their numbers"),
        "{output}"
    );
    Ok(())
}

fn mix(session: &Session, step: &str) -> Result<()> {
    let summary = summary(session, step)?;
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
    let summary = summary(session, "threads")?;
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
    let driver = counters::of_driver(session, "stats")?;
    counters::agree(&driver, &session.outcome.telemetry[0])?;
    // The mix has brought about all of this.
    for (name, order) in [
        ("transfers.sys_to_dev.folios", Some(0)),
        ("transfers.sys_to_dev.folios", Some(9)),
        ("transfers.dev_to_sys.folios", Some(0)),
        ("transfers.dev_to_sys.folios", Some(9)),
        ("events.splits", Some(9)),
        ("spans.sys_to_dev.prefetch.pages_moved", None),
        ("spans.dev_to_sys.prefetch.pages_moved", None),
        ("spans.dev_to_sys.cpu_fault.pages_moved", None),
        ("spans.phases.collect_ns", None),
        ("spans.phases.alloc_ns", None),
        ("spans.phases.copy_ns", None),
        ("spans.phases.commit_ns", None),
        ("spans.phases.finish_ns", None),
        ("fallbacks.no_vram", None),
        ("fallbacks.shared", None),
        ("fallbacks.partial", None),
    ] {
        ensure!(
            counters::value(&driver, name, order)? > 0,
            "no {name} {order:?}: {driver:?}"
        );
    }
    Ok(())
}

/// The driver names the processes whose memory moves, those that only touch it, too.
fn the_host_knows_whose_memory_moved(session: &Session) -> Result<()> {
    let processes = &session.outcome.telemetry[0].processes;
    // As the kernel does, the driver cuts names off after 15 bytes.
    let mixes = processes
        .iter()
        .filter(|process| process.name == "hmmgpu-random-m" && process.pid > 1);
    let mut processes_with = [0; 3];
    for process in mixes {
        processes_with[0] += u32::from(process.sys_to_dev_bytes > 0);
        processes_with[1] += u32::from(process.dev_to_sys_bytes > 0);
        processes_with[2] += u32::from(process.cpu_fault_spans > 0);
        ensure!(process.vram_bytes == 0, "VRAM is left: {process:?}");
    }
    ensure!(
        processes_with.iter().all(|&count| count > 0),
        "{processes:?}"
    );
    Ok(())
}

/// What the scenario `one_fault_moves_2_mib` looks like from the host: its mark names the window.
fn one_fault_moves_one_huge_page(session: &Session) -> Result<()> {
    let windows = &session.outcome.telemetry[0].windows;
    let window = windows
        .iter()
        .find(|window| window.mark == 0x2_0000)
        .context("no window of that mark")?;
    let [transfers] = &window.transfers[..] else {
        bail!("not one transfer: {:?}", window.transfers);
    };
    ensure!(
        transfers.order == 9
            && transfers.direction == Direction::SysToDev
            && transfers.trigger == Trigger::GpuFault
            && transfers.folios == 1
            && transfers.bytes == 2 << 20,
        "{transfers:?}"
    );
    let [spans] = &window.spans[..] else {
        bail!("not one migration: {:?}", window.spans);
    };
    ensure!(
        spans.trigger == Trigger::GpuFault && spans.count == 1 && spans.pages_moved == 512,
        "{spans:?}"
    );
    Ok(())
}
