//! Interrupts of faults and jobs, and their causes.

use std::time::Duration;

use hmmgpu_contract::compute::JOB_INTERRUPT;
use hmmgpu_contract::regs::{
    FAULT_QUEUE, INT_COMPUTE, INT_QUEUE0, INVALIDATION_QUEUE, QueueReg, Reg,
};
use hmmgpu_model::mock::InterruptCounter;
use hmmgpu_model::mock::descriptors::{Side, cancel};
use hmmgpu_model::mock::jobs::{fill, flagged};

use crate::compute::world::{ALL, BASE, FAULT_VECTOR, JOB_VECTOR, world};
use crate::rig::{MIB, PAGE};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_fault_and_a_fence_of_an_invalidation_raise_the_vectors_of_their_queues() {
    let (world, mut queues) = world(8 * MIB, 4);
    let faults = InterruptCounter::new();
    let fences = InterruptCounter::new();
    world.device.set_interrupt(FAULT_VECTOR, faults.sink());
    world.device.set_interrupt(2, fences.sink());
    let mut process = world.process(0);
    process.driver.submit(&fill(BASE, 8, 1)).unwrap();
    assert!(faults.wait(1, LIMIT));
    let fault = queues.fault();
    let cause = INT_QUEUE0 << FAULT_QUEUE;
    assert_eq!(queues.copy.read(Reg::INT_CAUSE.0), cause);
    queues.copy.write(Reg::INT_CAUSE.0, cause);
    assert_eq!(queues.copy.read(Reg::INT_CAUSE.0), 0);

    // Masked, it stays pending until it is unmasked.
    queues.copy.write(Reg::INT_MASK.0, cause);
    queues.replay(&fault);
    let fault = queues.fault();
    assert_eq!(queues.copy.read(Reg::INT_CAUSE.0), cause);
    assert_eq!(faults.count(), 1);
    queues.copy.write(Reg::INT_MASK.0, 0);
    assert_eq!(faults.count(), 2);
    queues.copy.write(Reg::INT_CAUSE.0, cause);

    let end = cancel(0, fault.sequence, 0);
    queues.invalidation.submit(&[end]).unwrap();
    let sequence = queues.invalidation.fence(true).unwrap();
    assert!(fences.wait(1, LIMIT));
    assert_eq!(queues.invalidation.record().sequence, sequence);
    let cause = INT_QUEUE0 << INVALIDATION_QUEUE;
    assert_eq!(queues.copy.read(Reg::INT_CAUSE.0), cause);
    assert_eq!(faults.count(), 2);
}

#[test]
fn jobs_share_a_cause_and_raise_the_vectors_of_their_contexts() {
    const OTHER: u32 = 7;
    let (world, queues) = world(8 * MIB, 4);
    let mine = InterruptCounter::new();
    let others = InterruptCounter::new();
    world.device.set_interrupt(JOB_VECTOR, mine.sink());
    world.device.set_interrupt(OTHER, others.sink());
    let page = world.take(PAGE);
    let mut first = world.process(0);
    let mut second = world.process(1);
    first.map(BASE, Side::System(page), ALL);
    second.map(BASE, Side::System(page), ALL);
    // Of its own vector.
    second.driver.stop();
    second.driver.write(QueueReg::QUEUE_VECTOR, OTHER);
    second.driver.write(QueueReg::QUEUE_CTRL, 1);
    let quiet = fill(BASE, 8, 1);
    let loud = flagged(quiet, JOB_INTERRUPT);
    first.driver.run(&quiet).unwrap();
    assert_eq!(queues.copy.read(Reg::INT_CAUSE.0), 0);
    first.driver.run(&loud).unwrap();
    assert!(mine.wait(1, LIMIT));
    assert_eq!(queues.copy.read(Reg::INT_CAUSE.0), INT_COMPUTE);
    assert_eq!(others.count(), 0);
    queues.copy.write(Reg::INT_CAUSE.0, INT_COMPUTE);

    // While the cause is masked, it is remembered whose vectors are due.
    queues.copy.write(Reg::INT_MASK.0, INT_COMPUTE);
    second.driver.run(&loud).unwrap();
    assert_eq!(queues.copy.read(Reg::INT_CAUSE.0), INT_COMPUTE);
    assert_eq!((mine.count(), others.count()), (1, 0));
    queues.copy.write(Reg::INT_MASK.0, 0);
    assert_eq!((mine.count(), others.count()), (1, 1));

    // A cause that was cleared is not due any more.
    queues.copy.write(Reg::INT_MASK.0, INT_COMPUTE);
    first.driver.run(&loud).unwrap();
    queues.copy.write(Reg::INT_CAUSE.0, INT_COMPUTE);
    queues.copy.write(Reg::INT_MASK.0, 0);
    assert_eq!((mine.count(), others.count()), (1, 1));
}
