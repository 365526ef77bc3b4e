//! Parts of mappings go, change and move while their pages migrate.
//!
//! munmap, mprotect and mremap split the page table entry of a large folio but not a folio that is
//! on the device; a later fault or request finds a part of it (`__split_huge_pmd()`,
//! `change_huge_pmd()`, `move_huge_pmd()`).

use anyhow::Result;

use super::crew::{USUAL, Worker};
use super::frame::Frame;
use super::tally::{Trouble, to_memory};
use crate::sys::memory::Access;

pub(super) const TROUBLES: &[Trouble] = &[
    to_memory("munmap"),
    to_memory("mprotect"),
    to_memory("mremap"),
];

pub(super) fn run(frame: &Frame) -> Result<()> {
    USUAL.race(frame, operation, &[])
}

fn operation(worker: &mut Worker<'_>) -> Result<()> {
    let region = worker.any_region();
    let pages = worker.any_pages(region);
    match worker.rng.below(10) {
        0 | 1 => worker.trouble("munmap", region, pages, |region, pages| region.unmap(pages)),
        2 => worker.regions[region].map_holes().map(drop),
        3 | 4 => {
            let access = [Access::Write, Access::Write, Access::Read, Access::None];
            let access = access[worker.rng.below(access.len())];
            let protect = |region: &mut crate::region::Region, pages| region.protect(pages, access);
            worker.trouble("mprotect", region, pages, protect)
        }
        5 => {
            let address = worker.take_place(region);
            let all = 0..worker.regions[region].len();
            worker.trouble("mremap", region, all, |region, _| region.move_to(address))
        }
        _ => worker.usual(),
    }
}
