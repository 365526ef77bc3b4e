//! Jobs that are stuck in a fault: nobody else may suffer, and all of it can be ended.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use super::changes::{InTheMiddle, still_pending};
use super::{checksum, expected, fill, verify_word};
use crate::gpu::{Command, Gpu};
use crate::scenarios::fork::{child, succeeded};
use crate::scenarios::setup::Setup;
use crate::sys::fork::Ended;
use crate::sys::memory::{Memory, UNIT_PAGES};

/// Time for a process to end that was killed.
const LIMIT: Duration = Duration::from_secs(60);

fn fill_all(memory: &Memory) -> Command {
    fill(memory, 0..memory.pages(), 0x99)
}

/// Jobs and migrations of this process work.
fn all_is_well(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let filled = setup.filled(order, 2)?;
        let report = gpu.run(checksum(&filled.memory, filled.all()))?;
        ensure!(
            report.value == expected(&filled, filled.all()),
            "{report:x?}"
        );
        let outcome = setup.device.to_system(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_SYSTEM")?;
        setup.send(&filled, filled.all())?;
        gpu.run(fill(&filled.memory, filled.all(), 3))?;
        verify_word(&filled.memory, filled.all(), 3)?;
    }
    Ok(())
}

pub(super) fn a_stuck_job_stops_no_other(setup: &Setup) -> Result<()> {
    let middle = InTheMiddle::of(setup, 9, fill_all)?;
    // In another process, and in this one with another descriptor.
    let other = child(|| all_is_well(&setup.reopened()?))?;
    succeeded(other).context("another process")?;
    all_is_well(setup).context("the same process")?;
    // Some of the memory that the job has done, and some that it will come to.
    middle.filled.verify(2 * UNIT_PAGES..3 * UNIT_PAGES)?;
    verify_word(&middle.filled.memory, 0..UNIT_PAGES, 0x99)?;
    still_pending(&middle)?;
    middle.let_go()?;
    middle.gpu.wait(middle.job)?.complete()?;
    verify_word(&middle.filled.memory, middle.filled.all(), 0x99)
}

pub(super) fn a_stuck_job_can_be_unmapped(setup: &Setup) -> Result<()> {
    let mut middle = InTheMiddle::of(setup, 0, fill_all)?;
    let unit = middle.filled.unit(1);
    middle.filled.memory.unmap(unit)?;
    let report = middle.gpu.wait(middle.job)?;
    ensure!(report.error == Some(Errno::FAULT), "{report:x?}");
    verify_word(&middle.filled.memory, 0..UNIT_PAGES, 0x99)?;
    middle.filled.verify(2 * UNIT_PAGES..4 * UNIT_PAGES)
}

/// A child whose job is stuck says so, and then does what it is given.
fn stuck_child(
    setup: &Setup,
    then: impl FnOnce(InTheMiddle) -> Result<()>,
) -> Result<(crate::sys::fork::Child, File)> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    let stuck = child(|| {
        let setup = setup.reopened()?;
        let middle = InTheMiddle::of(&setup, 9, fill_all)?;
        writer.write_all(&[1])?;
        then(middle)
    })?;
    drop(writer);
    reader
        .read_exact(&mut [0])
        .context("the child's job was not held")?;
    Ok((stuck, reader))
}

pub(super) fn exit_during_a_job(setup: &Setup) -> Result<()> {
    for _ in 0..3 {
        let (stuck, _) = stuck_child(setup, |middle| {
            // Nothing is closed or unmapped but by the end of the process.
            std::mem::forget(middle);
            Ok(())
        })?;
        match stuck.wait_for(LIMIT)? {
            Some(Ended::Code(0)) => {}
            how => bail!("the process ended with {how:?}"),
        }
        setup.no_contexts()?;
        setup.vram_is_free()?;
    }
    all_is_well(setup)
}

pub(super) fn close_during_a_job(setup: &Setup) -> Result<()> {
    let InTheMiddle {
        filled, gpu, held, ..
    } = InTheMiddle::of(setup, 9, fill_all)?;
    // Closing waits for nobody who may never come.
    drop(gpu);
    drop(held);
    setup.no_contexts()?;
    verify_word(&filled.memory, 0..UNIT_PAGES, 0x99)?;
    filled.verify(2 * UNIT_PAGES..4 * UNIT_PAGES)?;
    all_is_well(setup)
}

pub(super) fn killed_during_a_fault(setup: &Setup) -> Result<()> {
    for _ in 0..3 {
        let (stuck, mut reader) = stuck_child(setup, |middle| {
            // Waits for the job, which does not end.
            middle.gpu.wait(middle.job).map(drop)
        })?;
        stuck.kill()?;
        match stuck.wait_for(LIMIT)? {
            Some(Ended::Signal(_)) => {}
            how => bail!("the process that was killed ended with {how:?}"),
        }
        ensure!(reader.read(&mut [0])? == 0, "the process is still there");
        setup.no_contexts()?;
        setup.vram_is_free()?;
    }
    all_is_well(setup)
}

pub(super) fn wait_has_a_limit(setup: &Setup) -> Result<()> {
    let middle = InTheMiddle::of(setup, 0, fill_all)?;
    for timeout in [0, 1, 1_000_000, 20_000_000] {
        let result = middle.gpu.wait_for(middle.job, timeout);
        ensure!(result == Err(Errno::TIME), "{timeout} ns: {result:?}");
    }
    middle.let_go()?;
    // Any number of waits get the result.
    let first = middle.gpu.wait(middle.job)?.complete()?;
    ensure!(
        middle.gpu.wait_for(middle.job, 0) == Ok(first)
            && middle.gpu.wait_for(middle.job, u64::MAX) == Ok(first),
        "another result than before"
    );
    Ok(())
}

pub(super) fn a_full_queue_refuses_jobs(setup: &Setup) -> Result<()> {
    let middle = InTheMiddle::of(setup, 0, fill_all)?;
    let other = Memory::anonymous(crate::sys::memory::UNIT)?;
    let count = |gpu: &Gpu| {
        gpu.try_submit(Command::AtomicAdd {
            word: other.address() as u64,
            value: 1,
            times: 1,
        })
    };
    let mut jobs = Vec::new();
    let refused = loop {
        match count(&middle.gpu) {
            Ok(job) => jobs.push(job),
            Err(errno) => break errno,
        }
        ensure!(jobs.len() < 1 << 20, "a queue takes any number of jobs");
    };
    ensure!(refused == Errno::AGAIN, "a full queue: {refused:?}");
    ensure!(
        jobs.len() >= 63,
        "the queue is full with {} jobs",
        jobs.len()
    );
    middle.let_go()?;
    let last = jobs.last().copied().context("no job was taken")?;
    middle.gpu.wait(last)?.complete()?;
    // There is room again, and none was lost.
    let job = count(&middle.gpu)?;
    middle.gpu.wait(job)?.complete()?;
    let counted = other.words(0)[0];
    ensure!(
        counted == jobs.len() as u64 + 1,
        "of {} jobs {counted} were done",
        jobs.len() + 1
    );
    Ok(())
}
