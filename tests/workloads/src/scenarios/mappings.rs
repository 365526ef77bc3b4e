//! Memory whose mappings change, and memory that is not the driver's to move.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{Context, Result, ensure};

use super::setup::{Filled, Setup, Skip};
use crate::sys::memory::{Access, Memory, PAGE, UNIT, UNIT_PAGES};
use crate::sys::pin;
use crate::{pagemap, unnamed_file};

pub(super) fn partial_munmap(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        setup.send(&filled, filled.all())?;
        filled.memory.unmap(100..UNIT_PAGES + 50)?;
        filled.verify(0..100)?;
        filled.verify(UNIT_PAGES + 50..2 * UNIT_PAGES)?;
        // Nothing of the folio that is left may stay on the device for good.
        let outcome = setup.device.to_system(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_SYSTEM")?;
        setup
            .vram_is_free()
            .with_context(|| format!("order {order}, the rest of the folio came home"))?;
        filled.memory.map_again(100..UNIT_PAGES + 50)?;
        filled.fill(filled.all());
        setup.send(&filled, filled.all())?;
        filled.verify(filled.all())?;
    }
    Ok(())
}

pub(super) fn partial_mprotect(setup: &Setup) -> Result<()> {
    let mut filled = setup.filled(9, 2)?;
    setup.send(&filled, filled.all())?;
    filled.memory.protect(10..20, Access::Read)?;
    filled.memory.protect(600..700, Access::None)?;
    filled.verify(0..600)?;
    filled.memory.protect(600..700, Access::Write)?;
    filled.verify(filled.all())?;
    // Protected first, moved then.
    filled.memory.protect(30..40, Access::Read)?;
    let outcome = setup.device.to_device(&filled.memory, filled.all());
    outcome.complete("MIGRATE_TO_DEVICE of partly read-only memory")?;
    filled.verify(filled.all())?;
    filled.memory.protect(filled.all(), Access::Write)?;
    filled.seed += 1;
    filled.fill(filled.all());
    filled.verify(filled.all())
}

pub(super) fn read_only_memory_moves(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 1)?;
        filled.memory.protect(filled.all(), Access::Read)?;
        setup.send(&filled, filled.all())?;
        filled.verify(filled.all())?;
        setup.send(&filled, filled.all())?;
        setup.fetch(&filled.memory, filled.all(), UNIT)?;
        filled.verify(filled.all())?;
    }
    Ok(())
}

pub(super) fn inaccessible_memory_is_safe(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 1)?;
        filled.memory.protect(filled.all(), Access::None)?;
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_DEVICE of inaccessible memory")?;
        let outcome = setup.device.to_system(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_SYSTEM of inaccessible memory")?;
        let away = pagemap::away(&filled.memory, filled.all())?;
        ensure!(away == 0, "order {order}: {away} pages are on the device");
        filled.memory.protect(filled.all(), Access::Write)?;
        filled.verify(filled.all())?;
    }
    Ok(())
}

/// Addresses that nothing else uses.
const ELSEWHERE: usize = 0x3000_0000_0000;

pub(super) fn aligned_mremap(setup: &Setup) -> Result<()> {
    let mut filled = setup.filled(9, 2)?;
    setup.send(&filled, filled.all())?;
    let all = filled.all();
    filled.memory.move_to(ELSEWHERE, &[all])?;
    let away = pagemap::away(&filled.memory, filled.all())?;
    ensure!(
        away == 2 * UNIT_PAGES,
        "{away} pages are on the device after the move"
    );
    let folios = setup.in_vram()?;
    ensure!(folios[9] == 2, "folios by order after the move: {folios:?}");
    filled.verify(filled.all())
}

pub(super) fn unaligned_mremap(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        setup.send(&filled, filled.all())?;
        let all = filled.all();
        filled.memory.move_to(ELSEWHERE + 5 * PAGE, &[all])?;
        filled.verify(0..UNIT_PAGES)?;
        let rest = UNIT_PAGES..2 * UNIT_PAGES;
        let outcome = setup.device.to_system(&filled.memory, rest.clone());
        outcome.complete("MIGRATE_TO_SYSTEM after the move")?;
        filled.verify(rest)?;
        // To the device from where it is now.
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_DEVICE after the move")?;
        filled.verify(filled.all())?;
    }
    Ok(())
}

fn stays(setup: &Setup, mut filled: Filled) -> Result<()> {
    filled.fill(filled.all());
    let bytes = filled.memory.len() as u64;
    let outcome = setup.device.to_device(&filled.memory, filled.all());
    let outcome = outcome.complete("MIGRATE_TO_DEVICE of memory that is not anonymous")?;
    ensure!(
        outcome.moved == 0 && outcome.skipped == bytes,
        "all {bytes} bytes had to be skipped: {outcome:?}"
    );
    filled.verify(filled.all())
}

pub(super) fn file_memory_is_skipped(setup: &Setup) -> Result<()> {
    let file = unnamed_file::create(&std::env::temp_dir())?;
    file.set_len(UNIT as u64)?;
    let memory = Memory::file(file.as_fd(), UNIT, true)?;
    stays(setup, Filled { memory, seed: 1 })
}

pub(super) fn shared_memory_is_skipped(setup: &Setup) -> Result<()> {
    let file = File::from(rustix::fs::memfd_create(
        "hmmgpu-scenario",
        rustix::fs::MemfdFlags::CLOEXEC,
    )?);
    file.set_len(UNIT as u64)?;
    let memory = Memory::file(file.as_fd(), UNIT, true)?;
    stays(setup, Filled { memory, seed: 2 })
}

pub(super) fn pinned_pages_are_skipped(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let filled = setup.filled(order, 2)?;
        let (reader, writer) = rustix::pipe::pipe()?;
        // The pipe holds on to one page of the first unit.
        pin::lend(&filled.memory, 33, writer.as_fd()).context("vmsplice failed")?;
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        let outcome = outcome.complete("MIGRATE_TO_DEVICE of memory with a pinned page")?;
        let all = 2 * UNIT as u64;
        ensure!(
            outcome.skipped >= PAGE as u64
                && outcome.skipped <= UNIT as u64
                && outcome.moved + outcome.skipped == all,
            "order {order}: one page was pinned: {outcome:?}"
        );
        let pinned = pagemap::away(&filled.memory, 33..34)?;
        ensure!(pinned == 0, "order {order}: the pinned page moved");
        filled.verify(filled.all())?;

        let mut lent = vec![0; PAGE];
        File::from(reader).read_exact(&mut lent)?;
        ensure!(
            lent == filled.memory.bytes(33),
            "order {order}: the pipe held another content"
        );
        drop(writer);
        // Let go, it moves as any other.
        setup
            .send(&filled, filled.all())
            .with_context(|| format!("order {order}: no page is pinned any more"))?;
        filled.verify(filled.all())?;
    }
    Ok(())
}

/// write(2) and read(2) reach memory that is on the device, directly where the file system can.
pub(super) fn direct_io_reaches_device_pages(setup: &Setup) -> Result<()> {
    let path = std::env::temp_dir().join(format!("hmmgpu-direct-{}", std::process::id()));
    let direct = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let mut file = match direct {
        Ok(file) => file,
        Err(_) => {
            let _ = std::fs::remove_file(&path);
            return Err(Skip(format!("{} has no direct I/O", path.display())).into());
        }
    };
    std::fs::remove_file(&path)?;
    for order in [0, 9] {
        let mut filled = setup.filled(order, 1)?;
        setup.send(&filled, filled.all())?;
        for page in 0..4 {
            file.write_all(filled.memory.bytes(page))
                .context("write from the device failed")?;
        }
        setup
            .device
            .to_device(&filled.memory, filled.all())
            .complete("MIGRATE_TO_DEVICE")?;
        // Page 3's content into page 9, which is on the device.
        let offset = (usize::from(order == 9) * 4 + 3) * PAGE;
        file.read_exact_at(filled.memory.bytes_mut(9), offset as u64)
            .context("read to the device failed")?;
        ensure!(
            filled.memory.bytes(9) == filled.memory.bytes(3),
            "order {order}: the file held another content"
        );
        filled.verify(0..9)?;
        filled.verify(10..UNIT_PAGES)?;
    }
    Ok(())
}
