//! VRAM has no room for a folio of 2 MiB although most of it is free.
//!
//! One page stays in each block of 2 MiB. A migration of a large folio has to fall back to single
//! pages (the core splits the source, `migrate_vma_split_folio()`), and everything comes home as it
//! should.

use anyhow::Result;

use super::crew::{USUAL, Worker, addresses, to_device};
use super::fallbacks::Fallbacks;
use super::frame::Frame;
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
    let fallbacks = Fallbacks::new(frame, &device, FALLBACK_NO_VRAM)?;
    USUAL.race(frame, operation, &[&|| fallbacks.watch()])?;
    let compared = holder.verify(all)?;
    frame.tally.add(Figure::Verified, compared);
    Ok(())
}

/// What went to the device as single pages came home as such: now and then memory is made anew.
fn operation(worker: &mut Worker<'_>) -> Result<()> {
    if worker.rng.one_in(4) {
        let region = worker.any_region();
        let all = 0..worker.regions[region].len();
        worker.regions[region].drop_content(all.clone())?;
        return worker.write(region, all);
    }
    worker.usual()
}
