//! Processes end in the middle of their migrations.
//!
//! A thread that is killed leaves a request between two of its batches, a fault in the middle of
//! one, and the mm goes as soon as the last of them is out (`exit_mmap()`, the driver's mm
//! notifier and contexts).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::crew::{Crew, Worker, to_device, to_system, usual};
use super::frame::{Frame, SOON};
use super::tally::{Figure, Trouble, trouble};
use crate::region::Backing;
use crate::rng::Rng;
use crate::sys::fork::{Ended, fork};

pub(super) const TROUBLES: &[Trouble] = &[trouble("kill"), trouble("exit")];

/// Processes at the same time.
const PROCESSES: usize = 2;
/// A process is ended within so long after it began to migrate.
const LIFE: Duration = Duration::from_millis(60);
const CREW: Crew = Crew {
    workers: 1,
    movers: 2,
    regions: &[(Backing::Huge, 3), (Backing::Small, 1)],
};

pub(super) fn run(frame: &Frame) -> Result<()> {
    let device = frame.device()?;
    // What this process has on the device meanwhile is none of the others' business.
    let mut own = Worker::new(frame, 0, 0, &[(Backing::Huge, 2), (Backing::Small, 1)])?;
    let places = own.places();
    let mut rng = frame.rng(1000);
    let mut round = 0;
    while frame.running() {
        round += 1;
        own.usual()?;
        for place in &places {
            to_device(frame, &device, place)?;
        }
        let name = ["kill", "exit"][rng.below(2)];
        end_some(frame, &mut rng, round, name).with_context(|| format!("round {round}, {name}"))?;
        if rng.one_in(2) {
            to_system(frame, &device, &places[rng.below(places.len())])?;
        }
        own.verify_all()?;
    }
    Ok(())
}

/// Starts processes, and ends them while they migrate.
fn end_some(frame: &Frame, rng: &mut Rng, round: usize, name: &'static str) -> Result<()> {
    let begun = frame.tally.get(Figure::Begun);
    let mut children = Vec::new();
    for number in 0..PROCESSES {
        let life = LIFE.mul_f64(rng.below(1000) as f64 / 1000.0);
        let process = round * PROCESSES + number;
        let child = fork(|| child(frame, process, life, name == "exit"));
        children.push((child.context("cannot fork")?, life));
    }
    let deadline = Instant::now() + SOON;
    // Processes that begin when the time is over make no request any more.
    while frame.tally.get(Figure::Begun) == begun && frame.running() {
        ensure!(Instant::now() < deadline, "no process has begun to migrate");
        std::thread::yield_now();
    }
    for (child, life) in &children {
        if name == "kill" {
            // Some moment, another one each time: nothing waits for anything here.
            std::thread::sleep(*life);
            child.kill()?;
        }
    }
    for (child, _) in children {
        match (name, child.wait_for(SOON).context("cannot wait")?) {
            ("kill", Some(Ended::Signal(9))) | ("exit", Some(Ended::Code(0))) => {}
            (_, ended) => bail!("a process ended otherwise: {ended:?}"),
        }
    }
    let now = frame.tally.moment();
    match frame.tally.settle() {
        0 => frame.tally.happened(name, now, 0),
        _ => frame.tally.happened_in_flight(name),
    }
    Ok(())
}

/// Works and migrates until it is killed, or ends itself in the middle of that.
fn child(frame: &Frame, process: usize, life: Duration, exits: bool) -> i32 {
    let inherited = frame.begun_here();
    let end = || {
        if !exits {
            return Ok(());
        }
        // However long it takes until its threads run: its life begins with its first request.
        let deadline = Instant::now() + SOON;
        while frame.begun_here() == inherited {
            if !frame.running() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "it has not begun to migrate");
            std::thread::yield_now();
        }
        std::thread::sleep(life);
        std::process::exit(0);
    };
    match CREW.race_as(frame, 1, process, usual, &[&end]) {
        // The scenario's time was over before the end came.
        Ok(()) if exits => 0,
        Ok(()) => loop {
            std::thread::sleep(LIFE);
        },
        Err(error) => {
            println!("# a process: {error:#}");
            1
        }
    }
}
