//! One run of a context: from its enabling until it is disabled, fails, or the device is reset.
//!
//! A run is worked on in turns. Like the engines of queues, it touches memory only under a permit,
//! and holds that for one step of a job at most.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use hmmgpu_contract::compute::{Job as Descriptor, JobRecord};
use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::{FaultAccess, FaultReason};
use hmmgpu_contract::regs::ERROR_CONTEXT0;
use hmmgpu_telemetry::Record;
use hmmgpu_telemetry::snapshot::{Access as AccessName, Kernel as Name, Outcome};
use vm_memory::VolatileSlice;

use super::job::{self, Envelope};
use super::kernels::{Kernel, Progress, Scratch, Step};
use super::memory::{Halt, Memory};
use super::schedule::{After, Schedule};
use crate::clock::now_ns;
use crate::command::{Fault, Place};
use crate::device::Shared;
use crate::dma::{Access, DmaView};
use crate::memory::Memory as BothApertures;
use crate::mmu::{Context, MmuCounts, MmuFault, Resolution, Space};
use crate::queue::Stop;
use crate::registers::{ErrorRecord, QueueSetup};
use crate::ring::Word;

/// How long a turn lasts, when others wait for theirs: as long as it takes to be worth the change.
const TURN: Duration = Duration::from_micros(250);
/// Bounds of the time for which an engine polls a ring that has become empty, when no other
/// context wants it; as for copy engines.
const POLL_MIN: Duration = Duration::from_micros(20);
const POLL_MAX: Duration = Duration::from_micros(100);
/// Pauses of the CPU between two looks at the producer index.
const POLL_PAUSES: u32 = 8;

/// What there is of a context between its turns.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    run: Option<Box<Run>>,
    /// The last run that was begun; it is not begun again when it has failed.
    begun: u64,
}

impl Slot {
    /// Gives a context its turn.
    pub(crate) fn turn(
        &mut self,
        shared: &Shared,
        schedule: &Schedule,
        number: u32,
        scratch: &mut Scratch,
    ) -> After {
        let context = &shared.contexts[number as usize];
        if let Some(run) = self
            .run
            .take_if(|run| !context.control.allows(run.setup.run))
        {
            run.end(shared, context);
        }
        if let Some(setup) = context.control.allowed()
            && setup.run != self.begun
        {
            self.begun = setup.run;
            context.begin(setup.root);
            self.run = Some(Box::new(Run::new(number, setup)));
        }
        let Some(run) = &mut self.run else {
            return After::Sleep;
        };
        let turn = Turn {
            shared,
            context,
            schedule,
        };
        match run.turn(&turn, scratch) {
            Ok(after) => after,
            Err(stop) => {
                if let Some(run) = self.run.take() {
                    if let Stop::Fault(fault) = stop {
                        run.fail(&turn, fault);
                    }
                    run.end(shared, context);
                }
                // The next run may have been allowed already.
                After::Again
            }
        }
    }
}

/// What a turn is taken with.
struct Turn<'a> {
    shared: &'a Shared,
    context: &'a Context,
    schedule: &'a Schedule,
}

/// A fault that a job waits for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    fault: MmuFault,
    since_ns: u64,
}

/// A job that has been begun.
#[derive(Debug)]
struct Job {
    envelope: Envelope,
    name: Name,
    kernel: Kernel,
    progress: Progress,
    waiting: Option<Waiting>,
    faults: u32,
    begin_ns: u64,
    engine_ns: u64,
}

/// How a job ended.
#[derive(Clone, Copy, Debug)]
struct End {
    status: Status,
    detail: u32,
    fault: Option<MmuFault>,
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self {
            status,
            detail: 0,
            fault: None,
        }
    }
}

/// How a job is after having been worked on.
enum Worked {
    Ended,
    /// Its turn is over.
    TurnOver,
    /// It waits for a fault to be resolved.
    Waits,
}

#[derive(Debug)]
struct Run {
    number: u32,
    setup: QueueSetup,
    /// The header has been initialised.
    initialised: bool,
    /// The driver has been asked to ring the doorbell.
    need_kick: bool,
    consumer: u32,
    job: Option<Job>,
    poll: Duration,
    counts: MmuCounts,
    records: Vec<Record>,
}

/// Memory for a kernel: virtual addresses by the context's page table, and the DMA map.
struct Reach<'m, 'space> {
    space: &'m Space<'space>,
    memory: BothApertures<'m>,
}

impl<'m> Memory<'m> for Reach<'m, '_> {
    fn slice(
        &mut self,
        address: u64,
        len: usize,
        access: FaultAccess,
    ) -> Result<VolatileSlice<'m>, Halt> {
        Ok(self.space.slice(self.memory, address, len, access)?)
    }

    fn dma(&mut self, address: u64, len: usize, access: Access) -> Result<VolatileSlice<'m>, Halt> {
        let place = Place::System(address);
        self.memory.slice(place, len, access).map_err(Halt::Dma)
    }
}

fn access_name(access: FaultAccess) -> AccessName {
    match access {
        FaultAccess::FAULT_READ => AccessName::Read,
        FaultAccess::FAULT_WRITE => AccessName::Write,
        _ => AccessName::Atomic,
    }
}

fn fault_record(fault: &MmuFault, outcome: Outcome, waited_ns: u64) -> Record {
    Record::Fault {
        access: access_name(fault.access),
        reason: fault.reason,
        outcome,
        waited_ns,
    }
}

impl Run {
    fn new(number: u32, setup: QueueSetup) -> Self {
        Self {
            number,
            setup,
            initialised: false,
            need_kick: false,
            consumer: 0,
            job: None,
            poll: POLL_MAX,
            counts: MmuCounts::default(),
            records: Vec::new(),
        }
    }

    /// A permit to touch memory. While the function may not master the bus, it waits.
    fn permit<'a>(&self, turn: &Turn<'a>) -> Result<DmaView<'a>, Stop> {
        let control = &turn.context.control;
        let run = self.setup.run;
        loop {
            if let Some(view) = control.permit(turn.shared, run)? {
                return Ok(view);
            }
            turn.schedule
                .wait_while(|| control.allows(run) && !turn.shared.may_master());
            if turn.shared.shutting_down() {
                return Err(Stop::Ended);
            }
        }
    }

    fn store(&self, turn: &Turn<'_>, word: Word, value: u32) -> Result<(), Stop> {
        Ok(self.setup.ring.store(&self.permit(turn)?, word, value)?)
    }

    /// Number of jobs that are ready.
    fn pending(&self, turn: &Turn<'_>) -> Result<u32, Stop> {
        let view = self.permit(turn)?;
        Ok(self.setup.ring.pending(&view, self.consumer)?)
    }

    fn turn(&mut self, turn: &Turn<'_>, scratch: &mut Scratch) -> Result<After, Stop> {
        if !self.initialised {
            self.store(turn, Word::Consumer, 0)?;
            self.store(turn, Word::NeedKick, 0)?;
            self.initialised = true;
        }
        let begin = Instant::now();
        let over = || turn.schedule.others_wait() && begin.elapsed() >= TURN;
        let after = loop {
            if self.job.is_none() && !self.next(turn)? {
                if self.sleep(turn)? {
                    break After::Sleep;
                }
                continue;
            }
            match self.work(turn, scratch, over)? {
                Worked::Ended if over() => break After::Again,
                Worked::Ended => {}
                Worked::TurnOver => break After::Again,
                Worked::Waits => break After::Sleep,
            }
        };
        self.flush(turn.shared);
        Ok(after)
    }

    /// Whether the ring stays empty: polls for a while if no other context wants the engine, then
    /// asks for the doorbell.
    fn sleep(&mut self, turn: &Turn<'_>) -> Result<bool, Stop> {
        if self.need_kick {
            // It was woken for something else.
            return Ok(true);
        }
        let since = Instant::now();
        while since.elapsed() < self.poll && !turn.schedule.others_wait() {
            if self.pending(turn)? > 0 {
                // It was worth it.
                self.poll = (self.poll * 2).min(POLL_MAX);
                return Ok(false);
            }
            for _ in 0..POLL_PAUSES {
                std::hint::spin_loop();
            }
        }
        self.poll = (self.poll / 2).max(POLL_MIN);
        self.store(turn, Word::NeedKick, 1)?;
        self.need_kick = true;
        // Pairs with the driver's barrier between its store to `producer` and its load of
        // `need_kick`: at least one side sees what the other has stored.
        fence(Ordering::SeqCst);
        let sleep = self.pending(turn)? == 0;
        if sleep {
            turn.shared.telemetry.counters.engine_sleep();
        }
        Ok(sleep)
    }

    /// Fetches the next job; `false` when there is none.
    fn next(&mut self, turn: &Turn<'_>) -> Result<bool, Stop> {
        loop {
            let view = self.permit(turn)?;
            if self.setup.ring.pending(&view, self.consumer)? == 0 {
                return Ok(false);
            }
            if self.need_kick {
                self.setup.ring.store(&view, Word::NeedKick, 0)?;
                self.need_kick = false;
            }
            let entry = self.setup.ring.fetch(&view, self.consumer)?;
            let descriptor = Descriptor::from_le_bytes(&entry);
            let begin_ns = now_ns();
            let name = job::name(descriptor.opcode);
            // Without a record there is nobody to do it for.
            let envelope = Envelope::of(&descriptor).and_then(|envelope| {
                view.check(envelope.record, JobRecord::SIZE as u64, Access::Write)?;
                Ok(envelope)
            });
            drop(view);
            let envelope = match envelope {
                Ok(envelope) => envelope,
                Err(fault) => {
                    self.unanswerable(turn, name, fault)?;
                    continue;
                }
            };
            match job::kernel(&descriptor) {
                Ok(kernel) => {
                    self.job = Some(Job {
                        envelope,
                        name,
                        progress: kernel.begin(),
                        kernel,
                        waiting: None,
                        faults: 0,
                        begin_ns,
                        engine_ns: 0,
                    });
                    return Ok(true);
                }
                Err(fault) => self.refuse(turn, &envelope, name, begin_ns, fault)?,
            }
        }
    }

    /// Works on the job until its end, a fault, or until the turn is over.
    fn work(
        &mut self,
        turn: &Turn<'_>,
        scratch: &mut Scratch,
        over: impl Fn() -> bool,
    ) -> Result<Worked, Stop> {
        let waiting = self.job.as_ref().and_then(|job| job.waiting);
        match self.resolved(turn) {
            Some(Resolution::Replay) => {}
            Some(Resolution::Cancel { detail }) => {
                self.end_job(
                    turn,
                    End {
                        status: Status::STATUS_CANCELLED,
                        detail,
                        fault: waiting.map(|waiting| waiting.fault),
                    },
                )?;
                return Ok(Worked::Ended);
            }
            None => return Ok(Worked::Waits),
        }
        loop {
            match self.step(turn, scratch)? {
                Ok(Step::More) if over() => return Ok(Worked::TurnOver),
                Ok(Step::More) => {}
                Ok(Step::Finished) => {
                    self.end_job(turn, End::from(Status::STATUS_OK))?;
                    return Ok(Worked::Ended);
                }
                Err(halt) => {
                    return if self.halted(turn, halt)? {
                        Ok(Worked::Ended)
                    } else {
                        Ok(Worked::Waits)
                    };
                }
            }
        }
    }

    /// What the driver has decided about the fault that the job waits for, which counts as
    /// replayed if there is none; `None` while it has not.
    fn resolved(&mut self, turn: &Turn<'_>) -> Option<Resolution> {
        let Some(job) = &mut self.job else {
            return Some(Resolution::Replay);
        };
        let Some(waiting) = job.waiting else {
            return Some(Resolution::Replay);
        };
        let resolution = turn.context.fault.take()?;
        job.waiting = None;
        let outcome = match resolution {
            Resolution::Replay => {
                job.faults = job.faults.saturating_add(1);
                Outcome::Replayed
            }
            Resolution::Cancel { .. } => Outcome::Cancelled,
        };
        let waited_ns = now_ns().saturating_sub(waiting.since_ns);
        let record = fault_record(&waiting.fault, outcome, waited_ns);
        self.records.push(record);
        Some(resolution)
    }

    /// One step of the job, under one permit.
    fn step(&mut self, turn: &Turn<'_>, scratch: &mut Scratch) -> Result<Result<Step, Halt>, Stop> {
        let view = self.permit(turn)?;
        let Some(job) = &mut self.job else {
            return Ok(Ok(Step::Finished));
        };
        let begin_ns = now_ns();
        let space = turn.context.space.enter();
        let mut reach = Reach {
            space: &space,
            memory: turn.shared.memory(&view),
        };
        let step = job.kernel.step(&mut job.progress, &mut reach, scratch);
        let counts = space.take_counts();
        self.counts.translations += counts.translations;
        self.counts.tlb_hits += counts.tlb_hits;
        self.counts.walks += counts.walks;
        drop(space);
        job.engine_ns += now_ns().saturating_sub(begin_ns);
        Ok(step)
    }

    /// The job cannot go on from where it is. Returns whether it has ended.
    fn halted(&mut self, turn: &Turn<'_>, halt: Halt) -> Result<bool, Stop> {
        let fault = match halt {
            Halt::Fault(fault) => fault,
            Halt::Misaligned => {
                self.end_job(turn, End::from(Status::STATUS_MISALIGNED))?;
                return Ok(true);
            }
            Halt::Dma(fault) => {
                self.report(turn, fault, false)?;
                self.end_job(turn, End::from(fault.status))?;
                return Ok(true);
            }
        };
        let Some(job) = &mut self.job else {
            return Ok(true);
        };
        if job.envelope.no_replay {
            self.records.push(fault_record(&fault, Outcome::Ended, 0));
            let end = End {
                fault: Some(fault),
                ..End::from(Status::STATUS_FAULT)
            };
            self.end_job(turn, end)?;
            return Ok(true);
        }
        let sequence = job.envelope.sequence;
        job.waiting = Some(Waiting {
            fault,
            since_ns: now_ns(),
        });
        let view = self.permit(turn)?;
        let (number, run) = (self.number, self.setup.run);
        let faults = &turn.shared.faults;
        faults.report(turn.shared, &view, number, run, sequence, &fault);
        Ok(false)
    }

    /// A job breaks a rule.
    fn refuse(
        &mut self,
        turn: &Turn<'_>,
        envelope: &Envelope,
        name: Name,
        begin_ns: u64,
        fault: Fault,
    ) -> Result<(), Stop> {
        self.report(turn, fault, false)?;
        self.records.push(Record::Job {
            kernel: name,
            status: fault.status,
            elements: 0,
            engine_ns: 0,
        });
        let record = JobRecord {
            sequence: envelope.sequence,
            status: fault.status.0,
            detail: 0,
            value: 0,
            done: 0,
            fault_address: 0,
            fault_reason: 0,
            faults: 0,
            begin_ns,
            end_ns: now_ns(),
        };
        self.answer(turn, envelope, &record)
    }

    /// The job has ended.
    fn end_job(&mut self, turn: &Turn<'_>, end: End) -> Result<(), Stop> {
        let Some(job) = self.job.take() else {
            return Ok(());
        };
        self.records.push(Record::Job {
            kernel: job.name,
            status: end.status,
            elements: job.progress.done,
            engine_ns: job.engine_ns,
        });
        let reason = |fault: MmuFault| u32::from(fault.reason.0);
        let record = JobRecord {
            sequence: job.envelope.sequence,
            status: end.status.0,
            detail: end.detail,
            value: job.progress.value,
            done: job.progress.done,
            fault_address: end.fault.map_or(0, |fault| fault.address),
            fault_reason: end
                .fault
                .map_or(u32::from(FaultReason::FAULT_NONE.0), reason),
            faults: job.faults,
            begin_ns: job.begin_ns,
            end_ns: now_ns(),
        };
        self.answer(turn, &job.envelope, &record)
    }

    /// Writes a job record, and raises the context's interrupt if asked.
    fn answer(
        &mut self,
        turn: &Turn<'_>,
        envelope: &Envelope,
        record: &JobRecord,
    ) -> Result<(), Stop> {
        const SEQUENCE: usize = std::mem::offset_of!(JobRecord, sequence);
        const { assert!(SEQUENCE == 0, "the sequence is the first word") };
        // Whoever has seen the record finds in telemetry what it tells of.
        self.flush(turn.shared);
        let address = envelope.record;
        let view = self.permit(turn)?;
        let bytes = record.to_le_bytes();
        let rest = address + size_of::<u64>() as u64;
        let written = view
            .check(address, JobRecord::SIZE as u64, Access::Write)
            .and_then(|()| view.write(rest, &bytes[size_of::<u64>()..]));
        if let Err(fault) = written {
            drop(view);
            self.report(turn, fault, false)?;
            return self.advance(turn);
        }
        // Its slot was fetched, so it is done with: a driver that sees the record finds the room.
        let consumer = self.consumer.wrapping_add(1);
        self.setup.ring.store(&view, Word::Consumer, consumer)?;
        self.consumer = consumer;
        let publish = || view.store(address, record.sequence.to_le(), Ordering::Release);
        if envelope.interrupt {
            // As with fences: a driver that sees the record also finds the cause set, and the
            // interrupt raised once it has accessed any register.
            let mut registers = turn.shared.registers();
            let vector = registers.job_interrupt(self.number);
            publish()?;
            if let Some(vector) = vector {
                turn.shared.raise_vector(vector);
            }
        } else {
            publish()?;
        }
        Ok(())
    }

    /// There is no place to tell of the end of a job.
    fn unanswerable(&mut self, turn: &Turn<'_>, name: Name, fault: Fault) -> Result<(), Stop> {
        self.records.push(Record::Job {
            kernel: name,
            status: fault.status,
            elements: 0,
            engine_ns: 0,
        });
        self.flush(turn.shared);
        self.report(turn, fault, false)?;
        self.advance(turn)
    }

    /// The job at `consumer` is done with.
    fn advance(&mut self, turn: &Turn<'_>) -> Result<(), Stop> {
        let consumer = self.consumer.wrapping_add(1);
        self.store(turn, Word::Consumer, consumer)?;
        self.consumer = consumer;
        Ok(())
    }

    /// Shows an error in the registers, and raises its interrupt.
    fn report(&self, turn: &Turn<'_>, fault: Fault, fatal: bool) -> Result<(), Stop> {
        // The permit keeps an error of an ended run out of the registers of the next generation.
        let _view = self.permit(turn)?;
        let queue = ERROR_CONTEXT0 + self.number;
        let mut registers = turn.shared.registers();
        if fatal {
            registers.queue_failed(queue, self.setup.run);
        }
        let causes = registers.record_error(ErrorRecord {
            status: fault.status,
            queue,
            index: self.consumer,
            address: fault.address,
        });
        turn.shared.raise(&registers, causes);
        Ok(())
    }

    /// The run cannot go on.
    fn fail(&self, turn: &Turn<'_>, fault: Fault) {
        let queue = ERROR_CONTEXT0 + self.number;
        turn.shared
            .log_queue_stop(queue, self.consumer, fault.status);
        let status = fault.status;
        let error = [Record::Error { status }];
        let generation = self.setup.generation;
        turn.shared.telemetry.record(generation, 0, &error);
        // Nothing more can be told when it has ended meanwhile.
        let _ = self.report(turn, fault, true);
    }

    /// The run is over, and with it the job that it was at.
    fn end(mut self, shared: &Shared, context: &Context) {
        if let Some(job) = self.job.take() {
            if let Some(waiting) = job.waiting {
                let record = fault_record(&waiting.fault, Outcome::Dropped, 0);
                self.records.push(record);
            }
            self.records.push(Record::Job {
                kernel: job.name,
                status: Status::STATUS_ABORTED,
                elements: job.progress.done,
                engine_ns: job.engine_ns,
            });
        }
        self.flush(shared);
        context.end();
    }

    /// Hands over what telemetry has not seen yet.
    fn flush(&mut self, shared: &Shared) {
        let MmuCounts {
            translations,
            tlb_hits,
            walks,
        } = std::mem::take(&mut self.counts);
        if translations > 0 {
            let counters = &shared.telemetry.counters;
            counters.translated(translations, tlb_hits, walks);
        }
        if !self.records.is_empty() {
            let generation = self.setup.generation;
            shared.telemetry.record(generation, 0, &self.records);
            self.records.clear();
        }
    }
}
