//! Pages of equal content are merged, and parted again, while they migrate.
//!
//! ksmd replaces mappings by those of a page that is write-protected and shared
//! (`replace_page()`), takes references to pages meanwhile, and has to leave alone what is on the
//! device.
//!
//! The kernel loses a merged page that is collected for the device while ksmd does not know of its
//! mapping (`tests/scenarios/upstream/ksm-collect.md`): ksmd has not noted it yet, or has passed while
//! it was collected before. So ksmd works while nothing goes to the device, and rests while
//! something may. Memory comes home, by requests and by touches, at any time, and pages are parted
//! at any time: that waits for what is collected.

use std::path::Path;

use anyhow::{Result, bail};

use super::crew::{Crew, Worker};
use super::frame::{Frame, skip};
use super::system::{Setting, number, pause, write};
use super::tally::{Trouble, trouble};
use crate::region::Backing;
use crate::sys::memory::Advice;

pub(super) const TROUBLES: &[Trouble] = &[trouble("merge"), trouble("part_again")];

const CREW: Crew = Crew {
    workers: 2,
    movers: 1,
    regions: &[(Backing::Small, 2), (Backing::Huge, 2)],
};
/// Different contents.
const CONTENTS: u64 = 3;
/// How often ksmd passes over all memory at a time: a page is merged that it has found unchanged.
const PASSES: u64 = 3;

pub(super) fn run(frame: &Frame) -> Result<()> {
    let folder = Path::new("/sys/kernel/mm/ksm");
    if !folder.exists() {
        bail!(skip("this kernel has no KSM"));
    }
    let set = |name: &str, value| Setting::if_any(folder.join(name), value);
    let _settings = [
        set("sleep_millisecs", "1")?,
        set("pages_to_scan", "500")?,
        // Pages that could not be merged for a while are looked at again.
        set("smart_scan", "0")?,
        set("run", "0")?,
    ];
    let merge = || {
        let _at_home = frame.nothing_sent();
        let before = frame.tally.moment();
        let passes = || number(folder.join("full_scans"));
        let enough = passes()? + PASSES;
        write(folder.join("run"), "1")?;
        while frame.running() && passes()? < enough {
            pause(1);
        }
        // This waits until ksmd has ended what it is at.
        write(folder.join("run"), "0")?;
        if number(folder.join("pages_sharing"))? > 0 {
            frame.tally.happened("merge", before, 0);
        }
        anyhow::Ok(())
    };
    let watch = || {
        let mut rng = frame.rng(200);
        while frame.running() {
            pause(20);
            // Often, for to merge takes long on a slow machine.
            if number(folder.join("pages_sharing"))? > 0 && rng.one_in(2) {
                let before = frame.tally.moment();
                write(folder.join("run"), "2")?;
                frame.tally.happened("part_again", before, 0);
            }
            merge()?;
        }
        Ok(())
    };
    CREW.race(frame, operation, &[&watch])
}

fn operation(worker: &mut Worker<'_>) -> Result<()> {
    if worker.rng.below(4) > 0 {
        return worker.usual();
    }
    let region = worker.any_region();
    let all = 0..worker.regions[region].len();
    worker.regions[region].advise(all, Advice::Mergeable)?;
    let pages = worker.any_pages(region);
    let word = 0x4b53_4d00 + worker.rng.next() % CONTENTS;
    worker.regions[region].repeat(pages, word);
    Ok(())
}
