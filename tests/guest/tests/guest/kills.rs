//! Kills at random moments: of the device server, of QEMU, of the launcher, from before there is a
//! machine to the middle of migrations. Nothing is left but the folder of a killed launcher, which
//! the next run removes; the exit code is as documented, and the next run works.
//!
//! Without more said it is three kills, one of each. `HMMGPU_KILLS=100` does it that often, and
//! `HMMGPU_SEED=N` chooses other moments:
//!
//! ```sh
//! HMMGPU_KILLS=100 cargo test --workspace --test guest -- kills --nocapture
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::{Program, Running};
use libtest_mimic::Trial;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Check, short_folder, trials_of};

/// Kills where nobody asks for another number: each victim once.
const KILLS: u64 = 3;
/// A kill comes within this time: of the launcher's start, which is mostly boot, or, every other one, of
/// the guest's first migration.
const LATEST_MS: u64 = 8_000;
/// Time for a guest to boot and end, on a slow and busy host.
const RUN: Duration = Duration::from_secs(300);
/// Time for everything to end after something was killed.
const END: Duration = Duration::from_secs(90);
/// The first words of a guest that migrates.
const MIGRATES: &str = "migrating";

const VICTIMS: [Victim; 3] = [Victim::Server, Victim::Qemu, Victim::Launcher];

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let checks: [Check; 1] = [("kills::at_random_moments_leave_nothing", random_kills)];
    trials_of(program, &checks)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Server,
    Qemu,
    Launcher,
}

/// What was killed, and how far the guest was.
type Tally = BTreeMap<(Victim, &'static str), u64>;

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}={text} is no number")),
    }
}

fn random_kills(program: &Program) -> Result<()> {
    let kills = number("HMMGPU_KILLS", KILLS)?;
    let seed = number("HMMGPU_SEED", 1)?;
    // What a killed launcher leaves is for the next run to remove, so they share a folder.
    let runtime = short_folder()?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tally = Tally::new();
    for (kill, wanted) in (0..kills).zip(VICTIMS.into_iter().cycle()) {
        let after = Duration::from_millis(random.next_u64() % LATEST_MS);
        let booted = kill % 2 == 1;
        let done = kill_one(program, runtime.path(), wanted, booted, after)
            .and_then(|done| works(program, runtime.path()).map(|()| done))
            .with_context(|| {
                let since = if booted { "migration" } else { "start" };
                format!("kill {kill} of seed {seed}: {wanted:?} {after:?} after the {since}")
            })?;
        *tally.entry(done).or_default() += 1;
    }
    println!("{kills} kills, nothing left, each followed by a run that worked:");
    for ((victim, stage), count) in tally {
        println!("  {count:3}  {victim:?}, {stage}");
    }
    Ok(())
}

/// Kills one process of a run this time after its start, or after it has `booted` and migrates, and looks
/// at what comes of it.
fn kill_one(
    program: &Program,
    runtime: &Path,
    wanted: Victim,
    booted: bool,
    after: Duration,
) -> Result<(Victim, &'static str)> {
    let line = format!("echo {MIGRATES}; exec svm-mix --minutes 60 --processes 2");
    let machine = ["run", "--memory", "1G", "--vram", "64M", "--", "sh", "-c"];
    let mut running = program.start(&[&machine[..], &[&line]].concat(), b"", runtime)?;
    if booted {
        running.wait_for_line(MIGRATES, RUN)?;
    }
    ensure!(
        !running.ends_within(after)?,
        "it ended before anything was killed"
    );
    let processes = leftovers::descendants(running.pid())?;
    // Early on there is not everything yet, and then it is the launcher's turn.
    let (victim, pid) = find(&running, &processes, wanted);
    kill_process(pid, Signal::KILL).context("cannot kill it")?;
    let finished = running.finish(END)?;
    leftovers::all_end(&processes, END)?;
    let migrates = finished.stdout.contains(MIGRATES);
    let lost = Some(i32::from(hmmgpu::exit::LOST));
    let expected = match victim {
        // Ended by a signal.
        Victim::Launcher => None,
        Victim::Server | Victim::Qemu => lost,
    };
    ensure!(
        finished.code == expected,
        "exit code {:?} instead of {expected:?}\n--- stderr\n{}",
        finished.code,
        finished.stderr
    );
    if victim != Victim::Launcher {
        ensure!(
            finished.stderr.contains("hmmgpu: error:"),
            "no reason is given: {}",
            finished.stderr
        );
        leftovers::nothing_in(runtime)?;
    }
    let stage = match (migrates, processes.is_empty()) {
        (true, _) => "while memory migrated",
        (false, false) => "during boot",
        (false, true) => "before there was a machine",
    };
    Ok((victim, stage))
}

fn find(running: &Running, processes: &[leftovers::Process], wanted: Victim) -> (Victim, Pid) {
    let what = match wanted {
        Victim::Server => " serve ",
        // The sandbox around it has the same words; either will do, so the first that comes.
        Victim::Qemu => "qemu-system",
        Victim::Launcher => return (wanted, running.pid()),
    };
    let found = processes
        .iter()
        .find(|process| process.command.contains(what));
    match found {
        Some(process) => (wanted, process.pid),
        None => (Victim::Launcher, running.pid()),
    }
}

/// The next run works, and leaves nothing of the one before.
fn works(program: &Program, runtime: &Path) -> Result<()> {
    let arguments = ["run", "--memory", "1G", "--vram", "64M", "--", "true"];
    let finished = program.run(&arguments, b"", runtime, RUN)?;
    finished.expect_code(0).context("the next run")?;
    leftovers::nothing_in(runtime).context("after the next run")
}
