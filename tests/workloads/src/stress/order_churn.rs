//! The same VRAM as folios of 2 MiB, as single pages, and back.
//!
//! A freed folio of 2 MiB leaves its order, its page map and its lock behind in 512 pages; what is
//! made of them next must not find them (`zone_device_folio_init()`, the driver's allocator). Two
//! threads together use more than all of VRAM, so that every block of it changes hands.

use anyhow::Result;

use super::crew::{Crew, addresses, to_device, to_system, usual};
use super::frame::Frame;
use super::tally::{Figure, Trouble, trouble};
use crate::device::Device;
use crate::region::{Backing, Region};
use crate::rng::Rng;
use crate::sys::memory::{UNIT, UNIT_PAGES};

pub(super) const TROUBLES: &[Trouble] = &[
    trouble("single_pages_after_large"),
    trouble("large_after_single_pages"),
    trouble("full"),
];

/// Far from the memory of workers.
const ARENA: usize = 0x2b00_0000_0000;
const THREADS: usize = 2;
/// Units more than a thread's share of VRAM.
const MORE: usize = 4;
/// Of so many units one is used as single pages, which move one by one.
const SMALL: usize = 4;

pub(super) fn run(frame: &Frame) -> Result<()> {
    let vram = usize::try_from(frame.device()?.query()?.vram_bytes)?;
    let units = vram / UNIT / THREADS + MORE;
    let churn = |number: usize| {
        let device = frame.device()?;
        let mut rng = frame.rng(100 + number);
        let base = ARENA + number * (1 << 36);
        while frame.running() {
            cycle(frame, &device, &mut rng, base, units)?;
        }
        Ok(())
    };
    // A small crew beside them, whose memory is pushed out and comes back.
    let crew = Crew {
        workers: 1,
        movers: 0,
        regions: &[(Backing::Huge, 2)],
    };
    crew.race(frame, usual, &[&|| churn(0), &|| churn(1)])
}

/// Ends between two of its steps when the scenario has done enough.
fn cycle(frame: &Frame, device: &Device, rng: &mut Rng, base: usize, units: usize) -> Result<()> {
    let mut large = Region::new(base, units * UNIT_PAGES, Backing::Huge)?;
    let pages = units.div_ceil(SMALL) * UNIT_PAGES;
    let mut small = Region::new(base + (1 << 32), pages, Backing::Small)?;
    fill(frame, device, &mut large, rng.next())?;
    free(frame, device, rng, &mut large)?;
    if !frame.running() {
        return Ok(());
    }

    let before = frame.tally.moment();
    fill(frame, device, &mut small, rng.next())?;
    frame.tally.happened("single_pages_after_large", before, 0);
    // Holes of every size, then large folios in whatever is whole again.
    for _ in 0..2 * small.len() / UNIT_PAGES {
        let start = rng.below(small.len());
        let len = 1 + rng.below((small.len() - start).min(3 * UNIT_PAGES));
        small.drop_content(start..start + len)?;
    }
    if !frame.running() {
        return verify(frame, &mut small);
    }
    let before = frame.tally.moment();
    fill(frame, device, &mut large, rng.next())?;
    frame.tally.happened("large_after_single_pages", before, 0);
    verify(frame, &mut large)?;
    verify(frame, &mut small)
}

fn verify(frame: &Frame, region: &mut Region) -> Result<()> {
    let compared = region.verify(0..region.len())?;
    frame.tally.add(Figure::Verified, compared);
    Ok(())
}

/// Writes all of a region and sends as much of it as there is room for.
fn fill(frame: &Frame, device: &Device, region: &mut Region, seed: u64) -> Result<()> {
    region.overwrite(0..region.len(), seed);
    let before = frame.tally.moment();
    let refused = frame.tally.get(Figure::Refused);
    to_device(frame, device, &addresses(region, &(0..region.len())))?;
    if frame.tally.get(Figure::Refused) > refused {
        frame.tally.happened("full", before, 0);
    }
    Ok(())
}

/// Lets go of a region's VRAM in one way or another.
fn free(frame: &Frame, device: &Device, rng: &mut Rng, region: &mut Region) -> Result<()> {
    let all = 0..region.len();
    match rng.below(3) {
        0 => region.drop_content(all),
        1 => {
            region.unmap(all)?;
            region.map_holes().map(drop)
        }
        _ => {
            to_system(frame, device, &addresses(region, &all))?;
            verify(frame, region)
        }
    }
}
