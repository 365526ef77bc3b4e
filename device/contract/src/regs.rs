//! Registers in BAR 0: aligned 32-bit words.
//!
//! Reads of an offset that is not defined return all-ones and are counted; writes to it are
//! ignored and counted. Accesses that are narrower, wider (other than 8 bytes, which is two
//! words) or unaligned read all-ones and are counted as well.

open_enum! {
    /// A register offset in BAR 0.
    pub enum Reg: u32 {
        /// Read: 0x48474d48 ("HMGH"). Anything else: not this device, or the device has gone.
        MAGIC = 0x000,
        /// Read: contract version, major << 16 | minor.
        VERSION = 0x004,
        /// Read: optional features, low word, FEATURE bits.
        FEATURES_LO = 0x008,
        /// Read: optional features, high word.
        FEATURES_HI = 0x00c,
        /// Read: VRAM size in bytes, low word.
        VRAM_SIZE_LO = 0x010,
        /// Read: VRAM size in bytes, high word.
        VRAM_SIZE_HI = 0x014,
        /// Read: bitmask of the folio orders that COPY, FILL and NOTE accept.
        FOLIO_ORDERS = 0x018,
        /// Read: number of copy queues.
        COPY_QUEUES = 0x01c,
        /// Read: log2 of the largest ring size in entries.
        MAX_RING_LOG2 = 0x020,
        /// Read: number of contexts; 0 without FEATURE_CONTEXTS.
        CONTEXTS = 0x024,
        /// Read: number of compute engines: jobs of that many contexts are worked on at once.
        COMPUTE_ENGINES = 0x028,
        /// Write RESET_CTRL_RESET: reset the device. STATE then reads RESETTING until all is drained and VRAM is scrubbed.
        RESET_CTRL = 0x040,
        /// Read: device state, one of the STATE values.
        STATE = 0x044,
        /// Read: generation, one more with every reset of any kind.
        GENERATION = 0x048,
        /// Read: nanoseconds of the host's monotonic clock, low word; latches the high word.
        TIME_LO = 0x050,
        /// Read: high word as latched by the last read of TIME_LO.
        TIME_HI = 0x054,
        /// Read: pending interrupt causes. Write: clears the causes whose bits are one.
        INT_CAUSE = 0x060,
        /// Read and write: causes whose bits are one raise no interrupt. Clearing a bit raises an interrupt for a cause that is pending.
        INT_MASK = 0x064,
        /// Read: STATUS value of the first error since this register was last written. Write (any value): forget it.
        ERROR_STATUS = 0x080,
        /// Read: queue number of the first error; ERROR_CONTEXT0 + n for context n.
        ERROR_QUEUE = 0x084,
        /// Read: free-running ring index of the descriptor of the first error.
        ERROR_INDEX = 0x088,
        /// Read: address that the first error was about, low word.
        ERROR_ADDR_LO = 0x08c,
        /// Read: address that the first error was about, high word.
        ERROR_ADDR_HI = 0x090,
        /// Read: number of errors since ERROR_STATUS was last written (saturates).
        ERROR_COUNT = 0x094,
    }
}

open_enum! {
    /// A register offset in the block of one queue or context: BAR 0 offset is
    /// `QUEUE_BASE + queue * QUEUE_STRIDE + offset`, or
    /// `CONTEXT_BASE + context * CONTEXT_STRIDE + offset`.
    pub enum QueueReg: u32 {
        /// Read and write while disabled: DMA address of the queue header, low word; 4 KiB aligned.
        QUEUE_HEADER_LO = 0x00,
        /// Read and write while disabled: DMA address of the queue header, high word.
        QUEUE_HEADER_HI = 0x04,
        /// Read and write while disabled: DMA address of the ring of descriptors, low word; 4 KiB aligned.
        QUEUE_RING_LO = 0x08,
        /// Read and write while disabled: DMA address of the ring, high word.
        QUEUE_RING_HI = 0x0c,
        /// Read and write while disabled: log2 of the ring size in entries, MIN_RING_LOG2 to MAX_RING_LOG2.
        QUEUE_RING_LOG2 = 0x10,
        /// Read and write while disabled: MSI-X vector of this queue's fences.
        QUEUE_VECTOR = 0x14,
        /// Read and write: 1 enables the queue, 0 disables it. Indices start from zero at enabling.
        QUEUE_CTRL = 0x18,
        /// Read: state of the queue, one of the QUEUE_STATUS values.
        QUEUE_STATUS = 0x1c,
        /// Write (any value): the driver's index has moved; needed only while need_kick is set.
        QUEUE_DOORBELL = 0x20,
        /// Contexts only. Read and write while disabled: DMA address of the root of the page table, low word; 4 KiB aligned.
        CONTEXT_ROOT_LO = 0x24,
        /// Contexts only. Read and write while disabled: the same, high word.
        CONTEXT_ROOT_HI = 0x28,
    }
}

constants! {
    /// Values and bits of registers, for the emitters.
    REGISTER_VALUES: u32 {
        /// Value of MAGIC.
        MAGIC_VALUE = 0x4847_4d48,
        /// RESET_CTRL: reset.
        RESET_CTRL_RESET = 1,
        /// STATE: ready for work.
        STATE_READY = 0,
        /// STATE: draining and scrubbing; queue registers are ignored.
        STATE_RESETTING = 1,
        /// STATE: the device cannot work any more.
        STATE_FAILED = 2,
        /// Offset of the first queue's block of registers.
        QUEUE_BASE = 0x1000,
        /// Distance from one queue's block to the next.
        QUEUE_STRIDE = 0x100,
        /// Most copy queues that the layout has room for; their numbers are from 0.
        MAX_COPY_QUEUES = 16,
        /// Number of the invalidation queue, with FEATURE_CONTEXTS.
        INVALIDATION_QUEUE = 16,
        /// Number of the fault queue, with FEATURE_CONTEXTS.
        FAULT_QUEUE = 17,
        /// Offset of the first context's block of registers.
        CONTEXT_BASE = 0x8000,
        /// Distance from one context's block to the next.
        CONTEXT_STRIDE = 0x80,
        /// Most contexts that the layout has room for.
        MAX_CONTEXTS = 256,
        /// FEATURES_LO: there are contexts, compute queues, the invalidation and the fault queue.
        FEATURE_CONTEXTS = 1,
        /// FEATURES_LO: a COPY or FILL can tell a checksum, FLAG_CHECKSUM.
        FEATURE_CHECKSUM = 2,
        /// ERROR_QUEUE: context 0; context n is this + n.
        ERROR_CONTEXT0 = 0x100,
        /// QUEUE_CTRL: enable.
        QUEUE_CTRL_ENABLE = 1,
        /// QUEUE_STATUS: disabled.
        QUEUE_STATUS_OFF = 0,
        /// QUEUE_STATUS: working.
        QUEUE_STATUS_RUNNING = 1,
        /// QUEUE_STATUS: stopped by an error (see ERROR_STATUS). Disable, then enable it.
        QUEUE_STATUS_ERROR = 2,
        /// INT_CAUSE: an error was recorded, see ERROR_STATUS.
        INT_ERROR = 1,
        /// INT_CAUSE: bit of queue 0's fences; queue n's is this << n. FAULT_QUEUE's: new faults.
        INT_QUEUE0 = 2,
        /// INT_CAUSE: jobs of any context that ask for an interrupt.
        INT_COMPUTE = 1 << 19,
    }
}

/// BAR 0 offset of a register of queue `queue`.
pub const fn queue_reg(queue: u32, reg: QueueReg) -> u32 {
    QUEUE_BASE + queue * QUEUE_STRIDE + reg.0
}

/// BAR 0 offset of a register of context `context`.
pub const fn context_reg(context: u32, reg: QueueReg) -> u32 {
    CONTEXT_BASE + context * CONTEXT_STRIDE + reg.0
}
