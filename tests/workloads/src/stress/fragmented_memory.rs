//! Memory has no room for a folio of 2 MiB although most of it is free.
//!
//! What goes home has to do so as single pages: a fault comes back twice, a request splits what is
//! in VRAM (`migrate_vma_split_unmapped_folio()`, the driver's `folio_split`). On a kernel that can
//! make allocations fail every other one of that size does; on any other, one page that cannot move
//! stays in each block of 2 MiB. Some folios of 2 MiB are in VRAM before that.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use hmmgpu_contract::desc::FALLBACK_NO_MEMORY;

use super::crew::{USUAL, addresses, to_device, to_system, usual};
use super::fallbacks::Fallbacks;
use super::frame::Frame;
use super::system::{Setting, pause};
use super::tally::{Figure, Trouble, trouble};
use crate::pagemap;
use crate::region::{Backing, Region};
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
/// Far from the memory of workers.
const ARENA: usize = 0x2c00_0000_0000;
/// Folios of 2 MiB that are in VRAM before memory has no room for them.
const LARGE: usize = 8;

pub(super) fn run(frame: &Frame) -> Result<()> {
    let device = frame.device()?;
    let mut large = Region::new(ARENA, LARGE * UNIT_PAGES, Backing::Huge)?;
    let all = 0..large.len();
    large.overwrite(all.clone(), frame.rng(200).next());
    let there = addresses(&large, &all);
    to_device(frame, &device, &there)?;
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
    let fallbacks = Fallbacks::new(frame, &device, FALLBACK_NO_MEMORY)?;
    let home = || {
        for start in there.clone().step_by(UNIT) {
            pause(200);
            // What workers have freed in one piece meanwhile is not to be had at this moment.
            let _taken = chunk()?;
            to_system(frame, &device, &(start..start + UNIT))?;
        }
        Ok(())
    };
    USUAL.race(frame, usual, &[&|| fallbacks.watch(), &home])?;
    let compared = large.verify(all)?;
    frame.tally.add(Figure::Verified, compared);
    Ok(())
}

/// Memory in blocks of 2 MiB, as far as there are any.
fn chunk() -> Result<Memory> {
    let mut memory = Memory::anonymous(CHUNK)?;
    memory.advise(0..memory.pages(), Advice::HugePage)?;
    memory.populate(0..memory.pages())?;
    Ok(memory)
}

/// Memory of which each block of 2 MiB holds a page that cannot be moved, and is free otherwise.
fn fragments() -> Result<(Setting, Vec<Memory>)> {
    // Pages that are locked would be moved to make room.
    let setting = Setting::new("/proc/sys/vm/compact_unevictable_allowed", "0")?;
    let mut all = Vec::new();
    loop {
        let mut memory = chunk()?;
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
