//! Address spaces: contexts, page tables, the invalidation queue, and faults.
//!
//! **Contexts.** A context is one address space with one compute queue. Its registers are a block
//! like a queue's at `CONTEXT_BASE + context * CONTEXT_STRIDE`, and the root of its page table.
//! Disabling it ends its jobs: when the write has returned, the context accesses nothing any more
//! and the memory of its ring, its page tables and its job records may be used for something else.
//! Enabling it begins with an empty TLB.
//!
//! **Page tables** are radix trees in guest RAM: virtual addresses have `VA_BITS` bits, a table is
//! one page with 512 entries of 8 bytes, and `PT_LEVELS` levels of tables are walked. An entry of
//! level 0 maps 4 KiB. An entry of level 1 (2 MiB) or 2 (1 GiB) with `PTE_LEAF` maps that much;
//! without it, as at level 3, it points to the next table. Address bits below the size of what is
//! mapped are zero. Entries that point to tables carry no bits but `PTE_VALID` and the address,
//! which is a DMA address. An entry without `PTE_VALID` is ignored as a whole. All other bits are
//! reserved and zero: an entry that breaks a rule is a fault with a reason, never an access.
//! Nothing marks entries as accessed or written.
//!
//! **TLB.** The device keeps translations until they are invalidated; it never keeps the absence
//! of one. An entry that is kept but does not allow an access is walked anew before a fault is
//! reported, so that only taking something away needs an invalidation: clearing an entry or a
//! permission, changing an address, replacing a table by a leaf or the reverse.
//!
//! **The invalidation queue** (queue `INVALIDATION_QUEUE`) takes these descriptors, of the format
//! of copy queues, and FENCE. Bits and fields that the table does not name are zero.
//!
//! | opcode | `count` | `dst` | `src` | `arg` |
//! |---|---|---|---|---|
//! | INVALIDATE | context | virtual address, 4 KiB aligned | bytes, a multiple of 4 KiB, not 0 | 0 |
//! | REPLAY | context | 0 | 0 | sequence of the fault, or 0 |
//! | CANCEL | context | 0 | detail for the job record, 32 bits | sequence of the fault |
//!
//! When an INVALIDATE is done (a fence behind it tells), no access through a translation that was
//! in the tables before it is in flight or will come. Jobs that wait for a fault hold none, so an
//! invalidation never waits for the driver to resolve one. REPLAY makes the job translate again,
//! with a sequence of 0 whichever fault it waits for (since 1.3: in case that its record was lost);
//! CANCEL ends it with `STATUS_CANCELLED`. Either is ignored when that fault does not wait (any
//! more), because the context was disabled meanwhile. A context that is not enabled has nothing to
//! invalidate, which is no error; a number that no context has is `STATUS_BAD_CONTEXT`.
//!
//! **The fault queue** (queue `FAULT_QUEUE`) goes from device to driver: its ring has entries of
//! 64 bytes, the device writes `producer` and the driver `consumer`. A context has at most one
//! fault at a time, and its job waits for it to be resolved while others go on. When the ring is
//! full the faulting context waits with its fault, nothing is lost: `need_kick` is then not zero,
//! and a driver that has moved `consumer` executes a full barrier, reads `need_kick`, and writes
//! the queue's doorbell register if it is set. Every new fault raises the queue's vector. While the
//! queue is disabled, faults wait as if it were full; one that was in the ring before is not told
//! again. A `consumer` that is not between `producer` and a ring before it stops the queue with
//! `STATUS_BAD_PRODUCER`.

constants! {
    /// Limits of address spaces, for the emitters.
    ADDRESS_SPACES: u32 {
        /// Bits of a virtual address.
        VA_BITS = 48,
        /// Levels of tables.
        PT_LEVELS = 4,
        /// log2 of the entries of a table.
        PT_BITS = 9,
        /// log2 of the bytes that an entry of level 1 maps.
        PT_LARGE_SHIFT = 21,
    }
}

constants! {
    /// Bits of page-table entries, for the emitters.
    PTE_BITS: u64 {
        /// The entry is valid.
        PTE_VALID = 1 << 0,
        /// Writes are allowed.
        PTE_WRITE = 1 << 1,
        /// Atomic operations are allowed; only together with PTE_WRITE.
        PTE_ATOMIC = 1 << 2,
        /// The address is an offset into VRAM, not a DMA address.
        PTE_VRAM = 1 << 3,
        /// Levels 1 and 2: the entry maps memory. At level 0 it is zero.
        PTE_LEAF = 1 << 4,
        /// The address.
        PTE_ADDRESS = 0x000f_ffff_ffff_f000,
    }
}

constants! {
    /// Opcodes of the invalidation queue, for the emitters; OP_FENCE works there, too.
    MMU_OPCODES: u8 {
        /// Forget translations.
        OP_INVALIDATE = 16,
        /// Let the job that waits for a fault go on.
        OP_REPLAY = 17,
        /// End the job that waits for a fault.
        OP_CANCEL = 18,
    }
}

open_enum! {
    /// What a job wanted to do.
    pub enum FaultAccess: u8 {
        /// Read.
        FAULT_READ = 0,
        /// Write.
        FAULT_WRITE = 1,
        /// Read and write at once.
        FAULT_ATOMIC = 2,
    }
}

open_enum! {
    /// Why it could not.
    pub enum FaultReason: u8 {
        /// No fault.
        FAULT_NONE = 0,
        /// An entry on the way is not valid.
        FAULT_NOT_PRESENT = 1,
        /// The entry does not allow writes.
        FAULT_NOT_WRITABLE = 2,
        /// The entry does not allow atomic operations.
        FAULT_NOT_ATOMIC = 3,
        /// An entry on the way has reserved bits set, or its address is misaligned.
        FAULT_MALFORMED = 4,
        /// A table does not lie in memory that the device can reach.
        FAULT_TABLE_UNREACHABLE = 5,
        /// The entry's address is not in VRAM, or not in the DMA map with this permission.
        FAULT_ADDRESS_UNREACHABLE = 6,
        /// The virtual address has more than VA_BITS bits.
        FAULT_VIRTUAL_ADDRESS = 7,
    }
}

wire_struct! {
    /// An entry of the fault queue.
    pub struct FaultRecord ("fault_record", 64) {
        /// Number of the fault, from 1, unique until the device is reset.
        pub sequence: u64,
        /// Virtual address of the first byte that could not be accessed.
        pub address: u64,
        /// Context.
        pub context: u32,
        /// FAULT access.
        pub access: u8,
        /// FAULT reason.
        pub reason: u8,
        /// Level of the entry that it is about.
        pub level: u8,
        /// Zero.
        pub reserved0: u8,
        /// Sequence number of the job.
        pub job: u64,
        /// Host's monotonic clock in nanoseconds.
        pub time_ns: u64,
        /// Zero.
        pub reserved1: [u64; 3],
    }
}
