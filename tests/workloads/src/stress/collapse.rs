//! Memory is made into folios of 2 MiB while its pages migrate.
//!
//! MADV_COLLAPSE brings pages of the device back and copies them into a folio of its own
//! (`collapse_huge_page()`), under the same locks as the driver's migrations.

use anyhow::Result;

use super::crew::{Crew, Worker};
use super::frame::Frame;
use super::tally::{Trouble, to_memory, trouble};
use crate::region::Backing;
use crate::sys::memory::UNIT_PAGES;

pub(super) const TROUBLES: &[Trouble] = &[to_memory("collapse"), trouble("collapsed")];

const CREW: Crew = Crew {
    workers: 2,
    movers: 1,
    regions: &[(Backing::Huge, 3), (Backing::Default, 2)],
};

pub(super) fn run(frame: &Frame) -> Result<()> {
    CREW.race(frame, operation, &[])
}

fn operation(worker: &mut Worker<'_>) -> Result<()> {
    let region = worker.any_region();
    match worker.rng.below(6) {
        0 | 1 => {
            let first = worker.rng.below(worker.regions[region].len() / UNIT_PAGES);
            let unit = first * UNIT_PAGES..(first + 1) * UNIT_PAGES;
            let before = worker.frame.tally.moment();
            let refused = worker.trouble("collapse", region, unit, |region, pages| {
                Ok(region.collapse(pages))
            })?;
            if refused == 0 {
                worker.frame.tally.happened("collapsed", before, 0);
            }
            Ok(())
        }
        // Holes for the next one.
        2 => {
            let pages = worker.any_pages(region);
            worker.regions[region].drop_content(pages)
        }
        _ => worker.usual(),
    }
}
