//! Mappings that change while a job is in the middle of the memory.
//!
//! The job is held there by a userfault, so that "in the middle" is no matter of luck: it has done
//! the first 2 MiB, waits for the second, and has not come to the rest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::access::ended_at;
use super::{bytes, checksum, expected, fill, verify_word};
use crate::gpu::{Command, Gpu, Job};
use crate::pattern;
use crate::scenarios::fork::{child, succeeded};
use crate::scenarios::setup::{Filled, Setup, verify_zero};
use crate::sys::memory::{Access, Advice, Memory, UNIT, UNIT_PAGES, WORDS};
use crate::sys::uffd::Held;

/// Time for a job to come to where it is held.
const LIMIT: Duration = Duration::from_secs(60);

/// A job that is in the middle of memory.
pub(super) struct InTheMiddle {
    pub(super) filled: Filled,
    pub(super) gpu: Gpu,
    pub(super) job: Job,
    pub(super) held: Held,
}

impl InTheMiddle {
    /// Memory of four units whose second one holds the job that `command` makes of it.
    pub(super) fn of(
        setup: &Setup,
        order: u8,
        command: impl FnOnce(&Memory) -> Command,
    ) -> Result<InTheMiddle> {
        let mut filled = setup.filled(order, 4)?;
        let unit = filled.unit(1);
        filled.memory.unmap(unit.clone())?;
        filled.memory.map_again(unit.clone())?;
        let held = Held::new(&filled.memory, unit.clone())
            .context("the kernel has no userfaultfd for faults of its own")?;
        let gpu = setup.gpu()?;
        let job = gpu.submit(command(&filled.memory))?;
        let address = held.wait(LIMIT).context("the job was not held")?;
        ensure!(
            address >= filled.memory.page_address(unit.start) as u64
                && address < filled.memory.page_address(unit.end) as u64,
            "held at {address:#x}"
        );
        ensure!(gpu.pending(job)?, "the job has ended");
        Ok(InTheMiddle {
            filled,
            gpu,
            job,
            held,
        })
    }

    /// Gives the second unit the content that the pattern has there, and so lets the job go on.
    pub(super) fn let_go(&self) -> Result<()> {
        let unit = self.filled.unit(1);
        let mut from = Memory::anonymous(UNIT)?;
        for page in unit.clone() {
            let base = pattern::page_base(self.filled.seed, page);
            pattern::fill(from.words_mut(page - unit.start), base);
        }
        self.held
            .fill(&self.filled.memory, unit, &from)
            .context("cannot let the job go on")
    }
}

fn fill_all(memory: &Memory) -> Command {
    fill(memory, 0..memory.pages(), 0x99)
}

fn read_all(memory: &Memory) -> Command {
    checksum(memory, 0..memory.pages())
}

pub(super) fn munmap_during_a_job(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut middle = InTheMiddle::of(setup, order, fill_all)?;
        // What is done is as good as what is to come.
        middle.filled.memory.unmap(5..10)?;
        let gone = 3 * UNIT_PAGES + 9;
        middle.filled.memory.unmap(gone..4 * UNIT_PAGES)?;
        middle.let_go()?;
        let report = middle.gpu.wait(middle.job)?;
        ended_at(&report, &middle.filled.memory, gone, bytes(&(0..gone)))
            .with_context(|| format!("order {order}"))?;
        verify_word(&middle.filled.memory, 0..5, 0x99)?;
        verify_word(&middle.filled.memory, 10..gone, 0x99)?;
        // New memory at those addresses has nothing of the job.
        middle.filled.memory.map_again(5..10)?;
        verify_zero(&middle.filled.memory, 5..10)?;
    }
    Ok(())
}

pub(super) fn mprotect_during_a_job(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut middle = InTheMiddle::of(setup, order, fill_all)?;
        middle.filled.memory.protect(0..UNIT_PAGES, Access::Read)?;
        let refused = 2 * UNIT_PAGES + 100;
        let rest = refused..4 * UNIT_PAGES;
        middle.filled.memory.protect(rest.clone(), Access::Read)?;
        middle.let_go()?;
        let report = middle.gpu.wait(middle.job)?;
        ended_at(
            &report,
            &middle.filled.memory,
            refused,
            bytes(&(0..refused)),
        )
        .with_context(|| format!("order {order}"))?;
        verify_word(&middle.filled.memory, 0..refused, 0x99)?;
        middle.filled.verify(rest)?;
    }
    Ok(())
}

pub(super) fn mremap_during_a_job(setup: &Setup) -> Result<()> {
    /// Addresses that nothing else uses.
    const ELSEWHERE: usize = 0x3100_0000_0000;
    for order in [0, 9] {
        let mut middle = InTheMiddle::of(setup, order, read_all)?;
        // The end of the memory goes elsewhere; the job looks where it was told to.
        let tail = 3 * UNIT_PAGES..4 * UNIT_PAGES;
        let moved = middle
            .filled
            .memory
            .move_part(tail.clone(), ELSEWHERE)
            .context("mremap failed")?;
        middle.let_go()?;
        let report = middle.gpu.wait(middle.job)?;
        ended_at(
            &report,
            &middle.filled.memory,
            tail.start,
            (tail.start * WORDS) as u64,
        )
        .with_context(|| format!("order {order}"))?;
        for page in 0..UNIT_PAGES {
            let base = pattern::page_base(middle.filled.seed, tail.start + page);
            let wrong = pattern::differing_bytes(moved.words(page), base);
            ensure!(
                wrong == 0,
                "page {page} of what was moved: {wrong} bytes differ"
            );
        }
    }
    Ok(())
}

pub(super) fn dontneed_during_a_job(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut middle = InTheMiddle::of(setup, order, fill_all)?;
        // What the job has written is dropped; what it comes to it writes anew.
        middle.filled.memory.advise(0..100, Advice::DontNeed)?;
        let later = 2 * UNIT_PAGES..3 * UNIT_PAGES;
        middle.filled.memory.advise(later, Advice::DontNeed)?;
        middle.let_go()?;
        middle.gpu.wait(middle.job)?.complete()?;
        verify_zero(&middle.filled.memory, 0..100)?;
        verify_word(&middle.filled.memory, 100..4 * UNIT_PAGES, 0x99)
            .with_context(|| format!("order {order}"))?;
    }
    Ok(())
}

pub(super) fn fork_during_a_job(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let middle = InTheMiddle::of(setup, order, fill_all)?;
        let (mut parent, mut ours) = std::os::unix::net::UnixStream::pair()?;
        let filled = &middle.filled;
        let checker = child(|| {
            use std::io::Read;
            // When the parent's job has ended: what the child has is of the moment of the fork.
            ours.read_exact(&mut [0])?;
            verify_word(&filled.memory, 0..UNIT_PAGES, 0x99)?;
            filled.verify(2 * UNIT_PAGES..4 * UNIT_PAGES)?;
            let gpu = setup.gpu()?;
            let rest = 2 * UNIT_PAGES..4 * UNIT_PAGES;
            let report = gpu.run(checksum(&filled.memory, rest.clone()))?;
            ensure!(
                report.value == expected(filled, rest.clone()),
                "{report:x?}"
            );
            gpu.run(fill(&filled.memory, rest.clone(), 0xcc))?;
            verify_word(&filled.memory, rest, 0xcc)
        })?;
        middle.let_go()?;
        middle.gpu.wait(middle.job)?.complete()?;
        verify_word(&filled.memory, filled.all(), 0x99)?;
        std::io::Write::write_all(&mut parent, &[1])?;
        succeeded(checker).with_context(|| format!("order {order}"))?;
        verify_word(&filled.memory, filled.all(), 0x99)?;
    }
    Ok(())
}

/// The job is held, and a limited wait for it ends.
pub(super) fn still_pending(middle: &InTheMiddle) -> Result<()> {
    match middle.gpu.wait_for(middle.job, 1_000_000) {
        Err(Errno::TIME) => Ok(()),
        other => anyhow::bail!("the job that is held has ended: {other:?}"),
    }
}
