//! One run of a context: from its enabling until it is disabled, fails, or the device is reset.
//!
//! A run is worked on in turns. Like the engines of queues, it touches memory only under a permit,
//! and holds that for one step of a job at most.

use std::time::{Duration, Instant};

use hmmgpu_contract::compute::{Job as Descriptor, JobRecord};
use hmmgpu_contract::desc::Status;
use hmmgpu_contract::regs::ERROR_CONTEXT0;
use hmmgpu_telemetry::Record;
use hmmgpu_telemetry::snapshot::{EngineState, Outcome};

use super::job::{self, Envelope};
use super::kernels::Scratch;
use super::schedule::{After, Schedule};
use super::work::{Job, Worked};
use crate::clock::now_ns;
use crate::command::Fault;
use crate::dma::{Access, DmaView};
use crate::inject::Held;
use crate::kick::ask_then_look;
use crate::mmu::{Context, MmuCounts};
use crate::queue::Stop;
use crate::registers::{ErrorRecord, QueueSetup};
use crate::ring::Word;
use crate::shared::Shared;
use crate::status::source;

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
pub(super) struct Turn<'a> {
    pub(super) shared: &'a Shared,
    pub(super) context: &'a Context,
    schedule: &'a Schedule,
}

/// What the ring had.
enum Next {
    Empty,
    Job,
    /// A job that breaks a rule, which has been told.
    Refused,
}

/// A run.
#[derive(Debug)]
pub(super) struct Run {
    /// Context number.
    pub(super) number: u32,
    pub(super) setup: QueueSetup,
    /// The header has been initialised.
    initialised: bool,
    /// The driver has been asked to ring the doorbell.
    need_kick: bool,
    /// Index of the job that is worked on, or comes next.
    pub(super) consumer: u32,
    pub(super) job: Option<Job>,
    /// A translation for it comes late, or never.
    pub(super) held: Option<Held>,
    poll: Duration,
    /// What telemetry has not seen yet.
    pub(super) counts: MmuCounts,
    pub(super) records: Vec<Record>,
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
            held: None,
            poll: POLL_MAX,
            counts: MmuCounts::default(),
            records: Vec::new(),
        }
    }

    /// A permit to touch memory. While the function may not master the bus, it waits.
    pub(super) fn permit<'a>(&self, turn: &Turn<'a>) -> Result<DmaView<'a>, Stop> {
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

    pub(super) fn store(&self, turn: &Turn<'_>, word: Word, value: u32) -> Result<(), Stop> {
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
        let control = &turn.context.control;
        control.set_engine_state(EngineState::Busy);
        let mut begin = Instant::now();
        let after = loop {
            if begin.elapsed() >= TURN {
                if turn.schedule.others_wait() {
                    break After::Again;
                }
                // Nobody wants the engine, but somebody may want to see how far it is.
                self.flush(turn.shared);
                begin = Instant::now();
            }
            if self.job.is_none() {
                match self.next(turn)? {
                    Next::Job => control.set_engine_state(EngineState::Busy),
                    Next::Refused => continue,
                    Next::Empty if self.sleep(turn)? => break After::Sleep,
                    Next::Empty => continue,
                }
            }
            if self.work(turn, scratch)? == Worked::Waits {
                break After::Sleep;
            }
        };
        // One that wants another turn is as busy as an engine lets it be.
        if after == After::Sleep {
            let faulted = self.job.as_ref().is_some_and(|job| job.waiting.is_some());
            control.set_engine_state(if faulted {
                EngineState::Faulted
            } else {
                EngineState::Sleeping
            });
        }
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
        let control = &turn.context.control;
        control.set_engine_state(EngineState::Polling);
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
        let ask = || self.store(turn, Word::NeedKick, 1);
        let sleep = ask_then_look(ask, || self.pending(turn))? == 0;
        self.need_kick = true;
        if sleep {
            turn.shared.telemetry.counters.engine_sleep();
        }
        Ok(sleep)
    }

    /// Fetches the next job.
    fn next(&mut self, turn: &Turn<'_>) -> Result<Next, Stop> {
        let view = self.permit(turn)?;
        if self.setup.ring.pending(&view, self.consumer)? == 0 {
            return Ok(Next::Empty);
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
        let refused = match (envelope, job::kernel(&descriptor)) {
            (Ok(envelope), Ok(kernel)) => {
                self.job = Some(Job::new(envelope, name, kernel, begin_ns));
                return Ok(Next::Job);
            }
            (Ok(envelope), Err(fault)) => self.refuse(turn, &envelope, name, begin_ns, fault),
            (Err(fault), _) => self.unanswerable(turn, name, begin_ns, fault),
        };
        refused.map(|()| Next::Refused)
    }

    /// Shows an error in the registers, and raises its interrupt.
    pub(super) fn report(&self, turn: &Turn<'_>, fault: Fault, fatal: bool) -> Result<(), Stop> {
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
        let telemetry = &turn.shared.telemetry;
        telemetry.record(source(ERROR_CONTEXT0 + self.number), generation, 0, &error);
        // Nothing more can be told when it has ended meanwhile.
        let _ = self.report(turn, fault, true);
    }

    /// The run is over, and with it the job that it was at.
    fn end(mut self, shared: &Shared, context: &Context) {
        if let Some(job) = self.job.take() {
            let end_ns = now_ns();
            if let Some(waiting) = job.waiting {
                let record = self.fault_record(&waiting.fault, Outcome::Dropped, 0, end_ns);
                self.records.push(record);
            }
            let record = job.record(self.number, Status::STATUS_ABORTED, end_ns);
            self.records.push(record);
        }
        self.flush(shared);
        context.end();
    }

    /// Hands over what telemetry has not seen yet.
    pub(super) fn flush(&mut self, shared: &Shared) {
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
            let telemetry = &shared.telemetry;
            telemetry.record(
                source(ERROR_CONTEXT0 + self.number),
                generation,
                0,
                &self.records,
            );
            self.records.clear();
        }
    }
}
