//! Pages of equal content are merged, and parted again, while they migrate.
//!
//! ksmd replaces mappings by those of a page that is write-protected and shared
//! (`replace_page()`), takes references to pages meanwhile, and has to leave alone what is on the
//! device.

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
        set("run", "1")?,
    ];
    let watch = || {
        let mut rng = frame.rng(200);
        while frame.running() {
            let before = frame.tally.moment();
            pause(20);
            if number(folder.join("pages_sharing"))? == 0 {
                continue;
            }
            frame.tally.happened("merge", before, 0);
            if rng.one_in(8) {
                write(folder.join("run"), "2")?;
                frame.tally.happened("part_again", before, 0);
                write(folder.join("run"), "1")?;
            }
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
