//! Registers of BAR 0, as state and pure functions: a write returns what the device has to do.
//!
//! The interrupt of errors is raised when `INT_ERROR` becomes pending; it is raised again only
//! after the driver has cleared the bit. The interrupt of a queue is raised by every fence that
//! asks for it, whether or not its cause is still pending, because it has a vector of its own and
//! a driver need not read `INT_CAUSE` at all. So is that of a job; contexts share a cause, so it is
//! remembered which vectors are raised when the cause is unmasked.
//!
//! Queues and contexts have one set of numbers, that of `ERROR_QUEUE`.

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::pci::{MSIX_VECTORS, VECTOR_ERROR};
use hmmgpu_contract::queue::{MAX_RING_LOG2, MIN_RING_LOG2, QUEUE_ALIGN};
use hmmgpu_contract::regs::{
    CONTEXT_BASE, CONTEXT_STRIDE, ERROR_CONTEXT0, FAULT_QUEUE, FEATURE_CHECKSUM, FEATURE_CONTEXTS,
    INT_COMPUTE, INT_ERROR, INT_QUEUE0, INVALIDATION_QUEUE, MAGIC_VALUE, QUEUE_BASE,
    QUEUE_CTRL_ENABLE, QUEUE_STATUS_ERROR, QUEUE_STATUS_OFF, QUEUE_STATUS_RUNNING, QUEUE_STRIDE,
    QueueReg, RESET_CTRL_RESET, Reg, STATE_FAILED, STATE_READY, STATE_RESETTING,
};
use hmmgpu_contract::{CONTRACT_VERSION, MAX_ORDER};

use crate::device::Config;
use crate::ring::Ring;

/// Folio orders that the device takes: all that the format can name.
pub(crate) const FOLIO_ORDERS: u32 = (1 << (MAX_ORDER + 1)) - 1;

/// An error, as the first-error registers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErrorRecord {
    pub(crate) status: Status,
    pub(crate) queue: u32,
    pub(crate) index: u32,
    pub(crate) address: u64,
}

/// Where a queue or context lies, as it was when it was enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueSetup {
    /// Unique for every time that any queue is enabled.
    pub(crate) run: u64,
    /// Device generation in which it was enabled.
    pub(crate) generation: u32,
    pub(crate) ring: Ring,
    /// Contexts: DMA address of the root of the page table.
    pub(crate) root: u64,
}

/// What the device has to do because of a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// The register is not defined.
    Unknown,
    /// Reset the device.
    Reset,
    /// A queue's producer has moved.
    Doorbell(u32),
    /// A queue was enabled.
    Start(u32, QueueSetup),
    /// A queue was disabled.
    Stop(u32),
    /// A queue was enabled with a set-up that cannot work.
    Refuse(ErrorRecord),
    /// Raise the interrupts of these causes.
    Raise(u32),
}

#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    header: u64,
    ring: u64,
    ring_log2: u32,
    vector: u32,
    root: u64,
    enabled: bool,
    status: u32,
    run: u64,
}

impl Queue {
    /// Where it lies.
    fn place(&self) -> Ring {
        Ring {
            header: self.header,
            entries: self.ring,
            log2: self.ring_log2,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct FirstError {
    record: Option<ErrorRecord>,
    count: u32,
}

/// All registers.
#[derive(Debug)]
pub(crate) struct Registers {
    device: Config,
    copy_queues: Vec<Queue>,
    /// Those of them that there are only with contexts.
    invalidation_queue: Option<Queue>,
    fault_queue: Option<Queue>,
    contexts: Vec<Queue>,
    state: u32,
    generation: u32,
    time_high: u32,
    int_cause: u32,
    int_mask: u32,
    /// Vectors of contexts whose jobs have set `INT_COMPUTE`, as bits.
    compute_vectors: u32,
    error: FirstError,
    runs: u64,
}

/// The low word.
#[allow(clippy::cast_possible_truncation)] // Cutting off the rest is the purpose.
fn low(value: u64) -> u32 {
    value as u32
}

/// The high word.
fn high(value: u64) -> u32 {
    low(value >> 32)
}

fn with_low(value: u64, low: u32) -> u64 {
    value & !u64::from(u32::MAX) | u64::from(low)
}

fn with_high(value: u64, high: u32) -> u64 {
    value & u64::from(u32::MAX) | u64::from(high) << 32
}

/// Which register an offset is.
enum Target {
    Device(Reg),
    /// Of a queue or context.
    Queue(u32, QueueReg),
}

impl Registers {
    pub(crate) fn new(device: Config) -> Self {
        let queue = (device.contexts > 0).then(Queue::default);
        Self {
            device,
            copy_queues: vec![Queue::default(); device.copy_queues as usize],
            invalidation_queue: queue,
            fault_queue: queue,
            contexts: vec![Queue::default(); device.contexts as usize],
            state: STATE_READY,
            generation: 0,
            time_high: 0,
            int_cause: 0,
            int_mask: 0,
            compute_vectors: 0,
            error: FirstError::default(),
            runs: 0,
        }
    }

    fn target(offset: u32) -> Target {
        if let Some(offset) = offset.checked_sub(CONTEXT_BASE) {
            let reg = QueueReg(offset % CONTEXT_STRIDE);
            Target::Queue(ERROR_CONTEXT0 + offset / CONTEXT_STRIDE, reg)
        } else if let Some(offset) = offset.checked_sub(QUEUE_BASE) {
            Target::Queue(offset / QUEUE_STRIDE, QueueReg(offset % QUEUE_STRIDE))
        } else {
            Target::Device(Reg(offset))
        }
    }

    /// The queue or context of a number.
    fn queue(&mut self, number: u32) -> Option<&mut Queue> {
        match number {
            INVALIDATION_QUEUE => self.invalidation_queue.as_mut(),
            FAULT_QUEUE => self.fault_queue.as_mut(),
            ERROR_CONTEXT0.. => self.contexts.get_mut((number - ERROR_CONTEXT0) as usize),
            _ => self.copy_queues.get_mut(number as usize),
        }
    }

    /// Reads the word at `offset`; `None` where no readable register is. `now_ns` is the device's
    /// time.
    pub(crate) fn read(&mut self, offset: u32, now_ns: u64) -> Option<u32> {
        match Self::target(offset) {
            Target::Device(reg) => self.read_device(reg, now_ns),
            Target::Queue(queue, reg) => self.read_queue(queue, reg),
        }
    }

    fn read_device(&mut self, reg: Reg, now_ns: u64) -> Option<u32> {
        let error = self.error.record;
        Some(match reg {
            Reg::MAGIC => MAGIC_VALUE,
            Reg::VERSION => CONTRACT_VERSION,
            Reg::FEATURES_LO if self.device.contexts > 0 => FEATURE_CHECKSUM | FEATURE_CONTEXTS,
            Reg::FEATURES_LO => FEATURE_CHECKSUM,
            Reg::FEATURES_HI => 0,
            Reg::VRAM_SIZE_LO => low(self.device.vram_bytes),
            Reg::VRAM_SIZE_HI => high(self.device.vram_bytes),
            Reg::FOLIO_ORDERS => FOLIO_ORDERS,
            Reg::COPY_QUEUES => self.device.copy_queues,
            Reg::MAX_RING_LOG2 => MAX_RING_LOG2,
            Reg::CONTEXTS => self.device.contexts,
            Reg::COMPUTE_ENGINES if self.device.contexts > 0 => self.device.compute_engines,
            Reg::COMPUTE_ENGINES => 0,
            Reg::STATE => self.state,
            Reg::GENERATION => self.generation,
            Reg::TIME_LO => {
                self.time_high = high(now_ns);
                low(now_ns)
            }
            Reg::TIME_HI => self.time_high,
            Reg::INT_CAUSE => self.int_cause,
            Reg::INT_MASK => self.int_mask,
            Reg::ERROR_STATUS => error.map_or(0, |error| error.status.0),
            Reg::ERROR_QUEUE => error.map_or(0, |error| error.queue),
            Reg::ERROR_INDEX => error.map_or(0, |error| error.index),
            Reg::ERROR_ADDR_LO => error.map_or(0, |error| low(error.address)),
            Reg::ERROR_ADDR_HI => error.map_or(0, |error| high(error.address)),
            Reg::ERROR_COUNT => self.error.count,
            _ => return None,
        })
    }

    fn read_queue(&mut self, number: u32, reg: QueueReg) -> Option<u32> {
        let queue = self.queue(number)?;
        Some(match reg {
            QueueReg::QUEUE_HEADER_LO => low(queue.header),
            QueueReg::QUEUE_HEADER_HI => high(queue.header),
            QueueReg::QUEUE_RING_LO => low(queue.ring),
            QueueReg::QUEUE_RING_HI => high(queue.ring),
            QueueReg::QUEUE_RING_LOG2 => queue.ring_log2,
            QueueReg::QUEUE_VECTOR => queue.vector,
            QueueReg::QUEUE_CTRL => u32::from(queue.enabled),
            QueueReg::QUEUE_STATUS => queue.status,
            QueueReg::CONTEXT_ROOT_LO if number >= ERROR_CONTEXT0 => low(queue.root),
            QueueReg::CONTEXT_ROOT_HI if number >= ERROR_CONTEXT0 => high(queue.root),
            _ => return None,
        })
    }

    /// Writes the word at `offset`.
    pub(crate) fn write(&mut self, offset: u32, value: u32) -> Effect {
        match Self::target(offset) {
            Target::Device(reg) => self.write_device(reg, value),
            Target::Queue(queue, reg) => self.write_queue(queue, reg, value),
        }
    }

    fn write_device(&mut self, reg: Reg, value: u32) -> Effect {
        match reg {
            Reg::RESET_CTRL if value & RESET_CTRL_RESET != 0 => Effect::Reset,
            Reg::RESET_CTRL => Effect::None,
            Reg::INT_CAUSE => {
                self.int_cause &= !value;
                if value & INT_COMPUTE != 0 {
                    self.compute_vectors = 0;
                }
                Effect::None
            }
            Reg::INT_MASK => {
                let unmasked = self.int_mask & !value & self.int_cause;
                self.int_mask = value;
                match unmasked {
                    0 => Effect::None,
                    causes => Effect::Raise(causes),
                }
            }
            Reg::ERROR_STATUS => {
                self.error = FirstError::default();
                Effect::None
            }
            _ => Effect::Unknown,
        }
    }

    fn write_queue(&mut self, number: u32, reg: QueueReg, value: u32) -> Effect {
        let ready = self.state == STATE_READY;
        let Some(queue) = self.queue(number) else {
            return Effect::Unknown;
        };
        let field = match reg {
            QueueReg::QUEUE_DOORBELL | QueueReg::QUEUE_CTRL if !ready => return Effect::None,
            QueueReg::QUEUE_DOORBELL => return Effect::Doorbell(number),
            QueueReg::QUEUE_CTRL => {
                let enable = value & QUEUE_CTRL_ENABLE != 0;
                if enable == queue.enabled {
                    return Effect::None;
                }
                queue.enabled = enable;
                return if enable {
                    self.enable(number)
                } else {
                    queue.status = QUEUE_STATUS_OFF;
                    Effect::Stop(number)
                };
            }
            QueueReg::QUEUE_HEADER_LO
            | QueueReg::QUEUE_HEADER_HI
            | QueueReg::QUEUE_RING_LO
            | QueueReg::QUEUE_RING_HI
            | QueueReg::QUEUE_RING_LOG2
            | QueueReg::QUEUE_VECTOR => reg,
            QueueReg::CONTEXT_ROOT_LO | QueueReg::CONTEXT_ROOT_HI if number >= ERROR_CONTEXT0 => {
                reg
            }
            _ => return Effect::Unknown,
        };
        if ready && !queue.enabled {
            match field {
                QueueReg::QUEUE_HEADER_LO => queue.header = with_low(queue.header, value),
                QueueReg::QUEUE_HEADER_HI => queue.header = with_high(queue.header, value),
                QueueReg::QUEUE_RING_LO => queue.ring = with_low(queue.ring, value),
                QueueReg::QUEUE_RING_HI => queue.ring = with_high(queue.ring, value),
                QueueReg::QUEUE_RING_LOG2 => queue.ring_log2 = value,
                QueueReg::CONTEXT_ROOT_LO => queue.root = with_low(queue.root, value),
                QueueReg::CONTEXT_ROOT_HI => queue.root = with_high(queue.root, value),
                _ => queue.vector = value,
            }
        }
        Effect::None
    }

    /// Starts a queue that has just been enabled, or refuses a set-up that cannot work.
    fn enable(&mut self, number: u32) -> Effect {
        self.runs += 1;
        let (run, generation) = (self.runs, self.generation);
        let Some(queue) = self.queue(number) else {
            return Effect::Unknown;
        };
        let misaligned = |address: u64| !address.is_multiple_of(u64::from(QUEUE_ALIGN));
        let refusal = if !(MIN_RING_LOG2..=MAX_RING_LOG2).contains(&queue.ring_log2)
            || queue.vector >= MSIX_VECTORS
        {
            Some((Status::STATUS_BAD_FIELD, queue.ring))
        } else if misaligned(queue.header) {
            Some((Status::STATUS_MISALIGNED, queue.header))
        } else if misaligned(queue.ring) {
            Some((Status::STATUS_MISALIGNED, queue.ring))
        } else if misaligned(queue.root) {
            Some((Status::STATUS_MISALIGNED, queue.root))
        } else {
            None
        };
        queue.run = run;
        if let Some((status, address)) = refusal {
            queue.status = QUEUE_STATUS_ERROR;
            return Effect::Refuse(ErrorRecord {
                status,
                queue: number,
                index: 0,
                address,
            });
        }
        queue.status = QUEUE_STATUS_RUNNING;
        Effect::Start(
            number,
            QueueSetup {
                run,
                generation,
                ring: queue.place(),
                root: queue.root,
            },
        )
    }

    /// Records an error. Returns the causes to raise an interrupt for.
    pub(crate) fn record_error(&mut self, error: ErrorRecord) -> u32 {
        self.error.record.get_or_insert(error);
        self.error.count = self.error.count.saturating_add(1);
        let new = INT_ERROR & !self.int_cause;
        self.int_cause |= INT_ERROR;
        new & !self.int_mask
    }

    /// The engine has stopped run `run` of a queue or context because of an error.
    pub(crate) fn queue_failed(&mut self, number: u32, run: u64) {
        match self.queue(number) {
            Some(queue) if queue.run == run && queue.enabled => queue.status = QUEUE_STATUS_ERROR,
            _ => {}
        }
    }

    /// A queue, not a context, asks for its interrupt. Returns the causes to raise one for.
    pub(crate) fn queue_interrupt(&mut self, number: u32) -> u32 {
        let cause = INT_QUEUE0 << number;
        self.int_cause |= cause;
        cause & !self.int_mask
    }

    /// A job of a context asks for its interrupt. Returns the vector to raise.
    pub(crate) fn job_interrupt(&mut self, context: u32) -> Option<u32> {
        let vector = self.contexts.get(context as usize)?.vector;
        self.int_cause |= INT_COMPUTE;
        // Any number: the context may have been disabled a moment ago, and its register written.
        self.compute_vectors |= 1_u32.checked_shl(vector).unwrap_or(0);
        (self.int_mask & INT_COMPUTE == 0).then_some(vector)
    }

    /// The MSI-X vectors of a set of causes.
    pub(crate) fn vectors(&self, causes: u32) -> impl Iterator<Item = u32> + '_ {
        let error = (causes & INT_ERROR != 0).then_some(VECTOR_ERROR);
        let mmu_queues = [
            (INVALIDATION_QUEUE, &self.invalidation_queue),
            (FAULT_QUEUE, &self.fault_queue),
        ]
        .into_iter()
        .filter_map(|(number, queue)| Some((number, queue.as_ref()?)));
        let queues = (0..)
            .zip(&self.copy_queues)
            .chain(mmu_queues)
            .filter(move |(number, _)| causes & (INT_QUEUE0 << number) != 0)
            .map(|(_, queue)| queue.vector);
        let compute = (0..MSIX_VECTORS).filter(move |vector| {
            causes & INT_COMPUTE != 0 && self.compute_vectors & (1 << vector) != 0
        });
        error.into_iter().chain(queues).chain(compute)
    }

    /// The queues and contexts that are enabled: number, ring, and whether they run well.
    pub(crate) fn enabled(&self) -> impl Iterator<Item = (u32, Ring, bool)> + '_ {
        let mmu_queues = [
            (INVALIDATION_QUEUE, &self.invalidation_queue),
            (FAULT_QUEUE, &self.fault_queue),
        ]
        .into_iter()
        .filter_map(|(number, queue)| Some((number, queue.as_ref()?)));
        (0..)
            .zip(&self.copy_queues)
            .chain(mmu_queues)
            .chain((ERROR_CONTEXT0..).zip(&self.contexts))
            .filter(|(_, queue)| queue.enabled)
            .map(|(number, queue)| {
                let well = queue.status == QUEUE_STATUS_RUNNING;
                (number, queue.place(), well)
            })
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Everything back to the state after power-on, in the next generation. VRAM is not scrubbed
    /// yet.
    pub(crate) fn reset(&mut self) {
        let Self {
            device: _,
            copy_queues,
            invalidation_queue,
            fault_queue,
            contexts,
            state,
            generation,
            time_high,
            int_cause,
            int_mask,
            compute_vectors,
            error,
            runs: _,
        } = self;
        copy_queues
            .iter_mut()
            .chain(invalidation_queue)
            .chain(fault_queue)
            .chain(contexts)
            .for_each(|queue| *queue = Queue::default());
        *state = STATE_RESETTING;
        *generation = generation.wrapping_add(1);
        *time_high = 0;
        *int_cause = 0;
        *int_mask = 0;
        *compute_vectors = 0;
        *error = FirstError::default();
    }

    /// Forgets causes and errors of before a reset: what was under way has ended only now, and may
    /// have added some since.
    pub(crate) fn drained(&mut self) {
        self.int_cause = 0;
        self.compute_vectors = 0;
        self.error = FirstError::default();
    }

    /// VRAM is scrubbed, or cannot be. Ignored when another reset has come since.
    pub(crate) fn scrubbed(&mut self, generation: u32, well: bool) {
        if generation == self.generation {
            self.state = if well { STATE_READY } else { STATE_FAILED };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_contract::regs::context_reg;

    #[test]
    fn a_job_of_a_context_whose_vector_was_rewritten_meanwhile() {
        let mut registers = Registers::new(Config::default());
        let vector = context_reg(9, QueueReg::QUEUE_VECTOR);
        for nonsense in [16, 31, 32, u32::MAX] {
            assert_eq!(registers.write(vector, nonsense), Effect::None);
            assert_eq!(registers.job_interrupt(9), Some(nonsense));
        }
        assert_eq!(registers.vectors(INT_COMPUTE).count(), 0);
        registers.write(vector, 15);
        registers.job_interrupt(9);
        assert!(registers.vectors(INT_COMPUTE).eq([15]));
        assert_eq!(registers.job_interrupt(u32::MAX), None);
    }
}
