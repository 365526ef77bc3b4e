//! Jobs and queues that break rules: an error for them, and nothing for others.

use hmmgpu_contract::compute::{JOB_DST_DMA, JOB_SRC_DMA, Job};
use hmmgpu_contract::desc::Status;
use hmmgpu_contract::regs::{ERROR_CONTEXT0, QUEUE_STATUS_ERROR, QueueReg, Reg};
use hmmgpu_model::mock::descriptors::Side;
use hmmgpu_model::mock::jobs::{chase, copy, fill, flagged};

use super::world::{ALL, BASE, Queues, assert_done, world};
use crate::rig::{MIB, PAGE, RAM_BASE};

const CONTEXT: u32 = 17;

/// The first error since the last look, as the registers show it: status, index and address.
fn first_error(queues: &Queues) -> (Status, u32, u64) {
    let read = |reg: Reg| queues.copy.read(reg.0);
    let status = Status(read(Reg::ERROR_STATUS));
    assert_eq!(read(Reg::ERROR_QUEUE), ERROR_CONTEXT0 + CONTEXT);
    let index = read(Reg::ERROR_INDEX);
    let address = u64::from(read(Reg::ERROR_ADDR_HI)) << 32 | u64::from(read(Reg::ERROR_ADDR_LO));
    queues.copy.write(Reg::ERROR_STATUS.0, 1);
    (status, index, address)
}

#[test]
fn a_job_that_breaks_a_rule_ends_with_its_status() {
    let (world, queues) = world(8 * MIB, 6);
    let mut process = world.process(CONTEXT);
    let page = world.take(PAGE);
    process.map(BASE, Side::System(page), ALL);
    let unknown = Job {
        opcode: 99,
        ..fill(BASE, 8, 1)
    };
    let reserved = Job {
        aux: 1,
        ..fill(BASE, 8, 1)
    };
    let bad = [
        (unknown, Status::STATUS_BAD_OPCODE, 0),
        (reserved, Status::STATUS_BAD_FIELD, 0),
        (fill(u64::MAX, 8, 1), Status::STATUS_BAD_COUNT, 0),
        (
            chase(BASE + 4, 0, 8, 1),
            Status::STATUS_MISALIGNED,
            BASE + 4,
        ),
        (copy(BASE, BASE + 1, 8), Status::STATUS_OVERLAP, BASE),
    ];
    for ((job, status, address), index) in bad.into_iter().zip(0..) {
        let record = process.driver.run(&job).unwrap();
        assert_eq!(Status(record.status), status, "{job:?}");
        assert_eq!((record.done, record.faults), (0, 0));
        assert_eq!(first_error(&queues), (status, index, address));
    }
    assert_eq!(world.ram.read(page, 8), [0; 8]);
    assert_done(&process.driver.run(&fill(BASE, 8, 1)).unwrap(), 8, 0);
}

#[test]
fn dma_addresses_of_a_job_are_checked() {
    let (world, queues) = world(8 * MIB, 6);
    let mut process = world.process(CONTEXT);
    let page = world.take(PAGE);
    process.map(BASE, Side::System(page), ALL);
    let nowhere = 0x9_0000_0000;
    let unmapped = Status::STATUS_DMA_UNMAPPED;
    for job in [
        flagged(copy(BASE, nowhere, 8), JOB_SRC_DMA),
        flagged(copy(nowhere, BASE, 8), JOB_DST_DMA),
    ] {
        let record = process.driver.run(&job).unwrap();
        assert_eq!((Status(record.status), record.done), (unmapped, 0));
        assert_eq!((record.fault_address, record.fault_reason), (0, 0));
        let (status, _, address) = first_error(&queues);
        assert_eq!((status, address), (unmapped, nowhere));
    }
    let end = RAM_BASE + world.ram.size();
    let job = flagged(copy(BASE, end - 100, 200), JOB_SRC_DMA);
    let record = process.driver.run(&job).unwrap();
    assert_eq!((Status(record.status), record.done), (unmapped, 100));
}

#[test]
fn a_job_without_a_record_that_can_be_written_is_not_begun() {
    let (world, queues) = world(8 * MIB, 6);
    let mut process = world.process(CONTEXT);
    let page = world.take(PAGE);
    process.map(BASE, Side::System(page), ALL);
    let job = Job {
        sequence: 1,
        ..fill(BASE, 8, u64::MAX)
    };
    let misaligned = page + 32;
    let nowhere = 0x9_0000_0000;
    for (record, status, index) in [
        (misaligned, Status::STATUS_MISALIGNED, 0),
        (nowhere, Status::STATUS_DMA_UNMAPPED, 1),
    ] {
        process.driver.submit_as_is(&Job { record, ..job }).unwrap();
        process
            .driver
            .until("consumer", |driver| driver.consumer() == index + 1)
            .unwrap();
        assert_eq!(first_error(&queues), (status, index, record));
        assert_eq!(world.ram.read(page, 4096), [0; 4096]);
    }
    assert_done(&process.driver.run(&fill(BASE, 8, 1)).unwrap(), 8, 0);
}

#[test]
fn a_queue_that_cannot_go_on_stops_alone() {
    let (world, queues) = world(8 * MIB, 6);
    let mut process = world.process(CONTEXT);
    let mut other = world.process(CONTEXT + 1);
    let page = world.take(PAGE);
    for process in [&mut process, &mut other] {
        process.map(BASE, Side::System(page), ALL);
    }
    process.driver.publish(17);
    process
        .driver
        .until("error", |driver| {
            driver.read(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_ERROR
        })
        .unwrap();
    assert_eq!(first_error(&queues), (Status::STATUS_BAD_PRODUCER, 0, 17));
    assert_done(&other.driver.run(&fill(BASE, 8, 1)).unwrap(), 8, 0);
    process.driver.stop();
    process.driver.start().unwrap();
    assert_done(&process.driver.run(&fill(BASE, 8, 1)).unwrap(), 8, 0);

    // The ring goes away.
    process.driver.stop();
    process.driver.start().unwrap();
    process
        .driver
        .until("sleep", |driver| driver.need_kick())
        .unwrap();
    world.device.dma_unmap(RAM_BASE, world.ram.size()).unwrap();
    process.driver.publish(1);
    process
        .driver
        .until("error", |driver| {
            driver.read(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_ERROR
        })
        .unwrap();
    assert_eq!(first_error(&queues).0, Status::STATUS_QUEUE_UNREACHABLE);
}
