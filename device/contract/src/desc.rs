//! Descriptors of copy queues: 32 bytes each.
//!
//! | opcode | `order`, `count` | `dst` | `src` | `arg` |
//! |---|---|---|---|---|
//! | COPY | `count` folios of `order`, contiguous on both sides | address | address | 0, or where its checksum goes |
//! | FILL | `count` folios of `order` | address | 0, or where its checksum goes | pattern of 8 bytes |
//! | FENCE | 0, 0 | DMA address of a fence record | 0 | sequence number |
//! | SPAN begin | 0, pages asked for | process id, or 0 | 0 | span id |
//! | SPAN end | largest order moved, pages moved | 0 | 0 | span id |
//! | NOTE alloc | `count` folios of `order` | VRAM offset | 0 | process id, or 0 |
//! | NOTE free | `count` folios of `order` | VRAM offset | 0 | 0 |
//! | NOTE split | `count` folios of `order` | VRAM offset | 0 | new order |
//! | NOTE mark | 0, 0 | 0 | 0 | cookie |
//! | NOTE process | 0, process id | name, bytes 0 to 7 | name, bytes 8 to 15 | 0 |
//! | NOTE phases | 0, finish | collect, alloc << 32 | copy, commit << 32 | span id |
//! | NOTE fallback | order that was wanted, folios | 0 | 0 | FALLBACK value |
//! | NOTE unload | 0, 0 | 0 | 0 | 0 |
//!
//! A COPY with FLAG_CHECKSUM goes from or to VRAM, not both, and a FILL to VRAM; when it is done, the device
//! reads what VRAM holds of it and writes the checksum, 8 bytes as of JOB_CHECKSUM, to the DMA address in `arg`,
//! of a FILL in `src`, a multiple of 8. So a driver can compare what it can read itself, the other side, or
//! what it knows. FEATURE_CHECKSUM says that the device can.
//!
//! Addresses of COPY and FILL are DMA addresses, or byte offsets into VRAM where the flag says
//! so, and multiples of 4 KiB. A span id is the driver's choice, unique among the open spans of
//! the device. A process id is the driver's name for a process, 1 to 2^32 - 1; NOTE process says
//! what it is called, padded with zeros, before anything else names it. NOTE phases says, before
//! its span ends, how long the driver was in each phase of it: by the driver's clock, in units of
//! [`PHASE_UNIT_NS`], each 32 bits wide and all-ones where it does not fit. NOTE unload says that the driver lets go
//! of the device and uses no VRAM any more, as far as it knows. Bits and fields that
//! the table does not name are zero. A descriptor that breaks a rule is not carried out; its
//! status goes into the next fence record and the ring goes on. A driver that finds contract 1.1
//! or older leaves out process ids and the notes below mark, one that finds 1.2 NOTE unload.

wire_struct! {
    /// A descriptor.
    pub struct Desc ("desc", 32) {
        /// OP value.
        pub opcode: u8,
        /// Folio order.
        pub order: u8,
        /// Flags of the opcode.
        pub flags: u16,
        /// Number of folios or pages.
        pub count: u32,
        /// Destination.
        pub dst: u64,
        /// Source.
        pub src: u64,
        /// Argument of the opcode.
        pub arg: u64,
    }
}

constants! {
    /// Opcodes, for the emitters.
    OPCODES: u8 {
        /// Copy folios.
        OP_COPY = 1,
        /// Fill folios with a pattern of 8 bytes.
        OP_FILL = 2,
        /// Write a fence record, and raise the queue's interrupt if asked.
        OP_FENCE = 3,
        /// Begin or end of one migration, for the host's clock.
        OP_SPAN = 4,
        /// What the driver did with VRAM, or a mark for telemetry.
        OP_NOTE = 5,
    }
}

constants! {
    /// Flags, for the emitters.
    FLAGS: u16 {
        /// COPY: `src` is a VRAM offset, not a DMA address.
        FLAG_SRC_VRAM = 1 << 0,
        /// COPY, FILL: `dst` is a VRAM offset, not a DMA address.
        FLAG_DST_VRAM = 1 << 1,
        /// COPY, FILL: tell the checksum of what is in VRAM now, see above.
        FLAG_CHECKSUM = 1 << 2,
        /// FENCE: raise the queue's MSI-X vector after the record is written.
        FLAG_INTERRUPT = 1 << 0,
        /// SPAN: the span ends; without it, it begins.
        FLAG_SPAN_END = 1 << 0,
        /// SPAN, NOTE fallback: shift of the direction, two bits, a DIR value.
        FLAG_DIRECTION_SHIFT = 4,
        /// SPAN, NOTE fallback: mask of the direction.
        FLAG_DIRECTION_MASK = 0x3 << 4,
        /// COPY, FILL, SPAN, NOTE fallback: shift of the trigger, three bits, a TRIGGER value.
        FLAG_TRIGGER_SHIFT = 8,
        /// COPY, FILL, SPAN, NOTE fallback: mask of the trigger.
        FLAG_TRIGGER_MASK = 0x7 << 8,
        /// NOTE: mask of the kind, a NOTE value.
        FLAG_NOTE_MASK = 0xf,
    }
}

constants! {
    /// Directions, for the emitters.
    DIRECTIONS: u16 {
        /// System memory to VRAM.
        DIR_SYS_TO_DEV = 0,
        /// VRAM to system memory.
        DIR_DEV_TO_SYS = 1,
        /// VRAM to VRAM.
        DIR_DEV_TO_DEV = 2,
        /// System memory to system memory.
        DIR_SYS_TO_SYS = 3,
    }
}

constants! {
    /// Triggers, for the emitters.
    TRIGGERS: u16 {
        /// The program asked for it.
        TRIGGER_PREFETCH = 0,
        /// A fault of the GPU.
        TRIGGER_GPU_FAULT = 1,
        /// A fault of a CPU.
        TRIGGER_CPU_FAULT = 2,
        /// VRAM was needed for something else, or goes away.
        TRIGGER_EVICT = 3,
    }
}

constants! {
    /// Kinds of notes, for the emitters.
    NOTES: u16 {
        /// Folios were allocated in VRAM.
        NOTE_ALLOC = 1,
        /// Folios in VRAM were freed.
        NOTE_FREE = 2,
        /// Folios in VRAM were split to the order in `arg`.
        NOTE_SPLIT = 3,
        /// Telemetry closes its window and, unless the cookie is zero, opens one of that name.
        NOTE_MARK = 4,
        /// What a process is called.
        NOTE_PROCESS = 5,
        /// How long a span's phases took.
        NOTE_PHASES = 6,
        /// Large folios that moved otherwise, or not at all.
        NOTE_FALLBACK = 7,
        /// The driver unloads: no VRAM is in use any more.
        NOTE_UNLOAD = 8,
    }
}

constants! {
    /// Why large folios did not move whole, for the emitters.
    FALLBACKS: u16 {
        /// There was no room for a large folio in VRAM: its pages were moved one by one, or it stayed.
        FALLBACK_NO_VRAM = 0,
        /// There was no large folio of system memory for it: its pages were moved one by one.
        FALLBACK_NO_MEMORY = 1,
        /// Several address spaces map it: it was split, and its pages were moved one by one.
        FALLBACK_SHARED = 2,
        /// It could not be split, because someone has a reference to it: it stayed.
        FALLBACK_SPLIT_FAILED = 3,
        /// Only a part of it was asked for, or its memory does not allow more: its pages were moved one by one.
        FALLBACK_PARTIAL = 4,
        /// A test asked for it.
        FALLBACK_INJECTED = 5,
    }
}

/// Unit of the times in NOTE phases, in nanoseconds: 32 bits of it are 4.5 minutes.
pub const PHASE_UNIT_NS: u32 = 64;

open_enum! {
    /// How a descriptor ended.
    pub enum Status: u32 {
        /// Done.
        STATUS_OK = 0,
        /// The opcode is not defined.
        STATUS_BAD_OPCODE = 1,
        /// A flag or field that must be zero is not, or its value is not defined.
        STATUS_BAD_FIELD = 2,
        /// The order is not among FOLIO_ORDERS.
        STATUS_BAD_ORDER = 3,
        /// The count is zero, or the transfer is larger than MAX_TRANSFER_BYTES.
        STATUS_BAD_COUNT = 4,
        /// An address is not aligned as the opcode wants it.
        STATUS_MISALIGNED = 5,
        /// A VRAM range does not lie in VRAM.
        STATUS_VRAM_RANGE = 6,
        /// A DMA address is not mapped, or not backed by memory that the device can reach.
        STATUS_DMA_UNMAPPED = 7,
        /// A DMA address is mapped read-only and would be written.
        STATUS_DMA_PERMISSION = 8,
        /// Source and destination overlap.
        STATUS_OVERLAP = 9,
        /// The queue was disabled or the device reset before the descriptor was done. Seen only in the host's telemetry: no fence covers it any more.
        STATUS_ABORTED = 10,
        /// The producer index is further ahead than the ring is long; the queue stops.
        STATUS_BAD_PRODUCER = 11,
        /// The queue header or the ring cannot be reached; the queue stops.
        STATUS_QUEUE_UNREACHABLE = 12,
        /// There is no context of that number.
        STATUS_BAD_CONTEXT = 13,
        /// A job met a fault and did not want to wait for its replay.
        STATUS_FAULT = 14,
        /// A job met a fault, and the driver cancelled it.
        STATUS_CANCELLED = 15,
        /// The device failed, or its link: nothing was wrong with the descriptor. What is at its destination is not defined.
        STATUS_HARDWARE = 16,
        /// There is no VRAM at its destination now, although it lies in VRAM: the device has lost some, or gave it to somebody else. Nothing was done.
        STATUS_NO_VRAM = 17,
    }
}
