//! Faults that are injected into a real guest's GPU, and what becomes of the process whose memory is
//! meant, of another one that has memory in VRAM, and of the driver.

mod guest;
mod lost;

use std::sync::Arc;

use anyhow::{Result, ensure};
use hmmgpu_telemetry::snapshot::FaultOutcome;
use hmmgpu_vm_tests::program::Program;
use libtest_mimic::Trial;

use crate::{Check, short_folder, trials_of};
use guest::{Guest, LIMIT};

/// All of the owner's memory: 8 MiB.
const ALL_RIGHT: &str = "right 2048 wrong 0 refused 0";
const MOVED: &str = "moved 8388608 present 0 skipped 0 error none";

const EIO: &str = "error 5";
const EFAULT: &str = "error 14";

/// `hmmgpu-hold-pages` is the neighbour: its memory is in VRAM from before the first fault to after
/// the last one. `hmmgpu-outcome` owns what the faults are about.
const GUEST: &str = "mkfifo /tmp/in /tmp/out
hmmgpu-hold-pages --size 4M </tmp/in >/tmp/out &
exec 3>/tmp/in 4</tmp/out
read held <&4
echo \"neighbour $held\"
hmmgpu-outcome || exit
echo >&3
read verified <&4
wait $! && echo \"neighbour $verified\"";

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let checks: [Check; 2] = [
        (
            "faults::each_has_the_outcome_that_is_documented",
            each_has_its_outcome,
        ),
        (
            "faults::those_that_take_vram_have_theirs",
            lost::each_has_its_outcome,
        ),
    ];
    trials_of(program, &checks)
}

fn each_has_its_outcome(program: &Program) -> Result<()> {
    let folder = short_folder()?;
    let ready = ["neighbour holding", "ready"];
    let mut guest = Guest::boot(program, folder.path(), GUEST, &ready)?;
    copies_that_fail(&mut guest)?;
    copies_that_are_wrong(&mut guest)?;
    fences_and_interrupts(&mut guest)?;
    vram_that_is_not_there(&mut guest)?;
    translations(&mut guest)?;
    a_server_that_stands_still(&mut guest)?;
    // The neighbour verifies its memory, and the kernel has nothing to say.
    let ended = guest.running.finish(LIMIT)?;
    ended.expect_code(0)?;
    ensure!(
        ended.stdout.contains("neighbour verified"),
        "the neighbour's memory was not verified: {}",
        ended.stdout
    );
    Ok(())
}

fn copies_that_fail(guest: &mut Guest<'_>) -> Result<()> {
    use FaultOutcome::Told;
    // Once: it is repeated, and nobody sees it.
    let there = [("to-device", MOVED)];
    guest.with("copy.sys_to_dev:fail@2", Told, &there)?;
    guest.with("copy.dev_to_sys:fail", Told, &[("read", ALL_RIGHT)])?;
    // Always: an error, and the data stay where they are.
    let refused = [("to-device", "moved 0"), ("to-device", EIO)];
    guest.with("copy.sys_to_dev:fail@every:1", Told, &refused)?;
    guest.steps(&[("read", ALL_RIGHT), ("to-device", MOVED)])?;
    let lost = [
        ("home", "moved 0"),
        ("read", "right 0 wrong 0 refused 2048"),
        ("touch", "Signal(7)"),
    ];
    guest.with("copy.dev_to_sys:fail@every:1", Told, &lost)?;
    guest.steps(&[("read", ALL_RIGHT), ("touch", "survived")])
}

fn copies_that_are_wrong(guest: &mut Guest<'_>) -> Result<()> {
    use FaultOutcome::Untold;
    guest.step("fill", "done")?;
    let wrong = [("to-device", MOVED), ("read", "wrong 1 refused 0")];
    guest.with("copy.sys_to_dev:corrupt", Untold, &wrong)?;
    // What is not copied is what was there before.
    guest.step("fill", "done")?;
    let wrong = [("to-device", MOVED), ("read", "wrong 512 refused 0")];
    guest.with("copy.sys_to_dev:drop", Untold, &wrong)?;
    guest.step("fill", "done")?;
    guest.step("to-device", MOVED)?;
    let wrong = [("home", MOVED), ("read", "wrong 512 refused 0")];
    guest.with("copy.dev_to_sys:drop", Untold, &wrong)?;
    // Checksums: it is repeated, or an error, and never wrong.
    guest.steps(&[("parameter copy_checksum 1", "done"), ("fill", "done")])?;
    for fault in ["copy.sys_to_dev:corrupt@3", "copy.sys_to_dev:drop"] {
        guest.with(fault, Untold, &[("to-device", MOVED), ("read", ALL_RIGHT)])?;
    }
    for fault in ["copy.dev_to_sys:corrupt@2", "copy.dev_to_sys:drop"] {
        guest.step("to-device", MOVED)?;
        guest.with(fault, Untold, &[("home", MOVED), ("read", ALL_RIGHT)])?;
    }
    let refused = [("to-device", EIO)];
    guest.with("copy.sys_to_dev:corrupt@every:1", Untold, &refused)?;
    guest.steps(&[("read", ALL_RIGHT), ("to-device", MOVED)])?;
    let lost = [("read", "right 0 wrong 0 refused 2048")];
    guest.with("copy.dev_to_sys:corrupt@every:1", Untold, &lost)?;
    guest.step("read", ALL_RIGHT)?;
    // So are holes, which the device fills.
    for fault in ["copy.sys_to_dev:corrupt@3", "copy.sys_to_dev:drop@2"] {
        guest.step("drop", "done")?;
        guest.with(fault, Untold, &[("to-device", MOVED), ("read", ALL_RIGHT)])?;
    }
    guest.steps(&[("fill", "done"), ("parameter copy_checksum 0", "done")])
}

fn fences_and_interrupts(guest: &mut Guest<'_>) -> Result<()> {
    use FaultOutcome::{Late, Lost, Told};
    let there_and_back = [("to-device", MOVED), ("home", MOVED), ("read", ALL_RIGHT)];
    for (fault, came) in [
        ("fence.copy:fail", Told),
        ("fence.copy:delay=50ms@every:2", Late),
        ("copy:delay=20ms@every:3", Late),
        ("engine:hang=300ms", Late),
    ] {
        guest.with(fault, came, &there_and_back)?;
    }
    // Of these the driver learns by itself that they do not come.
    for fault in ["fence.copy:drop", "fence.copy:corrupt"] {
        guest.with(fault, Lost, &there_and_back)?;
    }
    for (fault, came) in [
        ("fence.invalidation:drop", Lost),
        ("fence.invalidation:corrupt", Lost),
        ("fence.invalidation:fail", Told),
    ] {
        guest.step("job", "right")?;
        guest.with(fault, came, &[("home", MOVED), ("read", ALL_RIGHT)])?;
    }
    // Interrupts are what a sleeper waits for.
    for (fault, came) in [
        ("interrupt:drop@every:1", Lost),
        ("interrupt:corrupt@every:1", Lost),
        ("interrupt:delay=20ms@every:1", Late),
    ] {
        guest.inject(&["copy:delay=20ms@every:1"])?;
        guest.with(fault, came, &there_and_back)?;
    }
    Ok(())
}

fn vram_that_is_not_there(guest: &mut Guest<'_>) -> Result<()> {
    let refused = [("to-device", "moved 0"), ("to-device", EIO)];
    guest.with("vram:full=0", FaultOutcome::Told, &refused)?;
    guest.step("read", ALL_RIGHT)
}

fn translations(guest: &mut Guest<'_>) -> Result<()> {
    use FaultOutcome::{Late, Lost, Told, Untold};
    guest.with("translation:fail@3", Told, &[("job", "right")])?;
    guest.with("translation:delay=20ms", Late, &[("job", "right")])?;
    guest.step("home", "error none")?;
    guest.with("fault:delay=50ms", Late, &[("job", "right")])?;
    guest.step("home", "error none")?;
    guest.with("fault:drop", Lost, &[("job", "right")])?;
    guest.step("home", "error none")?;
    // A job that gets no further is given up, and with it those behind it.
    guest.step("parameter job_timeout_ms 1000", "done")?;
    guest.with("translation:drop", Lost, &[("job", EIO)])?;
    guest.steps(&[("job", "right"), ("home", "error none")])?;
    guest.with("translation:fail@every:1", Told, &[("job", EIO)])?;
    guest.step("parameter job_timeout_ms 60000", "done")?;
    guest.steps(&[("job", "right"), ("home", "error none")])?;
    // The job of whom it is about ends with an error.
    guest.with("translation:corrupt", Told, &[("job", EIO)])?;
    guest.step("home", "error none")?;
    guest.with("fault:corrupt", Untold, &[("job", EFAULT)])?;
    guest.steps(&[
        ("home", "error none"),
        ("job", "right"),
        ("home", "error none"),
        ("read", ALL_RIGHT),
    ])
}

/// The server stands still for two seconds in the middle of a migration, as it does on a host that
/// swaps or is being debugged.
fn a_server_that_stands_still(guest: &mut Guest<'_>) -> Result<()> {
    // So that it comes in the middle of a copy.
    guest.inject(&["copy.sys_to_dev:delay=1s"])?;
    guest.running.say(b"to-device\n")?;
    guest.inject(&["server:stop=2s"])?;
    let answer = guest.running.wait_for_line("to-device: ", LIMIT)?;
    ensure!(answer.contains(MOVED), "{answer}");
    guest.inject(&["--clear"])?;
    guest.steps(&[("home", MOVED), ("read", ALL_RIGHT)])
}
