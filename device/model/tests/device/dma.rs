//! The DMA map: what is taken, what is refused, and what a map that goes away does to copies.

use hmmgpu_contract::desc::Status;
use hmmgpu_model::mock::descriptors::{Side, copy, fill};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{DmaMapping, MAX_DMA_MAPS};
use std::sync::atomic::Ordering;

use crate::rig::{MIB, PAGE, RAM_BASE, assert_clean, assert_one, device, mock, pattern};

/// DMA addresses of memory apart from the queue's.
const ELSEWHERE: u64 = 0x40_0000_0000;

fn elsewhere(bytes: u64) -> GuestRam {
    GuestRam::new(ELSEWHERE, usize::try_from(bytes).unwrap()).unwrap()
}

fn bare(address: u64, size: u64) -> DmaMapping {
    DmaMapping {
        address,
        size,
        read: true,
        write: true,
        backing: None,
    }
}

#[test]
fn errors_have_the_errno_of_vfio() {
    const EINVAL: i32 = 22;
    const EEXIST: i32 = 17;
    const ENOENT: i32 = 2;
    const ENOSPC: i32 = 28;
    let device = device();
    let map = |mapping| device.dma_map(mapping).map_err(|error| error.errno());
    let unmap = |address, size| {
        device
            .dma_unmap(address, size)
            .map_err(|error| error.errno())
    };
    assert_eq!(map(bare(0x10_0000, 0x10_0000)), Ok(()));
    assert_eq!(map(bare(0x20_0000, 0x10_0000)), Ok(()));
    for (address, size) in [
        (0x10_0000, 0x10_0000),
        (0x1f_f000, 0x1000),
        (0x10_0000, 0x1000),
        (0, u64::MAX - 4095),
        (0x0f_f000, 0x2000),
        (0x2f_f000, 0x2000),
    ] {
        assert_eq!(
            map(bare(address, size)),
            Err(EEXIST),
            "{address:#x}+{size:#x}"
        );
    }
    for (address, size) in [
        (0, 0),
        (0x800, 0x1000),
        (0, 0x800),
        (u64::MAX - 4095, 4096),
        (u64::MAX - 4095, u64::MAX - 4095),
        (4096, u64::MAX - 4095),
    ] {
        assert_eq!(
            map(bare(address, size)),
            Err(EINVAL),
            "{address:#x}+{size:#x}"
        );
        assert_eq!(unmap(address, size), Err(EINVAL), "{address:#x}+{size:#x}");
    }
    let ram = elsewhere(2 * PAGE);
    let mut beyond = ram.mapping(0, 2 * PAGE, true).unwrap();
    beyond.size = 3 * PAGE;
    assert_eq!(map(beyond), Err(EINVAL), "the file is shorter than the map");
    let mut neither = ram.mapping(0, PAGE, false).unwrap();
    neither.read = false;
    assert_eq!(map(neither), Err(EINVAL));
    let mut shifted = ram.mapping(0, PAGE, false).unwrap();
    shifted.backing.as_mut().unwrap().1 = 100;
    assert_eq!(map(shifted), Err(EINVAL));

    assert_eq!(unmap(0x40_0000, 0x1000), Err(ENOENT));
    assert_eq!(unmap(0x10_0000, 0x1000), Err(EINVAL), "a part of a map");
    assert_eq!(unmap(0x10_0000, 0x20_0000), Err(EINVAL), "two maps");
    assert_eq!(unmap(0x18_0000, 0x8_0000), Err(EINVAL), "the end of a map");
    assert_eq!(device.snapshot().events.dma_maps, 2);
    assert_eq!(device.snapshot().events.dma_map_errors, 15);
    assert_eq!(unmap(0x10_0000, 0x10_0000), Ok(()));
    assert_eq!(unmap(0x10_0000, 0x10_0000), Err(ENOENT));
    device.dma_unmap_all();
    assert_eq!(device.snapshot().events.dma_maps, 0);

    for i in 0..MAX_DMA_MAPS as u64 {
        assert_eq!(map(bare(i * 2 * PAGE, PAGE)), Ok(()));
    }
    assert_eq!(map(bare(PAGE, PAGE)), Err(ENOSPC));
}

#[test]
fn read_only_maps_are_read_and_never_written() {
    let mut driver = mock(MIB);
    let rom = elsewhere(4 * PAGE);
    rom.write(ELSEWHERE, &pattern(3, 4 * 4096));
    driver
        .function()
        .dma_map(rom.mapping(0, 4 * PAGE, false).unwrap())
        .unwrap();
    let data = driver.data();
    let read = copy(2, 1, Side::System(data), Side::System(ELSEWHERE));
    assert_clean(&driver.run(&[read]).unwrap());
    assert_eq!(driver.ram().read(data, 4 * 4096), pattern(3, 4 * 4096));
    for desc in [
        copy(0, 1, Side::System(ELSEWHERE), Side::System(data)),
        fill(0, 1, Side::System(ELSEWHERE), 0),
        hmmgpu_model::mock::descriptors::fence(ELSEWHERE, 1, false),
    ] {
        assert_one(&driver.run(&[desc]).unwrap(), Status::STATUS_DMA_PERMISSION);
    }
    assert_eq!(rom.read(ELSEWHERE, 4 * 4096), pattern(3, 4 * 4096));
}

#[test]
fn maps_without_a_file_are_remembered_but_not_reachable() {
    let mut driver = mock(MIB);
    driver.function().dma_map(bare(ELSEWHERE, PAGE)).unwrap();
    let data = driver.data();
    for desc in [
        copy(0, 1, Side::System(ELSEWHERE), Side::System(data)),
        copy(0, 1, Side::System(data), Side::System(ELSEWHERE)),
    ] {
        assert_one(&driver.run(&[desc]).unwrap(), Status::STATUS_DMA_UNMAPPED);
    }
    driver.function().dma_unmap(ELSEWHERE, PAGE).unwrap();
}

#[test]
fn one_access_may_span_adjacent_maps() {
    let mut driver = mock(8 * MIB);
    let ram = elsewhere(4 * MIB);
    ram.write(ELSEWHERE, &pattern(4, 4 << 20));
    // Pieces that cut neither at chunks nor at folios.
    for (offset, size) in [
        (0, 3 * PAGE),
        (3 * PAGE, MIB),
        (MIB + 3 * PAGE, 3 * MIB - 3 * PAGE),
    ] {
        driver
            .function()
            .dma_map(ram.mapping(offset, size, true).unwrap())
            .unwrap();
    }
    let there = copy(9, 2, Side::Vram(0), Side::System(ELSEWHERE));
    let zero = fill(10, 1, Side::System(ELSEWHERE), 0);
    assert_clean(&driver.run(&[there, zero]).unwrap());
    assert!(ram.read(ELSEWHERE, 4 << 20).iter().all(|byte| *byte == 0));
    let back = copy(10, 1, Side::System(ELSEWHERE), Side::Vram(0));
    assert_clean(&driver.run(&[back]).unwrap());
    assert!(ram.read(ELSEWHERE, 4 << 20) == pattern(4, 4 << 20));
    // With a hole in the middle, nothing at all is written.
    driver
        .function()
        .dma_unmap(ELSEWHERE + 3 * PAGE, MIB)
        .unwrap();
    let record = driver
        .run(&[fill(10, 1, Side::System(ELSEWHERE), 9)])
        .unwrap();
    assert_one(&record, Status::STATUS_DMA_UNMAPPED);
    assert!(ram.read(ELSEWHERE, 4 << 20) == pattern(4, 4 << 20));
}

#[test]
fn a_map_removed_in_the_middle_of_a_copy_is_not_written_afterwards() {
    const BYTES: u64 = 128 * MIB;
    let mut driver = Driver::new(device(), crate::rig::ram(MIB), QueueConfig::default()).unwrap();
    // A copy may be over before the unmap comes; then the next attempt counts.
    for attempt in 1..=50_u64 {
        let ram = elsewhere(BYTES);
        driver
            .function()
            .dma_map(ram.mapping(0, BYTES, true).unwrap())
            .unwrap();
        driver
            .submit(&[fill(15, 1, Side::System(ELSEWHERE), attempt)])
            .unwrap();
        let sequence = driver.fence(false).unwrap();
        driver
            .until("first bytes", |_| {
                ram.load::<u64>(ELSEWHERE, Ordering::Acquire) == attempt
            })
            .unwrap();
        driver.function().dma_unmap(ELSEWHERE, BYTES).unwrap();
        let written = |page: &u64| ram.load::<u64>(ELSEWHERE + page * PAGE, Ordering::Acquire) != 0;
        let pages = BYTES / PAGE;
        let after_unmap = (0..pages).filter(written).count();
        let record = driver.wait(sequence).unwrap();
        assert_eq!((0..pages).filter(written).count(), after_unmap);
        if record.errors == 1 {
            assert_eq!(Status(record.status), Status::STATUS_DMA_UNMAPPED);
            assert!((after_unmap as u64) < pages);
            let after = driver.run(&[fill(0, 1, Side::System(RAM_BASE + MIB - PAGE), 0)]);
            assert_clean(&after.unwrap());
            return;
        }
        assert_clean(&record);
    }
    panic!("no unmap came in the middle of a copy");
}
