//! Compute queues: jobs on memory of an address space.
//!
//! Each context has one compute queue: a header as every queue has it, and a ring of job
//! descriptors of 64 bytes. Jobs of a context are done in order, one after the other; contexts
//! take turns. A job accesses memory through its context's page table, in the order of its
//! elements, piece by piece: what was done before a fault is not done again after the replay.
//! Job descriptors are fetched once.
//!
//! | opcode | does, for i in 0..`count` | element | result `value` |
//! |---|---|---|---|
//! | FILL | `dst[i] = arg` repeated, byte i % 8 of it | byte | 0 |
//! | COPY | `dst[i] = src[i]` | byte | 0 |
//! | COMPARE | `dst[i] == src[i]`? | byte | index of the first difference, or `count` |
//! | CHECKSUM | `h = (h ^ src[i]) * CHECKSUM_PRIME`, h = CHECKSUM_BASIS at first | u64 | h |
//! | REDUCE | `arg` 0: sum, 1: minimum, 2: maximum of `src[i]`, unsigned | u64 | it |
//! | SAXPY | `dst[i] = a * src[i] + dst[i]`, a in the low half of `arg` | f32 | 0 |
//! | GATHER | `dst[i] = src[aux[i]]` | u64, indices u32 | 0 |
//! | SCATTER | `dst[aux[i]] = src[i]` | u64, indices u32 | 0 |
//! | CHASE | `v += *(p + aux); p = *(p + arg)`, p = `src` at first, until p is 0 | u64 | v |
//! | ATOMIC_ADD | `*dst += arg`, each a single atomic addition | u64 | `*dst` before the last one |
//!
//! Sums wrap. The minimum of nothing is all-ones, the maximum zero. COMPARE ends at the first
//! difference. The multiplication and the addition of SAXPY are rounded each. `dst`, `src` and
//! `aux` are virtual addresses, aligned to their element, except that `aux` of CHASE, like its
//! `arg`, is a byte offset, which wraps; an address that CHASE comes to is aligned to 8, or the job
//! ends with `STATUS_MISALIGNED`. Where a flag says so `dst` or `src` of COPY is a DMA address
//! instead; what of it is not mapped is found out when the job comes there. Ranges of COPY that
//! overlap are refused, and so are ranges without an address of 64 bits behind them
//! (`STATUS_BAD_COUNT`). A `count` of 0 is done at once. Fields that the table does not name, the
//! unused half of `arg`, and flags that are not defined are zero.
//!
//! When a job ends, well or not, its record is written (`sequence` last), and the context's
//! vector raised if asked. A job that breaks a rule ends with its status; the ring goes on. A job
//! whose record is misaligned or cannot be reached is not begun; the error registers show it, as
//! they show all jobs that end otherwise than well, but for faults and what CHASE finds.

wire_struct! {
    /// A job.
    pub struct Job ("job", 64) {
        /// JOB opcode.
        pub opcode: u8,
        /// Zero.
        pub reserved0: u8,
        /// Flags.
        pub flags: u16,
        /// Zero.
        pub reserved1: u32,
        /// Destination.
        pub dst: u64,
        /// Source.
        pub src: u64,
        /// Indices, or an offset.
        pub aux: u64,
        /// Number of elements.
        pub count: u64,
        /// Argument of the opcode.
        pub arg: u64,
        /// DMA address of the job record, 64-byte aligned.
        pub record: u64,
        /// Sequence number for the job record; not zero.
        pub sequence: u64,
    }
}

wire_struct! {
    /// Job record, written when a job has ended. The device writes `sequence` last (release); a
    /// driver that has read the awaited value there (acquire) may read the rest.
    pub struct JobRecord ("job_record", 64) {
        /// Sequence number of the job.
        pub sequence: u64,
        /// STATUS.
        pub status: u32,
        /// What CANCEL gave, or zero.
        pub detail: u32,
        /// Result.
        pub value: u64,
        /// Elements that are done.
        pub done: u64,
        /// Virtual address of the fault that ended the job, or zero.
        pub fault_address: u64,
        /// FAULT reason of the fault that ended the job, or zero.
        pub fault_reason: u32,
        /// Faults that were replayed.
        pub faults: u32,
        /// Host's monotonic clock in nanoseconds when the job was begun.
        pub begin_ns: u64,
        /// The same when it ended.
        pub end_ns: u64,
    }
}

constants! {
    /// Opcodes of jobs, for the emitters.
    JOB_OPCODES: u8 {
        /// Fill bytes with a pattern.
        JOB_FILL = 1,
        /// Copy bytes.
        JOB_COPY = 2,
        /// Compare bytes.
        JOB_COMPARE = 3,
        /// Checksum of words: FNV-1a over words of 64 bits.
        JOB_CHECKSUM = 4,
        /// Sum, minimum or maximum of words.
        JOB_REDUCE = 5,
        /// a * x + y.
        JOB_SAXPY = 6,
        /// Read words from where indices say.
        JOB_GATHER = 7,
        /// Write words to where indices say.
        JOB_SCATTER = 8,
        /// Follow a linked list and add up its payloads.
        JOB_CHASE = 9,
        /// Add to one word, atomically.
        JOB_ATOMIC_ADD = 10,
    }
}

constants! {
    /// Flags of jobs, for the emitters.
    JOB_FLAGS: u16 {
        /// Raise the context's vector after the record is written.
        JOB_INTERRUPT = 1 << 0,
        /// A fault ends the job with STATUS_FAULT: it does not go into the fault queue.
        JOB_NO_REPLAY = 1 << 1,
        /// COPY: `src` is a DMA address.
        JOB_SRC_DMA = 1 << 2,
        /// COPY: `dst` is a DMA address.
        JOB_DST_DMA = 1 << 3,
    }
}

constants! {
    /// Values of REDUCE's argument and of CHECKSUM, for the emitters.
    JOB_VALUES: u64 {
        /// REDUCE: sum.
        REDUCE_SUM = 0,
        /// REDUCE: minimum.
        REDUCE_MIN = 1,
        /// REDUCE: maximum.
        REDUCE_MAX = 2,
        /// CHECKSUM: value before the first word.
        CHECKSUM_BASIS = 0xcbf2_9ce4_8422_2325,
        /// CHECKSUM: multiplier.
        CHECKSUM_PRIME = 0x0000_0100_0000_01b3,
        /// Alignment in bytes of job records.
        JOB_RECORD_ALIGN = 64,
    }
}
