//! Rings that wrap and rings that are wrong; addresses at the ends of what there is.

use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_contract::regs::{
    INT_ERROR, QUEUE_STATUS_ERROR, QUEUE_STATUS_OFF, QUEUE_STATUS_RUNNING, QueueReg, Reg,
};
use hmmgpu_model::mock::descriptors::{Side, copy, fence, fill};
use hmmgpu_model::mock::{Driver, QueueConfig};

use crate::rig::{
    MIB, Mock, PAGE, RAM_BASE, VRAM, assert_clean, assert_one, device, mock, pattern, ram,
};

fn error(driver: &Mock) -> Status {
    Status(driver.read(Reg::ERROR_STATUS.0))
}

#[test]
fn the_smallest_ring_wraps_many_times() {
    let config = QueueConfig {
        ring_log2: 2,
        ..QueueConfig::default()
    };
    let mut driver = Driver::new(device(), ram(MIB), config).unwrap();
    let data = driver.data();
    for round in 0..500_u64 {
        let descs: Vec<Desc> = (0..5)
            .map(|i| fill(0, 1, Side::System(data + i * PAGE), round * 8 + i))
            .collect();
        assert_clean(&driver.run(&descs).unwrap());
        assert_eq!(driver.consumer(), driver.producer(), "room up to the fence");
        for i in 0..5 {
            let page = driver.ram().read(data + i * PAGE, 4096);
            assert_eq!(page, (round * 8 + i).to_le_bytes().repeat(512));
        }
    }
    assert_eq!(driver.producer(), 500 * 6);
}

#[test]
fn the_largest_ring_is_taken_full() {
    let config = QueueConfig {
        ring_log2: 16,
        ..QueueConfig::default()
    };
    let mut driver = Driver::new(device(), ram(4 * MIB), config).unwrap();
    let record = driver.record_address();
    let descs: Vec<Desc> = (1..=1 << 16).map(|seq| fence(record, seq, false)).collect();
    driver.submit(&descs).unwrap();
    assert_clean(&driver.wait(1 << 16).unwrap());
    assert_eq!(driver.function().snapshot().events.fences, 1 << 16);
}

#[test]
fn a_producer_too_far_ahead_stops_the_queue_until_it_is_enabled_anew() {
    let mut driver = mock(MIB);
    driver.publish(65);
    driver
        .until("error", |driver| {
            driver.read_queue(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_ERROR
        })
        .unwrap();
    driver
        .until("record", |driver| error(driver) != Status::STATUS_OK)
        .unwrap();
    assert_eq!(error(&driver), Status::STATUS_BAD_PRODUCER);
    assert_eq!(driver.read(Reg::INT_CAUSE.0), INT_ERROR);
    driver.stop();
    assert_eq!(driver.read_queue(QueueReg::QUEUE_STATUS), QUEUE_STATUS_OFF);
    driver.start().unwrap();
    assert_clean(&driver.run(&[]).unwrap());
}

#[test]
fn unreachable_queues_stop_with_an_error() {
    let mut driver = mock(MIB);
    let function = driver.function().clone();
    function.dma_unmap(RAM_BASE, MIB).unwrap();
    driver.write_queue(QueueReg::QUEUE_DOORBELL, 1);
    driver
        .until("error", |driver| {
            driver.read_queue(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_ERROR
        })
        .unwrap();
    driver
        .until("record", |driver| error(driver) != Status::STATUS_OK)
        .unwrap();
    assert_eq!(error(&driver), Status::STATUS_QUEUE_UNREACHABLE);

    // A ring beyond the memory, though its header is there.
    driver.stop();
    driver.write(Reg::ERROR_STATUS.0, 0);
    function
        .dma_map(driver.ram().mapping(0, PAGE, true).unwrap())
        .unwrap();
    driver.start().unwrap();
    driver.publish(1);
    driver
        .until("error", |driver| {
            driver.read_queue(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_ERROR
        })
        .unwrap();
    assert_eq!(driver.read_queue(QueueReg::QUEUE_CTRL), 1);
}

#[test]
fn a_disabled_queue_touches_nothing_and_starts_from_zero() {
    let mut driver = mock(MIB);
    assert_clean(&driver.run(&[]).unwrap());
    driver.stop();
    let before = driver.ram().read(RAM_BASE, usize::try_from(MIB).unwrap());
    driver.write_queue(QueueReg::QUEUE_DOORBELL, 1);
    assert_eq!(driver.read_queue(QueueReg::QUEUE_STATUS), QUEUE_STATUS_OFF);
    // Another queue of the same device is served meanwhile.
    let config = QueueConfig {
        queue: 1,
        ..QueueConfig::default()
    };
    let other = hmmgpu_model::mock::GuestRam::new(0x2_0000_0000, 1 << 20).unwrap();
    let mut other = Driver::new(driver.function().clone(), other, config).unwrap();
    assert_clean(&other.run(&[]).unwrap());
    let after = driver.ram().read(RAM_BASE, usize::try_from(MIB).unwrap());
    assert!(before == after, "a disabled queue wrote to memory");

    driver.start().unwrap();
    assert_eq!(
        driver.read_queue(QueueReg::QUEUE_STATUS),
        QUEUE_STATUS_RUNNING
    );
    assert_clean(&driver.run(&[]).unwrap());
    assert_eq!(driver.producer(), 1);
}

#[test]
fn system_addresses_at_and_beyond_the_ends_of_the_map() {
    let mut driver = mock(MIB);
    let end = RAM_BASE + MIB;
    let last = end - PAGE;
    let data = pattern(1, 4096);
    driver.ram().write(last, &data);
    let before = driver.ram().read(last, 4096);
    assert_clean(
        &driver
            .run(&[copy(0, 1, Side::Vram(0), Side::System(last))])
            .unwrap(),
    );
    let outside = [
        (end, 1_u32),         // right behind
        (last, 2),            // across the end
        (RAM_BASE - PAGE, 2), // across the beginning
        (0, 1),               // far away
        (u64::MAX - 4095, 1), // the last page that has an address
        (u64::MAX - 4095, 2), // wraps around
    ];
    for (address, count) in outside {
        let descs = [copy(0, count, Side::System(address), Side::Vram(4 * PAGE))];
        let record = driver.run(&descs).unwrap();
        assert_one(&record, Status::STATUS_DMA_UNMAPPED);
        let descs = [copy(0, count, Side::Vram(4 * PAGE), Side::System(address))];
        assert_one(&driver.run(&descs).unwrap(), Status::STATUS_DMA_UNMAPPED);
        let descs = [fill(0, count, Side::System(address), 7)];
        assert_one(&driver.run(&descs).unwrap(), Status::STATUS_DMA_UNMAPPED);
    }
    let after = driver.ram().read(last, 4096);
    assert!(before == after, "a refused descriptor wrote its first page");
}

#[test]
fn vram_offsets_at_and_beyond_the_end() {
    let mut driver = mock(MIB);
    let data = driver.data();
    let last = VRAM - PAGE;
    driver.ram().write(data, &pattern(2, 4096));
    let there = copy(0, 1, Side::Vram(last), Side::System(data));
    let back = copy(0, 1, Side::System(data + PAGE), Side::Vram(last));
    assert_clean(&driver.run(&[there, back]).unwrap());
    assert_eq!(driver.ram().read(data + PAGE, 4096), pattern(2, 4096));
    for (offset, count) in [
        (VRAM, 1),
        (last, 2),
        (u64::MAX - 4095, 1),
        (u64::MAX - 4095, 2),
    ] {
        let descs = [copy(0, count, Side::Vram(offset), Side::System(data))];
        assert_one(&driver.run(&descs).unwrap(), Status::STATUS_VRAM_RANGE);
        let descs = [copy(0, count, Side::System(data), Side::Vram(offset))];
        assert_one(&driver.run(&descs).unwrap(), Status::STATUS_VRAM_RANGE);
        let address = driver.read(Reg::ERROR_ADDR_HI.0);
        let address = u64::from(address) << 32 | u64::from(driver.read(Reg::ERROR_ADDR_LO.0));
        assert_eq!(address, offset);
        driver.write(Reg::ERROR_STATUS.0, 0);
    }
    assert_eq!(driver.ram().read(data, 4096), pattern(2, 4096));
}

#[test]
fn a_fence_that_cannot_be_written_is_told_by_the_next() {
    let mut driver = mock(MIB);
    let record = driver
        .run(&[
            fence(0x1000, 77, true),
            fence(driver.record_address() + 8, 78, false),
        ])
        .unwrap();
    assert_eq!(record.errors, 2);
    assert_eq!(Status(record.status), Status::STATUS_DMA_UNMAPPED);
    assert_eq!(record.error_index, 0);
    assert_clean(&driver.run(&[]).unwrap());
    assert_eq!(error(&driver), Status::STATUS_DMA_UNMAPPED);
    assert_eq!(driver.read(Reg::ERROR_COUNT.0), 2);
}
