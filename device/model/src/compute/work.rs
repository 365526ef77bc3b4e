//! Working on a job: steps, and the faults in between.

use std::time::Instant;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::FaultAccess;
use hmmgpu_telemetry::snapshot::{Access as AccessName, FaultSite, Kernel as Name, Outcome};
use hmmgpu_telemetry::{Misuse, Record};
use vm_memory::VolatileSlice;

use super::answer::End;
use super::job::Envelope;
use super::kernels::{Kernel, Progress, Scratch, Step};
use super::memory::{Halt, Memory};
use super::run::{Run, Turn};
use crate::clock::now_ns;
use crate::command::Place;
use crate::copy;
use crate::dma::Access;
use crate::inject::{Event, Held};
use crate::memory::Memory as BothApertures;
use crate::mmu::{Misused, MmuFault, Resolution, Space};
use crate::queue::Stop;
use crate::shared::Shared;

/// A fault that a job waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) fault: MmuFault,
    since_ns: u64,
}

/// A job that has been begun.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) envelope: Envelope,
    pub(super) name: Name,
    kernel: Kernel,
    pub(super) progress: Progress,
    pub(super) waiting: Option<Waiting>,
    /// Faults that were replayed.
    pub(super) faults: u32,
    pub(super) begin_ns: u64,
    /// Time that engines have worked on it.
    pub(super) engine_ns: u64,
}

impl Job {
    pub(super) fn new(envelope: Envelope, name: Name, kernel: Kernel, begin_ns: u64) -> Self {
        Self {
            envelope,
            name,
            progress: kernel.begin(),
            kernel,
            waiting: None,
            faults: 0,
            begin_ns,
            engine_ns: 0,
        }
    }

    /// Its end, for telemetry.
    pub(super) fn record(&self, context: u32, status: Status, end_ns: u64) -> Record {
        Record::Job {
            context,
            kernel: self.name,
            status,
            elements: self.progress.done,
            engine_ns: self.engine_ns,
            begin_ns: self.begin_ns,
            end_ns,
        }
    }
}

/// How a run is after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worked {
    /// It can go on, with the job or with the next one.
    GoesOn,
    /// The job waits for a fault to be resolved.
    Waits,
}

/// Memory for a kernel: virtual addresses by the context's page table, and the DMA map.
struct Reach<'m, 'space> {
    space: &'m Space<'space>,
    memory: BothApertures<'m>,
    shared: &'m Shared,
}

impl<'m> Memory<'m> for Reach<'m, '_> {
    fn slice(
        &mut self,
        address: u64,
        len: usize,
        access: FaultAccess,
    ) -> Result<VolatileSlice<'m>, Halt> {
        if self.shared.inject.any(FaultSite::Translation) {
            self.shared.translation_injected(address, access)?;
        }
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

impl Run {
    /// The end of a fault, for telemetry.
    pub(super) fn fault_record(
        &self,
        fault: &MmuFault,
        outcome: Outcome,
        waited_ns: u64,
        end_ns: u64,
    ) -> Record {
        Record::Fault {
            context: self.number,
            address: fault.address,
            access: access_name(fault.access),
            reason: fault.reason,
            outcome,
            waited_ns,
            end_ns,
        }
    }

    /// Works on the job for one step, unless it waits.
    pub(super) fn work(&mut self, turn: &Turn<'_>, scratch: &mut Scratch) -> Result<Worked, Stop> {
        if self.held.is_some_and(|held| held.lasts(turn.shared)) {
            return Ok(Worked::Waits);
        }
        self.held = None;
        let waiting = self.job.as_ref().and_then(|job| job.waiting);
        match self.resolved(turn) {
            Some(Resolution::Replay) => {}
            Some(Resolution::Cancel { detail }) => {
                let end = End {
                    status: Status::STATUS_CANCELLED,
                    detail,
                    fault: waiting.map(|waiting| waiting.fault),
                };
                self.end_job(turn, end)?;
                return Ok(Worked::GoesOn);
            }
            None => return Ok(Worked::Waits),
        }
        match self.step(turn, scratch)? {
            Ok(Step::More) => {}
            Ok(Step::Finished) => self.end_job(turn, End::from(Status::STATUS_OK))?,
            Err(halt) => return self.halted(turn, halt),
        }
        Ok(Worked::GoesOn)
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
        let end_ns = now_ns();
        let waited_ns = end_ns.saturating_sub(waiting.since_ns);
        let record = self.fault_record(&waiting.fault, outcome, waited_ns, end_ns);
        self.records.push(record);
        Some(resolution)
    }

    /// One step of the job, under one permit.
    fn step(&mut self, turn: &Turn<'_>, scratch: &mut Scratch) -> Result<Result<Step, Halt>, Stop> {
        let view = self.permit(turn)?;
        let Some(job) = &mut self.job else {
            return Ok(Ok(Step::Finished));
        };
        let space = turn.context.space.enter();
        // Waiting for invalidations is not work.
        let begin_ns = now_ns();
        let mut reach = Reach {
            space: &space,
            memory: turn.shared.memory(&view),
            shared: turn.shared,
        };
        let step = job.kernel.step(&mut job.progress, &mut reach, scratch);
        let counts = space.take_counts();
        self.counts.translations += counts.translations;
        self.counts.tlb_hits += counts.tlb_hits;
        self.counts.walks += counts.walks;
        let misused = space.take_misused();
        // Whoever invalidates finds it done.
        copy::settle();
        drop(space);
        let worked_ns = now_ns().saturating_sub(begin_ns);
        job.engine_ns += worked_ns;
        turn.context.control.served(worked_ns);
        if let Some(Misused {
            address,
            access,
            misuse,
        }) = misused
        {
            self.records.push(Record::Misuse(Misuse {
                free: misuse.free,
                access: access_name(access),
                virtual_address: address,
                address: misuse.address,
                pages: misuse.pages,
                index: self.consumer,
            }));
        }
        Ok(step)
    }

    /// The job cannot go on from where it is: it waits, or has ended.
    fn halted(&mut self, turn: &Turn<'_>, halt: Halt) -> Result<Worked, Stop> {
        let no_replay = self.job.as_ref().is_some_and(|job| job.envelope.no_replay);
        let end = match halt {
            Halt::Fault(fault) if !no_replay => {
                self.fault(turn, fault)?;
                return Ok(Worked::Waits);
            }
            Halt::Fault(fault) => {
                let record = self.fault_record(&fault, Outcome::Ended, 0, now_ns());
                self.records.push(record);
                End {
                    fault: Some(fault),
                    ..End::from(Status::STATUS_FAULT)
                }
            }
            Halt::Misaligned => End::from(Status::STATUS_MISALIGNED),
            Halt::Late(time, hit) => {
                // Over by the time that it is woken, which may be before this returns.
                let until = Some(Instant::now() + time);
                let wake = Event::Wake(self.number);
                // A reset waits for it, and then forgets what is late.
                let _view = self.permit(turn)?;
                if turn.shared.put_late(time, wake, &hit).is_some() {
                    return Ok(Worked::GoesOn);
                }
                self.held = Some(Held { until, hit });
                return Ok(Worked::Waits);
            }
            Halt::Lost(hit) => {
                self.held = Some(Held { until: None, hit });
                return Ok(Worked::Waits);
            }
            Halt::Dma(fault) => {
                self.report(turn, fault, false)?;
                End::from(fault.status)
            }
        };
        self.end_job(turn, end)?;
        Ok(Worked::GoesOn)
    }

    /// The job begins to wait for a fault to be resolved.
    fn fault(&mut self, turn: &Turn<'_>, fault: MmuFault) -> Result<(), Stop> {
        let Some(job) = &mut self.job else {
            return Ok(());
        };
        let sequence = job.envelope.sequence;
        job.waiting = Some(Waiting {
            fault,
            since_ns: now_ns(),
        });
        let view = self.permit(turn)?;
        let (number, run) = (self.number, self.setup.run);
        let faults = &turn.shared.faults;
        faults.report(turn.shared, &view, number, run, sequence, &fault);
        Ok(())
    }
}
