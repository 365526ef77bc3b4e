//! The kernel reclaims memory all the time while it migrates.
//!
//! Reclaim unmaps pages that it has isolated (`try_to_unmap()`), splits large folios to swap a part
//! of them out, and a fault on what is swapped out comes in the middle of a migration.

use anyhow::Result;

use super::crew::{USUAL, usual};
use super::frame::Frame;
use super::system::{Group, Swap, pause, swapped_out};
use super::tally::{Trouble, trouble};

pub(super) const TROUBLES: &[Trouble] = &[trouble("reclaim"), trouble("swapped_out")];

/// What the kernel is asked for at a time.
const BYTES: &str = "4M";

pub(super) fn run(frame: &Frame) -> Result<()> {
    let _swap = Swap::on()?;
    let group = Group::new("hmmgpu-pressure")?;
    group.enter()?;
    let press = || {
        while frame.running() {
            let before = frame.tally.moment();
            let out = swapped_out()?;
            group.reclaim(BYTES)?;
            frame.tally.happened("reclaim", before, 0);
            if swapped_out()? > out {
                frame.tally.happened("swapped_out", before, 0);
            }
            pause(10);
        }
        Ok(())
    };
    USUAL.race(frame, usual, &[&press])
}
