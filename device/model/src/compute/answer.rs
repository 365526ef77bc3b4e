//! The end of a job, as the driver is told of it.

use std::sync::atomic::Ordering;

use hmmgpu_contract::compute::JobRecord;
use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::FaultReason;
use hmmgpu_telemetry::Record;
use hmmgpu_telemetry::snapshot::Kernel as Name;

use super::job::Envelope;
use super::run::{Run, Turn};
use crate::clock::now_ns;
use crate::command::Fault;
use crate::dma::Access;
use crate::mmu::MmuFault;
use crate::queue::Stop;
use crate::ring::Word;

/// How a job ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) status: Status,
    pub(super) detail: u32,
    pub(super) fault: Option<MmuFault>,
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

impl Run {
    /// A job breaks a rule.
    pub(super) fn refuse(
        &mut self,
        turn: &Turn<'_>,
        envelope: &Envelope,
        name: Name,
        begin_ns: u64,
        fault: Fault,
    ) -> Result<(), Stop> {
        self.report(turn, fault, false)?;
        let end_ns = self.refused(name, begin_ns, fault);
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
            end_ns,
        };
        self.answer(turn, envelope, &record)
    }

    /// Tells telemetry of a job that was not carried out. Returns when that was.
    fn refused(&mut self, name: Name, begin_ns: u64, fault: Fault) -> u64 {
        let end_ns = now_ns();
        self.records.push(Record::Job {
            context: self.number,
            kernel: name,
            status: fault.status,
            elements: 0,
            engine_ns: 0,
            begin_ns,
            end_ns,
        });
        end_ns
    }

    /// The job has ended.
    pub(super) fn end_job(&mut self, turn: &Turn<'_>, end: End) -> Result<(), Stop> {
        let Some(job) = self.job.take() else {
            return Ok(());
        };
        let end_ns = now_ns();
        self.records
            .push(job.record(self.number, end.status, end_ns));
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
            end_ns,
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
                turn.shared.raise_vector(&registers, vector);
            }
        } else {
            publish()?;
        }
        Ok(())
    }

    /// There is no place to tell of the end of a job.
    pub(super) fn unanswerable(
        &mut self,
        turn: &Turn<'_>,
        name: Name,
        begin_ns: u64,
        fault: Fault,
    ) -> Result<(), Stop> {
        self.refused(name, begin_ns, fault);
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
}
