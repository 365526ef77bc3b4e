//! Memory goes to the device and comes home, at every order.

use anyhow::{Context, Result, ensure};

use super::setup::{Setup, verify_zero};
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES};
use crate::{pagemap, pattern};

pub(super) fn order_9_moves_whole_both_ways(setup: &Setup) -> Result<()> {
    let filled = setup.filled(9, 4)?;
    let there = setup.counted(|| setup.send(&filled, filled.all()))?;
    there.expect("to the device", |stats| stats.sys_to_dev_folios, &[(9, 4)])?;
    there.expect("in VRAM", |stats| stats.vram_folios, &[(9, 4)])?;
    ensure!(
        there.grew(|stats| stats.fallbacks.iter().sum()) == 0,
        "fell back to single pages"
    );
    let home = setup.counted(|| {
        setup
            .fetch(&filled.memory, filled.all(), 4 * UNIT)
            .map(drop)
    })?;
    home.expect("home", |stats| stats.dev_to_sys_folios, &[(9, 4)])?;
    ensure!(
        home.grew(|stats| stats.cpu_faults) == 0,
        "a request took CPU faults"
    );
    let share = pagemap::share_of_order(&filled.memory, filled.all(), 9)?;
    ensure!(share == 1.0, "only {share} of it came home as order 9");
    filled.verify(filled.all())
}

pub(super) fn single_pages_move_both_ways(setup: &Setup) -> Result<()> {
    let filled = setup.filled(0, 2)?;
    let pages = 2 * UNIT_PAGES as u64;
    let there = setup.counted(|| setup.send(&filled, filled.all()))?;
    there.expect(
        "to the device",
        |stats| stats.sys_to_dev_folios,
        &[(0, pages)],
    )?;
    there.expect("in VRAM", |stats| stats.vram_folios, &[(0, pages)])?;
    let home = setup.counted(|| {
        setup
            .fetch(&filled.memory, filled.all(), 2 * UNIT)
            .map(drop)
    })?;
    home.expect("home", |stats| stats.dev_to_sys_folios, &[(0, pages)])?;
    filled.verify(filled.all())?;

    // And by faults, of which there are at most as many as pages.
    setup.send(&filled, filled.all())?;
    let faults = setup.counted(|| filled.verify(filled.all()))?;
    faults.expect(
        "home by faults",
        |stats| stats.dev_to_sys_folios,
        &[(0, pages)],
    )?;
    ensure!(
        faults.grew(|stats| stats.cpu_fault_pages) == pages,
        "pages that faults brought"
    );
    let count = faults.grew(|stats| stats.cpu_faults);
    ensure!((1..=pages).contains(&count), "{count} faults");
    Ok(())
}

pub(super) fn orders_between_arrive_as_single_pages(setup: &Setup) -> Result<()> {
    for order in 2..9 {
        let filled = setup.filled(order, 1)?;
        let there = setup
            .counted(|| setup.send(&filled, filled.all()))
            .with_context(|| format!("order {order}"))?;
        let expected = [(0, UNIT_PAGES as u64)];
        there.expect("to the device", |stats| stats.sys_to_dev_folios, &expected)?;
        filled.verify(filled.all())?;
    }
    Ok(())
}

pub(super) fn one_fault_brings_2_mib_home(setup: &Setup) -> Result<()> {
    let filled = setup.filled(9, 2)?;
    setup.send(&filled, filled.all())?;
    let fault = setup.counted(|| {
        filled.memory.touch(300);
        Ok(())
    })?;
    ensure!(
        fault.grew(|stats| stats.cpu_faults) == 1,
        "one fault was expected"
    );
    fault.expect("home", |stats| stats.dev_to_sys_folios, &[(9, 1)])?;
    let away = pagemap::away(&filled.memory, filled.all())?;
    ensure!(away == UNIT_PAGES, "{away} pages are on the device");
    filled.verify(filled.all())
}

pub(super) fn a_store_keeps_the_rest_of_the_page(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 1)?;
        setup.send(&filled, filled.all())?;
        for page in filled.all() {
            filled.memory.bytes_mut(page)[PAGE - 1] ^= 0xff;
        }
        for page in filled.all() {
            filled.memory.bytes_mut(page)[PAGE - 1] ^= 0xff;
        }
        filled
            .verify(filled.all())
            .with_context(|| format!("order {order}"))?;
    }
    Ok(())
}

pub(super) fn memory_that_is_there_stays(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let filled = setup.filled(order, 2)?;
        setup.send(&filled, filled.all())?;
        let again = setup.counted(|| {
            let outcome = setup.device.to_device(&filled.memory, filled.all());
            let outcome = outcome.complete("MIGRATE_TO_DEVICE, again")?;
            ensure!(
                outcome.moved == 0 && outcome.present == 2 * UNIT as u64,
                "order {order}: {outcome:?}"
            );
            Ok(())
        })?;
        again.expect("again", |stats| stats.sys_to_dev_folios, &[])?;
        filled.verify(filled.all())?;
        let outcome = setup.device.to_system(&filled.memory, filled.all());
        let outcome = outcome.complete("MIGRATE_TO_SYSTEM of what is home")?;
        ensure!(
            outcome.moved == 0 && outcome.present == 2 * UNIT as u64,
            "order {order}: {outcome:?}"
        );
    }
    Ok(())
}

pub(super) fn part_of_a_device_folio_goes_home(setup: &Setup) -> Result<()> {
    let filled = setup.filled(9, 1)?;
    setup.send(&filled, filled.all())?;
    setup.fetch(&filled.memory, 100..200, 100 * PAGE)?;
    let away = pagemap::away(&filled.memory, filled.all())?;
    ensure!(away == UNIT_PAGES - 100, "{away} pages are on the device");
    filled.verify(filled.all())
}

pub(super) fn untouched_memory_is_filled(setup: &Setup) -> Result<()> {
    // The controls of huge pages do not matter to memory on the device.
    for order in [9, 0] {
        setup.controls.only(order)?;
        let memory = Memory::anonymous(3 * UNIT)?;
        let all = 0..memory.pages();
        let there = setup.counted(|| {
            let outcome = setup.device.to_device(&memory, all.clone());
            let outcome = outcome.complete("MIGRATE_TO_DEVICE")?;
            ensure!(outcome.moved == 3 * UNIT as u64, "{outcome:?}");
            Ok(())
        })?;
        there.expect("filled", |stats| stats.filled_folios, &[(9, 3)])?;
        there.expect("copied", |stats| stats.sys_to_dev_folios, &[])?;
        let away = pagemap::away(&memory, all.clone())?;
        ensure!(away == all.len(), "{away} pages are on the device");
        verify_zero(&memory, all)?;
    }
    Ok(())
}

pub(super) fn huge_zero_page_is_filled(setup: &Setup) -> Result<()> {
    setup.controls.only(9)?;
    setup.controls.huge_zero_page()?;
    let mut memory = Memory::anonymous(2 * UNIT)?;
    let all = 0..memory.pages();
    for unit in 0..2 {
        memory.touch(unit * UNIT_PAGES);
    }
    let there = setup.counted(|| {
        let outcome = setup.device.to_device(&memory, all.clone());
        let outcome = outcome.complete("MIGRATE_TO_DEVICE")?;
        ensure!(outcome.moved == 2 * UNIT as u64, "{outcome:?}");
        Ok(())
    })?;
    there.expect("filled", |stats| stats.filled_folios, &[(9, 2)])?;
    // A store must not reach the page that all zero memory shares.
    pattern::fill(memory.words_mut(7), 1);
    verify_zero(&memory, 8..memory.pages())?;
    let other = Memory::anonymous(UNIT)?;
    verify_zero(&other, 0..other.pages())?;
    ensure!(
        pattern::differing_bytes(memory.words(7), 1) == 0,
        "the store was lost"
    );
    Ok(())
}

pub(super) fn unaligned_ranges_move(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let filled = setup.filled(order, 3)?;
        // Parts of the first and the last unit, and the whole one between.
        let range = 7..2 * UNIT_PAGES + 3;
        let there = setup.counted(|| setup.send(&filled, range.clone()))?;
        if order == 9 {
            let single = (UNIT_PAGES - 7 + 3) as u64;
            there.expect(
                "to the device",
                |stats| stats.sys_to_dev_folios,
                &[(0, single), (9, 1)],
            )?;
        }
        let away = pagemap::away(&filled.memory, filled.all())?;
        ensure!(away == range.len(), "{away} pages are on the device");
        filled.verify(filled.all())?;
    }
    Ok(())
}
