//! VRAM as a whole.

use anyhow::{Context, Result, ensure};
use hmmgpu_contract::desc::FALLBACK_NO_VRAM;
use rustix::io::Errno;

use super::setup::{Setup, Skip};
use crate::random_mix::{available_memory, memory_info};
use crate::sys::memory::{UNIT, UNIT_PAGES};
use crate::{pagemap, thp};

pub(super) fn full_vram_is_refused_cleanly(setup: &Setup) -> Result<()> {
    let vram = usize::try_from(setup.device.query()?.vram_bytes)?;
    let units = vram / UNIT + 4;
    if available_memory()? < (units + 16) * UNIT {
        return Err(Skip("less memory than VRAM".into()).into());
    }
    for order in [9, 0] {
        let filled = setup.filled(order, units)?;
        let stats = setup.device.stats()?;
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        match outcome.error {
            Some(Errno::NOSPC) => {}
            // A driver that makes room by bringing other pages home is right, too.
            None if setup.device.stats()?.evicted_pages > stats.evicted_pages => {}
            _ => {
                outcome.complete("MIGRATE_TO_DEVICE of more than VRAM holds")?;
                anyhow::bail!("order {order}: more than VRAM was taken: {outcome:?}");
            }
        }
        ensure!(
            outcome.moved > 0,
            "order {order}: nothing moved: {outcome:?}"
        );
        let no_room = usize::from(FALLBACK_NO_VRAM);
        let stayed = setup.device.stats()?.fallbacks[no_room] - stats.fallbacks[no_room];
        ensure!(
            (stayed > 0) == (order == 9),
            "order {order}: {stayed} large folios found no room"
        );
        let away = pagemap::away(&filled.memory, filled.all())?;
        ensure!(
            away * 16 > vram / UNIT * UNIT_PAGES * 15,
            "order {order}: refused with only {away} pages on the device"
        );
        filled.verify(filled.all())?;
        drop(filled);
        setup
            .vram_is_free()
            .with_context(|| format!("order {order}, after VRAM was full"))?;
    }
    Ok(())
}

/// VRAM that held single pages holds folios of 2 MiB, and the other way round.
pub(super) fn freed_folios_are_used_again(setup: &Setup) -> Result<()> {
    let vram = usize::try_from(setup.device.query()?.vram_bytes)?;
    let units = vram / UNIT;
    if available_memory()? < (units + 16) * UNIT {
        return Err(Skip("less memory than VRAM".into()).into());
    }
    for order in [9, 0, 9, 0] {
        if !thp::available(order) {
            return Err(Skip(format!("this kernel has no order {order}")).into());
        }
        let filled = setup.filled(order, units)?;
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        ensure!(
            outcome.error.is_none_or(|error| error == Errno::NOSPC),
            "order {order}: {outcome:?}"
        );
        let folios = setup.in_vram()?;
        let least = (units as u64 - 1) << (9 - order);
        ensure!(
            folios[usize::from(order)] >= least,
            "order {order}: folios in VRAM by order: {folios:?}"
        );
        filled.verify(filled.all())?;
    }
    Ok(())
}

/// The kernel has no more memory of its own after many requests than before.
pub(super) fn requests_keep_no_memory(setup: &Setup) -> Result<()> {
    const REQUESTS: usize = 1000;
    let kernel = || memory_info("SUnreclaim");
    // Two units, so that a request has more than one batch.
    let filled = setup.filled(9, 2)?;
    let round = || -> Result<()> {
        let device = &setup.device;
        let away = device.to_device(&filled.memory, filled.all());
        away.complete("MIGRATE_TO_DEVICE")?;
        let home = device.to_system(&filled.memory, filled.all());
        home.complete("MIGRATE_TO_SYSTEM")?;
        Ok(())
    };
    // What is kept on purpose is there after the first ones.
    for _ in 0..16 {
        round()?;
    }
    let before = kernel()?;
    for _ in 0..REQUESTS {
        round()?;
    }
    let grown = kernel()?.saturating_sub(before);
    // A page for each request would be 8 MiB.
    ensure!(
        grown < 2 * REQUESTS * 4096,
        "{grown} bytes of the kernel's memory are gone after {REQUESTS} round trips"
    );
    filled.verify(filled.all())
}

pub(super) fn marks_return(setup: &Setup) -> Result<()> {
    for cookie in [1, u64::MAX, 0, 0] {
        setup.device.mark(cookie)?;
    }
    Ok(())
}
