//! What goes wrong with the device as a whole, its interrupts, fences and faults.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::{FaultAccess, FaultReason};
use hmmgpu_contract::pci::MSIX_VECTORS;
use hmmgpu_contract::queue::FenceRecord;
use hmmgpu_contract::regs::INVALIDATION_QUEUE;
use hmmgpu_telemetry::snapshot::{FaultOutcome, FaultSite};

use super::armed::{Hit, TooManyFaults};
use super::late::Event;
use super::spec::{Action, FaultSpec};
use crate::clock::now_ns;
use crate::compute::Halt;
use crate::mmu::{MmuFault, UntoldFault};
use crate::queue::{Ended, Run};
use crate::registers::Registers;
use crate::reset::ResetCause;
use crate::shared::{Shared, lock};

/// A bit of a virtual address that is flipped in a fault record which is not what it should be: far
/// from where any process has memory.
const WRONG_ADDRESS: u64 = 1 << 46;
/// A bit of a sequence number that no driver comes to.
const WRONG_SEQUENCE: u64 = 1 << 63;

impl Shared {
    /// Tells telemetry of a hit, and what came of it.
    pub(crate) fn injected(&self, hit: &Hit, outcome: FaultOutcome) {
        let (site, action) = (hit.site, hit.action.kind());
        self.inject.came(site, action, outcome);
        self.telemetry.injected(site, action, outcome, now_ns());
        tracing::info!(?site, ?action, number = hit.number, "fault injected");
    }

    /// Arms faults, all of them or none. What is to happen at once has happened when this returns.
    pub(crate) fn arm(&self, faults: Vec<FaultSpec>) -> Result<(), TooManyFaults> {
        for hit in self.inject.arm(faults, now_ns())? {
            self.happen_to_gpu(hit);
        }
        Ok(())
    }

    /// Disarms all faults. What stands still for one goes on, and what is late has happened when
    /// this returns. A device that was gone is there again.
    pub(crate) fn disarm(&self) {
        let _nothing_happens_to_the_gpu = lock(&self.happening);
        self.inject.disarm();
        self.late.hurry(|event| self.happens(event));
        self.wake_all();
        if self.is_gone() {
            // All of the function, as a new one; of the old one nobody sees any more.
            self.reset(ResetCause::Flr);
            self.gone.store(false, Ordering::SeqCst);
        }
    }

    /// The device resets itself, or is gone; `false` if all was disarmed since it was hit. The
    /// caller has no permit.
    pub(crate) fn happen_to_gpu(&self, hit: Hit) -> bool {
        let _one_at_a_time = lock(&self.happening);
        if !self.inject.stands(&hit) {
            return false;
        }
        if hit.action == Action::Gone {
            self.injected(&hit, FaultOutcome::Gone);
            self.vanish();
        } else {
            self.injected(&hit, FaultOutcome::Reset);
            self.reset(ResetCause::Injected);
        }
        true
    }

    /// Lets an event that was hit happen after some time. Returns it if it is to happen now.
    pub(crate) fn put_late(&self, time: Duration, event: Event, hit: &Hit) -> Option<Event> {
        self.late.put(time, event, || self.inject.stands(hit))
    }

    /// Whether the device is not there any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// The device is not there any more: when this returns, nothing of it reaches memory, and it
    /// raises no interrupt.
    fn vanish(&self) {
        {
            // Register writes look under this lock.
            let _registers = self.registers();
            self.gone.store(true, Ordering::SeqCst);
            self.stop_all();
        }
        self.set_may_master(false);
        // Should the function have had no right to master the bus: those that waited for it end.
        self.dma.barrier();
        self.wake_contexts();
    }

    /// Raises a vector, or what a fault makes of that.
    pub(crate) fn raise_injected(&self, registers: &Registers, vector: u32) {
        let Some(hit) = self.inject.ask(FaultSite::Interrupt, "", now_ns()) else {
            return self.raise_now(vector);
        };
        let outcome = match hit.action {
            Action::Drop => FaultOutcome::Lost,
            Action::Corrupt => {
                self.raise_now((vector + 1) % MSIX_VECTORS);
                FaultOutcome::Lost
            }
            Action::Delay(time) => {
                let event = Event::Interrupt {
                    vector,
                    generation: registers.generation(),
                };
                if self.put_late(time, event, &hit).is_some() {
                    self.raise_now(vector);
                }
                FaultOutcome::Late
            }
            _ => return self.raise_now(vector),
        };
        self.injected(&hit, outcome);
    }

    /// Puts a fault into the fault queue, or what a fault makes of that. Returns it if it is to be
    /// told now.
    pub(crate) fn fault_injected(&self, mut fault: UntoldFault) -> Option<UntoldFault> {
        let Some(hit) = self.inject.ask(FaultSite::Fault, "", now_ns()) else {
            return Some(fault);
        };
        let (outcome, told) = match hit.action {
            Action::Drop => (FaultOutcome::Lost, None),
            Action::Corrupt => {
                fault.record.address ^= WRONG_ADDRESS;
                (FaultOutcome::Untold, Some(fault))
            }
            Action::Delay(time) => {
                let now = self.put_late(time, Event::Fault(fault), &hit);
                (FaultOutcome::Late, now.map(|_| fault))
            }
            _ => return Some(fault),
        };
        self.injected(&hit, outcome);
        told
    }

    /// An address is about to be translated for a job.
    ///
    /// # Errors
    /// What comes of it instead.
    pub(crate) fn translation_injected(
        &self,
        address: u64,
        access: FaultAccess,
    ) -> Result<(), Halt> {
        let Some(hit) = self.inject.ask(FaultSite::Translation, "", now_ns()) else {
            return Ok(());
        };
        let fault = |reason| {
            Halt::Fault(MmuFault {
                address,
                access,
                reason,
                level: 0,
            })
        };
        let (outcome, halt) = match hit.action {
            Action::Fail => (FaultOutcome::Told, fault(FaultReason::FAULT_NOT_PRESENT)),
            Action::Corrupt => (FaultOutcome::Told, fault(FaultReason::FAULT_MALFORMED)),
            Action::Delay(time) => (FaultOutcome::Late, Halt::Late(time, hit)),
            Action::Drop => (FaultOutcome::Lost, Halt::Lost(hit)),
            _ => return Ok(()),
        };
        self.injected(&hit, outcome);
        Err(halt)
    }

    /// What was late happens.
    pub(crate) fn happens(&self, event: Event) {
        match event {
            Event::Interrupt { vector, generation } => {
                // Whoever takes the right to master the bus waits for views.
                let _view = self.dma.view();
                let registers = self.registers();
                if registers.generation() == generation && self.may_master() {
                    self.raise_now(vector);
                }
            }
            Event::Fault(fault) => self.faults.tell_late(self, fault),
            Event::Wake(context) => self.wake_context(context),
        }
    }
}

impl Run<'_> {
    /// A fence record is about to be written: what is written instead, if anything.
    ///
    /// # Errors
    /// The run has ended.
    pub(crate) fn fence_injected(
        &mut self,
        record: FenceRecord,
    ) -> Result<Option<FenceRecord>, Ended> {
        let part = match self.queue() {
            INVALIDATION_QUEUE => "invalidation",
            _ => "copy",
        };
        let shared = self.shared;
        let Some(hit) = shared.inject.ask(FaultSite::Fence, part, now_ns()) else {
            return Ok(Some(record));
        };
        let (outcome, record) = match hit.action {
            Action::Fail => {
                let record = FenceRecord {
                    status: Status::STATUS_HARDWARE.0,
                    errors: record.errors.saturating_add(1),
                    ..record
                };
                (FaultOutcome::Told, Some(record))
            }
            Action::Corrupt => {
                let record = FenceRecord {
                    sequence: record.sequence ^ WRONG_SEQUENCE,
                    ..record
                };
                (FaultOutcome::Lost, Some(record))
            }
            Action::Drop => (FaultOutcome::Lost, None),
            Action::Delay(time) => {
                self.stand_still(Some(time), &hit)?;
                (FaultOutcome::Late, Some(record))
            }
            _ => return Ok(Some(record)),
        };
        shared.injected(&hit, outcome);
        Ok(record)
    }
}
