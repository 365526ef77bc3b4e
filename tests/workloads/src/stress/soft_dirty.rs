//! Page tables are read, and written pages looked for, while pages migrate.
//!
//! `/proc/PID/pagemap` walks entries of every kind (`pagemap_pmd_range()`); the bit of a page that
//! was written has to survive each way to the device and back (`pte_swp_mksoft_dirty()`,
//! `pmd_swp_mksoft_dirty()`). A page that was written and does not say so is lost to whoever
//! copies a running process.
//!
//! Of a page that is away while all is forgotten the kernel misses the next writes
//! (`tests/scenarios/upstream/soft-dirty.md`), so all is brought home first.

use std::collections::HashSet;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use super::crew::{Crew, Worker, lock};
use super::frame::{Frame, skip};
use super::system::{pause, read, write};
use super::tally::{Trouble, at_rest, to_memory, trouble};
use crate::pagemap;
use crate::region::{Backing, Region};
use crate::sys::memory::{Memory, PAGE};

pub(super) const TROUBLES: &[Trouble] = &[
    to_memory("pagemap"),
    at_rest("clear"),
    to_memory("dirty_pages"),
    trouble("smaps"),
];

/// One worker: what is forgotten is so for the whole process.
const CREW: Crew = Crew {
    workers: 1,
    movers: 2,
    regions: &[(Backing::Huge, 4), (Backing::Huge, 2), (Backing::Small, 1)],
};
const CLEAR: &str = "/proc/self/clear_refs";
const SOFT_DIRTY: &str = "4";

pub(super) fn run(frame: &Frame) -> Result<()> {
    if !is_known()? {
        bail!(skip("this kernel does not know which pages were written"));
    }
    let dirty = Mutex::default();
    let reader = || {
        while frame.running() {
            for file in ["smaps", "numa_maps"] {
                let before = frame.tally.moment();
                // The kernel may have been built without the second one.
                let path = format!("/proc/self/{file}");
                if read(&path).is_ok() && file == "smaps" {
                    frame.tally.happened("smaps", before, 0);
                }
            }
            pause(10);
        }
        Ok(())
    };
    CREW.race(frame, |worker| operation(worker, &dirty), &[&reader])
}

/// Whether the kernel forgets and remembers writes.
fn is_known() -> Result<bool> {
    let mut memory = Memory::anonymous(PAGE)?;
    memory.words_mut(0)[0] = 1;
    write(CLEAR, SOFT_DIRTY)?;
    let before = pagemap::soft_dirty(&memory, 0..1)?[0];
    memory.words_mut(0)[0] = 2;
    Ok(!before && pagemap::soft_dirty(&memory, 0..1)?[0])
}

/// `dirty` are the pages that were written since the last time that all was forgotten.
fn operation(worker: &mut Worker<'_>, dirty: &Mutex<HashSet<usize>>) -> Result<()> {
    let region = worker.any_region();
    let pages = worker.any_pages(region);
    let range = worker.addresses(region, &pages);
    match worker.rng.below(8) {
        0 => {
            let _home = worker.frame.no_requests();
            let before = worker.frame.tally.moment();
            worker.verify_all()?;
            write(CLEAR, SOFT_DIRTY)?;
            lock(dirty).clear();
            worker.frame.tally.happened("clear", before, 0);
            Ok(())
        }
        1..=3 => {
            worker.write(region, pages)?;
            lock(dirty).extend(range.step_by(PAGE));
            Ok(())
        }
        4 | 5 => {
            let known = lock(dirty);
            let check = |region: &mut Region, pages: std::ops::Range<usize>| {
                let found = pagemap::soft_dirty(region.memory(), pages.clone())?;
                for (page, found) in pages.zip(found) {
                    let address = region.memory().page_address(page);
                    ensure!(
                        found || !known.contains(&address),
                        "the page at {address:#x} was written and does not say so"
                    );
                }
                Ok(())
            };
            worker.trouble("dirty_pages", region, pages, check)
        }
        6 => worker.trouble("pagemap", region, pages, |region, _| {
            let all = 0..region.len();
            pagemap::places(region.memory(), all)
                .map(drop)
                .context("reading pagemap")
        }),
        _ => worker.verify(region, pages),
    }
}
