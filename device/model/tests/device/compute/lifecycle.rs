//! The end of contexts: disabling and reset, during jobs and while they wait for faults.

use std::sync::atomic::Ordering;

use hmmgpu_contract::regs::{RESET_CTRL_RESET, Reg, STATE_READY};
use hmmgpu_model::ResetCause;
use hmmgpu_model::mock::descriptors::Side;
use hmmgpu_model::mock::jobs::{atomic_add, fill};
use hmmgpu_telemetry::snapshot::{Outcome, Snapshot};

use super::world::{ALL, BASE, Process, World, assert_done, world};
use crate::rig::{MIB, PAGE};

fn word(world: &World, address: u64) -> u64 {
    world.ram.load(address, Ordering::Acquire)
}

/// A context with an endless job that adds to a word, and has begun to.
fn adding(world: &World, context: u32, page: u64) -> (Process, u64) {
    let mut process = world.process(context);
    process.map(BASE, Side::System(page), ALL);
    let job = atomic_add(BASE, u64::MAX, 1);
    let sequence = process.driver.submit(&job).unwrap();
    process
        .driver
        .until("additions", |_| word(world, page) > 0)
        .unwrap();
    (process, sequence)
}

/// All of guest RAM that the device could write, as it is.
fn all(world: &World) -> Vec<u8> {
    let len = usize::try_from(world.ram.size()).unwrap();
    world.ram.read(world.ram.base(), len)
}

fn count(snapshot: &Snapshot, status: &str) -> u64 {
    let rows = snapshot.compute.jobs.iter();
    rows.filter(|row| row.status == status)
        .map(|row| row.count)
        .sum()
}

#[test]
fn nothing_is_written_after_a_context_is_disabled_in_the_middle_of_a_job() {
    let (world, _queues) = world(8 * MIB, 6);
    let page = world.take(PAGE);
    for round in 1..=20 {
        world.ram.write(page, &[0; 8]);
        let (mut process, sequence) = adding(&world, 9, page);
        process.driver.stop();
        let before = all(&world);
        // The same context in its next life: whatever it had to do before is over now.
        let device = world.device.clone();
        process
            .driver
            .until("end of the run", |_| {
                count(&device.snapshot(), "STATUS_ABORTED") == round
            })
            .unwrap();
        assert!(all(&world) == before);
        assert!(process.driver.record(sequence).is_none());
        assert_eq!(world.device.snapshot().compute.contexts, 0);
        process.driver.start().unwrap();
        let record = process.driver.run(&fill(BASE, 8, 77)).unwrap();
        assert_done(&record, 8, 0);
        process.driver.stop();
        world.ram.write(page, &[0; 8]);
    }
}

#[test]
fn a_fault_of_a_context_that_was_disabled_is_forgotten() {
    let (world, mut queues) = world(8 * MIB, 6);
    let page = world.take(PAGE);
    let mut process = world.process(9);
    let lost = process.driver.submit(&fill(BASE, 8, 1)).unwrap();
    let old = queues.fault();
    process.driver.stop();
    let before = all(&world);
    queues.replay(&old);
    assert!(all(&world) == before);
    process.driver.start().unwrap();
    let sequence = process.driver.submit(&fill(BASE, 8, 2)).unwrap();
    let fault = queues.fault();
    assert!(fault.sequence > old.sequence);
    // The old one's number must not resolve the new one.
    process.map(BASE, Side::System(page), ALL);
    queues.replay(&old);
    assert!(process.driver.record(sequence).is_none());
    assert_eq!(word(&world, page), 0);
    queues.replay(&fault);
    assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
    assert!(process.driver.record(lost).is_none());
    let snapshot = world.device.snapshot();
    let outcomes = snapshot
        .mmu
        .faults
        .iter()
        .map(|row| (row.outcome, row.count));
    let mut outcomes: Vec<_> = outcomes.collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, [(Outcome::Replayed, 1), (Outcome::Dropped, 1)]);
}

#[test]
fn nothing_is_written_after_a_reset_during_jobs() {
    let causes = [
        ResetCause::Register,
        ResetCause::Flr,
        ResetCause::VfioUser,
        ResetCause::Disconnect,
    ];
    for cause in causes {
        let (world, mut queues) = world(8 * MIB, 2);
        let page = world.take(8 * PAGE);
        let mut jobs: Vec<_> = (0..8_u32)
            .map(|context| adding(&world, context, page + u64::from(context) * PAGE))
            .collect();
        // Others wait for faults, some of which have found no room in the queue.
        for context in 8..16 {
            let mut process = world.process(context);
            let sequence = process.driver.submit(&fill(BASE + PAGE, 8, 1)).unwrap();
            jobs.push((process, sequence));
        }
        let device = world.device.clone();
        let driver = &jobs[0].0.driver;
        driver
            .until("faults", |_| device.snapshot().mmu.fault_queue_full >= 4)
            .unwrap();
        if cause == ResetCause::Register {
            queues.copy.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
        } else {
            world.device.reset(cause);
        }
        let before = all(&world);
        driver
            .until("end of all runs", |_| {
                count(&device.snapshot(), "STATUS_ABORTED") == 16
            })
            .unwrap();
        assert!(all(&world) == before, "after {cause:?}");
        for (process, sequence) in &jobs {
            assert!(process.driver.record(*sequence).is_none());
        }
        driver
            .until("ready state", |_| {
                queues.copy.read(Reg::STATE.0) == STATE_READY
            })
            .unwrap();
        assert_eq!(device.snapshot().compute.contexts, 0);

        // As after power-on: the same context, its old fault's number, and a full queue of before.
        if cause == ResetCause::Disconnect {
            for ram in [&*world.ram, queues.copy.ram(), queues.invalidation.ram()] {
                device
                    .dma_map(ram.mapping(0, ram.size(), true).unwrap())
                    .unwrap();
            }
            let ring = queues.faults.ram();
            device
                .dma_map(ring.mapping(0, ring.size(), true).unwrap())
                .unwrap();
        }
        queues.copy.set_bus_master(true);
        queues.invalidation.start().unwrap();
        queues.faults.start();
        let (process, _) = &mut jobs[15];
        process.driver.start().unwrap();
        let sequence = process.driver.submit(&fill(BASE, 8, 1)).unwrap();
        let fault = queues.fault();
        assert_eq!((fault.sequence, fault.context), (1, 15));
        process.map(BASE, Side::System(page), ALL);
        queues.replay(&fault);
        assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
    }
}

#[test]
fn jobs_wait_while_the_bus_may_not_be_mastered() {
    let (world, queues) = world(8 * MIB, 6);
    let page = world.take(PAGE);
    let (process, _) = adding(&world, 0, page);
    for _ in 0..10 {
        queues.copy.set_bus_master(false);
        let before = word(&world, page);
        std::thread::yield_now();
        assert_eq!(word(&world, page), before);
        queues.copy.set_bus_master(true);
        process
            .driver
            .until("additions", |_| word(&world, page) > before)
            .unwrap();
    }
    // It ends even without the bus, and so does the device.
    queues.copy.set_bus_master(false);
    process.driver.stop();
    let device = world.device.clone();
    process
        .driver
        .until("end of the run", |_| {
            count(&device.snapshot(), "STATUS_ABORTED") == 1
        })
        .unwrap();
}

#[test]
fn a_device_with_jobs_can_be_dropped() {
    for bus in [true, false] {
        let (world, mut queues) = world(8 * MIB, 6);
        let page = world.take(PAGE);
        let _busy: Vec<_> = (0..4)
            .map(|context| adding(&world, context, page))
            .collect();
        let mut waiting = world.process(4);
        waiting.driver.submit(&fill(BASE, 8, 1)).unwrap();
        queues.fault();
        queues.copy.set_bus_master(bus);
    }
}
