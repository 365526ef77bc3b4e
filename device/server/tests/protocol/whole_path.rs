//! The whole path over the real socket: a driver in another client implementation sets a queue
//! up, and the engine copies between its memory and VRAM, writes the fence, and interrupts.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use hmmgpu_contract::desc::{
    Desc, FLAG_DST_VRAM, FLAG_INTERRUPT, FLAG_SRC_VRAM, OP_COPY, OP_FENCE, Status,
};
use hmmgpu_contract::queue::{FenceRecord, QueueHeader};
use hmmgpu_contract::regs::{
    QUEUE_CTRL_ENABLE, QUEUE_STATUS_RUNNING, QueueReg, Reg, STATE_READY, queue_reg,
};
use hmmgpu_contract::{PAGE_SHIFT, PAGE_SIZE};
use hmmgpu_telemetry::snapshot::Direction;
use vfio_user::Client;

use crate::common::*;
use crate::serve::Running;

/// Where the driver's memory is for the device: above 4 GiB, so that both halves of addresses
/// count.
const BASE: u64 = 0x12_0000_0000;
const MEMORY_BYTES: u64 = 4 << 20;
/// Offsets in the memory.
const HEADER: u64 = 0;
const RING: u64 = 0x1000;
const FENCE: u64 = 0x2000;
const SOURCE: u64 = 0x10_0000;
const TARGET: u64 = 0x20_0000;
const RING_LOG2: u32 = 4;
const VECTOR: u32 = 3;

pub(crate) struct Driver {
    pub(crate) client: Client,
    memory: File,
    interrupt: OwnedFd,
    producer: u32,
    sequence: u64,
}

impl Driver {
    pub(crate) fn new(socket: &Path) -> Self {
        let mut client = Client::new(socket).expect("a client");
        let memory = memory(MEMORY_BYTES);
        client
            .dma_map(0, BASE, MEMORY_BYTES, memory.as_raw_fd())
            .expect("map");
        let interrupt = event();
        let (msix, eventfd_trigger) = (2, 4 | 32);
        client
            .set_irqs(msix, eventfd_trigger, VECTOR, 1, &[interrupt.as_raw_fd()])
            .expect("set_irqs");
        // Memory space and bus mastering on.
        client
            .region_write(CONFIG, 4, &6u16.to_le_bytes())
            .expect("command");
        let mut driver = Self {
            client,
            memory,
            interrupt,
            producer: 0,
            sequence: 0,
        };
        while driver.read(Reg::STATE.0) != STATE_READY {
            std::thread::yield_now();
        }
        driver.set_queue_up();
        driver
    }

    fn read(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.client
            .region_read(0, offset.into(), &mut data)
            .expect("read");
        u32::from_le_bytes(data)
    }

    fn write(&mut self, register: QueueReg, value: u32) {
        let offset = queue_reg(0, register).into();
        self.client
            .region_write(0, offset, &value.to_le_bytes())
            .expect("write");
    }

    fn set_queue_up(&mut self) {
        let low = |address: u64| u32::try_from(address & 0xffff_ffff).expect("low half");
        let high = |address: u64| u32::try_from(address >> 32).expect("high half");
        self.write(QueueReg::QUEUE_HEADER_LO, low(BASE + HEADER));
        self.write(QueueReg::QUEUE_HEADER_HI, high(BASE + HEADER));
        self.write(QueueReg::QUEUE_RING_LO, low(BASE + RING));
        self.write(QueueReg::QUEUE_RING_HI, high(BASE + RING));
        self.write(QueueReg::QUEUE_RING_LOG2, RING_LOG2);
        self.write(QueueReg::QUEUE_VECTOR, VECTOR);
        self.write(QueueReg::QUEUE_CTRL, QUEUE_CTRL_ENABLE);
        assert_eq!(
            self.read(queue_reg(0, QueueReg::QUEUE_STATUS)),
            QUEUE_STATUS_RUNNING
        );
    }

    fn store(&self, offset: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, offset).expect("store");
    }

    fn load<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, offset).expect("load");
        bytes
    }

    /// Queues descriptors and a fence, rings the doorbell, sleeps for the interrupt.
    pub(crate) fn run(&mut self, descriptors: &[Desc]) -> FenceRecord {
        self.queue(descriptors);
        wait(&self.interrupt);
        let record = self.fence();
        assert_eq!(record.sequence, self.sequence);
        record
    }

    /// Queues descriptors and a fence, and rings the doorbell.
    fn queue(&mut self, descriptors: &[Desc]) {
        self.queue_with(descriptors, FLAG_INTERRUPT);
    }

    /// Waits until all that was queued is done, and interrupts are raised.
    fn settle(&mut self) {
        self.queue_with(&[], 0);
        while self.fence().sequence != self.sequence {
            std::thread::yield_now();
        }
    }

    fn queue_with(&mut self, descriptors: &[Desc], flags: u16) {
        self.sequence += 1;
        let fence = Desc {
            opcode: OP_FENCE,
            flags,
            dst: BASE + FENCE,
            arg: self.sequence,
            ..Desc::default()
        };
        for descriptor in descriptors.iter().chain([&fence]) {
            let slot = u64::from(self.producer & ((1 << RING_LOG2) - 1));
            self.store(RING + slot * Desc::SIZE as u64, &descriptor.to_le_bytes());
            self.producer += 1;
        }
        self.store(HEADER, &self.producer.to_le_bytes());
        self.write(QueueReg::QUEUE_DOORBELL, 1);
    }

    /// Waits until the engine has nothing more to do, and has said all of it.
    pub(crate) fn idle(&self) {
        while self.consumer() != self.producer {
            std::thread::yield_now();
        }
    }

    fn fence(&self) -> FenceRecord {
        FenceRecord::from_le_bytes(&self.load(FENCE))
    }

    fn consumer(&self) -> u32 {
        let header = QueueHeader::from_le_bytes(&self.load(HEADER));
        header.consumer
    }
}

/// Four pages each way; `vram` is an offset.
pub(crate) fn to_vram(vram: u64) -> Desc {
    Desc {
        opcode: OP_COPY,
        flags: FLAG_DST_VRAM,
        count: 4,
        dst: vram,
        src: BASE + SOURCE,
        ..Desc::default()
    }
}

pub(crate) fn from_vram(vram: u64) -> Desc {
    Desc {
        opcode: OP_COPY,
        flags: FLAG_SRC_VRAM,
        count: 4,
        dst: BASE + TARGET,
        src: vram,
        ..Desc::default()
    }
}

const BYTES: usize = 4 << PAGE_SHIFT;

fn secret() -> Vec<u8> {
    (0..BYTES as u64).map(|at| pattern(at) | 1).collect()
}

#[test]
fn memory_goes_to_vram_and_comes_home() {
    let server = Running::start();
    let socket = server.socket.clone();
    bounded(move || {
        let mut driver = Driver::new(&socket);
        driver.store(SOURCE, &secret());
        // Often enough for the ring to wrap.
        for round in 0..20u64 {
            let vram = round * 3 * PAGE_SIZE;
            driver.store(TARGET, &[0; BYTES]);
            let record = driver.run(&[to_vram(vram), from_vram(vram)]);
            assert_eq!(
                (Status(record.status), record.errors),
                (Status::STATUS_OK, 0)
            );
            assert!(
                driver.load::<BYTES>(TARGET)[..] == secret()[..],
                "round {round}"
            );
        }
        // The engine says so when it finds nothing more to do, after the last interrupt.
        driver.idle();
    });
    let snapshot = server.stop();
    for direction in [Direction::SysToDev, Direction::DevToSys] {
        let moved: Vec<_> = snapshot
            .transfers
            .iter()
            .filter(|row| row.direction == direction)
            .collect();
        assert_eq!(moved.len(), 1, "{moved:?}");
        assert_eq!((moved[0].order, moved[0].folios), (0, 80));
        assert_eq!(moved[0].bytes, 80 * PAGE_SIZE);
    }
    assert_eq!(snapshot.events.fences, 20);
    assert_eq!(snapshot.events.interrupts, 20);
}

#[test]
fn the_engine_reaches_nothing_but_what_is_mapped() {
    let server = Running::start();
    let socket = server.socket.clone();
    bounded(move || {
        let mut driver = Driver::new(&socket);
        let mut astray = to_vram(0);
        astray.src = 0x1000;
        let record = driver.run(&[astray]);
        assert_eq!(
            (Status(record.status), record.errors),
            (Status::STATUS_DMA_UNMAPPED, 1)
        );

        // Another piece of memory, while it is mapped, and afterwards.
        let extra = memory(1 << 20);
        let address = BASE + (1 << 32);
        driver
            .client
            .dma_map(0, address, 1 << 20, extra.as_raw_fd())
            .expect("map");
        let mut elsewhere = from_vram(0);
        elsewhere.dst = address;
        driver.store(SOURCE, &secret());
        let record = driver.run(&[to_vram(0), elsewhere]);
        assert_eq!(Status(record.status), Status::STATUS_OK);
        let mut seen = vec![0; BYTES];
        extra.read_exact_at(&mut seen, 0).expect("read");
        assert!(seen == secret());

        driver.client.dma_unmap(address, 1 << 20).expect("unmap");
        extra.set_len(0).expect("give the memory back");
        extra.set_len(1 << 20).expect("new memory");
        let record = driver.run(&[elsewhere]);
        assert_eq!(Status(record.status), Status::STATUS_DMA_UNMAPPED);
        extra.read_exact_at(&mut seen, 0).expect("read");
        assert!(
            seen.iter().all(|byte| *byte == 0),
            "written after the unmap"
        );
    });
    server.stop();
}

#[test]
fn the_next_client_never_sees_old_vram() {
    let server = Running::start();
    let socket = server.socket.clone();
    bounded(move || {
        let mut driver = Driver::new(&socket);
        driver.store(SOURCE, &secret());
        assert_eq!(driver.run(&[to_vram(0)]).errors, 0);
        let (old, interrupt) = (driver.memory.try_clone(), driver.interrupt.try_clone());
        let (old, interrupt) = (old.expect("clone"), interrupt.expect("clone"));
        drop(driver);

        let mut next = Driver::new(&socket);
        next.store(TARGET, &[0xaa; BYTES]);
        let mut fence = [0; FenceRecord::SIZE];
        old.read_exact_at(&mut fence, FENCE).expect("read");
        let record = next.run(&[from_vram(0)]);
        assert_eq!(Status(record.status), Status::STATUS_OK);
        let seen = next.load::<BYTES>(TARGET);
        assert!(
            seen.iter().all(|byte| *byte == 0),
            "VRAM of the client before"
        );

        // And nothing went to the one that left.
        let mut now = [0; FenceRecord::SIZE];
        old.read_exact_at(&mut now, FENCE).expect("read");
        assert_eq!(fence, now);
        assert!(!is_raised(&interrupt));
    });
    server.stop();
}

#[test]
fn an_event_that_would_block_stops_nobody() {
    let server = Running::start();
    let socket = server.socket.clone();
    bounded(move || {
        let mut driver = Driver::new(&socket);
        let (msix, trigger) = (2, 4 | 1);
        // Full, and blocking again: the file's flags are the client's as well.
        let fill = |event: &OwnedFd| {
            rustix::fs::fcntl_setfl(event, rustix::fs::OFlags::RDWR).expect("blocking");
            rustix::io::write(event, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
        };
        fill(&driver.interrupt);
        driver
            .client
            .set_irqs(msix, trigger, VECTOR, 1, &[])
            .expect("the socket's thread goes on");
        assert_eq!(wait(&driver.interrupt), u64::MAX - 1, "nothing was added");

        // The engine raises it for a fence, and then carries out the next copy.
        fill(&driver.interrupt);
        driver.store(SOURCE, &secret());
        driver.queue(&[]);
        driver.queue(&[to_vram(0), from_vram(0)]);
        while driver.fence().sequence != driver.sequence {
            std::thread::yield_now();
        }
        assert!(driver.load::<BYTES>(TARGET)[..] == secret()[..]);
    });
    server.stop();
}

/// The client fills its event between the server's look at it and the write, and leaves it so. It
/// tries until it has met that moment: then somebody else empties the event.
#[test]
fn an_event_that_is_filled_behind_the_servers_back_stops_nobody() {
    const FULL: u64 = u64::MAX - 1;
    const STEP: u32 = 8;
    let fill = |event: &OwnedFd| rustix::io::write(event, &FULL.to_ne_bytes());
    let server = Running::start();
    let socket = server.socket.clone();
    bounded(move || {
        let mut driver = Driver::new(&socket);
        let event = driver.interrupt.try_clone().expect("clone");
        // Writes to it wait while it is full: the file's flags are the client's as well.
        rustix::fs::fcntl_setfl(&event, rustix::fs::OFlags::RDWR).expect("blocking");
        let (go, goes) = std::sync::mpsc::channel::<u32>();
        let (filled, done) = std::sync::mpsc::channel();
        let filler = event.try_clone().expect("clone");
        std::thread::spawn(move || {
            for pauses in goes {
                (0..pauses).for_each(|_| std::hint::spin_loop());
                // Waits if the event was raised already.
                fill(&filler).expect("fill");
                filled.send(()).expect("the test");
            }
        });
        let mut pauses = 0;
        loop {
            go.send(pauses).expect("the filler");
            driver.queue(&[]);
            driver.settle();
            let count = wait(&event);
            done.recv().expect("the filler");
            if count == FULL {
                // Too early: the server saw it, and raised nothing.
                pauses += STEP;
            } else if is_raised(&event) {
                // Too late: it was raised, and filled as soon as that was read.
                assert_eq!(wait(&event), FULL);
                pauses = pauses.saturating_sub(STEP);
            } else {
                break;
            }
        }
        fill(&event).expect("fill");
        drop(driver);
        // The event is full, and blocks, and is still somebody's.
        let mut next = Driver::new(&socket);
        next.store(SOURCE, &secret());
        assert_eq!(next.run(&[to_vram(0), from_vram(0)]).errors, 0);
        drop(event);
    });
    server.stop();
}

#[test]
fn a_client_whose_memory_goes_away_ends_alone() {
    if !alone("whole_path::a_client_whose_memory_goes_away_ends_alone") {
        return;
    }
    let server = Running::start();
    let mut left = None;
    for _ in 0..5 {
        let socket = server.socket.clone();
        bounded(move || {
            let mut driver = Driver::new(&socket);
            driver.store(SOURCE, &secret());
            assert_eq!(driver.run(&[to_vram(0)]).errors, 0);
            // While the engine copies.
            driver.queue(&[to_vram(0), from_vram(0), to_vram(0), from_vram(0)]);
            driver.memory.set_len(0).expect("set_len");
            let mut answer = [0; 4];
            while driver.client.region_read(0, 0, &mut answer).is_ok() {
                // The engine meets it now, if it has not yet.
                let doorbell = queue_reg(0, QueueReg::QUEUE_DOORBELL).into();
                let _ = driver.client.region_write(0, doorbell, &1u32.to_le_bytes());
            }
        });
        let socket = server.socket.clone();
        let now = bounded(move || {
            let mut next = Driver::new(&socket);
            next.store(SOURCE, &secret());
            let record = next.run(&[to_vram(0), from_vram(0)]);
            assert_eq!(
                (Status(record.status), record.errors),
                (Status::STATUS_OK, 0)
            );
            assert!(next.load::<BYTES>(TARGET)[..] == secret()[..]);
            Held::now().descriptors
        });
        assert_eq!(
            now,
            *left.get_or_insert(now),
            "the one before has left some behind"
        );
    }
    server.stop();
}

#[test]
fn a_reset_over_the_protocol_stops_the_queue() {
    let server = Running::start();
    let socket = server.socket.clone();
    bounded(move || {
        let mut driver = Driver::new(&socket);
        driver.store(SOURCE, &secret());
        assert_eq!(driver.run(&[to_vram(0)]).errors, 0);
        let generation = driver.read(Reg::GENERATION.0);
        driver.client.reset().expect("reset");
        assert_eq!(driver.read(Reg::GENERATION.0), generation + 1);
        while driver.read(Reg::STATE.0) != STATE_READY {
            std::thread::yield_now();
        }
        assert_ne!(
            driver.read(queue_reg(0, QueueReg::QUEUE_STATUS)),
            QUEUE_STATUS_RUNNING
        );
    });
    let snapshot = server.stop();
    assert!(
        snapshot
            .events
            .resets
            .iter()
            .any(|(cause, _)| cause == "vfio_user"),
        "{snapshot:?}"
    );
}
