//! Memory that a job may not use, or that is not the driver's to move.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::{bytes, checksum, expected, fill, verify_word};
use crate::gpu::{Command, Report};
use crate::pagemap::{self, Place};
use crate::scenarios::setup::{Filled, Setup};
use crate::sys::memory::{Access, Memory, PAGE, UNIT, UNIT_PAGES, WORDS};
use crate::{reference, unnamed_file};

/// The job ended at a page: it could not access that, and has done all before.
pub(super) fn ended_at(report: &Report, memory: &Memory, page: usize, done: u64) -> Result<()> {
    let address = memory.page_address(page) as u64;
    ensure!(
        report.error == Some(Errno::FAULT)
            && report.fault_address == address
            && report.done == done,
        "{report:x?} instead of EFAULT at {address:#x} after {done:#x} elements"
    );
    Ok(())
}

pub(super) fn read_only_memory_refuses_writes(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        for part in [UNIT_PAGES..2 * UNIT_PAGES, 100..101] {
            filled.memory.protect(part.clone(), Access::Read)?;
            // Reading is fine, and where the memory is then makes no difference.
            for _ in 0..2 {
                let report = gpu.attempt(fill(&filled.memory, filled.all(), 5))?;
                ended_at(&report, &filled.memory, part.start, bytes(&(0..part.start)))
                    .with_context(|| format!("order {order}"))?;
                verify_word(&filled.memory, 0..part.start, 5)?;
                filled.verify(part.clone())?;
                let report = gpu.run(checksum(&filled.memory, part.clone()))?;
                ensure!(
                    report.value == expected(&filled, part.clone()),
                    "{report:x?}"
                );
                filled.fill(0..part.start);
            }
        }
        // Allowed again, the same job succeeds.
        filled.memory.protect(filled.all(), Access::Write)?;
        gpu.run(fill(&filled.memory, filled.all(), 6))?;
        verify_word(&filled.memory, filled.all(), 6)?;
    }
    Ok(())
}

pub(super) fn inaccessible_memory_ends_jobs(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        let before = 0..UNIT_PAGES + 7;
        filled
            .memory
            .protect(UNIT_PAGES + 7..2 * UNIT_PAGES, Access::None)?;
        let words = (before.len() * WORDS) as u64;
        let report = gpu.attempt(checksum(&filled.memory, filled.all()))?;
        ended_at(&report, &filled.memory, before.end, words)
            .with_context(|| format!("order {order}, read"))?;
        let report = gpu.attempt(fill(&filled.memory, filled.all(), 5))?;
        ended_at(&report, &filled.memory, before.end, bytes(&before))
            .with_context(|| format!("order {order}, written"))?;
        filled.memory.protect(filled.all(), Access::Write)?;
        verify_word(&filled.memory, before.clone(), 5)?;
        filled.verify(before.end..2 * UNIT_PAGES)?;
    }
    Ok(())
}

pub(super) fn unmapped_memory_ends_jobs(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        filled.memory.unmap(300..301)?;
        let report = gpu.attempt(checksum(&filled.memory, filled.all()))?;
        ended_at(&report, &filled.memory, 300, (300 * WORDS) as u64)
            .with_context(|| format!("order {order}, read"))?;
        let report = gpu.attempt(fill(&filled.memory, filled.all(), 5))?;
        ended_at(&report, &filled.memory, 300, bytes(&(0..300)))
            .with_context(|| format!("order {order}, written"))?;
        verify_word(&filled.memory, 0..300, 5)?;
        filled.verify(301..2 * UNIT_PAGES)?;
        // The queue goes on after a job that failed.
        let rest = 301..2 * UNIT_PAGES;
        let report = gpu.run(checksum(&filled.memory, rest.clone()))?;
        ensure!(report.value == expected(&filled, rest), "{report:x?}");
    }
    Ok(())
}

pub(super) fn kernel_addresses_end_jobs(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let cancelled = setup.counted(|| {
        for src in [
            0,
            0x1000,
            0x7fff_ffff_f000,
            0x8000_0000_0000,
            0x00ff_0000_0000_0000,
            0xffff_8880_0000_0000,
            0xffff_ffff_8000_0000,
        ] {
            for command in [
                Command::Checksum { src, words: 8 },
                Command::Fill {
                    dst: src,
                    pattern: 0,
                    bytes: 64,
                },
            ] {
                match gpu.try_submit(command) {
                    Ok(job) => {
                        let report = gpu.wait(job)?;
                        ensure!(
                            report.error == Some(Errno::FAULT) && report.done == 0,
                            "{command:x?}: {report:x?}"
                        );
                    }
                    // Refused at once is as good.
                    Err(Errno::INVAL) => {}
                    Err(error) => return Err(error).with_context(|| format!("{command:x?}")),
                }
            }
        }
        Ok(())
    })?;
    ensure!(
        cancelled.grew(|stats| stats.gpu_faults_cancelled) > 0,
        "no fault ended a job"
    );
    Ok(())
}

pub(super) fn untouched_memory_reads_as_zero(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        setup.controls.only(order)?;
        let memory = Memory::anonymous(3 * UNIT)?;
        let all = 0..memory.pages();
        let zero = reference::checksum(std::iter::repeat_n(0, all.len() * WORDS));
        let report = gpu.run(checksum(&memory, all.clone()))?;
        ensure!(report.value == zero, "order {order}: {report:x?}");
        gpu.run(fill(&memory, 5..700, !0))?;
        verify_word(&memory, 0..5, 0)?;
        verify_word(&memory, 5..700, !0)?;
        verify_word(&memory, 700..all.end, 0)?;
    }
    Ok(())
}

/// Uses memory that cannot move: data is right and stays where it is.
fn used_in_place(setup: &Setup, memory: Memory) -> Result<Memory> {
    let gpu = setup.gpu()?;
    let mut filled = Filled { memory, seed: 4 };
    let all = filled.all();
    filled.fill(all.clone());
    let used = setup.counted(|| {
        let report = gpu.run(checksum(&filled.memory, all.clone()))?;
        ensure!(
            report.value == expected(&filled, all.clone()),
            "{report:x?}"
        );
        gpu.run(fill(&filled.memory, 3..all.end, 0x1234)).map(drop)
    })?;
    filled.verify(0..3)?;
    verify_word(&filled.memory, 3..all.end, 0x1234)?;
    // What the CPU writes then, the GPU reads.
    filled.seed += 1;
    filled.fill(all.clone());
    let report = gpu.run(checksum(&filled.memory, all.clone()))?;
    ensure!(
        report.value == expected(&filled, all.clone()),
        "again: {report:x?}"
    );
    used.expect("to the device", |stats| stats.sys_to_dev_folios, &[])?;
    ensure!(
        used.grew(|stats| stats.gpu_faults_in_place) > 0,
        "no fault was served in place"
    );
    let places = pagemap::places(&filled.memory, all)?;
    ensure!(
        places.iter().all(|place| matches!(place, Place::Frame(_))),
        "some of it is not in memory"
    );
    Ok(filled.memory)
}

fn unnamed_file(len: usize) -> Result<File> {
    let file = unnamed_file::create(&std::env::temp_dir())?;
    file.set_len(len as u64)?;
    Ok(file)
}

fn memfd(len: usize) -> Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = File::from(rustix::fs::memfd_create("hmmgpu-scenario", flags)?);
    file.set_len(len as u64)?;
    Ok(file)
}

pub(super) fn file_memory_is_used_in_place(setup: &Setup) -> Result<()> {
    for file in [unnamed_file(UNIT)?, memfd(UNIT)?] {
        let memory = used_in_place(setup, Memory::file(file.as_fd(), UNIT, true)?)?;
        // The file has what the GPU wrote.
        let gpu = setup.gpu()?;
        gpu.run(fill(&memory, 0..UNIT_PAGES, 0x4242_4242_4242_4242))?;
        let mut read = vec![0; PAGE];
        file.read_exact_at(&mut read, (17 * PAGE) as u64)?;
        ensure!(
            read.iter().all(|&byte| byte == 0x42),
            "the file holds something else"
        );
    }
    Ok(())
}

pub(super) fn private_file_memory_is_copied_on_write(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let file = unnamed_file(UNIT)?;
    file.write_all_at(&vec![7; UNIT], 0)?;
    let memory = Memory::file(file.as_fd(), UNIT, false)?;
    let all = 0..memory.pages();
    let word = u64::from_ne_bytes([7; 8]);
    let report = gpu.run(checksum(&memory, all.clone()))?;
    let content = reference::checksum(std::iter::repeat_n(word, UNIT / 8));
    ensure!(report.value == content, "{report:x?}");
    gpu.run(fill(&memory, 10..20, 1))?;
    verify_word(&memory, 0..10, word)?;
    verify_word(&memory, 10..20, 1)?;
    verify_word(&memory, 20..all.end, word)?;
    let mut read = vec![0; UNIT];
    file.read_exact_at(&mut read, 0)?;
    ensure!(
        read.iter().all(|&byte| byte == 7),
        "the GPU wrote into the file"
    );
    Ok(())
}

pub(super) fn shared_memory_is_used_in_place(setup: &Setup) -> Result<()> {
    used_in_place(setup, Memory::shared(2 * UNIT)?).map(drop)
}

pub(super) fn huge_page_pool_is_used_in_place(setup: &Setup) -> Result<()> {
    let pool = "/proc/sys/vm/nr_hugepages";
    let before = std::fs::read_to_string(pool).context("the kernel has no pool of huge pages")?;
    std::fs::write(pool, "4").context("cannot make a pool of huge pages")?;
    let result = Memory::hugetlb(2 * UNIT)
        .context("cannot map memory of the pool")
        .and_then(|memory| used_in_place(setup, memory).map(drop));
    std::fs::write(pool, before.trim())?;
    result
}

pub(super) fn atomics_need_anonymous_memory(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let file = memfd(UNIT)?;
    for memory in [
        Memory::shared(UNIT)?,
        Memory::file(file.as_fd(), UNIT, true)?,
    ] {
        let word = memory.atomic(3, 3);
        let report = gpu.attempt(Command::AtomicAdd {
            word: word.as_ptr() as u64,
            value: 1,
            times: 5,
        })?;
        ensure!(
            report.error == Some(Errno::OPNOTSUPP) && report.done == 0,
            "{report:x?}"
        );
        ensure!(
            word.load(std::sync::atomic::Ordering::Relaxed) == 0,
            "it was added to"
        );
    }
    let mut memory = Memory::anonymous(UNIT)?;
    memory.touch(0);
    memory.protect(0..UNIT_PAGES, Access::Read)?;
    let report = gpu.attempt(Command::AtomicAdd {
        word: memory.page_address(1) as u64,
        value: 1,
        times: 5,
    })?;
    ended_at(&report, &memory, 1, 0)
}
