//! The kernel ends processes in the middle of their migrations because memory is over.
//!
//! First the memory of the machine, so that the driver's own allocations fail as well; then that of
//! a control group, again and again. The process that is ended has pages in VRAM, on the way there
//! and on the way home (`oom_reaper()` unmaps them while the driver holds them).

use anyhow::{Context, Result, bail, ensure};

use super::crew::{Crew, Worker, to_device, usual};
use super::fork_storm::told;
use super::frame::{Frame, SOON};
use super::system::{Group, write};
use super::tally::{Trouble, trouble};
use crate::region::Backing;
use crate::sys::fork::{Ended, fork};
use crate::sys::memory::Memory;

pub(super) const TROUBLES: &[Trouble] = &[trouble("machine_full"), trouble("group_full")];

const CREW: Crew = Crew {
    workers: 1,
    movers: 2,
    regions: &[(Backing::Huge, 3), (Backing::Small, 1)],
};
/// What a group may have: more than the crew of a process.
const LIMIT: &str = "24M";
/// What is taken at a time.
const STEP: usize = 4 << 20;
const LARGE_STEP: usize = 64 << 20;

pub(super) fn run(frame: &Frame) -> Result<()> {
    let device = frame.device()?;
    let group = Group::new("hmmgpu-full")?;
    group.set("memory.max", LIMIT)?;
    group.set("memory.swap.max", "0")?;
    // What this process has on the device meanwhile is none of the others' business.
    let mut own = Worker::new(frame, 0, 0, &[(Backing::Huge, 2), (Backing::Small, 1)])?;
    let places = own.places();
    let mut round = 0;
    while frame.running() {
        round += 1;
        own.usual()?;
        for place in &places {
            to_device(frame, &device, place)?;
        }
        let name = match round {
            1 => "machine_full",
            _ => "group_full",
        };
        end_one(frame, &group, round, name).with_context(|| format!("round {round}, {name}"))?;
        own.verify_all()?;
    }
    Ok(())
}

/// Starts a process that takes memory until the kernel ends it.
fn end_one(frame: &Frame, group: &Group, round: usize, name: &'static str) -> Result<()> {
    let kills = group.events("oom_kill")?;
    let child = fork(|| {
        told(match name {
            "machine_full" => write("/proc/self/oom_score_adj", "1000")
                .and_then(|()| greedy(frame, round, LARGE_STEP)),
            _ => group.enter().and_then(|()| greedy(frame, round, STEP)),
        })
    })
    .context("cannot fork")?;
    // The memory of a whole machine takes its time.
    match child.wait_for(4 * SOON).context("cannot wait")? {
        Some(Ended::Signal(9)) => {}
        ended => bail!("a process that takes all memory ended otherwise: {ended:?}"),
    }
    ensure!(
        name == "machine_full" || group.events("oom_kill")? > kills,
        "a process was ended otherwise than by the kernel for its memory"
    );
    let now = frame.tally.moment();
    match frame.tally.settle() {
        0 => frame.tally.happened(name, now, 0),
        _ => frame.tally.happened_in_flight(name),
    }
    Ok(())
}

fn greedy(frame: &Frame, process: usize, step: usize) -> Result<()> {
    let take = || {
        let mut taken = Vec::new();
        loop {
            let memory = Memory::anonymous(step)?;
            memory.populate(0..memory.pages())?;
            taken.push(memory);
        }
    };
    CREW.race_as(frame, 1, process, usual, &[&take])
}
