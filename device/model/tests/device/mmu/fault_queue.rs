//! The fault queue at its limits: what is wrong with it, and what waits when.

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::FaultRecord;
use hmmgpu_contract::regs::{
    FAULT_QUEUE, QUEUE_STATUS_ERROR, QUEUE_STATUS_OFF, QUEUE_STATUS_RUNNING, QueueReg, Reg,
};
use hmmgpu_model::mock::descriptors::Side;
use hmmgpu_model::mock::jobs::fill;

use crate::compute::world::{ALL, BASE, Process, Queues, World, assert_done, world};
use crate::rig::{MIB, PAGE};

/// A job of a context that waits for a fault.
fn faulting(world: &World, context: u32) -> (Process, u64) {
    let mut process = world.process(context);
    let sequence = process.driver.submit(&fill(BASE, 8, 7)).unwrap();
    (process, sequence)
}

/// Resolves a fault, and waits for the end of the job.
#[track_caller]
fn resolve(world: &World, queues: &mut Queues, waiting: &mut (Process, u64), fault: &FaultRecord) {
    let (process, sequence) = waiting;
    assert_eq!(fault.context, process.driver.context());
    let page = world.take(PAGE);
    process.map(BASE, Side::System(page), ALL);
    queues.replay(fault);
    assert_done(&process.driver.wait(*sequence).unwrap(), 8, 0);
}

#[track_caller]
fn until_full(world: &World, queues: &Queues, faults: u64) {
    queues
        .copy
        .until("faults that wait for room", |_| {
            world.device.snapshot().mmu.fault_queue_full >= faults
        })
        .unwrap();
}

#[track_caller]
fn until_stopped(queues: &Queues, status: Status) {
    queues
        .copy
        .until("queue that stopped", |_| {
            queues.faults.read(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_ERROR
        })
        .unwrap();
    assert_eq!(Status(queues.copy.read(Reg::ERROR_STATUS.0)), status);
    assert_eq!(queues.copy.read(Reg::ERROR_QUEUE.0), FAULT_QUEUE);
    queues.copy.write(Reg::ERROR_STATUS.0, 1);
}

#[test]
fn a_consumer_that_is_ahead_stops_the_queue_and_loses_nothing() {
    let (world, mut queues) = world(16 * MIB, 2);
    for nonsense in [1, 5, u32::MAX / 2] {
        queues.faults.consume(nonsense);
        let mut waiting = faulting(&world, 3);
        until_stopped(&queues, Status::STATUS_BAD_PRODUCER);
        assert_eq!(queues.faults.producer(), 0);
        // It stays stopped, whatever the driver does, until it is enabled anew.
        queues.faults.consume(0);
        queues.faults.write(QueueReg::QUEUE_DOORBELL, 1);
        assert_eq!(queues.faults.producer(), 0);
        queues.faults.stop();
        assert_eq!(queues.faults.read(QueueReg::QUEUE_STATUS), QUEUE_STATUS_OFF);
        queues.faults.start();
        let status = queues.faults.read(QueueReg::QUEUE_STATUS);
        assert_eq!(status, QUEUE_STATUS_RUNNING);
        let fault = queues.fault();
        resolve(&world, &mut queues, &mut waiting, &fault);
        waiting.0.driver.stop();
        queues.faults.stop();
        queues.faults.start();
    }
}

#[test]
fn a_ring_that_cannot_be_reached_stops_the_queue_and_loses_nothing() {
    let (world, mut queues) = world(16 * MIB, 2);
    let (base, size) = (queues.faults.ram().base(), queues.faults.ram().size());
    world.device.dma_unmap(base, size).unwrap();
    let mut waiting = faulting(&world, 3);
    until_stopped(&queues, Status::STATUS_QUEUE_UNREACHABLE);
    queues.faults.stop();
    // The header without the ring is not enough.
    let map = |offset, size| {
        let mapping = queues.faults.ram().mapping(offset, size, true).unwrap();
        world.device.dma_map(mapping).unwrap();
    };
    map(0, PAGE);
    queues.faults.start();
    until_stopped(&queues, Status::STATUS_QUEUE_UNREACHABLE);
    queues.faults.stop();
    let rest = queues.faults.ram().mapping(PAGE, size - PAGE, true);
    world.device.dma_map(rest.unwrap()).unwrap();
    queues.faults.start();
    let fault = queues.fault();
    assert_eq!(fault.sequence, 1);
    resolve(&world, &mut queues, &mut waiting, &fault);
}

#[test]
fn a_header_that_cannot_be_written_stops_the_queue_and_loses_nothing() {
    let (world, mut queues) = world(16 * MIB, 2);
    let (base, size) = (queues.faults.ram().base(), queues.faults.ram().size());
    let map = |queues: &Queues, offset, size, write| {
        let mapping = queues.faults.ram().mapping(offset, size, write).unwrap();
        world.device.dma_map(mapping).unwrap();
    };
    // The record goes into the ring, and the producer index cannot follow.
    world.device.dma_unmap(base, size).unwrap();
    map(&queues, 0, PAGE, false);
    map(&queues, PAGE, size - PAGE, true);
    let mut waiting = faulting(&world, 3);
    until_stopped(&queues, Status::STATUS_QUEUE_UNREACHABLE);
    assert_eq!(queues.faults.producer(), 0);
    queues.faults.stop();
    world.device.dma_unmap(base, PAGE).unwrap();
    map(&queues, 0, PAGE, true);
    queues.faults.start();
    let fault = queues.fault();
    assert_eq!(fault.sequence, 1);
    assert_eq!(queues.faults.producer(), 1);
    resolve(&world, &mut queues, &mut waiting, &fault);
    assert_eq!(queues.faults.peek(), None);
}

#[test]
fn a_fault_is_not_told_of_a_context_that_was_disabled_before() {
    let (world, mut queues) = world(16 * MIB, 2);
    queues.faults.stop();
    let gone = faulting(&world, 3);
    until_full(&world, &queues, 1);
    gone.0.driver.stop();
    queues.faults.start();
    assert_eq!(queues.faults.producer(), 0);
    // The same context in its next life, when the queue is off again: one fault, the new one.
    queues.faults.stop();
    let mut waiting = faulting(&world, 3);
    until_full(&world, &queues, 2);
    queues.faults.start();
    let fault = queues.fault();
    assert_eq!(queues.faults.producer(), 1);
    resolve(&world, &mut queues, &mut waiting, &fault);
}

#[test]
fn need_kick_is_set_while_faults_wait_for_room_and_only_then() {
    let (world, mut queues) = world(16 * MIB, 2);
    let mut waiting: Vec<_> = (0..4).map(|context| faulting(&world, context)).collect();
    queues
        .copy
        .until("a full ring", |_| queues.faults.producer() == 4)
        .unwrap();
    assert!(!queues.faults.need_kick(), "nobody waits yet");
    assert_eq!(world.device.snapshot().mmu.fault_queue_full, 0);
    waiting.push(faulting(&world, 4));
    until_full(&world, &queues, 1);
    assert!(queues.faults.need_kick());
    for _ in 0..5 {
        let fault = queues.fault();
        // The doorbell that made room has brought the last one, and was asked for once.
        assert_eq!(queues.faults.producer(), 5);
        assert!(!queues.faults.need_kick());
        let waiting = &mut waiting[fault.context as usize];
        resolve(&world, &mut queues, waiting, &fault);
    }
    assert_eq!(queues.faults.peek(), None);
}

#[test]
fn without_bus_mastering_nothing_is_told_until_it_comes_back() {
    let (world, mut queues) = world(16 * MIB, 2);
    let mut waiting: Vec<_> = (0..5).map(|context| faulting(&world, context)).collect();
    until_full(&world, &queues, 1);
    queues.copy.set_bus_master(false);
    let first = queues.faults.take().expect("a fault");
    assert_eq!(queues.faults.producer(), 4);
    assert!(queues.faults.need_kick());
    queues.copy.set_bus_master(true);
    assert_eq!(queues.faults.producer(), 5);
    resolve(
        &world,
        &mut queues,
        &mut waiting[first.context as usize],
        &first,
    );
    for _ in 0..4 {
        let fault = queues.fault();
        let waiting = &mut waiting[fault.context as usize];
        resolve(&world, &mut queues, waiting, &fault);
    }
}

#[test]
fn the_smallest_ring_wraps_many_times_and_every_fault_is_told_once() {
    const ROUNDS: u64 = 50;
    const CONTEXTS: u32 = 12;
    let (world, mut queues) = world(16 * MIB, 2);
    let page = world.take(PAGE);
    let mut processes: Vec<_> = (0..CONTEXTS)
        .map(|context| world.process(context))
        .collect();
    let mut told = std::collections::BTreeSet::new();
    for _ in 0..ROUNDS {
        let sequences: Vec<_> = processes
            .iter_mut()
            .enumerate()
            .map(|(context, process)| {
                process.unmap(BASE);
                queues.invalidate(u32::try_from(context).unwrap(), BASE, PAGE);
                process.driver.submit(&fill(BASE, 8, 7)).unwrap()
            })
            .collect();
        for _ in 0..CONTEXTS {
            let fault = queues.fault();
            assert!(told.insert(fault.sequence), "told twice: {fault:?}");
            let process = &mut processes[fault.context as usize];
            process.map(BASE, Side::System(page), ALL);
            queues.replay(&fault);
        }
        for (process, sequence) in processes.iter().zip(sequences) {
            assert_done(&process.driver.wait(sequence).unwrap(), 8, 0);
        }
    }
    let all: Vec<u64> = (1..=ROUNDS * u64::from(CONTEXTS)).collect();
    assert!(told.into_iter().eq(all));
}
