//! VRAM has no room for a folio of 2 MiB although most of it is free.
//!
//! One page stays in each block of 2 MiB. A migration of a large folio has to fall back to single
//! pages (the core splits the source, `migrate_vma_split_folio()`), and everything comes home as it
//! should.

use anyhow::Result;

use super::crew::{USUAL, addresses, to_device, usual};
use super::frame::Frame;
use super::system::pause;
use super::tally::{Figure, Trouble, trouble};
use crate::region::{Backing, Region};
use crate::sys::memory::{PAGE, UNIT_PAGES};
use hmmgpu_contract::desc::FALLBACK_NO_VRAM;

pub(super) const TROUBLES: &[Trouble] = &[trouble("fallback")];

/// Far from the memory of workers.
const ARENA: usize = 0x2c00_0000_0000;

pub(super) fn run(frame: &Frame) -> Result<()> {
    let device = frame.device()?;
    let vram = usize::try_from(device.query()?.vram_bytes)?;
    let mut holder = Region::new(ARENA, vram / PAGE, Backing::Small)?;
    let all = 0..holder.len();
    holder.overwrite(all.clone(), frame.rng(200).next());
    to_device(frame, &device, &addresses(&holder, &all))?;
    for unit in all.clone().step_by(UNIT_PAGES) {
        holder.drop_content(unit + 1..unit + UNIT_PAGES)?;
    }
    let fallbacks =
        || -> Result<u64> { Ok(device.stats()?.fallbacks[usize::from(FALLBACK_NO_VRAM)]) };
    let watch = || {
        while frame.running() {
            let (before, count) = (frame.tally.moment(), fallbacks()?);
            pause(20);
            if fallbacks()? > count {
                frame.tally.happened("fallback", before, 0);
            }
        }
        Ok(())
    };
    USUAL.race(frame, usual, &[&watch])?;
    let compared = holder.verify(all)?;
    frame.tally.add(Figure::Verified, compared);
    Ok(())
}
