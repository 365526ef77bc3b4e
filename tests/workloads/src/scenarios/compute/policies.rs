//! Where memory is when the GPU works on it.

use anyhow::{Context, Result, ensure};

use super::{checksum, expected, fill, verify_word};
use crate::gpu::{Command, Policy};
use crate::pagemap;
use crate::random_mix::available_memory;
use crate::scenarios::setup::{Setup, Skip};
use crate::sys::memory::{PAGE, UNIT, UNIT_PAGES};

/// Names the window of the host's telemetry in which one huge page moves.
const MARK: u64 = 0x2_0000;

pub(super) fn one_fault_moves_2_mib(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let mut filled = setup.filled(9, 1)?;
    setup.device.mark(MARK)?;
    let mut faults = 0;
    let read = setup.counted(|| {
        let report = gpu.run(checksum(&filled.memory, filled.all()))?;
        faults = report.faults;
        ensure!(
            report.value == expected(&filled, filled.all()),
            "{report:x?}"
        );
        Ok(())
    })?;
    setup.device.mark(0)?;
    ensure!(faults == 1, "{faults} faults over 2 MiB");
    ensure!(
        read.grew(|stats| stats.gpu_faults_replayed) == 1,
        "not one fault"
    );
    read.expect("to the device", |stats| stats.sys_to_dev_folios, &[(9, 1)])?;
    ensure!(
        read.grew(|stats| stats.gpu_maps_large) == 1
            && read.grew(|stats| stats.gpu_maps_small) == 0,
        "not one entry of 2 MiB"
    );
    // And written, when nobody has used it yet.
    filled = setup.filled(9, 1)?;
    filled.memory.unmap(filled.all())?;
    filled.memory.map_again(filled.all())?;
    let write = setup.counted(|| {
        let report = gpu.run(fill(&filled.memory, filled.all(), 3))?;
        ensure!(report.faults == 1, "{report:?} over untouched 2 MiB");
        Ok(())
    })?;
    write.expect("filled", |stats| stats.filled_folios, &[(9, 1)])?;
    verify_word(&filled.memory, filled.all(), 3)
}

pub(super) fn faults_move_single_pages(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let filled = setup.filled(0, 2)?;
    let read = setup.counted(|| {
        let report = gpu.run(checksum(&filled.memory, filled.all()))?;
        ensure!(
            report.value == expected(&filled, filled.all()),
            "{report:x?}"
        );
        Ok(())
    })?;
    let away = pagemap::away(&filled.memory, filled.all())?;
    // A page that somebody else holds at the moment is accessed in place.
    ensure!(
        away > UNIT_PAGES * 15 / 8,
        "{away} of {} pages are on the device",
        2 * UNIT_PAGES
    );
    ensure!(read.grew(|stats| stats.gpu_faults_replayed) > 0, "no fault");
    filled.verify(filled.all())
}

pub(super) fn prefetched_memory_does_not_fault(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let filled = setup.filled(order, 4)?;
        let (address, len) = (filled.memory.address(), filled.memory.len());
        let outputs = gpu.prefetch(address, len, true)?;
        ensure!(
            outputs.mapped_bytes == len as u64 && outputs.moved_bytes * 16 >= len as u64 * 15,
            "order {order}: {outputs:?}"
        );
        let report = gpu.run(checksum(&filled.memory, filled.all()))?;
        ensure!(
            report.value == expected(&filled, filled.all()) && report.faults == 0,
            "order {order}, read: {report:x?}"
        );
        let report = gpu.run(fill(&filled.memory, filled.all(), 0x55))?;
        ensure!(report.faults == 0, "order {order}, written: {report:?}");
        verify_word(&filled.memory, filled.all(), 0x55)?;

        // In place, nothing moves, and still nothing faults.
        let mut filled = setup.filled(order, 2)?;
        let (address, len) = (filled.memory.address(), filled.memory.len());
        filled
            .memory
            .protect(0..10, crate::sys::memory::Access::None)?;
        gpu.advise(address, len, Policy::AccessInPlace)?;
        let outputs = gpu.prefetch(address, len, false)?;
        ensure!(
            outputs.mapped_bytes == (len - 10 * PAGE) as u64 && outputs.moved_bytes == 0,
            "order {order}, in place and partly inaccessible: {outputs:?}"
        );
        let rest = 10..2 * UNIT_PAGES;
        let report = gpu.run(checksum(&filled.memory, rest.clone()))?;
        ensure!(
            report.value == expected(&filled, rest) && report.faults == 0,
            "order {order}, in place: {report:x?}"
        );
        gpu.advise(address, len, Policy::Default)?;
    }
    Ok(())
}

pub(super) fn prefer_system_brings_home(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let filled = setup.filled(order, 2)?;
        setup.send(&filled, filled.all())?;
        let address = filled.memory.address();
        gpu.advise(address, filled.memory.len(), Policy::PreferSystem)?;
        let report = gpu.run(checksum(&filled.memory, filled.all()))?;
        ensure!(
            report.value == expected(&filled, filled.all()),
            "{report:x?}"
        );
        let away = pagemap::away(&filled.memory, filled.all())?;
        ensure!(
            away == 0,
            "order {order}: {away} pages are still on the device"
        );
        gpu.run(fill(&filled.memory, filled.all(), 9))?;
        let away = pagemap::away(&filled.memory, filled.all())?;
        ensure!(away == 0, "order {order}: {away} pages went to the device");
        verify_word(&filled.memory, filled.all(), 9)?;
        gpu.advise(address, filled.memory.len(), Policy::Default)?;
    }
    Ok(())
}

pub(super) fn access_in_place_leaves(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let filled = setup.filled(order, 2)?;
        let address = filled.memory.address();
        gpu.advise(address, filled.memory.len(), Policy::AccessInPlace)?;
        // A unit here, a unit there.
        setup.send(&filled, filled.unit(1))?;
        let used = setup.counted(|| {
            let report = gpu.run(checksum(&filled.memory, filled.all()))?;
            ensure!(
                report.value == expected(&filled, filled.all()),
                "{report:x?}"
            );
            gpu.run(fill(&filled.memory, filled.all(), 0x77)).map(drop)
        })?;
        used.expect("to the device", |stats| stats.sys_to_dev_folios, &[])?;
        used.expect("home", |stats| stats.dev_to_sys_folios, &[])?;
        ensure!(
            used.grew(|stats| stats.gpu_faults_in_place) > 0,
            "order {order}: no fault was served in place"
        );
        let here = pagemap::away(&filled.memory, filled.unit(0))?;
        let there = pagemap::away(&filled.memory, filled.unit(1))?;
        ensure!(
            here == 0 && there == UNIT_PAGES,
            "order {order}: {here} and {there} pages of {UNIT_PAGES} are on the device"
        );
        verify_word(&filled.memory, filled.all(), 0x77)?;
        gpu.advise(address, filled.memory.len(), Policy::Default)?;
    }
    Ok(())
}

pub(super) fn faults_make_room_in_vram(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let units = usize::try_from(setup.device.query()?.vram_bytes)? / UNIT * 3 / 2;
    if available_memory()? < (units + 32) * UNIT {
        return Err(Skip("too little memory".into()).into());
    }
    for order in [9, 0] {
        let filled = setup.filled(order, units)?;
        let used = setup.counted(|| {
            for _ in 0..2 {
                let report = gpu.run(checksum(&filled.memory, filled.all()))?;
                ensure!(
                    report.value == expected(&filled, filled.all()),
                    "{report:x?}"
                );
            }
            Ok(())
        })?;
        ensure!(
            used.grew(|stats| stats.evicted_pages) >= (units / 4 * UNIT_PAGES) as u64,
            "order {order}: only {} pages made room",
            used.grew(|stats| stats.evicted_pages)
        );
        filled.verify(filled.all())?;
        drop(filled);
        setup
            .vram_is_free()
            .with_context(|| format!("order {order}"))?;
    }
    Ok(())
}

pub(super) fn prefer_device_stays_longest(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let vram = usize::try_from(setup.device.query()?.vram_bytes)? / UNIT;
    if available_memory()? < (vram * 2 + 32) * UNIT {
        return Err(Skip("too little memory".into()).into());
    }
    let favourite = setup.filled(9, vram / 4)?;
    let (address, len) = (favourite.memory.address(), favourite.memory.len());
    gpu.advise(address, len, Policy::PreferDevice)?;
    gpu.run(checksum(&favourite.memory, favourite.all()))?;
    // More than VRAM, again and again.
    let others = setup.filled(9, vram)?;
    for _ in 0..2 {
        let report = gpu.run(checksum(&others.memory, others.all()))?;
        ensure!(
            report.value == expected(&others, others.all()),
            "{report:x?}"
        );
    }
    let away = pagemap::away(&favourite.memory, favourite.all())?;
    ensure!(
        away == favourite.all().len(),
        "only {away} of {} pages that prefer the device are still there",
        favourite.all().len()
    );
    let report = gpu.run(checksum(&favourite.memory, favourite.all()))?;
    ensure!(
        report.value == expected(&favourite, favourite.all()) && report.faults == 0,
        "{report:x?}"
    );
    favourite.verify(favourite.all())
}

pub(super) fn atomics_in_place_are_exclusive(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let filled = setup.filled(0, 1)?;
    let pages = filled.all();
    gpu.advise(
        filled.memory.address(),
        filled.memory.len(),
        Policy::AccessInPlace,
    )?;
    let word = filled.memory.atomic(7, 0);
    let before = word.load(std::sync::atomic::Ordering::Relaxed);
    let used = setup.counted(|| {
        for _ in 0..4 {
            gpu.run(Command::AtomicAdd {
                word: word.as_ptr() as u64,
                value: 1,
                times: 10,
            })?;
            // The CPU takes the page back.
            word.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    })?;
    ensure!(
        used.grew(|stats| stats.exclusive_pages) >= 4,
        "pages were made exclusive {} times in 4",
        used.grew(|stats| stats.exclusive_pages)
    );
    used.expect("to the device", |stats| stats.sys_to_dev_folios, &[])?;
    let found = word.load(std::sync::atomic::Ordering::Relaxed);
    ensure!(
        found == before.wrapping_add(44),
        "{} was added instead of 44",
        found.wrapping_sub(before)
    );
    word.store(before, std::sync::atomic::Ordering::Relaxed);
    filled.verify(pages)
}
