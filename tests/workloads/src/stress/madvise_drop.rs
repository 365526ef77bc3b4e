//! Content is dropped while its pages migrate.
//!
//! MADV_DONTNEED frees device folios under nothing but a page table's lock (`zap_huge_pmd()`,
//! `folio_free` of the driver), MADV_FREE has to leave them alone (`madvise_free_huge_pmd()`).

use anyhow::Result;

use super::crew::{USUAL, Worker};
use super::frame::Frame;
use super::tally::{Trouble, to_memory};

pub(super) const TROUBLES: &[Trouble] = &[to_memory("dontneed"), to_memory("free")];

pub(super) fn run(frame: &Frame) -> Result<()> {
    USUAL.race(frame, operation, &[])
}

fn operation(worker: &mut Worker<'_>) -> Result<()> {
    let region = worker.any_region();
    let pages = worker.any_pages(region);
    match worker.rng.below(8) {
        0..=2 => {
            let again = pages.clone();
            worker.trouble("dontneed", region, pages, |region, pages| {
                region.drop_content(pages)
            })?;
            // As often as not, memory is written that was not looked at in between.
            if worker.rng.one_in(2) {
                let seed = worker.rng.next();
                worker.regions[region].overwrite(again, seed);
            }
            Ok(())
        }
        3 | 4 => worker.trouble("free", region, pages, |region, pages| {
            region.free_lazily(pages)
        }),
        _ => worker.usual(),
    }
}
