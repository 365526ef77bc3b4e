//! What the threads of a device share, and how register writes reach them.
//!
//! Locks, in the order in which they are taken: `happening`, `resetting`, configuration space, the
//! DMA map, the fault queue, `registers`, the vectors; the MSI-X table under none but the first
//! three. The gate of an address space is entered under the DMA map, and inside only the
//! background's jobs are locked. These, what is late, and a context's pending fault are taken under
//! any of them, and nothing after them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::pci::BAR_REGISTERS;
use hmmgpu_contract::regs::{ERROR_CONTEXT0, FAULT_QUEUE, INVALIDATION_QUEUE};
use hmmgpu_telemetry::snapshot::FaultSite;
use hmmgpu_telemetry::{CheckMode, Telemetry};

use crate::background::Background;
use crate::compute::Compute;
use crate::config_space::ConfigSpace;
use crate::dma::{DmaMap, DmaView};
use crate::inject::{Injector, Late};
use crate::interrupt::Vectors;
use crate::link::Link;
use crate::memory::Memory;
use crate::mmu::{Context, FaultQueue};
use crate::msix::MsixTable;
use crate::occasional::Occasional;
use crate::queue::Control;
use crate::registers::{Effect, Registers};
use crate::reset::ResetCause;
use crate::status::Client;
use crate::usage::Usage;
use crate::vram::Vram;

/// What the device's threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    // Wiring.
    pub(crate) vram: Arc<Vram>,
    /// What jobs may reach of it; none if its use is not checked.
    pub(crate) usage: Option<Usage>,
    pub(crate) telemetry: Telemetry,
    /// Engines of queues tell it what they do.
    pub(crate) counting: bool,
    /// How closely the use of VRAM is checked; off if nothing is counted.
    pub(crate) check: CheckMode,
    pub(crate) background: Background,
    pub(crate) engines: Vec<Control>,
    pub(crate) invalidation: Control,
    pub(crate) faults: FaultQueue,
    pub(crate) contexts: Vec<Context>,
    pub(crate) compute: Compute,
    pub(crate) shutdown: AtomicBool,
    // Set by the transport.
    pub(crate) dma: DmaMap,
    pub(crate) vectors: Vectors,
    // Volatile state of the function.
    pub(crate) config: Mutex<ConfigSpace>,
    pub(crate) msix: Mutex<MsixTable>,
    pub(crate) registers: Arc<Mutex<Registers>>,
    pub(crate) may_master: AtomicBool,
    pub(crate) client: Client,
    /// The link over which engines copy.
    pub(crate) link_model: Link,
    // Faults on purpose.
    pub(crate) inject: Injector,
    pub(crate) late: Late,
    /// Held while something happens to the device as a whole, and while all is disarmed.
    pub(crate) happening: Mutex<()>,
    /// The device is not there any more.
    pub(crate) gone: AtomicBool,
    /// Held by a reset from its beginning to its end.
    pub(crate) resetting: Mutex<()>,
    // For the logs.
    pub(crate) queue_stops: Occasional,
    pub(crate) resets: Occasional,
}

/// A lock that nobody can leave in a bad state by panicking, as every update is one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn registers(&self) -> MutexGuard<'_, Registers> {
        lock(&self.registers)
    }

    pub(crate) fn may_master(&self) -> bool {
        self.may_master.load(Ordering::SeqCst)
    }

    pub(crate) fn shutting_down(&self) -> bool {
        self.shutdown.load(Ordering::SeqCst)
    }

    /// Raises the interrupts of a set of causes, if the function may.
    pub(crate) fn raise(&self, registers: &Registers, causes: u32) {
        if causes == 0 || !self.may_master() {
            return;
        }
        for vector in registers.vectors(causes) {
            self.raise_vector(registers, vector);
        }
    }

    /// Raises one vector. The caller knows that the function may, and holds the lock of the
    /// registers.
    pub(crate) fn raise_vector(&self, registers: &Registers, vector: u32) {
        if self.inject.any(FaultSite::Interrupt) {
            self.raise_injected(registers, vector);
        } else {
            self.raise_now(vector);
        }
    }

    pub(crate) fn raise_now(&self, vector: u32) {
        if self.vectors.raise(vector) {
            self.telemetry.counters.interrupt();
        }
    }

    /// All memory, under a view of the DMA map.
    pub(crate) fn memory<'a>(&'a self, view: &'a DmaView<'a>) -> Memory<'a> {
        Memory {
            view,
            vram: &self.vram,
            background: &self.background,
            usage: self.usage.as_ref(),
        }
    }

    /// Makes the compute engines look at a context: its ring, its fault, whether it may go on.
    pub(crate) fn wake_context(&self, context: u32) {
        self.compute.wake(context);
    }

    /// Counts the contexts that are enabled. Under the lock of the registers.
    pub(crate) fn count_contexts(&self) {
        let enabled = |context: &&Context| !context.control.allows(0);
        let now = self.contexts.iter().filter(enabled).count();
        self.telemetry.counters.contexts_enabled(now as u64);
    }

    /// Logs, now and then, that a queue or context was stopped by an error.
    pub(crate) fn log_queue_stop(&self, queue: u32, index: u32, status: Status) {
        if let Some(times) = self.queue_stops.count() {
            tracing::warn!(queue, index, times, "queue stopped: {status:?}");
        }
    }

    /// Makes everything that sleeps look around.
    pub(crate) fn wake_all(&self) {
        self.engines.iter().for_each(Control::wake);
        self.invalidation.wake();
        self.faults.deliver(self);
        self.wake_contexts();
    }

    pub(crate) fn wake_contexts(&self) {
        (0..)
            .zip(&self.contexts)
            .for_each(|(context, _)| self.wake_context(context));
    }

    /// Allows no run of anything any more.
    pub(crate) fn stop_all(&self) {
        let contexts = self.contexts.iter().map(|context| &context.control);
        self.engines
            .iter()
            .chain([&self.invalidation, &self.faults.control])
            .chain(contexts)
            .for_each(Control::stop);
    }

    /// What a queue or context is controlled by. There is one for each that has registers.
    pub(crate) fn control(&self, queue: u32) -> &Control {
        match queue {
            INVALIDATION_QUEUE => &self.invalidation,
            FAULT_QUEUE => &self.faults.control,
            ERROR_CONTEXT0.. => &self.contexts[(queue - ERROR_CONTEXT0) as usize].control,
            _ => &self.engines[queue as usize],
        }
    }

    /// Tells whoever serves a queue or context to look around.
    fn wake(&self, queue: u32) {
        match queue {
            FAULT_QUEUE => self.faults.deliver(self),
            ERROR_CONTEXT0.. => self.wake_context(queue - ERROR_CONTEXT0),
            _ => self.control(queue).wake(),
        }
    }

    /// Takes or gives the right to master the bus. Once it is taken, nothing is written any more.
    pub(crate) fn set_may_master(&self, may_master: bool) {
        if self.may_master.swap(may_master, Ordering::SeqCst) == may_master {
            return;
        }
        if may_master {
            self.wake_all();
        } else {
            self.dma.barrier();
        }
    }

    pub(crate) fn unknown(&self, bar: u32, offset: u64) {
        let name = u64::from(bar) << 32 | offset & u64::from(u32::MAX);
        self.telemetry.counters.unknown_register(name);
        tracing::debug!(bar, offset, "access to a register that is not defined");
    }

    fn carry_out(&self, effect: Effect, bar: u32, offset: u64) {
        match effect {
            Effect::None => {}
            Effect::Unknown => self.unknown(bar, offset),
            Effect::Reset => self.reset(ResetCause::Register),
            Effect::Doorbell(queue) => {
                self.telemetry.counters.doorbell();
                self.control(queue).ring();
                self.wake(queue);
            }
            Effect::Start(queue, _) => self.wake(queue),
            // No access begins any more, as the run is not allowed; those that have begun end here.
            Effect::Stop(queue) => {
                self.dma.barrier();
                self.wake(queue);
            }
            Effect::Refuse(error) => {
                let mut registers = self.registers();
                let causes = registers.record_error(error);
                self.raise(&registers, causes);
            }
            Effect::Raise(causes) => self.raise(&self.registers(), causes),
        }
    }

    pub(crate) fn write_register(&self, offset: u64, value: u32) {
        let effect = {
            let mut registers = self.registers();
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            if self.is_gone() {
                return;
            }
            let effect = registers.write(offset, value);
            // Under the lock, so that engines see starts and stops in the order of the writes.
            match effect {
                Effect::Start(queue, setup) => self.control(queue).start(setup),
                Effect::Stop(queue) => self.control(queue).stop(),
                _ => {}
            }
            if matches!(effect, Effect::Start(..) | Effect::Stop(_)) {
                self.count_contexts();
            }
            effect
        };
        self.carry_out(effect, BAR_REGISTERS, offset);
    }
}
