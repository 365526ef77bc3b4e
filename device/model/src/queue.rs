//! What copy engines and the invalidation engine have in common: one thread for each queue, which
//! fetches descriptors, carries them out, and writes fences.
//!
//! Whatever an engine does to guest memory or VRAM happens under a *permit*: a view of the DMA
//! map, taken while the queue's run is still the one that was started and the function may
//! master the bus. Who ends a run, or takes bus mastering away, changes the flag first and then
//! waits for the views that are out ([`DmaMap::barrier`](crate::dma::DmaMap::barrier)); from then
//! on nothing of the old run can be written.
//!
//! To take a permit costs as much as a good part of the copy of 4 KiB. So one that is not needed any
//! more is *kept* for the next descriptor: until [`PERMIT_BYTES`] were copied under it, until the
//! consumer index is published, and never while telemetry is told or the engine sleeps.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_contract::queue::FenceRecord;
use hmmgpu_telemetry::snapshot::{EngineState, FaultSite};
use hmmgpu_telemetry::{CheckMode, Record, Touch};

use crate::clock::now_ns;
use crate::command::{Fault, Fence, Place, Source, Transfer};
use crate::dma::{Access, DmaView};
use crate::group::{self, Group, Kind};
use crate::kick::ask_then_look;
use crate::link::Due;
use crate::patience::Patience;
use crate::registers::{ErrorRecord, QueueSetup};
use crate::ring::Word;
use crate::shared::Shared;
use crate::status::source;

/// Descriptors after which the consumer index is published at the latest; so many are fetched at
/// once.
const PUBLISH_EVERY: u32 = 64;
/// Most bytes that are copied under one permit. Bounds how long an unmap or a reset waits.
pub(crate) const PERMIT_BYTES: u64 = 2 << 20;
/// What is too short to sleep for: a sleep may take so much longer than it should.
const SHORT_NS: u64 = 100_000;
/// Records that are handed to telemetry at the latest.
const RECORDS: usize = 256;

/// What other threads tell an engine.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// The run that is allowed; 0: none.
    run: AtomicU64,
    setup: Mutex<Option<QueueSetup>>,
    thread: OnceLock<Thread>,
    /// When the doorbell was last rung, on the host's clock; 0: not since somebody asked.
    doorbell_ns: AtomicU64,
    /// How whoever serves it is doing, for the snapshot: an [`EngineState`] as number.
    engine_state: AtomicU8,
    /// Time in which it was served since the device was made, in nanoseconds.
    busy_ns: AtomicU64,
}

/// States of engines by their numbers; the first is that of a queue which nobody serves yet.
const ENGINE_STATES: [EngineState; 5] = [
    EngineState::Sleeping,
    EngineState::Busy,
    EngineState::Polling,
    EngineState::Faulted,
    EngineState::Stopped,
];

impl Control {
    /// Allows the run of `setup`, and no other.
    pub(crate) fn start(&self, setup: QueueSetup) {
        *self.setup.lock().unwrap_or_else(PoisonError::into_inner) = Some(setup);
        self.run.store(setup.run, Ordering::SeqCst);
        self.wake();
    }

    /// Allows no run. Accesses that have begun go on until a barrier of the DMA map.
    pub(crate) fn stop(&self) {
        self.run.store(0, Ordering::SeqCst);
        self.wake();
    }

    /// The driver has rung the doorbell.
    pub(crate) fn ring(&self) {
        self.doorbell_ns.store(now_ns(), Ordering::Relaxed);
    }

    /// When the doorbell was rung since the last call, if it was.
    fn rung(&self) -> Option<u64> {
        let rung = self.doorbell_ns.swap(0, Ordering::Relaxed);
        (rung > 0).then_some(rung)
    }

    /// How whoever serves it is doing from now on.
    pub(crate) fn set_engine_state(&self, state: EngineState) {
        let number = match state {
            EngineState::Sleeping => 0,
            EngineState::Busy => 1,
            EngineState::Polling => 2,
            EngineState::Faulted => 3,
            EngineState::Stopped => 4,
        };
        self.engine_state.store(number, Ordering::Relaxed);
    }

    pub(crate) fn engine_state(&self) -> EngineState {
        ENGINE_STATES[usize::from(self.engine_state.load(Ordering::Relaxed))]
    }

    /// It was served for this long.
    pub(crate) fn served(&self, ns: u64) {
        self.busy_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(crate) fn busy_ns(&self) -> u64 {
        self.busy_ns.load(Ordering::Relaxed)
    }

    /// Makes a sleeping engine look around. A wake before it sleeps is not lost: the token stays.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(crate) fn set_thread(&self, thread: Thread) {
        // Called once, by the device that has just started the engine.
        let _ = self.thread.set(thread);
    }

    /// Whether a run is allowed.
    pub(crate) fn allows(&self, run: u64) -> bool {
        self.run.load(Ordering::SeqCst) == run
    }

    /// The set-up of the run that is allowed.
    pub(crate) fn allowed(&self) -> Option<QueueSetup> {
        let setup = (*self.setup.lock().unwrap_or_else(PoisonError::into_inner))?;
        self.allows(setup.run).then_some(setup)
    }

    /// A permit for a run; `None` while the function may not master the bus.
    pub(crate) fn permit<'a>(
        &self,
        shared: &'a Shared,
        run: u64,
    ) -> Result<Option<DmaView<'a>>, Ended> {
        self.permitted(shared, run, shared.dma.view())
    }

    /// The view, if memory may be touched now.
    fn permitted<'a>(
        &self,
        shared: &'a Shared,
        run: u64,
        view: DmaView<'a>,
    ) -> Result<Option<DmaView<'a>>, Ended> {
        if self.allows(run) {
            Ok(shared.may_master().then_some(view))
        } else {
            Err(Ended)
        }
    }
}

/// A view of the DMA map under which a run may touch memory.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    view: DmaView<'a>,
    /// Bytes that may be copied under it yet; never zero.
    left: u64,
}

impl<'a> Permit<'a> {
    fn new(view: DmaView<'a>) -> Self {
        let left = PERMIT_BYTES;
        Self { view, left }
    }

    /// Bytes that may be copied under it yet; never zero.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

impl<'a> Deref for Permit<'a> {
    type Target = DmaView<'a>;

    fn deref(&self) -> &DmaView<'a> {
        &self.view
    }
}

/// The run is not allowed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

/// Why a run, or a descriptor, does not go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The run is not allowed any more.
    Ended,
    /// Something is wrong.
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Ended> for Stop {
    fn from(Ended: Ended) -> Self {
        Self::Ended
    }
}

/// What a kind of engine does with its descriptors.
pub(crate) trait Engine {
    /// Carries out a descriptor. Whoever returns a fault has done nothing of it; it is told by the
    /// next fence.
    fn carry_out(&mut self, run: &mut Run<'_>, desc: &Desc) -> Result<(), Stop>;

    /// Carries out the first of these descriptors together, if that pays and nothing is wrong with
    /// any of them. Returns how many; 0: they are to be carried out one by one.
    fn together(&mut self, _run: &mut Run<'_>, _entries: &[Entry]) -> Result<u32, Stop> {
        Ok(0)
    }
}

/// A descriptor as it was fetched.
pub(crate) type Entry = [u8; Desc::SIZE];

/// Errors since the last fence.
#[derive(Clone, Copy, Debug, Default)]
struct FenceErrors {
    first: Option<(Status, u32)>,
    count: u32,
}

/// The thread of one queue.
pub(crate) fn serve(shared: &Arc<Shared>, queue: u32, control: &Control, mut engine: impl Engine) {
    let mut done = 0;
    while !shared.shutting_down() {
        match control.allowed() {
            Some(setup) if setup.run != done => {
                done = setup.run;
                Run::new(shared, control, queue, setup).work(&mut engine);
            }
            _ => std::thread::park(),
        }
    }
}

/// One run: from the enabling of a queue until it is disabled, fails, or the device is reset.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) shared: &'a Shared,
    control: &'a Control,
    queue: u32,
    setup: QueueSetup,
    consumer: u32,
    published: u32,
    errors: FenceErrors,
    records: Vec<Record>,
    descriptors: u64,
    /// Descriptors that were fetched together.
    fetched: Vec<Entry>,
    /// The permit of what was done last, if it may be used for more.
    kept: RefCell<Option<Permit<'a>>>,
    patience: Patience,
    /// Transfers that are timed together, the last of which is the last descriptor that was done.
    group: Option<Group>,
    /// VRAM that was touched last, of which the checker has not been told.
    touch: Option<Touch>,
    /// What was copied last each way, on its way over the link.
    arrives: [Option<Due>; 2],
    /// End of what was timed last, which is where the next begins while the ring is not empty: one
    /// reading of the clock for each.
    clock: u64,
    /// Since when the descriptors that are being done are known to be in the ring.
    known: u64,
    /// How long permits were waited for since then, in nanoseconds.
    waited: Cell<u64>,
    /// Time of all laps that nobody has been told of, in nanoseconds.
    busy: u64,
}

impl<'a> Run<'a> {
    fn new(shared: &'a Shared, control: &'a Control, queue: u32, setup: QueueSetup) -> Self {
        Self {
            shared,
            control,
            queue,
            setup,
            consumer: 0,
            published: 0,
            errors: FenceErrors::default(),
            records: Vec::with_capacity(RECORDS),
            descriptors: 0,
            fetched: Vec::with_capacity(PUBLISH_EVERY as usize),
            kept: RefCell::default(),
            patience: Patience::default(),
            group: None,
            touch: None,
            arrives: [None; 2],
            clock: 0,
            known: 0,
            waited: Cell::new(0),
            busy: 0,
        }
    }

    fn work(mut self, engine: &mut impl Engine) {
        let Err(stop) = self.serve(engine);
        if let Stop::Fault(fault) = stop {
            self.shared
                .log_queue_stop(self.queue, self.consumer, fault.status);
            self.record(Record::Error {
                status: fault.status,
            });
            self.report(fault, true);
        }
        self.flush();
    }

    /// A permit to touch memory: that which was kept, or a new one. While the function may not
    /// master the bus, it waits. No other permit of the run may be out.
    pub(crate) fn permit(&self) -> Result<Permit<'a>, Ended> {
        let (control, run) = (self.control, self.setup.run);
        if let Some(Permit { view, left }) = self.kept.take()
            && let Some(view) = control.permitted(self.shared, run, view)?
        {
            return Ok(Permit { view, left });
        }
        if let Some(view) = self.shared.dma.try_view()
            && let Some(view) = control.permitted(self.shared, run, view)?
        {
            return Ok(Permit::new(view));
        }
        let since = now_ns();
        let permit = self.wait_for_permit();
        let waited = now_ns().saturating_sub(since);
        self.waited.set(self.waited.get().saturating_add(waited));
        permit.map(Permit::new)
    }

    /// Keeps a permit for what comes next, after so many bytes were copied under it.
    pub(crate) fn keep(&self, permit: Permit<'a>, bytes: u64) {
        let Permit { view, left } = permit;
        let left = left.saturating_sub(bytes);
        if left > 0 {
            self.kept.replace(Some(Permit { view, left }));
        }
    }

    /// Keeps no permit: something is waited for.
    pub(crate) fn keep_none(&self) {
        self.kept.take();
    }

    /// Its number.
    pub(crate) fn queue(&self) -> u32 {
        self.queue
    }

    /// Whether the run is allowed to go on.
    pub(crate) fn lasts(&self) -> bool {
        self.control.allows(self.setup.run)
    }

    fn wait_for_permit(&self) -> Result<DmaView<'a>, Ended> {
        loop {
            if let Some(view) = self.control.permit(self.shared, self.setup.run)? {
                return Ok(view);
            }
            std::thread::park();
        }
    }

    /// What was done so far is timed: the next begins here.
    pub(crate) fn lap(&mut self) {
        self.close_group();
        self.measure();
    }

    /// The time in which the engine was busy since the last lap, which ends here.
    fn measure(&mut self) -> u64 {
        let before = self.clock;
        self.begin_lap();
        let busy = self.clock.saturating_sub(before);
        let busy = busy.saturating_sub(self.waited.take());
        self.busy += busy;
        busy
    }

    /// Whatever was since the last lap is none of its business.
    fn begin_lap(&mut self) {
        if self.shared.counting {
            self.clock = now_ns();
        }
    }

    /// When the last lap ended.
    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    /// A transfer begins: with those before it, if they are of its kind and few.
    pub(crate) fn transfer_begins(&mut self, kind: Kind) {
        if self.group.as_ref().is_some_and(|group| !group.takes(kind)) {
            self.close_group();
        }
        if self.shared.counting && self.group.is_none() {
            // How long it was in the ring, as far as that is known.
            let waited_ns = self.clock.saturating_sub(self.known);
            self.group = Some(Group::new(kind, waited_ns));
        }
    }

    /// Bytes of transfers of the kind that began last that may be timed together yet.
    pub(crate) fn room(&self) -> u64 {
        self.group.as_ref().map_or(group::BYTES, Group::room)
    }

    /// The transfer that began last has ended.
    pub(crate) fn transfer_ended(&mut self, transfer: &Transfer, status: Status) {
        if status != Status::STATUS_OK {
            // Those before it did not fail.
            self.close_group();
            self.transfer_begins(transfer.into());
        }
        if let Some(group) = &mut self.group {
            group.add(transfer, status);
        }
        if status != Status::STATUS_OK {
            self.close_group();
        }
    }

    /// The transfer of the descriptor `nth` behind `consumer` went well: for the checker of VRAM.
    pub(crate) fn touched(&mut self, transfer: &Transfer, nth: u32) {
        if self.shared.check == CheckMode::Off {
            return;
        }
        let index = self.consumer.wrapping_add(nth);
        let src = match transfer.src {
            Source::Place(src) => Some((src, false)),
            Source::Pattern(_) => None,
        };
        for (place, write) in src.into_iter().chain([(transfer.dst, true)]) {
            if let Place::Vram(address) = place {
                let next = Touch::new(write, address, transfer.bytes, index);
                if !self.touch.as_mut().is_some_and(|last| last.takes(&next)) {
                    self.tell_touch();
                    self.touch = Some(next);
                }
            }
        }
    }

    /// What VRAM was touched is told: something else comes next.
    fn tell_touch(&mut self) {
        if let Some(touch) = self.touch.take() {
            if touch.write
                && let Some(usage) = &self.shared.usage
            {
                usage.written(touch.address, touch.bytes());
            }
            self.records.push(Record::Touch(touch));
        }
    }

    /// Index in the ring of the descriptor that is being carried out.
    pub(crate) fn index(&self) -> u32 {
        self.consumer
    }

    /// The open group has had its last transfer.
    fn close_group(&mut self) {
        if let Some(group) = self.group.take()
            && !group.is_empty()
        {
            if self.shared.link_model.modelled() {
                self.carry(&group);
            }
            let engine_ns = self.measure();
            self.records.push(group.record(engine_ns, self.clock));
        }
    }

    /// What a group has copied goes over the link. Waits until it would have arrived, or the run has
    /// ended, if that pays: to sleep for less costs more.
    fn carry(&mut self, group: &Group) {
        let shared = self.shared;
        let began_ns = self.clock;
        if let Some((way, bytes)) = group.on_link()
            && let Some(due) = shared.link_model.due(way, began_ns, bytes)
        {
            let mut now_ns = now_ns();
            if due.carried_ns.saturating_sub(now_ns) > SHORT_NS {
                now_ns = self.wait_until(due.carried_ns, 0);
            }
            shared.link_model.went_on(due, began_ns, now_ns, bytes);
            self.arrives[way as usize] = Some(due);
        }
    }

    /// Waits until the other side of the link knows of all that was copied, or the run has ended.
    fn arrive(&mut self) {
        let [to_device, to_system] = std::mem::take(&mut self.arrives);
        if to_device.is_none() && to_system.is_none() {
            return;
        }
        let began_ns = now_ns();
        for due in [to_device, to_system].into_iter().flatten() {
            let carried_ns = self.wait_until(due.carried_ns, SHORT_NS);
            self.shared.link_model.went_on(due, began_ns, carried_ns, 0);
            let known_ns = self.wait_until(due.known_ns, SHORT_NS);
            self.shared.link_model.knows(due, known_ns);
        }
    }

    /// Waits until a time by the clock of the device, or the run has ended: asleep, but for the last
    /// `awake_ns`. Returns what it is then.
    fn wait_until(&self, time_ns: u64, awake_ns: u64) -> u64 {
        /// Whoever ends the run need not wake it.
        const LOOK: Duration = Duration::from_millis(20);
        loop {
            let now_ns = now_ns();
            let left_ns = time_ns.saturating_sub(now_ns);
            if left_ns == 0 || !self.lasts() {
                return now_ns;
            }
            self.keep_none();
            if left_ns > awake_ns {
                std::thread::park_timeout(Duration::from_nanos(left_ns - awake_ns).min(LOOK));
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn serve(&mut self, engine: &mut impl Engine) -> Result<Infallible, Stop> {
        self.store(Word::Consumer, 0)?;
        self.store(Word::NeedKick, 0)?;
        let mut rung = None;
        loop {
            let pending = self.pending()?;
            if pending == 0 {
                rung = self.idle()?;
                continue;
            }
            self.control.set_engine_state(EngineState::Busy);
            self.begin_lap();
            self.waited.set(0);
            // A doorbell is heard by those who sleep; else the look at the ring is what told.
            self.known = rung.take().unwrap_or(self.clock);
            let mut pending = pending;
            while pending > 0 {
                let fetched = self.fetch(pending)?;
                // No more than were pending, and not none.
                pending -= u32::try_from(fetched.len()).unwrap_or(pending);
                let mut rest = fetched.as_slice();
                while !rest.is_empty() {
                    let done = self.some(engine, rest)?;
                    rest = rest.get(done as usize..).unwrap_or_default();
                }
                self.fetched = fetched;
                self.publish()?;
            }
            self.flush();
        }
    }

    fn store(&self, word: Word, value: u32) -> Result<(), Stop> {
        let permit = self.permit()?;
        Ok(self.setup.ring.store(&permit, word, value)?)
    }

    /// Number of descriptors that are ready.
    fn pending(&self) -> Result<u32, Stop> {
        let permit = self.permit()?;
        Ok(self.setup.ring.pending(&permit, self.consumer)?)
    }

    /// Publishes the consumer index.
    fn publish(&mut self) -> Result<(), Stop> {
        if self.published != self.consumer {
            self.store(Word::Consumer, self.consumer)?;
            self.published = self.consumer;
        }
        Ok(())
    }

    /// Polls for a while, then sleeps until the doorbell. Returns when there may be work: since when,
    /// if it was told so in its sleep.
    fn idle(&mut self) -> Result<Option<u64>, Stop> {
        self.control.set_engine_state(EngineState::Polling);
        let mut poll = self.patience.poll();
        while poll.goes_on() {
            if self.pending()? > 0 {
                self.patience.ended(poll);
                return Ok(None);
            }
        }
        // What was rung before has been heard by polling.
        self.control.rung();
        let pending = ask_then_look(|| self.store(Word::NeedKick, 1), || self.pending())?;
        let mut rung = None;
        if pending == 0 {
            self.shared.telemetry.counters.engine_sleep();
            self.control.set_engine_state(EngineState::Sleeping);
            std::thread::park();
            rung = self.control.rung();
        }
        self.patience.ended(poll);
        self.store(Word::NeedKick, 0)?;
        Ok(rung)
    }

    /// Fetches descriptors from `consumer` on, of which so many are ready: some of them, and one at
    /// least. The driver may change them only when the consumer index has passed.
    fn fetch(&mut self, pending: u32) -> Result<Vec<Entry>, Stop> {
        let ring = self.setup.ring;
        let mut fetched = std::mem::take(&mut self.fetched);
        let permit = self.permit()?;
        let mut count = ring
            .entries_from(self.consumer)
            .min(pending)
            .min(PUBLISH_EVERY);
        loop {
            fetched.resize(count as usize, [0; Desc::SIZE]);
            match ring.fetch_some(&permit, self.consumer, &mut fetched) {
                Ok(()) => break,
                // Those before the one that cannot be reached are carried out.
                Err(_) if count > 1 => count = 1,
                Err(fault) => return Err(fault.into()),
            }
        }
        self.keep(permit, 0);
        Ok(fetched)
    }

    /// Carries out the descriptor at `consumer`, which is the first of these, and maybe some of those
    /// after it. Returns how many.
    fn some(&mut self, engine: &mut impl Engine, entries: &[Entry]) -> Result<u32, Stop> {
        // Those that touch no memory as well: nothing of a run that has ended is done.
        if !self.control.allows(self.setup.run) || !self.shared.may_master() {
            self.keep(self.permit()?, 0);
        }
        let mut done = engine.together(self, entries)?;
        if done == 0
            && let Some(entry) = entries.first()
        {
            done = 1;
            match engine.carry_out(self, &Desc::from_le_bytes(entry)) {
                Ok(()) => {}
                Err(Stop::Fault(fault)) => {
                    let status = fault.status;
                    self.record(Record::Error { status });
                    self.failed(fault);
                }
                Err(Stop::Ended) => return Err(Stop::Ended),
            }
        }
        if self.shared.counting {
            self.descriptors += u64::from(done);
        }
        self.consumer = self.consumer.wrapping_add(done);
        if self.records.len() >= RECORDS {
            self.flush();
            self.begin_lap();
        }
        Ok(done)
    }

    /// The descriptor at `consumer` has failed: for the next fence, and for the registers.
    pub(crate) fn failed(&mut self, fault: Fault) {
        self.errors
            .first
            .get_or_insert((fault.status, self.consumer));
        self.errors.count = self.errors.count.saturating_add(1);
        self.report(fault, false);
    }

    /// Shows an error in the registers, and raises its interrupt.
    fn report(&self, fault: Fault, fatal: bool) {
        // The permit keeps an error of an ended run out of the registers of the next generation.
        let Ok(_view) = self.permit() else { return };
        let mut registers = self.shared.registers();
        if fatal {
            registers.queue_failed(self.queue, self.setup.run);
        }
        let causes = registers.record_error(ErrorRecord {
            status: fault.status,
            queue: self.queue,
            index: self.consumer,
            address: fault.address,
        });
        self.shared.raise(&registers, causes);
    }

    /// Writes a fence record, and raises the queue's interrupt if asked.
    pub(crate) fn fence(&mut self, fence: Fence) -> Result<(), Stop> {
        let Fence {
            address,
            sequence,
            interrupt,
        } = fence;
        const SEQUENCE: usize = std::mem::offset_of!(FenceRecord, sequence);
        const { assert!(SEQUENCE == 0, "the sequence is the first word") };
        // Whoever has seen the fence finds in telemetry what came before it.
        self.flush();
        self.arrive();
        let (status, error_index) = self.errors.first.unwrap_or((Status::STATUS_OK, 0));
        let record = FenceRecord {
            sequence,
            status: status.0,
            errors: self.errors.count,
            error_index,
            reserved: 0,
            time_ns: now_ns(),
        };
        let record = if self.shared.inject.any(FaultSite::Fence) {
            self.fence_injected(record)?
        } else {
            Some(record)
        };
        let Some(record) = record else {
            // Lost: whoever waits for it waits in vain.
            self.errors = FenceErrors::default();
            return Ok(());
        };
        let sequence = record.sequence;
        let view = self.permit_or_abort()?;
        view.check(address, FenceRecord::SIZE as u64, Access::Write)?;
        let bytes = record.to_le_bytes();
        let rest = address + size_of::<u64>() as u64;
        view.write(rest, &bytes[size_of::<u64>()..])?;
        // The fence's own slot was fetched, so it is done with: a driver that sees the fence finds
        // the room that it and what came before it took.
        let consumer = self.consumer.wrapping_add(1);
        self.setup.ring.store(&view, Word::Consumer, consumer)?;
        self.published = consumer;
        // It cannot fail any more: the place was checked under this permit.
        self.shared.telemetry.counters.fence();
        let publish = || view.store(address, sequence.to_le(), Ordering::Release);
        if interrupt {
            // Under the lock, so that a driver that sees the fence also finds the cause set, and
            // the interrupt raised once it has accessed any register.
            let mut registers = self.shared.registers();
            let causes = registers.queue_interrupt(self.queue);
            publish()?;
            self.shared.raise(&registers, causes);
        } else {
            publish()?;
        }
        self.record(Record::Fence {
            sequence,
            index: self.consumer,
            status,
            errors: self.errors.count,
            time_ns: record.time_ns,
        });
        self.errors = FenceErrors::default();
        Ok(())
    }

    /// As [`Self::permit`]; without one the descriptor at `consumer` is told to telemetry as
    /// aborted.
    pub(crate) fn permit_or_abort(&mut self) -> Result<Permit<'a>, Ended> {
        self.permit().inspect_err(|Ended| {
            let status = Status::STATUS_ABORTED;
            self.record(Record::Error { status });
        })
    }

    /// For telemetry.
    pub(crate) fn record(&mut self, record: Record) {
        if self.shared.counting {
            self.close_group();
            self.tell_touch();
            self.records.push(record);
        }
    }

    /// Hands over what telemetry has not seen yet.
    fn flush(&mut self) {
        self.keep_none();
        self.close_group();
        self.tell_touch();
        self.control.served(std::mem::take(&mut self.busy));
        if self.descriptors > 0 || !self.records.is_empty() {
            let generation = self.setup.generation;
            self.shared.telemetry.record(
                source(self.queue),
                generation,
                self.descriptors,
                &self.records,
            );
            self.descriptors = 0;
            self.records.clear();
        }
    }
}
