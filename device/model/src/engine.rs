//! The copy engine: one thread for each queue.
//!
//! Whatever an engine does to guest memory or VRAM happens under a *permit*: a view of the DMA
//! map, taken while the queue's run is still the one that was started and the function may
//! master the bus. Who ends a run, or takes bus mastering away, changes the flag first and then
//! waits for the views that are out ([`DmaMap::barrier`](crate::dma::DmaMap::barrier)); from then
//! on nothing of the old run can be written. A permit covers at most [`CHUNK`] bytes.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use hmmgpu_contract::desc::{Desc, Status};
use hmmgpu_contract::queue::{FenceRecord, QueueHeader};
use hmmgpu_telemetry::{NoteKind, Record, TransferKind};
use vm_memory::VolatileSlice;

use crate::clock::now_ns;
use crate::command::{Command, Fault, Place, Source, Transfer};
use crate::copy::{copy, copy_from_buffer};
use crate::device::Shared;
use crate::dma::{Access, DmaView};
use crate::registers::{ErrorRecord, QueueSetup};
use crate::ring;

/// Most bytes that are copied under one permit. Bounds how long an unmap or a reset waits.
const CHUNK: u64 = 2 << 20;
/// Descriptors after which the consumer index is published at the latest.
const PUBLISH_EVERY: u32 = 64;
/// Records that are handed to telemetry at the latest.
const RECORDS: usize = 256;
/// Bounds of the time for which an idle engine polls before it sleeps. Polling longer would take
/// a core from the guest's CPUs; waking takes 40 to 150 us.
const POLL_MIN: Duration = Duration::from_micros(20);
const POLL_MAX: Duration = Duration::from_micros(100);
/// Pauses of the CPU between two looks at the producer index.
const POLL_PAUSES: u32 = 8;
/// Unit in which patterns are written.
const PATTERN_BYTES: usize = 4096;

const PRODUCER: u64 = std::mem::offset_of!(QueueHeader, producer) as u64;
const NEED_KICK: u64 = std::mem::offset_of!(QueueHeader, need_kick) as u64;
const CONSUMER: u64 = std::mem::offset_of!(QueueHeader, consumer) as u64;

/// What other threads tell an engine.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// The run that is allowed; 0: none.
    run: AtomicU64,
    setup: Mutex<Option<QueueSetup>>,
    thread: OnceLock<Thread>,
}

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

    /// The set-up of the run that is allowed.
    fn allowed(&self) -> Option<QueueSetup> {
        let setup = (*self.setup.lock().unwrap_or_else(PoisonError::into_inner))?;
        (self.run.load(Ordering::SeqCst) == setup.run).then_some(setup)
    }
}

/// Why a run, or a descriptor, does not go on.
#[derive(Debug)]
enum Stop {
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

/// Errors since the last fence.
#[derive(Clone, Copy, Debug, Default)]
struct FenceErrors {
    first: Option<(Status, u32)>,
    count: u32,
}

/// The thread of one queue.
pub(crate) fn run(shared: &Arc<Shared>, queue: u32) {
    let control = &shared.engines[queue as usize];
    let mut done = 0;
    while !shared.shutting_down() {
        match control.allowed() {
            Some(setup) if setup.run != done => {
                done = setup.run;
                Run::new(shared, queue, setup).work();
            }
            _ => std::thread::park(),
        }
    }
}

/// One run: from the enabling of a queue until it is disabled, fails, or the device is reset.
struct Run<'a> {
    shared: &'a Shared,
    control: &'a Control,
    queue: u32,
    setup: QueueSetup,
    consumer: u32,
    published: u32,
    errors: FenceErrors,
    records: Vec<Record>,
    descriptors: u64,
    poll: Duration,
    /// End of the last descriptor, which is the beginning of the next while the ring is not
    /// empty: one reading of the clock for each descriptor.
    clock: u64,
    /// How long permits were waited for since then, in nanoseconds.
    waited: Cell<u64>,
    pattern: Box<[u8]>,
}

impl<'a> Run<'a> {
    fn new(shared: &'a Shared, queue: u32, setup: QueueSetup) -> Self {
        Self {
            shared,
            control: &shared.engines[queue as usize],
            queue,
            setup,
            consumer: 0,
            published: 0,
            errors: FenceErrors::default(),
            records: Vec::with_capacity(RECORDS),
            descriptors: 0,
            poll: POLL_MAX,
            clock: 0,
            waited: Cell::new(0),
            pattern: vec![0; PATTERN_BYTES].into(),
        }
    }

    fn work(mut self) {
        let stop = self.serve();
        if let Stop::Fault(fault) = stop {
            if let Some(times) = self.shared.queue_stops.count() {
                tracing::warn!(
                    queue = self.queue,
                    index = self.consumer,
                    times,
                    "queue stopped: {:?}",
                    fault.status
                );
            }
            self.records.push(Record::Error {
                status: fault.status,
            });
            self.report(fault, true);
        }
        self.flush();
    }

    /// A permit to touch memory. While the function may not master the bus, it waits.
    fn permit(&self) -> Result<DmaView<'a>, Stop> {
        if let Some(view) = self.shared.dma.try_view()
            && let Some(view) = self.permitted(view)?
        {
            return Ok(view);
        }
        let since = now_ns();
        let permit = self.wait_for_permit();
        let waited = now_ns().saturating_sub(since);
        self.waited.set(self.waited.get().saturating_add(waited));
        permit
    }

    fn wait_for_permit(&self) -> Result<DmaView<'a>, Stop> {
        loop {
            if let Some(view) = self.permitted(self.shared.dma.view())? {
                return Ok(view);
            }
            std::thread::park();
        }
    }

    /// The view, if memory may be touched now.
    fn permitted(&self, view: DmaView<'a>) -> Result<Option<DmaView<'a>>, Stop> {
        if self.control.run.load(Ordering::SeqCst) != self.setup.run {
            return Err(Stop::Ended);
        }
        Ok(self.shared.may_master().then_some(view))
    }

    /// The time in which the engine was busy since the last call.
    fn lap(&mut self) -> u64 {
        let now = now_ns();
        let busy = now
            .saturating_sub(self.clock)
            .saturating_sub(self.waited.take());
        self.clock = now;
        busy
    }

    fn serve(&mut self) -> Stop {
        match self.serve_until_stopped() {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    fn serve_until_stopped(&mut self) -> Result<std::convert::Infallible, Stop> {
        {
            let view = self.permit()?;
            self.store(&view, CONSUMER, 0)?;
            self.store(&view, NEED_KICK, 0)?;
        }
        loop {
            let pending = self.pending()?;
            if pending == 0 {
                self.idle()?;
                continue;
            }
            self.lap();
            for _ in 0..pending {
                self.descriptor()?;
                if self.consumer.wrapping_sub(self.published) >= PUBLISH_EVERY {
                    self.publish()?;
                }
            }
            self.publish()?;
            self.flush();
        }
    }

    fn unreachable(fault: Fault) -> Stop {
        Stop::Fault(Fault::at(Status::STATUS_QUEUE_UNREACHABLE, fault.address))
    }

    fn store(&self, view: &DmaView<'_>, word: u64, value: u32) -> Result<(), Stop> {
        view.store(self.setup.header + word, value.to_le(), Ordering::Release)
            .map_err(Self::unreachable)
    }

    /// Number of descriptors that are ready.
    fn pending(&self) -> Result<u32, Stop> {
        let view = self.permit()?;
        let producer = view
            .load::<u32>(self.setup.header + PRODUCER, Ordering::Acquire)
            .map_err(Self::unreachable)?;
        let producer = u32::from_le(producer);
        let pending = ring::pending(producer, self.consumer, self.setup.ring_log2);
        pending.ok_or(Stop::Fault(Fault::at(
            Status::STATUS_BAD_PRODUCER,
            u64::from(producer),
        )))
    }

    /// Publishes the consumer index.
    fn publish(&mut self) -> Result<(), Stop> {
        if self.published != self.consumer {
            let view = self.permit()?;
            self.store(&view, CONSUMER, self.consumer)?;
            self.published = self.consumer;
        }
        Ok(())
    }

    /// Polls for a while, then sleeps until the doorbell. Returns when there may be work.
    fn idle(&mut self) -> Result<(), Stop> {
        let since = Instant::now();
        while since.elapsed() < self.poll {
            if self.pending()? > 0 {
                // It was worth it.
                self.poll = (self.poll * 2).min(POLL_MAX);
                return Ok(());
            }
            for _ in 0..POLL_PAUSES {
                std::hint::spin_loop();
            }
        }
        self.poll = (self.poll / 2).max(POLL_MIN);
        {
            let view = self.permit()?;
            self.store(&view, NEED_KICK, 1)?;
        }
        // Pairs with the driver's barrier between its store to `producer` and its load of
        // `need_kick`: at least one side sees what the other has stored.
        fence(Ordering::SeqCst);
        if self.pending()? == 0 {
            self.shared.telemetry.counters.engine_sleep();
            std::thread::park();
        }
        let view = self.permit()?;
        self.store(&view, NEED_KICK, 0)
    }

    /// Fetches and carries out the descriptor at `consumer`.
    fn descriptor(&mut self) -> Result<(), Stop> {
        let mut bytes = [0; Desc::SIZE];
        let at = ring::offset(self.consumer, self.setup.ring_log2, Desc::SIZE);
        self.permit()?
            .read(self.setup.ring.wrapping_add(at), &mut bytes)
            .map_err(Self::unreachable)?;
        let desc = Desc::from_le_bytes(&bytes);
        self.descriptors += 1;
        let result = match Command::try_from(&desc) {
            Ok(Command::Transfer(transfer)) => self.transfer(&transfer),
            Ok(command) => {
                let result = self.other(command);
                self.lap();
                self.note_error(result)
            }
            Err(fault) => self.note_error(Err(fault.into())),
        };
        result?;
        self.consumer = self.consumer.wrapping_add(1);
        if self.records.len() >= RECORDS {
            self.flush();
            self.lap();
        }
        Ok(())
    }

    /// Turns the failure of a descriptor other than a transfer into a record.
    fn note_error(&mut self, result: Result<(), Stop>) -> Result<(), Stop> {
        match result {
            Ok(()) => Ok(()),
            Err(Stop::Fault(fault)) => {
                let status = fault.status;
                self.records.push(Record::Error { status });
                self.failed(fault);
                Ok(())
            }
            Err(Stop::Ended) => {
                self.aborted();
                Err(Stop::Ended)
            }
        }
    }

    fn aborted(&mut self) {
        let status = Status::STATUS_ABORTED;
        self.records.push(Record::Error { status });
    }

    /// The descriptor at `consumer` has failed: for the next fence, and for the registers.
    fn failed(&mut self, fault: Fault) {
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

    fn transfer(&mut self, transfer: &Transfer) -> Result<(), Stop> {
        let result = self.copy(transfer);
        let engine_ns = self.lap();
        let status = match &result {
            Ok(()) => Status::STATUS_OK,
            Err(Stop::Fault(fault)) => fault.status,
            Err(Stop::Ended) => Status::STATUS_ABORTED,
        };
        self.records.push(Record::Transfer {
            kind: match transfer.src {
                Source::Place(_) => TransferKind::Copy,
                Source::Pattern(_) => TransferKind::Fill,
            },
            order: transfer.order,
            direction: transfer.direction(),
            trigger: transfer.trigger,
            folios: transfer.count,
            engine_ns,
            status,
        });
        match result {
            Err(Stop::Fault(fault)) => {
                self.failed(fault);
                Ok(())
            }
            other => other,
        }
    }

    fn copy(&mut self, transfer: &Transfer) -> Result<(), Stop> {
        if let Source::Pattern(pattern) = transfer.src {
            for word in self.pattern.chunks_exact_mut(8) {
                word.copy_from_slice(&pattern.to_le_bytes());
            }
        }
        let mut view = self.permit()?;
        // All of it, before any of it: a descriptor that breaks a rule is not carried out.
        self.check(&view, transfer.dst, transfer.bytes, Access::Write)?;
        if let Source::Place(src) = transfer.src {
            self.check(&view, src, transfer.bytes, Access::Read)?;
        }
        let mut done = 0;
        loop {
            let end = (done + CHUNK).min(transfer.bytes);
            while done < end {
                done += self.copy_piece(&view, transfer, done, end - done)?;
            }
            if done == transfer.bytes {
                return Ok(());
            }
            // Whoever waits for the map goes first: the lock prefers writers.
            drop(view);
            view = self.permit()?;
        }
    }

    fn check(
        &self,
        view: &DmaView<'_>,
        place: Place,
        bytes: u64,
        access: Access,
    ) -> Result<(), Fault> {
        match place {
            Place::System(address) => view.check(address, bytes, access),
            Place::Vram(offset) => {
                self.shared.vram.check(offset, bytes)?;
                self.shared.background.vram_used(offset, bytes);
                Ok(())
            }
        }
    }

    fn slice<'v>(
        &'v self,
        view: &'v DmaView<'_>,
        place: Place,
        offset: u64,
        len: usize,
        access: Access,
    ) -> Result<VolatileSlice<'v, ()>, Fault> {
        let address = place.address() + offset;
        match place {
            Place::System(_) => view.slice(address, len, access),
            Place::Vram(_) => self.shared.vram.slice(address, len),
        }
    }

    /// Copies up to `bytes` bytes, as far as memory is contiguous on both sides. Returns how many
    /// bytes that were; never zero.
    fn copy_piece(
        &self,
        view: &DmaView<'_>,
        transfer: &Transfer,
        done: u64,
        bytes: u64,
    ) -> Result<u64, Fault> {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        let dst = self.slice(view, transfer.dst, done, len, Access::Write)?;
        match transfer.src {
            Source::Place(src) => {
                let src = self.slice(view, src, done, dst.len(), Access::Read)?;
                copy(&dst, &src);
                Ok(src.len() as u64)
            }
            Source::Pattern(_) => {
                // Maps are whole pages and transfers too: the pattern never shifts.
                copy_from_buffer(&dst, &self.pattern);
                Ok(dst.len().min(self.pattern.len()) as u64)
            }
        }
    }

    fn other(&mut self, command: Command) -> Result<(), Stop> {
        match command {
            Command::Transfer(transfer) => self.transfer(&transfer),
            Command::Fence {
                address,
                sequence,
                interrupt,
            } => self.fence(address, sequence, interrupt),
            Command::SpanBegin { id, pages } => {
                let time_ns = now_ns();
                self.records.push(Record::SpanBegin { id, pages, time_ns });
                Ok(())
            }
            Command::SpanEnd {
                id,
                order,
                direction,
                trigger,
                pages,
            } => {
                let time_ns = now_ns();
                self.records.push(Record::SpanEnd {
                    id,
                    order,
                    direction,
                    trigger,
                    pages,
                    time_ns,
                });
                Ok(())
            }
            Command::Note {
                kind,
                address,
                order,
                count,
                bytes,
            } => {
                self.shared.vram.check(address, bytes)?;
                if kind == NoteKind::Alloc {
                    self.shared.background.vram_used(address, bytes);
                }
                self.records.push(Record::Note {
                    kind,
                    address,
                    order,
                    count,
                });
                Ok(())
            }
            Command::Mark { cookie } => {
                let time_ns = now_ns();
                self.records.push(Record::Mark { cookie, time_ns });
                Ok(())
            }
        }
    }

    fn fence(&mut self, address: u64, sequence: u64, interrupt: bool) -> Result<(), Stop> {
        const SEQUENCE: usize = std::mem::offset_of!(FenceRecord, sequence);
        const { assert!(SEQUENCE == 0, "the sequence is the first word") };
        // Whoever has seen the fence finds in telemetry what came before it.
        self.flush();
        let (status, error_index) = self.errors.first.unwrap_or((Status::STATUS_OK, 0));
        let record = FenceRecord {
            sequence,
            status: status.0,
            errors: self.errors.count,
            error_index,
            reserved: 0,
            time_ns: now_ns(),
        };
        let view = self.permit()?;
        view.check(address, FenceRecord::SIZE as u64, Access::Write)?;
        let bytes = record.to_le_bytes();
        let rest = address + size_of::<u64>() as u64;
        view.write(rest, &bytes[size_of::<u64>()..])?;
        // The fence's own slot was fetched, so it is done with: a driver that sees the fence finds
        // the room that it and what came before it took.
        let consumer = self.consumer.wrapping_add(1);
        self.store(&view, CONSUMER, consumer)?;
        self.published = consumer;
        // It cannot fail any more: the place was checked under this permit.
        self.shared.telemetry.counters.fence();
        let publish = || view.store(address, sequence.to_le(), Ordering::Release);
        if interrupt {
            // Under the lock, so that a driver that sees the fence also finds the cause set, and
            // the interrupt raised once it has accessed any register.
            let mut registers = self.shared.registers();
            let causes = registers.fence_interrupt(self.queue);
            publish()?;
            self.shared.raise(&registers, causes);
        } else {
            publish()?;
        }
        self.errors = FenceErrors::default();
        Ok(())
    }

    /// Hands over what telemetry has not seen yet.
    fn flush(&mut self) {
        if self.descriptors > 0 || !self.records.is_empty() {
            let generation = self.setup.generation;
            self.shared
                .telemetry
                .record(generation, self.descriptors, &self.records);
            self.descriptors = 0;
            self.records.clear();
        }
    }
}
