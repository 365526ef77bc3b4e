//! The driver that means harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hmmgpu_contract::compute::Job;
use hmmgpu_contract::desc::{Desc, NOTE_ALLOC};
use hmmgpu_contract::mmu::{PTE_ATOMIC, PTE_VALID, PTE_WRITE};
use hmmgpu_contract::queue::QueueHeader;
use hmmgpu_contract::regs::{
    ERROR_CONTEXT0, FAULT_QUEUE, INVALIDATION_QUEUE, QUEUE_CTRL_ENABLE, QueueReg, RESET_CTRL_RESET,
    Reg, STATE_READY, context_reg, queue_reg,
};
use hmmgpu_model::mock::descriptors::{
    Side, copy, fence, fill, invalidate, mark, note, of_process, process, span_begin,
};
use hmmgpu_model::mock::tables::leaf;
use hmmgpu_model::mock::{Driver, GuestRam, InterruptCounter, QueueConfig, beside, jobs, until};
use hmmgpu_model::{Device, ResetCause};
use hmmgpu_telemetry::{MAX_PROCESSES, MAX_WINDOWS, UNKNOWN_REGISTER_OFFSETS};

use crate::{MIB, PAGE, RAM_BASE, VRAM};

const RAM: u64 = 4 * MIB;
pub(crate) const RAM_KIB: u64 = RAM >> 10;
const FLR: u16 = 1 << 15;
const DEVICE_CONTROL: u64 = 0x68;
/// Memory of a driver that does well.
const GOOD_BASE: u64 = 0x40_0000_0000;
/// Pages that each queue has for its header and a ring of 4096 entries; behind them is the table.
const QUEUE_PAGES: u64 = 65;
const TABLE: u64 = RAM_BASE + QUEUES.len() as u64 * QUEUE_PAGES * PAGE;
const LOG2: u32 = 12;
const QUEUES: [u32; 6] = [
    0,
    1,
    INVALIDATION_QUEUE,
    FAULT_QUEUE,
    ERROR_CONTEXT0,
    ERROR_CONTEXT0 + 1,
];

/// A device, and guest RAM in which everything lies.
pub(crate) struct Hostile {
    device: Arc<Device>,
    ram: GuestRam,
    interrupts: InterruptCounter,
    /// What makes each act another one.
    round: AtomicU64,
}

impl Hostile {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        let ram = GuestRam::new(RAM_BASE, usize::try_from(RAM).expect("size")).expect("guest RAM");
        let hostile = Self {
            device,
            ram,
            interrupts: InterruptCounter::new(),
            round: AtomicU64::new(1),
        };
        hostile.map();
        hostile.enable_all();
        hostile
    }

    /// Does all of it, each on a thread of its own, while `body` runs, and at least once.
    pub(crate) fn run_beside(&self, body: impl FnOnce()) {
        let acts: [&(dyn Fn() + Sync); 8] = [
            &|| self.submit(),
            &|| self.flood_telemetry(),
            &|| self.jump(),
            &|| self.ring_all(),
            &|| self.change_state(),
            &|| self.mask(),
            &|| self.remap(),
            &|| self.reset(),
        ];
        beside(&acts, body);
    }

    /// A number that nobody has had.
    fn next(&self) -> u64 {
        self.round.fetch_add(1, Ordering::Relaxed)
    }

    fn write(&self, offset: u32, value: u32) {
        self.device
            .bar_write(0, offset.into(), &value.to_le_bytes());
    }

    fn write_queue(&self, queue: u32, reg: QueueReg, value: u32) {
        self.write(
            match queue.checked_sub(ERROR_CONTEXT0) {
                Some(context) => context_reg(context, reg),
                None => queue_reg(queue, reg),
            },
            value,
        );
    }

    fn map(&self) {
        let mapping = self.ram.mapping(0, RAM, true).expect("mapping");
        // Another of them may have mapped it.
        let _ = self.device.dma_map(mapping);
    }

    /// Header of a queue; its ring is behind.
    fn header(queue: usize) -> u64 {
        RAM_BASE + queue as u64 * QUEUE_PAGES * PAGE
    }

    fn enable_all(&self) {
        self.device.config_write(4, &6_u16.to_le_bytes());
        for (place, queue) in QUEUES.into_iter().enumerate() {
            let header = Self::header(place);
            self.ram.write(header, &[0; QueueHeader::SIZE]);
            self.write_queue(queue, QueueReg::QUEUE_CTRL, 0);
            for (low, address) in [
                (QueueReg::QUEUE_HEADER_LO, header),
                (QueueReg::QUEUE_RING_LO, header + PAGE),
                (QueueReg::CONTEXT_ROOT_LO, TABLE),
            ] {
                let halves = [address & 0xffff_ffff, address >> 32];
                for (half, word) in halves.into_iter().zip(0..) {
                    let value = u32::try_from(half).expect("half of it");
                    self.write_queue(queue, QueueReg(low.0 + 4 * word), value);
                }
            }
            self.write_queue(queue, QueueReg::QUEUE_RING_LOG2, LOG2);
            self.write_queue(queue, QueueReg::QUEUE_VECTOR, 1);
            self.write_queue(queue, QueueReg::QUEUE_CTRL, QUEUE_CTRL_ENABLE);
        }
    }

    /// Fills a ring from its beginning on, and says that all of it is ready.
    fn publish(&self, place: usize, entries: &[u8]) {
        let header = Self::header(place);
        self.ram.write(header + PAGE, entries);
        let consumer: u32 = self.ram.load(header + 128, Ordering::Acquire);
        let ahead = 1_u32 << LOG2;
        self.ram
            .store(header, consumer.wrapping_add(ahead), Ordering::Release);
        self.write_queue(QUEUES[place], QueueReg::QUEUE_DOORBELL, 1);
    }

    /// Copies, invalidations and jobs, of which most are wrong, some are over rings and page
    /// tables, and some never end.
    fn submit(&self) {
        let round = self.next();
        let at = RAM_BASE + round * PAGE % RAM;
        let descs = [
            copy(9, 1, Side::Vram(0), Side::System(RAM_BASE)),
            copy(0, 3, Side::System(at), Side::Vram(at % VRAM)),
            copy(0, 2, Side::System(RAM_BASE + RAM - PAGE), Side::Vram(0)),
            fill(14, 1, Side::Vram(0), round),
            fill(0, 1, Side::System(at), round),
            fence(at, round, true),
            fill(19, u32::MAX, Side::System(u64::MAX), round),
        ];
        let bytes = |descs: &[Desc], count: usize| -> Vec<u8> {
            let ring = descs.iter().cycle().take(count);
            ring.flat_map(|desc| desc.to_le_bytes()).collect()
        };
        self.publish(0, &bytes(&descs, 4096));
        self.publish(
            2,
            &bytes(&[invalidate(0, 0, 1 << 47), invalidate(9, 1, 0)], 4096),
        );
        // A table that is all levels: its first entry leads to itself, the next to a page that may
        // be a ring, and one to VRAM.
        let entries = [
            TABLE | PTE_VALID,
            leaf(0, Side::System(at), PTE_WRITE | PTE_ATOMIC),
            leaf(1, Side::Vram(0), PTE_WRITE),
            u64::MAX,
        ];
        for (entry, index) in entries.into_iter().zip(0..) {
            self.ram
                .store(TABLE + index * 8, entry.to_le(), Ordering::Release);
        }
        // A list that is a circle, and jobs without end.
        let node = 512;
        self.ram
            .store(TABLE + node, node.to_le(), Ordering::Release);
        let jobs = [
            jobs::fill(4 * MIB, u64::MAX >> 1, round),
            jobs::chase(node, 8, 0, u64::MAX),
            jobs::atomic_add(PAGE, u64::MAX, 1),
        ]
        .map(|job| Job {
            record: TABLE + 1024,
            sequence: round,
            ..job
        });
        for place in [4, 5] {
            let ring: Vec<u8> = jobs
                .iter()
                .cycle()
                .take(64)
                .flat_map(|job| job.to_le_bytes())
                .collect();
            self.publish(place, &ring);
        }
    }

    /// Spans that never end, processes, marks and allocations without number.
    fn flood_telemetry(&self) {
        let ring: Vec<u8> = (0..4096 / 4)
            .flat_map(|_| {
                let round = self.next();
                let pid = u32::try_from(round % 0xffff_ffff).expect("32 bits") + 1;
                [
                    of_process(span_begin(round, 512), pid),
                    process(pid, "a process"),
                    of_process(note(NOTE_ALLOC, 0, 1, round * PAGE % VRAM, 0), pid),
                    mark(round),
                ]
            })
            .flat_map(|desc| desc.to_le_bytes())
            .collect();
        self.publish(1, &ring);
    }

    /// Producer indices anywhere, and queues that are enabled again once they have stopped.
    fn jump(&self) {
        for (place, queue) in QUEUES.into_iter().enumerate() {
            let jump = self.next().wrapping_mul(0x9e37_79b9);
            let index = u32::try_from(jump & 0xffff_ffff).expect("32 bits");
            self.ram
                .store(Self::header(place), index, Ordering::Release);
            self.write_queue(queue, QueueReg::QUEUE_DOORBELL, 1);
        }
        self.enable_all();
    }

    /// Doorbells of all there is, and registers that there are not.
    fn ring_all(&self) {
        for queue in 0..24 {
            self.write_queue(queue, QueueReg::QUEUE_DOORBELL, 1);
            self.write_queue(ERROR_CONTEXT0 + queue, QueueReg::QUEUE_DOORBELL, 1);
        }
        let offset = self.next() * 4 % 0x1_0000;
        self.device.bar_read(0, offset, &mut [0; 4]);
        self.device.bar_read(4, offset, &mut [0; 3]);
    }

    fn change_state(&self) {
        for (offset, value) in [(0x04, 2_u16), (0x44, 3), (0x52, 0xc000), (0x10, 0xffff)] {
            self.device.config_write(offset, &value.to_le_bytes());
        }
        for (offset, value) in [(0x44, 0_u16), (0x52, 0x8000), (0x10, 0), (0x04, 6)] {
            self.device.config_write(offset, &value.to_le_bytes());
        }
    }

    fn mask(&self) {
        for vector in 0..16 {
            self.device.set_interrupt(vector, None);
            self.device.set_interrupt(vector, self.interrupts.sink());
        }
        for mask in [u32::MAX, 0] {
            self.write(Reg::INT_MASK.0, mask);
        }
        self.write(Reg::INT_CAUSE.0, u32::MAX);
    }

    fn remap(&self) {
        // Whichever of both is there.
        let _ = self.device.dma_unmap(RAM_BASE, RAM);
        self.map();
    }

    fn reset(&self) {
        match self.next() % 3 {
            0 => self.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET),
            1 => self.device.config_write(DEVICE_CONTROL, &FLR.to_le_bytes()),
            _ => self.device.reset(ResetCause::VfioUser),
        }
        self.enable_all();
    }

    /// Of what it told of there is as much as there may be: for that it tells more, undisturbed.
    pub(crate) fn is_bounded(&self) {
        self.device.reset(ResetCause::VfioUser);
        self.is_ready();
        self.enable_all();
        for _ in 0..8 {
            self.flood_telemetry();
            let header = Self::header(1);
            let index = |offset| self.ram.load::<u32>(header + offset, Ordering::Acquire);
            until("the ring", || index(0) == index(128)).expect("an engine that goes on");
        }
        let snapshot = self.device.snapshot();
        assert!(snapshot.processes.len() <= MAX_PROCESSES);
        assert!(snapshot.windows.len() <= MAX_WINDOWS);
        assert!(snapshot.events.unknown_registers.len() <= UNKNOWN_REGISTER_OFFSETS);
        assert!(snapshot.vram.used_bytes <= VRAM);
        assert!(snapshot.events.descriptors > 0 && snapshot.windows_dropped > 0);
    }

    fn is_ready(&self) {
        until("ready state", || {
            let mut state = [0; 4];
            self.device.bar_read(0, Reg::STATE.0.into(), &mut state);
            u32::from_le_bytes(state) == STATE_READY
        })
        .expect("ready again");
    }

    /// The device, once it is reset, does what another driver wants.
    pub(crate) fn is_cured(&self) {
        self.device.reset(ResetCause::Disconnect);
        self.is_ready();
        let ram = GuestRam::new(GOOD_BASE, 1 << 20).expect("guest RAM");
        let config = QueueConfig::default();
        let mut driver = Driver::new(self.device.clone(), ram, config).expect("queue");
        let data = driver.data();
        driver.ram().write(data, &[0xa5; 4096]);
        let there = copy(0, 1, Side::Vram(PAGE), Side::System(data));
        let home = copy(0, 1, Side::System(data + PAGE), Side::Vram(PAGE));
        assert_eq!(driver.run(&[there, home]).expect("a fence").errors, 0);
        assert_eq!(driver.ram().read(data + PAGE, 4096), [0xa5; 4096]);
    }
}
