//! Memory has no room for a folio of 2 MiB although most of it is free.
//!
//! What goes home has to do so as single pages: a fault comes back twice, a request splits what is
//! in VRAM (`migrate_vma_split_unmapped_folio()`, the driver's `folio_split`). On a kernel that can
//! make allocations fail every other one of that size does; on any other, one page that cannot move
//! stays in each block of 2 MiB.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use hmmgpu_contract::desc::FALLBACK_NO_MEMORY;

use super::crew::{USUAL, usual};
use super::frame::Frame;
use super::system::{Setting, pause};
use super::tally::{Trouble, trouble};
use crate::pagemap;
use crate::sys::memory::{Advice, Memory, UNIT, UNIT_PAGES};

pub(super) const TROUBLES: &[Trouble] = &[trouble("fallback")];

/// Where the kernel is told which allocations fail, and what.
const FAIL: &str = "/sys/kernel/debug/fail_page_alloc";
const FAILURES: &[(&str, &str)] = &[
    ("verbose", "0"),
    ("min-order", "9"),
    ("ignore-gfp-wait", "N"),
    ("ignore-gfp-highmem", "N"),
    ("interval", "1"),
    ("times", "-1"),
    ("probability", "50"),
];
/// Memory that is broken up at a time.
const CHUNK: usize = 64 << 20;

pub(super) fn run(frame: &Frame) -> Result<()> {
    let (_failures, _fragments);
    if Path::new(FAIL).exists() {
        let settings = FAILURES.iter().map(|(name, value)| {
            let path = Path::new(FAIL).join(name);
            Setting::new(path, value)
        });
        let mut settings = settings.collect::<Result<Vec<_>>>()?;
        // What is put back first is that any fails.
        settings.reverse();
        _failures = settings;
    } else {
        _fragments = fragments()?;
    }
    let device = frame.device()?;
    let fallbacks =
        || -> Result<u64> { Ok(device.stats()?.fallbacks[usize::from(FALLBACK_NO_MEMORY)]) };
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
    USUAL.race(frame, usual, &[&watch])
}

/// Memory of which each block of 2 MiB holds a page that cannot be moved, and is free otherwise.
fn fragments() -> Result<(Setting, Vec<Memory>)> {
    // Pages that are locked would be moved to make room.
    let setting = Setting::new("/proc/sys/vm/compact_unevictable_allowed", "0")?;
    let mut all = Vec::new();
    loop {
        let mut memory = Memory::anonymous(CHUNK)?;
        memory.advise(0..memory.pages(), Advice::HugePage)?;
        memory.populate(0..memory.pages())?;
        if pagemap::share_of_order(&memory, 0..memory.pages(), 9)? < 0.5 {
            return Ok((setting, all));
        }
        for unit in (0..memory.pages()).step_by(UNIT_PAGES) {
            // Advice about a part splits the folio.
            memory.advise(unit..unit + 1, Advice::Cold)?;
            memory.lock(unit..unit + 1).context("mlock")?;
            memory.advise(unit + 1..unit + UNIT_PAGES, Advice::DontNeed)?;
        }
        all.push(memory);
        ensure!(
            all.len() * CHUNK < 1 << 40,
            "there is always more memory in blocks of {UNIT} bytes"
        );
    }
}
