//! madvise on memory that is on the device.

use anyhow::{Context, Result, ensure};

use super::setup::{Setup, verify_zero};
use crate::sys::memory::{Advice, UNIT_PAGES};
use crate::{pagemap, pattern};

pub(super) fn dontneed_frees_vram(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        setup.send(&filled, filled.all())?;
        // A whole unit and a part of the other.
        filled.memory.advise(0..UNIT_PAGES, Advice::DontNeed)?;
        filled.memory.advise(600..700, Advice::DontNeed)?;
        verify_zero(&filled.memory, 0..UNIT_PAGES)?;
        verify_zero(&filled.memory, 600..700)?;
        filled.verify(UNIT_PAGES..600)?;
        filled.verify(700..2 * UNIT_PAGES)?;
        setup
            .vram_is_free()
            .with_context(|| format!("order {order}, the content was dropped or came home"))?;
    }
    Ok(())
}

pub(super) fn free_keeps_or_drops(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        // On the device already, and before it goes there.
        setup.send(&filled, filled.unit(0))?;
        filled.memory.advise(filled.all(), Advice::Free)?;
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_DEVICE after MADV_FREE")?;
        for page in filled.all() {
            let words = filled.memory.words(page);
            let base = pattern::page_base(filled.seed, page);
            ensure!(
                pattern::nonzero_bytes(words) == 0 || pattern::differing_bytes(words, base) == 0,
                "order {order}: page {page} holds neither its content nor zero"
            );
        }
        filled.seed += 1;
        filled.fill(filled.all());
        setup
            .device
            .to_device(&filled.memory, filled.all())
            .complete("MIGRATE_TO_DEVICE")?;
        filled.verify(filled.all())?;
    }
    Ok(())
}

pub(super) fn collapse_brings_pages_home(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 1)?;
        setup.send(&filled, filled.all())?;
        setup.controls.only(9)?;
        // The kernel may refuse; the content must be right either way.
        let collapsed = filled.memory.advise(filled.all(), Advice::Collapse).is_ok();
        filled.verify(filled.all())?;
        if collapsed {
            let share = pagemap::share_of_order(&filled.memory, filled.all(), 9)?;
            ensure!(
                share == 1.0,
                "order {order}: collapsed, but not a folio of order 9"
            );
        }
    }
    Ok(())
}
