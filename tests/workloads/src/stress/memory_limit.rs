//! Processes have more memory than their control group may have, while it migrates.
//!
//! VRAM counts as the memory of the group that its pages came from, and cannot be reclaimed: where
//! the rest can, the kernel swaps it out under the migrations; where it cannot, it ends the process.

use anyhow::{Context, Result, bail};

use super::crew::{USUAL, usual};
use super::fork_storm::told;
use super::frame::Frame;
use super::system::{Group, Swap, pause, swapped_out};
use super::tally::{Trouble, trouble};
use crate::sys::fork::{Ended, fork};

pub(super) const TROUBLES: &[Trouble] = &[trouble("at_limit"), trouble("swapped_out")];

/// A crew has 28 MiB.
const LIMIT: &str = "20M";

pub(super) fn run(frame: &Frame) -> Result<()> {
    let _swap = Swap::on()?;
    let group = Group::new("hmmgpu-limit")?;
    group.set("memory.max", LIMIT)?;
    let mut process = 0;
    while frame.running() {
        process += 1;
        let kills = group.events("oom_kill")?;
        let child = fork(|| told(limited(frame, &group, process))).context("cannot fork")?;
        match child.wait_for(frame.longest()).context("cannot wait")? {
            Some(Ended::Code(0)) => {}
            // All that it may have was in VRAM.
            Some(Ended::Signal(9)) if group.events("oom_kill")? > kills => {}
            ended => bail!("a process at its limit ended otherwise: {ended:?}"),
        }
        frame.tally.settle();
    }
    Ok(())
}

fn limited(frame: &Frame, group: &Group, process: usize) -> Result<()> {
    group.enter()?;
    let watch = || {
        while frame.running() {
            let before = frame.tally.moment();
            let (limit, swapped) = (group.events("max")?, swapped_out()?);
            pause(20);
            if group.events("max")? > limit {
                frame.tally.happened("at_limit", before, 0);
            }
            if swapped_out()? > swapped {
                frame.tally.happened("swapped_out", before, 0);
            }
        }
        Ok(())
    };
    USUAL.race_as(frame, 0, process, usual, &[&watch])
}
