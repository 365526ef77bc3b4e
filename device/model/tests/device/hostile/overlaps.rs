//! Rings that lie on each other, on a fence record, on page tables, and at the ends of what there
//! is: each queue does with that what it finds, and stops no other.

use std::sync::Arc;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::queue::FenceRecord;
use hmmgpu_contract::regs::{
    ERROR_CONTEXT0, FAULT_QUEUE, INVALIDATION_QUEUE, QUEUE_CTRL_ENABLE, QUEUE_STATUS_OFF, QueueReg,
    context_reg, queue_reg,
};
use hmmgpu_model::Device;
use hmmgpu_model::mock::descriptors::{Side, copy, fence, fill};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};

use crate::rig::{MIB, Mock, PAGE, RAM_BASE, assert_clean, device, pattern, ram};

/// Doorbells for each arrangement.
const DOORBELLS: u32 = 200;
/// Memory of a driver that does well.
const GOOD_BASE: u64 = 0x40_0000_0000;

fn write(device: &Device, queue: u32, reg: QueueReg, value: u32) {
    let offset = match queue.checked_sub(ERROR_CONTEXT0) {
        Some(context) => context_reg(context, reg),
        None => queue_reg(queue, reg),
    };
    device.bar_write(0, offset.into(), &value.to_le_bytes());
}

fn write_address(device: &Device, queue: u32, low: QueueReg, address: u64) {
    let halves = [address & 0xffff_ffff, address >> 32];
    for (half, word) in halves.into_iter().zip(0..) {
        let value = u32::try_from(half).expect("half of it");
        write(device, queue, QueueReg(low.0 + 4 * word), value);
    }
}

fn enable(device: &Device, queue: u32, header: u64, ring: u64) {
    write(device, queue, QueueReg::QUEUE_CTRL, 0);
    write_address(device, queue, QueueReg::QUEUE_HEADER_LO, header);
    write_address(device, queue, QueueReg::QUEUE_RING_LO, ring);
    write(device, queue, QueueReg::QUEUE_RING_LOG2, 4);
    write(device, queue, QueueReg::QUEUE_VECTOR, 1);
    if queue >= ERROR_CONTEXT0 {
        write_address(device, queue, QueueReg::CONTEXT_ROOT_LO, ring);
    }
    write(device, queue, QueueReg::QUEUE_CTRL, QUEUE_CTRL_ENABLE);
}

/// A queue of the same device, with memory of its own, that does what it is told.
fn does_well(device: &Arc<Device>, queue: u32) {
    let memory = GuestRam::new(GOOD_BASE, 1 << 20).expect("guest RAM");
    let config = QueueConfig {
        queue,
        ..QueueConfig::default()
    };
    let mut driver = Driver::new(device.clone(), memory, config).expect("queue");
    let data = driver.data();
    driver.ram().write(data, &pattern(3, 4096));
    let there = copy(0, 1, Side::Vram(0), Side::System(data));
    let back = copy(0, 1, Side::System(data + PAGE), Side::Vram(0));
    assert_clean(&driver.run(&[there, back]).expect("a fence"));
    assert_eq!(driver.ram().read(data + PAGE, 4096), pattern(3, 4096));
    driver.stop();
    device.dma_unmap(GOOD_BASE, MIB).expect("what is mapped");
}

#[test]
fn queues_on_each_other_stop_nobody_else() {
    // In pages from the memory's beginning: header and ring of each queue.
    let arrangements: [&[(u32, u64, u64)]; 6] = [
        // A ring on its own header.
        &[(0, 0, 0)],
        // Two queues in the same place.
        &[(0, 0, 1), (INVALIDATION_QUEUE, 0, 1)],
        // Each one's ring is the other's header.
        &[(0, 0, 1), (INVALIDATION_QUEUE, 1, 0)],
        // The device tells of faults in the ring that it reads descriptors from.
        &[(0, 0, 1), (FAULT_QUEUE, 1, 1), (ERROR_CONTEXT0, 0, 2)],
        // A page table in the ring of jobs, on a header.
        &[(ERROR_CONTEXT0, 0, 0), (ERROR_CONTEXT0 + 1, 0, 0)],
        // All in one page.
        &[
            (0, 0, 0),
            (INVALIDATION_QUEUE, 0, 0),
            (FAULT_QUEUE, 0, 0),
            (ERROR_CONTEXT0, 0, 0),
        ],
    ];
    let device = device();
    let memory = ram(MIB);
    device
        .dma_map(memory.mapping(0, MIB, true).expect("mapping"))
        .expect("DMA map");
    device.config_write(4, &6_u16.to_le_bytes());
    // Fences that are written over the rings, headers and page tables themselves.
    let noise: Vec<u8> = (0..64)
        .flat_map(|i: u64| {
            let at = RAM_BASE + i * 64 % (2 * PAGE);
            let desc = match i % 3 {
                0 => fence(at, 5, true),
                1 => fill(
                    0,
                    1,
                    Side::System(RAM_BASE + i % 3 * PAGE),
                    0x0101_0101_0101_0101,
                ),
                _ => copy(0, 1, Side::System(RAM_BASE), Side::System(RAM_BASE + PAGE)),
            };
            desc.to_le_bytes()
        })
        .collect();
    for arrangement in arrangements {
        for page in 0..3 {
            memory.write(RAM_BASE + page * PAGE, &noise);
        }
        for (queue, header, ring) in arrangement {
            let at = |page: &u64| RAM_BASE + page * PAGE;
            enable(&device, *queue, at(header), at(ring));
        }
        for doorbell in 0..DOORBELLS {
            for (queue, header, _) in arrangement {
                let producer = RAM_BASE + header * PAGE;
                memory.write(producer, &(doorbell % 20).to_le_bytes());
                write(&device, *queue, QueueReg::QUEUE_DOORBELL, 1);
            }
        }
        does_well(&device, 1);
        for (queue, ..) in arrangement {
            write(&device, *queue, QueueReg::QUEUE_CTRL, 0);
        }
        let before = memory.read(RAM_BASE, 1 << 20);
        does_well(&device, 0);
        let after = memory.read(RAM_BASE, 1 << 20);
        assert!(
            before == after,
            "written by a queue that is off: {arrangement:?}"
        );
    }
    let snapshot = device.snapshot();
    assert!(snapshot.queues.is_empty(), "{:?}", snapshot.queues);
}

#[test]
fn a_fence_record_on_its_own_ring_or_header_is_the_driver_s_own_loss() {
    let mut driver: Mock = Driver::new(device(), ram(MIB), QueueConfig::default()).expect("queue");
    let header = driver.header();
    for at in (0..2 * PAGE).step_by(FenceRecord::SIZE) {
        driver
            .submit(&[fence(header + at, 1, true)])
            .expect("room in the ring");
        // It may have written its consumer or the driver's producer index.
        driver
            .until("an end of it", |driver| {
                driver.consumer() == driver.producer()
                    || driver.read_queue(QueueReg::QUEUE_STATUS) != 1
                    || at < 192
            })
            .expect("an engine that goes on");
        driver.stop();
        assert_eq!(driver.read_queue(QueueReg::QUEUE_STATUS), QUEUE_STATUS_OFF);
        driver.start().expect("a queue that runs");
        driver.run(&[]).expect("a fence");
    }
}

#[test]
fn memory_at_the_end_of_all_addresses() {
    // The last page of all has no address behind it, and so cannot be mapped.
    let size = 1_u64 << 20;
    let base = u64::MAX - 0xfff - size;
    let memory = GuestRam::new(base, 1 << 20).expect("guest RAM");
    let mut driver = Driver::new(device(), memory, QueueConfig::default()).expect("queue");
    let last = base + size - PAGE;
    driver.ram().write(last, &pattern(1, 4096));
    let there = copy(0, 1, Side::Vram(0), Side::System(last));
    assert_clean(&driver.run(&[there]).expect("a fence"));
    for (address, count) in [(last, 2), (last, u32::MAX >> 5), (u64::MAX - 0xfff, 1)] {
        for desc in [
            copy(0, count, Side::System(address), Side::Vram(0)),
            copy(0, count, Side::Vram(0), Side::System(address)),
            fill(0, count, Side::System(address), 7),
        ] {
            let record = driver.run(&[desc]).expect("a fence");
            assert_eq!(record.errors, 1, "{desc:?}");
            assert_ne!(Status(record.status), Status::STATUS_OK, "{desc:?}");
        }
    }
    let record = driver
        .run(&[fence(u64::MAX - 31, 1, false)])
        .expect("a fence");
    assert_eq!(record.errors, 1);
    assert_eq!(driver.ram().read(last, 4096), pattern(1, 4096));

    // A ring whose first entries are the last that can be reached.
    driver.stop();
    write_address(driver.function(), 0, QueueReg::QUEUE_RING_LO, last);
    write(driver.function(), 0, QueueReg::QUEUE_RING_LOG2, 16);
    driver.ram().write(driver.header(), &[0; 192]);
    write(
        driver.function(),
        0,
        QueueReg::QUEUE_CTRL,
        QUEUE_CTRL_ENABLE,
    );
    driver.publish(1 << 16);
    driver
        .until("the ring's end", |driver| {
            driver.read_queue(QueueReg::QUEUE_STATUS) == 2
        })
        .expect("an error");
    assert_eq!(
        driver.consumer(),
        4096 / 32,
        "entries that could be reached"
    );
    driver.stop();
    does_well(&driver.function().clone(), 0);
}
