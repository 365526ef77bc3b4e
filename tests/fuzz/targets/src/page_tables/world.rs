//! A device with contexts, the tables of one address space that they share, and a driver of all.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::compute::{JOB_NO_REPLAY, Job, JobRecord};
use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_contract::mmu::FaultReason;
use hmmgpu_contract::regs::{
    INVALIDATION_QUEUE, QUEUE_STATUS_OFF, QUEUE_STATUS_RUNNING, QueueReg, Reg,
};
use hmmgpu_model::mock::descriptors::{cancel, invalidate, replay};
use hmmgpu_model::mock::{
    ContextConfig, ContextDriver, Driver, FaultReader, GuestRam, QueueConfig, jobs, until,
};
use hmmgpu_model::{Device, LinkSpec, ResetCause};
use hmmgpu_telemetry::snapshot::FaultSite;

use super::action::{Access, Action, Kind};
use super::reference::{Memory, Place, translate};
use super::{READ_ONLY, READ_ONLY_PAGES, TABLE_PAGES, TABLES};
use crate::breakage::{Breakage, Fault};
use crate::device::{
    VRAM_BYTES, answers_nothing, copies_well, is_gone, register, small_device, wait_until_ready,
};
use crate::memory::Window;
use crate::snapshot;

/// Memory of the driver's queues, of which each has its own.
const INVALIDATION: u64 = 0x20_0000_0000;
const FAULTS: u64 = 0x21_0000_0000;
const CONTEXTS: u64 = 0x22_0000_0000;
const QUEUE_BYTES: usize = 32 << 10;
/// More than all contexts' queues have.
const CONTEXT_BYTES: u64 = 1 << 20;
const RING_LOG2: u32 = 4;
/// The context whose accesses are looked at; the others do what they like.
const LOOKED_AT: usize = 0;
const HOSTILE: usize = 2;
/// How long a translation is waited for, which may never come.
const PATIENCE: Duration = Duration::from_millis(3);
/// What is written, and added.
const PATTERN: u64 = 0x0123_4567_89ab_cdef;
const ADDEND: u64 = 3;

type Context = ContextDriver<Arc<Device>>;

/// What an input acts on.
pub(super) struct World {
    device: &'static Arc<Device>,
    /// The tables, and what is read-only.
    windows: MutexGuard<'static, [Window; 2]>,
    invalidation: Driver<Arc<Device>>,
    faults: FaultReader<Arc<Device>>,
    contexts: Vec<Context>,
    /// The reference came to memory of queues.
    met_queues: Cell<bool>,
    breakage: Breakage,
}

/// Guest RAM is made once.
fn windows() -> MutexGuard<'static, [Window; 2]> {
    static ALL: OnceLock<Mutex<[Window; 2]>> = OnceLock::new();
    let window = |base, pages| {
        let bytes = usize::try_from(pages * PAGE_SIZE).expect("memory of this process");
        Window::new(base, bytes)
    };
    let all = ALL.get_or_init(|| {
        Mutex::new([
            window(TABLES, TABLE_PAGES),
            window(READ_ONLY, READ_ONLY_PAGES),
        ])
    });
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ram(base: u64, bytes: usize) -> GuestRam {
    GuestRam::new(base, bytes).expect("the host has room for guest RAM")
}

impl World {
    pub(super) fn new() -> Self {
        let device = small_device();
        device.reset(ResetCause::Disconnect);
        let mut windows = windows();
        for window in windows.iter_mut() {
            window.clear();
            window.map(device, window.base() == TABLES);
        }
        let config = QueueConfig {
            queue: INVALIDATION_QUEUE,
            ..QueueConfig::default()
        };
        let memory = ram(INVALIDATION, QUEUE_BYTES);
        let invalidation = Driver::new(device.clone(), memory, config).expect("a queue that runs");
        let memory = ram(FAULTS, QUEUE_BYTES);
        let faults = FaultReader::new(device.clone(), memory, 2, 2).expect("a map");
        let bytes = Context::bytes(RING_LOG2);
        let all = usize::try_from(bytes).expect("memory of this process") * (HOSTILE + 1);
        let memory = Arc::new(ram(CONTEXTS, all));
        let mapping = memory.mapping(0, memory.size(), true);
        let mapping = mapping.expect("the host has room for a file descriptor");
        device.dma_map(mapping).expect("a free range");
        let context = |(context, number)| {
            let config = ContextConfig {
                context,
                ring_log2: RING_LOG2,
                vector: 3,
                root: TABLES,
                area: CONTEXTS + number * bytes,
            };
            ContextDriver::new(device.clone(), memory.clone(), config).expect("a context that runs")
        };
        let contexts = (0..).zip(0..).take(HOSTILE + 1).map(context).collect();
        Self {
            device,
            windows,
            invalidation,
            faults,
            contexts,
            met_queues: Cell::new(false),
            breakage: Breakage::default(),
        }
    }

    /// Does something. What the device must not write to it has not written to.
    pub(super) fn act(&mut self, action: &Action) {
        let needs_device = matches!(
            action,
            Action::Submit { .. }
                | Action::Invalidate { .. }
                | Action::Answer { .. }
                | Action::Reset
                | Action::Probe { .. }
        );
        if needs_device && is_gone(self.device) {
            answers_nothing(self.device);
        } else {
            self.carry_out(action);
        }
        let gone = is_gone(self.device);
        for window in self.windows.iter_mut() {
            window.set_frozen(gone || window.mapped != Some(true));
            window.check();
        }
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Entry(change) => {
                let (at, entry) = change.get();
                self.store(at, entry);
            }
            Action::Submit { context, job } => self.submit(hostile(*context), &job.job()),
            Action::Stop { context } => self.contexts[hostile(*context)].stop(),
            Action::Invalidate {
                context,
                address,
                pages,
            } => {
                let context = u32::from(context % 6);
                let bytes = u64::from(*pages) * PAGE_SIZE;
                self.post(&invalidate(context, address.get() & !0xfff, bytes));
            }
            Action::Answer { cancel: how, wrong } => self.answer(*how, *wrong),
            Action::Map { tables, on } => {
                let window = &mut self.windows[usize::from(!tables)];
                if *on {
                    window.map(self.device, *tables);
                } else {
                    window.unmap(self.device);
                }
            }
            Action::Reset => self.reset(),
            Action::Probe {
                before,
                change,
                after,
                narrow,
            } => {
                self.still();
                self.probe(before);
                let (at, entry) = change.get();
                self.store(at, entry);
                let (address, bytes) = match narrow {
                    true => (after.address.get() & !0xfff, PAGE_SIZE),
                    false => (0, 1 << 48),
                };
                self.invalidate(address, bytes);
                self.probe(after);
            }
            Action::Fault(fault) => self.arm(*fault),
            Action::ClearFaults => self.clear_faults(),
            Action::Link(link) => self.device.set_link(link.spec()),
        }
    }

    /// Without copies, a device resets itself or is gone at once, or never.
    fn arm(&mut self, fault: Fault) {
        let generation = register(self.device, Reg::GENERATION.0);
        let fault = fault.spec();
        self.breakage.add(&fault);
        // There may be too many.
        let _ = self.device.inject(vec![fault]);
        if !is_gone(self.device) && register(self.device, Reg::GENERATION.0) != generation {
            self.begin_again();
        }
    }

    /// From here on all holds again.
    fn clear_faults(&mut self) {
        let gone = is_gone(self.device);
        self.device.clear_injected();
        self.breakage = Breakage::default();
        if gone {
            self.begin_again();
        }
    }

    /// How often faults of a site hit since all was cleared, and those before.
    fn hits(&self, site: FaultSite) -> u64 {
        let injected = self.device.snapshot_without_windows().injected;
        let here = injected.iter().filter(|fault| fault.site == site);
        here.map(|fault| fault.hits).sum()
    }

    /// Invalidates what the context that is looked at has. Whether or not the fence gets lost, that
    /// is done once the engine has gone on.
    fn invalidate(&mut self, address: u64, bytes: u64) {
        let desc = invalidate(self.contexts[LOOKED_AT].context(), address, bytes);
        let breaks = self.breakage.fences;
        let before = breaks.then(|| self.hits(FaultSite::Fence));
        let queue = &mut self.invalidation;
        queue.submit(&[desc]).expect("room");
        let sequence = queue.fence(false).expect("room");
        let end = queue.producer();
        queue
            .until("the engine behind it", |queue| queue.consumer() == end)
            .expect("an engine that goes on");
        if before == breaks.then(|| self.hits(FaultSite::Fence)) {
            let queue = &self.invalidation;
            queue
                .until("fence", |queue| queue.record().sequence == sequence)
                .expect("a fence");
            let record = queue.record();
            assert_eq!(record.errors, 0, "{record:?}");
        }
    }

    /// Writes a word, as the driver may at any time.
    fn store(&mut self, at: u64, word: u64) {
        self.windows[0].write(at, &word.to_le_bytes());
    }

    fn submit(&mut self, number: usize, job: &Job) {
        let context = &mut self.contexts[number];
        if context.read(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_OFF {
            context.start().expect("a context that runs");
        }
        // Other jobs may have written to its header: whatever it says is no reason to wait.
        if context.producer().wrapping_sub(context.consumer()) < 1 << RING_LOG2 {
            let _ = context.submit(job);
        }
    }

    /// Puts a descriptor into the invalidation queue, if there seems to be room.
    fn post(&mut self, desc: &Desc) {
        let queue = &mut self.invalidation;
        if queue.read_queue(QueueReg::QUEUE_STATUS) != QUEUE_STATUS_RUNNING {
            queue.stop();
            queue.start().expect("a queue that runs");
        }
        if queue.producer().wrapping_sub(queue.consumer()) < 32 {
            let _ = queue.submit(&[*desc]);
        }
    }

    fn answer(&mut self, how: bool, wrong: bool) {
        if self.faults.read(QueueReg::QUEUE_STATUS) != QUEUE_STATUS_RUNNING {
            self.faults.stop();
            self.faults.start();
        }
        let Some(fault) = self.faults.take() else {
            return;
        };
        let sequence = fault.sequence.wrapping_add(u64::from(wrong));
        self.post(&if how {
            cancel(fault.context, sequence, 7)
        } else {
            replay(fault.context, sequence)
        });
    }

    fn reset(&mut self) {
        self.device.reset(ResetCause::VfioUser);
        self.begin_again();
    }

    /// After a reset of the device, of whatever kind.
    fn begin_again(&mut self) {
        let windows = self.windows.iter_mut();
        windows.for_each(|window| window.set_frozen(true));
        wait_until_ready(self.device);
        self.windows.iter().for_each(Window::check);
        self.invalidation.set_bus_master(true);
        self.invalidation.start().expect("a queue that runs");
        self.faults.start();
    }

    /// Nothing else goes on from now on, and the queues that are needed are as new: hostile jobs
    /// may have written to their memory.
    fn still(&mut self) {
        for context in &self.contexts {
            context.stop();
        }
        self.invalidation.stop();
        self.invalidation.start().expect("a queue that runs");
        let context = &mut self.contexts[LOOKED_AT];
        context.start().expect("a context that runs");
    }

    /// Runs a job to its end, and tells whether a translation may have gone wrong meanwhile. If it
    /// never comes, that is cleared.
    fn run(&mut self, job: &Job) -> (JobRecord, bool) {
        /// Hits after which a translation that is late each time counts as one that never comes.
        const MOST_HITS: u64 = 4;
        if !self.breakage.translations {
            let record = self.contexts[LOOKED_AT].run(job);
            return (record.expect("a job that ends"), false);
        }
        let before = self.hits(FaultSite::Translation);
        let since = |world: &Self| world.hits(FaultSite::Translation) - before;
        let sequence = self.contexts[LOOKED_AT].submit(job).expect("room");
        let ended = |world: &Self| world.contexts[LOOKED_AT].record(sequence).is_some();
        until("a job, or a hit", || ended(self) || since(self) > 0)
            .expect("an engine that goes on");
        let deadline = Instant::now() + PATIENCE;
        while !ended(self) && since(self) < MOST_HITS && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let hit = since(self) > 0;
        if !ended(self) {
            self.clear_faults();
        }
        let record = self.contexts[LOOKED_AT].wait(sequence);
        (record.expect("a job that ends"), hit)
    }

    /// One access, held against the reference.
    fn probe(&mut self, access: &Access) {
        // A range needs an address behind it, which the last word has not.
        let address = (access.address.get() & !7).min(u64::MAX - 15);
        let job = match access.kind {
            Kind::Read => jobs::checksum(address, 1),
            Kind::Write => jobs::fill(address, 8, PATTERN),
            Kind::Atomic => jobs::atomic_add(address, 1, ADDEND),
        };
        let expected = translate(self, TABLES, address, access.kind);
        if self.met_queues.take() {
            // What the device makes of its own queues' memory is not for the reference.
            return;
        }
        let before = expected.map(|place| self.word_at(place));
        let job = jobs::flagged(job, JOB_NO_REPLAY);
        let (record, hit) = self.run(&job);
        if hit && Status(record.status) == Status::STATUS_FAULT {
            // A translation went wrong on purpose, maybe as it would have without.
            let reason = u8::try_from(record.fault_reason).map(FaultReason);
            let injected = [FaultReason::FAULT_NOT_PRESENT, FaultReason::FAULT_MALFORMED];
            let reasons = injected.into_iter().chain(expected.err());
            assert!(reasons.map(Ok).any(|one| one == reason), "{record:?}");
            assert_eq!(record.fault_address, address, "{access:?}");
            let after = expected.map(|place| self.word_at(place));
            assert_eq!(after, before, "{access:?}");
            return;
        }
        match expected {
            Ok(place) => {
                assert_eq!(Status(record.status), Status::STATUS_OK, "{access:?}");
                let before = before.expect("the word of a place");
                let after = self.word_at(place);
                let (word, value) = match access.kind {
                    Kind::Read => (before, checksum(before)),
                    Kind::Write => (PATTERN, 0),
                    Kind::Atomic => (before.wrapping_add(ADDEND), before),
                };
                let found = (after, record.value);
                assert_eq!(found, (word, value), "{access:?} at {place:?}");
            }
            Err(reason) => {
                let status = Status(record.status);
                assert_eq!(status, Status::STATUS_FAULT, "{access:?}: {reason:?}");
                let found = u8::try_from(record.fault_reason).map(FaultReason);
                assert_eq!(found, Ok(reason), "{access:?}");
                assert_eq!(record.fault_address, address, "{access:?}");
            }
        }
    }

    fn word_at(&self, place: Place) -> u64 {
        let mut word = [0; 8];
        match place {
            Place::System(at) => {
                word.copy_from_slice(&self.bytes_at(at).expect("memory that can be reached"));
            }
            Place::Vram(at) => {
                let at = usize::try_from(at).expect("an offset in VRAM");
                let word_of = self.device.vram().subslice(at, word.len());
                word_of.expect("in VRAM").copy_to(&mut word);
            }
        }
        u64::from_le_bytes(word)
    }

    /// The reference came to an address.
    fn met(&self, address: u64) {
        if (INVALIDATION..CONTEXTS + CONTEXT_BYTES).contains(&address) {
            self.met_queues.set(true);
        }
    }

    /// The window that the device can reach all of a word in.
    fn window(&self, address: u64) -> Option<&Window> {
        let mut windows = self.windows.iter();
        windows.find(|window| window.mapped.is_some() && window.holds(address, 8))
    }

    fn bytes_at(&self, address: u64) -> Option<Vec<u8>> {
        let window = self.window(address)?;
        Some(window.ram.read(address, 8))
    }

    /// Resets the device, and drives it well.
    pub(super) fn end(mut self) {
        self.clear_faults();
        self.device.reset(ResetCause::Register);
        for window in self.windows.iter_mut() {
            window.set_frozen(true);
        }
        wait_until_ready(self.device);
        let contexts = self.contexts.iter();
        let off = contexts.map(|context| context.read(QueueReg::QUEUE_STATUS));
        assert!(off.into_iter().all(|status| status == QUEUE_STATUS_OFF));
        assert_eq!(register(self.device, Reg::ERROR_COUNT.0), 0);
        copies_well(self.device);
        self.device.set_link(LinkSpec::off());
        self.windows.iter().for_each(Window::check);
        snapshot::check(&self.device.snapshot());
        self.device.reset(ResetCause::Disconnect);
    }
}

fn hostile(context: u8) -> usize {
    1 + usize::from(context) % HOSTILE
}

/// What CHECKSUM yields for one word.
fn checksum(word: u64) -> u64 {
    (0xcbf2_9ce4_8422_2325 ^ word).wrapping_mul(0x100_0000_01b3)
}

impl Memory for World {
    fn word(&self, address: u64) -> Option<u64> {
        self.met(address);
        let bytes = self.bytes_at(address)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    fn reachable(&self, place: Place, kind: Kind) -> bool {
        match place {
            Place::Vram(at) => at.checked_add(8).is_some_and(|end| end <= VRAM_BYTES),
            Place::System(at) => {
                self.met(at);
                let allows = |window: &Window| kind == Kind::Read || window.mapped == Some(true);
                self.window(at).is_some_and(allows)
            }
        }
    }
}
