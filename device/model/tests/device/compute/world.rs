//! A device with contexts, and a driver of all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hmmgpu_contract::compute::JobRecord;
use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_contract::mmu::{FaultRecord, PTE_ATOMIC, PTE_WRITE};
use hmmgpu_contract::regs::INVALIDATION_QUEUE;
use hmmgpu_model::Device;
use hmmgpu_model::mock::descriptors::{Side, copy, invalidate, replay};
use hmmgpu_model::mock::tables::leaf;
use hmmgpu_model::mock::{
    ContextConfig, ContextDriver, Driver, FaultReader, GuestRam, PageTables, QueueConfig,
};

use crate::rig::{MIB, Mock, PAGE, RAM_BASE, assert_clean, device};

/// Where virtual addresses of tests begin: large enough that no DMA address is mistaken for one.
pub(crate) const BASE: u64 = 0x7f00_0000_0000;
/// All permissions.
pub(crate) const ALL: u64 = PTE_WRITE | PTE_ATOMIC;
/// MSI-X vectors.
pub(crate) const FAULT_VECTOR: u32 = 3;
pub(crate) const JOB_VECTOR: u32 = 4;

const COPY_BASE: u64 = 0x20_0000_0000;
const INVALIDATION_BASE: u64 = 0x21_0000_0000;
const FAULT_BASE: u64 = 0x22_0000_0000;
const TABLE_BYTES: u64 = 64 * PAGE;
const RING_LOG2: u32 = 4;

/// The device, and guest RAM in which pages are taken from the beginning.
pub(crate) struct World {
    pub(crate) device: Arc<Device>,
    pub(crate) ram: Arc<GuestRam>,
    next: AtomicU64,
}

/// The queues that are there once.
pub(crate) struct Queues {
    pub(crate) copy: Mock,
    pub(crate) invalidation: Mock,
    pub(crate) faults: FaultReader<Arc<Device>>,
}

fn small_ram(base: u64) -> GuestRam {
    GuestRam::new(base, 1 << 20).expect("guest RAM")
}

/// A driver of a queue with RAM of its own.
fn queue(device: &Arc<Device>, base: u64, queue: u32, vector: u32) -> Mock {
    let config = QueueConfig {
        queue,
        ring_log2: 6,
        vector,
    };
    Driver::new(device.clone(), small_ram(base), config).expect("queue")
}

/// A world with `bytes` of RAM, and its queues.
pub(crate) fn world(bytes: u64, fault_ring_log2: u32) -> (World, Queues) {
    world_of(device(), bytes, fault_ring_log2)
}

/// The same of this device.
pub(crate) fn world_of(device: Arc<Device>, bytes: u64, fault_ring_log2: u32) -> (World, Queues) {
    let ram = GuestRam::new(RAM_BASE, usize::try_from(bytes).expect("size")).expect("guest RAM");
    device
        .dma_map(ram.mapping(0, bytes, true).expect("mapping"))
        .expect("DMA map");
    let copy = queue(&device, COPY_BASE, 0, 1);
    let invalidation = queue(&device, INVALIDATION_BASE, INVALIDATION_QUEUE, 2);
    let ring = small_ram(FAULT_BASE);
    let faults = FaultReader::new(device.clone(), ring, fault_ring_log2, FAULT_VECTOR);
    let queues = Queues {
        copy,
        invalidation,
        faults: faults.expect("fault queue"),
    };
    let world = World {
        device,
        ram: Arc::new(ram),
        next: AtomicU64::new(RAM_BASE),
    };
    (world, queues)
}

impl World {
    /// Takes zeroed RAM.
    pub(crate) fn take(&self, bytes: u64) -> u64 {
        let address = self.next.fetch_add(bytes, Ordering::Relaxed);
        let end = RAM_BASE + self.ram.size();
        assert!(address + bytes <= end, "the test needs more RAM");
        address
    }

    /// Takes RAM at a multiple of 2 MiB.
    pub(crate) fn take_large(&self, bytes: u64) -> u64 {
        let next = self.next.load(Ordering::Relaxed);
        self.take(next.next_multiple_of(2 * MIB) - next);
        self.take(bytes)
    }

    /// A process with an address space of its own in which nothing is mapped.
    pub(crate) fn process(&self, context: u32) -> Process {
        let tables = PageTables::new(self.take(TABLE_BYTES), TABLE_BYTES);
        let config = ContextConfig {
            context,
            ring_log2: RING_LOG2,
            vector: JOB_VECTOR,
            root: tables.root(),
            area: self.take(ContextDriver::<Arc<Device>>::bytes(RING_LOG2)),
        };
        let driver = ContextDriver::new(self.device.clone(), self.ram.clone(), config);
        Process {
            driver: driver.expect("context"),
            ram: self.ram.clone(),
            tables,
        }
    }
}

impl Queues {
    /// Copies whole pages between RAM and VRAM.
    #[track_caller]
    pub(crate) fn copy(&mut self, to: Side, from: Side, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE).expect("count");
        assert_clean(&self.copy.run(&[copy(0, pages, to, from)]).expect("copy"));
    }

    /// Carries out descriptors of the invalidation queue.
    #[track_caller]
    pub(crate) fn invalidation(&mut self, descriptors: &[Desc]) {
        assert_clean(&self.invalidation.run(descriptors).expect("fence"));
    }

    #[track_caller]
    pub(crate) fn invalidate(&mut self, context: u32, address: u64, bytes: u64) {
        self.invalidation(&[invalidate(context, address, bytes)]);
    }

    #[track_caller]
    pub(crate) fn replay(&mut self, fault: &FaultRecord) {
        self.invalidation(&[replay(fault.context, fault.sequence)]);
    }

    #[track_caller]
    pub(crate) fn fault(&mut self) -> FaultRecord {
        self.faults.wait().expect("fault")
    }
}

/// A context, and its page table.
pub(crate) struct Process {
    pub(crate) driver: ContextDriver<Arc<Device>>,
    ram: Arc<GuestRam>,
    tables: PageTables,
}

impl Process {
    /// Sets an entry of 4 KiB.
    pub(crate) fn map(&mut self, address: u64, to: Side, permissions: u64) {
        let entry = leaf(0, to, permissions);
        self.tables.set(&self.ram, address, 0, entry);
    }

    /// Sets an entry of 2 MiB.
    pub(crate) fn map_large(&mut self, address: u64, to: Side, permissions: u64) {
        let entry = leaf(1, to, permissions);
        self.tables.set(&self.ram, address, 1, entry);
    }

    /// Maps `bytes` of pages that follow each other.
    pub(crate) fn map_range(&mut self, address: u64, to: Side, bytes: u64) {
        for page in 0..bytes / PAGE {
            let offset = page * PAGE;
            let to = match to {
                Side::System(address) => Side::System(address + offset),
                Side::Vram(address) => Side::Vram(address + offset),
            };
            self.map(address + offset, to, ALL);
        }
    }

    /// Clears an entry of 2 MiB.
    pub(crate) fn unmap_large(&mut self, address: u64) {
        self.tables.set(&self.ram, address, 1, 0);
    }

    /// Clears an entry of 4 KiB.
    pub(crate) fn unmap(&mut self, address: u64) {
        self.tables.set(&self.ram, address, 0, 0);
    }
}

/// A page that an address lies in.
pub(crate) fn page_of(address: u64) -> u64 {
    address - address % PAGE
}

#[track_caller]
pub(crate) fn assert_done(record: &JobRecord, done: u64, value: u64) {
    assert_eq!(Status(record.status), Status::STATUS_OK, "{record:?}");
    assert_eq!((record.done, record.value), (done, value), "{record:?}");
}

/// What CHECKSUM yields.
pub(crate) fn checksum_of(bytes: &[u8]) -> u64 {
    bytes
        .chunks_exact(8)
        .fold(0xcbf2_9ce4_8422_2325, |h, word| {
            let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            (h ^ word).wrapping_mul(0x100_0000_01b3)
        })
}

/// Numbers that look random, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let other = usize::try_from(self.below(i as u64 + 1)).expect("index");
            items.swap(i, other);
        }
    }
}
