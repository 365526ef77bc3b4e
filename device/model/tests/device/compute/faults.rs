//! Faults: demand paging, cancelling, jobs that do not wait, and a full fault queue.

use hmmgpu_contract::compute::JOB_NO_REPLAY;
use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::{FaultAccess, FaultReason, PTE_WRITE};
use hmmgpu_model::mock::InterruptCounter;
use hmmgpu_model::mock::descriptors::{Side, cancel};
use hmmgpu_model::mock::jobs::{atomic_add, checksum, copy, fill, flagged, gather};
use hmmgpu_telemetry::snapshot::{Access, Faults, Outcome};

use std::time::Duration;

use super::world::{
    ALL, BASE, FAULT_VECTOR, Process, Queues, World, assert_done, checksum_of, page_of, world,
};
use crate::rig::{MIB, PAGE, pattern};

/// Serves the faults of one job, page by page, until it ends. Returns its record's place in time:
/// the number of faults.
fn serve(
    queues: &mut Queues,
    process: &mut Process,
    sequence: u64,
    mut place: impl FnMut(u64) -> Side,
) -> u64 {
    let mut served = 0;
    let mut last = 0;
    let driver = process.driver.clone();
    driver
        .until("end of a job with faults", |driver| {
            if let Some(fault) = queues.faults.take() {
                assert_eq!(fault.context, driver.context());
                assert_eq!(fault.job, sequence);
                assert!(fault.sequence > last && fault.time_ns > 0);
                last = fault.sequence;
                let page = page_of(fault.address);
                process.map(page, place(page), ALL);
                queues.replay(&fault);
                served += 1;
            }
            driver.record(sequence).is_some()
        })
        .unwrap();
    served
}

#[test]
fn memory_that_is_mapped_on_demand() {
    const PAGES: u64 = 300;
    let (world, mut queues) = world(64 * MIB, 6);
    let mut process = world.process(3);
    let bytes = PAGES * PAGE;
    let data = pattern(1, usize::try_from(bytes).unwrap());
    let ram = world.take(bytes);
    world.ram.write(ram, &data);
    queues.copy(Side::Vram(0), Side::System(ram), bytes);
    // Odd pages are in VRAM.
    let place = |page: u64| {
        let offset = page - BASE;
        if offset / PAGE % 2 == 1 {
            Side::Vram(offset)
        } else {
            Side::System(ram + offset)
        }
    };
    let sequence = process.driver.submit(&checksum(BASE, bytes / 8)).unwrap();
    assert_eq!(serve(&mut queues, &mut process, sequence, place), PAGES);
    let record = process.driver.wait(sequence).unwrap();
    assert_done(&record, bytes / 8, checksum_of(&data));
    assert_eq!(u64::from(record.faults), PAGES);

    // Again, from one unaligned place to another that is not there yet.
    let target = BASE + 0x1000_0000;
    let other = world.take(bytes);
    let job = copy(target + 5, BASE + 1, bytes - 4096);
    let sequence = process.driver.submit(&job).unwrap();
    let place = |page: u64| Side::System(other + page - target);
    assert_eq!(serve(&mut queues, &mut process, sequence, place), PAGES);
    assert_done(&process.driver.wait(sequence).unwrap(), bytes - 4096, 0);
    let len = data.len() - 4096;
    assert!(world.ram.read(other + 5, len) == data[1..=len]);
    assert_eq!(world.ram.read(other, 5), [0; 5]);

    let snapshot = world.device.snapshot();
    let rows = snapshot
        .mmu
        .faults
        .iter()
        .map(|row| (row.access, row.outcome, row.count));
    assert_eq!(
        rows.collect::<Vec<_>>(),
        [
            (Access::Read, Outcome::Replayed, PAGES),
            (Access::Write, Outcome::Replayed, PAGES)
        ]
    );
    assert_eq!(snapshot.mmu.replay.count, 2 * PAGES);
}

#[test]
fn what_an_entry_does_not_allow_is_asked_for() {
    let (world, mut queues) = world(16 * MIB, 6);
    let mut process = world.process(1);
    let page = world.take(PAGE);
    process.map(BASE, Side::System(page), 0);
    let sequence = process.driver.submit(&atomic_add(BASE, 1, 7)).unwrap();
    let steps = [
        (FaultReason::FAULT_NOT_WRITABLE, PTE_WRITE),
        (FaultReason::FAULT_NOT_ATOMIC, ALL),
    ];
    for (reason, next) in steps {
        let fault = queues.fault();
        assert_eq!(fault.address, BASE);
        assert_eq!(FaultAccess(fault.access), FaultAccess::FAULT_ATOMIC);
        // Which of the two is missing is told first is the device's choice, that one is missing
        // is not.
        let known = [
            FaultReason::FAULT_NOT_WRITABLE,
            FaultReason::FAULT_NOT_ATOMIC,
        ];
        assert!(known.contains(&FaultReason(fault.reason)), "{reason:?}");
        process.map(BASE, Side::System(page), next);
        queues.replay(&fault);
    }
    assert_done(&process.driver.wait(sequence).unwrap(), 1, 0);
}

#[test]
fn a_replay_without_a_cure_faults_again() {
    let (world, mut queues) = world(16 * MIB, 6);
    let mut process = world.process(1);
    let page = world.take(PAGE);
    let sequence = process.driver.submit(&fill(BASE, 8, 1)).unwrap();
    for _ in 0..20 {
        let fault = queues.fault();
        assert_eq!(page_of(fault.address), BASE);
        queues.replay(&fault);
    }
    let fault = queues.fault();
    process.map(BASE, Side::System(page), ALL);
    queues.replay(&fault);
    let record = process.driver.wait(sequence).unwrap();
    assert_done(&record, 8, 0);
    assert_eq!(record.faults, 21);
}

#[test]
fn a_job_that_does_not_want_to_wait_ends_with_its_fault() {
    let (world, mut queues) = world(16 * MIB, 6);
    let mut process = world.process(1);
    let pages = world.take(4 * PAGE);
    process.map_range(BASE, Side::System(pages), 3 * PAGE);
    let job = flagged(fill(BASE + 100, 5 * PAGE, u64::MAX), JOB_NO_REPLAY);
    let record = process.driver.run(&job).unwrap();
    assert_eq!(Status(record.status), Status::STATUS_FAULT);
    assert_eq!(record.fault_address, BASE + 3 * PAGE);
    let reason = u32::from(FaultReason::FAULT_NOT_PRESENT.0);
    assert_eq!((record.fault_reason, record.faults), (reason, 0));
    assert_eq!(record.done, 3 * PAGE - 100);
    assert_eq!(world.ram.read(pages + 3 * PAGE - 1, 2), [255, 0]);
    assert!(queues.faults.take().is_none());

    // What is no virtual address, found in memory.
    process.map(BASE + 4 * PAGE, Side::System(pages + 3 * PAGE), ALL);
    world.ram.write(pages + 3 * PAGE, &u32::MAX.to_le_bytes());
    let beyond = u64::MAX - 7;
    let job = gather(BASE, beyond, BASE + 4 * PAGE, 1);
    let record = process.driver.run(&flagged(job, JOB_NO_REPLAY)).unwrap();
    let reason = u32::from(FaultReason::FAULT_VIRTUAL_ADDRESS.0);
    assert_eq!(record.fault_reason, reason, "{record:?}");
    assert_eq!(Status(record.status), Status::STATUS_FAULT);

    let next = process.driver.run(&fill(BASE, 8, 0)).unwrap();
    assert_done(&next, 8, 0);
    let snapshot = world.device.snapshot();
    let ended = |row: &&Faults| row.outcome == Outcome::Ended;
    let ended: u64 = snapshot
        .mmu
        .faults
        .iter()
        .filter(ended)
        .map(|row| row.count)
        .sum();
    assert_eq!(ended, 2);
}

#[test]
fn a_cancelled_job_ends_and_the_next_one_begins() {
    let (world, mut queues) = world(16 * MIB, 6);
    let mut process = world.process(2);
    let page = world.take(PAGE);
    process.map(BASE, Side::System(page), ALL);
    let first = process.driver.submit(&fill(BASE, 2 * PAGE, 1)).unwrap();
    let second = process.driver.submit(&fill(BASE, 16, 2)).unwrap();
    let fault = queues.fault();
    assert_eq!((fault.address, fault.job), (BASE + PAGE, first));
    // Of another fault, of another context, and of none.
    queues.invalidation(&[
        cancel(2, fault.sequence + 1, 1),
        cancel(3, fault.sequence, 2),
        cancel(2, 0, 3),
    ]);
    assert!(process.driver.record(first).is_none());
    queues.invalidation(&[cancel(2, fault.sequence, 0xabcd)]);
    let record = process.driver.wait(first).unwrap();
    assert_eq!(Status(record.status), Status::STATUS_CANCELLED);
    assert_eq!((record.detail, record.done), (0xabcd, PAGE));
    assert_eq!(record.fault_address, fault.address);
    assert_eq!(record.fault_reason, u32::from(fault.reason));
    assert_done(&process.driver.wait(second).unwrap(), 16, 0);
    let snapshot = world.device.snapshot();
    assert_eq!(snapshot.mmu.faults.len(), 1);
    assert_eq!(snapshot.mmu.faults[0].outcome, Outcome::Cancelled);
    assert_eq!(snapshot.compute.jobs[1].status, "STATUS_CANCELLED");
}

/// Contexts that all fault on a page of their own.
fn faulting(world: &World, count: u32) -> Vec<(Process, u64, u64)> {
    (0..count)
        .map(|context| {
            let mut process = world.process(context);
            let job = fill(BASE + u64::from(context) * PAGE, 8, u64::from(context));
            let sequence = process.driver.submit(&job).unwrap();
            (process, sequence, world.take(PAGE))
        })
        .collect()
}

#[test]
fn what_finds_the_fault_queue_full_is_not_lost() {
    const CONTEXTS: u32 = 24;
    let (world, mut queues) = world(16 * MIB, 2);
    let counter = InterruptCounter::new();
    world.device.set_interrupt(FAULT_VECTOR, counter.sink());
    let mut processes = faulting(&world, CONTEXTS);
    let full = u64::from(CONTEXTS) - 4;
    let device = world.device.clone();
    processes[0]
        .0
        .driver
        .until("all faults", |_| {
            device.snapshot().mmu.fault_queue_full >= full
        })
        .unwrap();
    assert_eq!(queues.faults.producer(), 4);
    for _ in 0..CONTEXTS {
        let fault = queues.fault();
        let (process, sequence, page) = &mut processes[fault.context as usize];
        process.map(page_of(fault.address), Side::System(*page), ALL);
        queues.replay(&fault);
        assert_done(&process.driver.wait(*sequence).unwrap(), 8, 0);
        let found: u64 = world.ram.load(*page, std::sync::atomic::Ordering::Acquire);
        assert_eq!(found, u64::from(fault.context));
    }
    assert!(counter.wait(u64::from(CONTEXTS), Duration::from_secs(30)));
    assert_eq!(counter.count(), u64::from(CONTEXTS), "one for each fault");
}

#[test]
fn faults_wait_while_the_fault_queue_is_disabled() {
    let (world, mut queues) = world(16 * MIB, 6);
    queues.faults.stop();
    let mut processes = faulting(&world, 3);
    let device = world.device.clone();
    processes[0]
        .0
        .driver
        .until("all faults", |_| {
            device.snapshot().mmu.fault_queue_full >= 3
        })
        .unwrap();
    queues.faults.start();
    for _ in 0..3 {
        let fault = queues.fault();
        let (process, sequence, page) = &mut processes[fault.context as usize];
        process.map(page_of(fault.address), Side::System(*page), ALL);
        queues.replay(&fault);
        assert_done(&process.driver.wait(*sequence).unwrap(), 8, 0);
    }
}
