//! The fault queue, from the device to the driver.
//!
//! A fault goes into the ring at once when there is room. What finds none waits here, at most one
//! fault for each context, and goes out when the driver has made room and rung the doorbell, has
//! enabled the queue, or has given back the right to master the bus. So no thread is needed.
//!
//! Locks: the DMA view comes before that of the queue, that of the registers after it.

use std::collections::VecDeque;
use std::sync::Mutex;

use hmmgpu_contract::mmu::FaultRecord;
use hmmgpu_contract::regs::FAULT_QUEUE;
use hmmgpu_telemetry::Record;
use hmmgpu_telemetry::snapshot::{EngineState, FaultSite};

use super::MmuFault;
use crate::clock::now_ns;
use crate::command::Fault;
use crate::dma::DmaView;
use crate::kick::ask_then_look;
use crate::queue::Control;
use crate::registers::{ErrorRecord, QueueSetup};
use crate::ring::Word;
use crate::shared::{Shared, lock};
use crate::status::source;

/// A fault that the driver has not been told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UntoldFault {
    /// The run of its context.
    run: u64,
    pub(crate) record: FaultRecord,
}

/// One run of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    /// 0: none yet.
    number: u64,
    producer: u32,
    /// The driver was asked to ring the doorbell.
    need_kick: bool,
    /// It has failed: until the driver enables the queue again, nothing goes out.
    failed: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Of the last fault.
    sequence: u64,
    run: Run,
    untold: VecDeque<UntoldFault>,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct FaultQueue {
    pub(crate) control: Control,
    state: Mutex<State>,
}

impl FaultQueue {
    /// Tells the driver of a fault of a context's job, whose run `run` is, under a permit for that
    /// run. From now on the job waits for the fault; returns its sequence number.
    pub(crate) fn report(
        &self,
        shared: &Shared,
        view: &DmaView<'_>,
        context: u32,
        run: u64,
        job: u64,
        fault: &MmuFault,
    ) -> u64 {
        let mut state = lock(&self.state);
        state.sequence += 1;
        let sequence = state.sequence;
        // Before the driver can answer.
        shared.contexts[context as usize].fault.wait(sequence);
        let record = FaultRecord {
            sequence,
            address: fault.address,
            context,
            access: fault.access.0,
            reason: fault.reason.0,
            level: fault.level,
            reserved0: 0,
            job,
            time_ns: now_ns(),
            reserved1: [0; 3],
        };
        // One of an earlier run may still be there.
        state
            .untold
            .retain(|untold| untold.record.context != context);
        let fault = UntoldFault { run, record };
        let fault = if shared.inject.any(FaultSite::Fault) {
            shared.fault_injected(fault)
        } else {
            Some(fault)
        };
        state.untold.extend(fault);
        self.tell(shared, view, &mut state);
        if !state.untold.is_empty() {
            shared.telemetry.counters.fault_queue_full();
        }
        sequence
    }

    /// Tells the driver of what waits, as far as there is room.
    pub(crate) fn deliver(&self, shared: &Shared) {
        let view = shared.dma.view();
        self.tell(shared, &view, &mut lock(&self.state));
    }

    /// Tells the driver of a fault that was kept back, if its context still runs.
    pub(crate) fn tell_late(&self, shared: &Shared, fault: UntoldFault) {
        let view = shared.dma.view();
        let context = fault.record.context;
        // The view keeps the run from ending now.
        if !shared.contexts[context as usize].control.allows(fault.run) {
            return;
        }
        let mut state = lock(&self.state);
        // No context has two: a newer one has taken its place.
        let newer = |untold: &UntoldFault| untold.record.context == context;
        if !state.untold.iter().any(newer) {
            state.untold.push_back(fault);
        }
        self.tell(shared, &view, &mut state);
    }

    /// Everything as after power-on. The queue is stopped, and nobody reports.
    pub(crate) fn reset(&self) {
        *lock(&self.state) = State::default();
    }

    fn tell(&self, shared: &Shared, view: &DmaView<'_>, state: &mut State) {
        let Some(setup) = self.control.allowed() else {
            return;
        };
        if !shared.may_master() {
            return;
        }
        if let Err(fault) = tell_run(shared, view, state, &setup) {
            state.run.failed = true;
            fail(shared, &setup, state.run.producer, fault);
        }
        // It has no engine of its own: it is busy while faults wait for room.
        self.control.set_engine_state(if state.untold.is_empty() {
            EngineState::Sleeping
        } else {
            EngineState::Busy
        });
    }
}

fn tell_run(
    shared: &Shared,
    view: &DmaView<'_>,
    state: &mut State,
    setup: &QueueSetup,
) -> Result<(), Fault> {
    let State { run, untold, .. } = state;
    let ring = &setup.ring;
    if run.number != setup.run {
        *run = Run {
            number: setup.run,
            ..Run::default()
        };
        ring.store(view, Word::Producer, 0)?;
        ring.store(view, Word::NeedKick, 0)?;
    }
    if run.failed {
        return Ok(());
    }
    while let Some(next) = untold.front() {
        // Its context may have been disabled since; the view keeps that from happening now.
        let context = next.record.context;
        if !shared.contexts[context as usize].control.allows(next.run) {
            untold.pop_front();
            continue;
        }
        if ring.room(view, run.producer)? == 0 {
            if run.need_kick {
                return Ok(());
            }
            run.need_kick = true;
            let ask = || ring.store(view, Word::NeedKick, 1);
            if ask_then_look(ask, || ring.room(view, run.producer))? == 0 {
                return Ok(());
            }
        }
        ring.put(view, run.producer, &next.record.to_le_bytes())?;
        let producer = run.producer.wrapping_add(1);
        // As with fences: who sees the fault finds the cause set, too.
        let mut registers = shared.registers();
        let causes = registers.queue_interrupt(FAULT_QUEUE);
        ring.store(view, Word::Producer, producer)?;
        // Only now is the driver told: had the store failed, the next run would tell it.
        run.producer = producer;
        untold.pop_front();
        shared.raise(&registers, causes);
    }
    if run.need_kick {
        run.need_kick = false;
        ring.store(view, Word::NeedKick, 0)?;
    }
    Ok(())
}

/// The queue cannot go on.
fn fail(shared: &Shared, setup: &QueueSetup, index: u32, fault: Fault) {
    let Fault { status, address } = fault;
    shared.log_queue_stop(FAULT_QUEUE, index, status);
    let error = [Record::Error { status }];
    let telemetry = &shared.telemetry;
    telemetry.record(source(FAULT_QUEUE), setup.generation, 0, &error);
    let mut registers = shared.registers();
    registers.queue_failed(FAULT_QUEUE, setup.run);
    let causes = registers.record_error(ErrorRecord {
        status,
        queue: FAULT_QUEUE,
        index,
        address,
    });
    shared.raise(&registers, causes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Device};

    #[test]
    fn a_fault_of_a_run_that_has_ended_is_not_kept() {
        let device = Device::new(Config::default()).unwrap();
        let record = FaultRecord {
            sequence: 1,
            ..FaultRecord::default()
        };
        let faults = &device.shared.faults;
        faults.tell_late(&device.shared, UntoldFault { run: 1, record });
        assert!(lock(&faults.state).untold.is_empty());
    }
}
