//! Memory is said to be cold, and swapped out, while its pages migrate.
//!
//! Both walk page tables and split large folios that they take a part of
//! (`madvise_cold_or_pageout_pte_range()`); what is swapped out is no page that could migrate.

use anyhow::Result;

use super::crew::{USUAL, Worker};
use super::frame::Frame;
use super::system::Swap;
use super::tally::{Trouble, to_memory, trouble};
use crate::pagemap;
use crate::sys::memory::Advice;

pub(super) const TROUBLES: &[Trouble] = &[
    to_memory("cold"),
    to_memory("pageout"),
    trouble("swapped_out"),
];

pub(super) fn run(frame: &Frame) -> Result<()> {
    let _swap = Swap::on()?;
    USUAL.race(frame, operation, &[])
}

fn operation(worker: &mut Worker<'_>) -> Result<()> {
    let region = worker.any_region();
    let pages = worker.any_pages(region);
    match worker.rng.below(8) {
        0 | 1 => worker.trouble("cold", region, pages, |region, pages| {
            region.advise(pages, Advice::Cold)
        }),
        2..=4 => {
            let before = worker.frame.tally.moment();
            let asked = pages.clone();
            worker.trouble("pageout", region, pages, |region, pages| {
                region.advise(pages, Advice::PageOut)
            })?;
            if pagemap::swapped(worker.regions[region].memory(), asked)? > 0 {
                worker.frame.tally.happened("swapped_out", before, 0);
            }
            Ok(())
        }
        _ => worker.usual(),
    }
}
