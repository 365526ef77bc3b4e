//! What a hostile driver does, one step at a time.

use arbitrary::Arbitrary;
use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::compute::Job;
use hmmgpu_contract::desc::Desc;
use hmmgpu_contract::regs::{
    ERROR_CONTEXT0, FAULT_QUEUE, INVALIDATION_QUEUE, QueueReg, context_reg, queue_reg,
};
use hmmgpu_model::ResetCause;

use super::WINDOWS;
use crate::breakage::{Fault, Link};
use crate::device::{CONTEXTS, COPY_QUEUES, VRAM_BYTES};

/// A step.
#[derive(Clone, Debug, Arbitrary)]
pub(super) enum Action {
    /// Sets a queue up and enables it, wherever that is.
    SetUp {
        queue: Queue,
        header: Place,
        ring: Place,
        root: Place,
        log2: u8,
        vector: u8,
    },
    QueueRegister {
        queue: Queue,
        reg: u8,
        value: Value,
    },
    Enable {
        queue: Queue,
        on: bool,
    },
    /// Doorbells, maybe in a storm.
    Doorbell {
        queue: Queue,
        times: u8,
    },
    /// Writes a word of a queue's header.
    Index {
        queue: Queue,
        word: Word,
        value: Index,
    },
    /// Writes a descriptor into the ring and publishes it.
    Submit {
        queue: Queue,
        desc: Descriptor,
    },
    /// Writes a job into the ring and publishes it.
    SubmitJob {
        context: u8,
        job: JobDescriptor,
    },
    /// Rewrites an entry of the ring again and again, while it may be read.
    Rewrite {
        queue: Queue,
        slot: u8,
        descs: [Descriptor; 2],
        times: u8,
    },
    /// Writes to memory.
    Scribble {
        place: Place,
        words: [u64; 2],
    },
    /// Writes an entry of a page table.
    Entry {
        table: Place,
        index: u8,
        to: Place,
        bits: u8,
    },
    Register {
        offset: u8,
        value: Value,
    },
    /// Any access to any BAR.
    Bar {
        bar: u8,
        offset: u32,
        data: [u8; 8],
        len: u8,
        write: bool,
    },
    Config {
        offset: ConfigOffset,
        value: u16,
    },
    Map {
        window: u8,
        write: bool,
    },
    Unmap {
        window: u8,
    },
    UnmapAll,
    Reset(Cause),
    /// Connects a vector, or masks it.
    Interrupt {
        vector: u8,
        on: bool,
    },
    /// Takes the interrupts away and gives them back, in a storm.
    Mask {
        times: u8,
    },
    Wait {
        queue: Queue,
    },
    /// Arms a fault.
    Fault(Fault),
    /// Disarms all faults.
    ClearFaults,
    /// Models a link, or none.
    Link(Link),
}

/// A queue or context that there is, or one that there is not.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Queue {
    Copy(u8),
    Invalidation,
    Fault,
    Context(u8),
    Absent(u8),
}

impl Queue {
    /// Its number, as in `ERROR_QUEUE`.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Copy(number) => u32::from(number) % COPY_QUEUES,
            Self::Invalidation => INVALIDATION_QUEUE,
            Self::Fault => FAULT_QUEUE,
            Self::Context(number) => ERROR_CONTEXT0 + u32::from(number) % CONTEXTS,
            Self::Absent(number) => ERROR_CONTEXT0 + CONTEXTS + u32::from(number) % 252,
        }
    }

    /// BAR 0 offset of one of its registers.
    pub(super) fn offset(self, reg: QueueReg) -> u32 {
        match self.number().checked_sub(ERROR_CONTEXT0) {
            Some(context) => context_reg(context, reg),
            None => queue_reg(self.number(), reg),
        }
    }
}

/// A word of a header.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Word {
    Producer,
    NeedKick,
    Consumer,
}

/// A new value of an index.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Index {
    Add(u8),
    Jump(u32),
}

/// A value of 32 bits.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Value {
    Small(u8),
    Bit(u8),
    Any(u32),
}

impl Value {
    pub(super) fn get(self) -> u32 {
        match self {
            Self::Small(value) => value.into(),
            Self::Bit(bit) => 1 << (bit % 32),
            Self::Any(value) => value,
        }
    }
}

/// An address: mostly one at which something is, or the end of it.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Place {
    /// A page of a window.
    Page {
        window: u8,
        page: u8,
    },
    /// Anywhere in a window.
    Inside {
        window: u8,
        offset: u16,
    },
    /// A few pages around a window's end.
    End {
        window: u8,
        back: i8,
    },
    /// A page of VRAM, from its end on.
    Vram {
        back: u8,
    },
    Any(u64),
}

impl Place {
    pub(super) fn address(self) -> u64 {
        let window = |number: u8| WINDOWS[usize::from(number) % WINDOWS.len()];
        match self {
            Self::Page {
                window: number,
                page,
            } => {
                let (base, size) = window(number);
                base + u64::from(page) * PAGE_SIZE % size as u64
            }
            Self::Inside {
                window: number,
                offset,
            } => {
                let (base, size) = window(number);
                base + u64::from(offset) % size as u64
            }
            Self::End {
                window: number,
                back,
            } => {
                let (base, size) = window(number);
                let end = base + size as u64;
                let pages = u64::from(back.unsigned_abs() % 4) * PAGE_SIZE;
                if back < 0 {
                    end - pages
                } else {
                    end.wrapping_add(pages)
                }
            }
            Self::Vram { back } => VRAM_BYTES - u64::from(back) * PAGE_SIZE,
            Self::Any(address) => address,
        }
    }
}

/// A descriptor, near to one that is right.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) struct Descriptor {
    opcode: u8,
    order: u8,
    flags: u16,
    count: Value,
    dst: Place,
    src: Place,
    arg: Argument,
}

impl Descriptor {
    pub(super) fn desc(&self) -> Desc {
        Desc {
            opcode: self.opcode % 20,
            order: self.order % 20,
            flags: self.flags,
            count: self.count.get(),
            dst: self.dst.address(),
            src: self.src.address(),
            arg: self.arg.get(),
        }
    }
}

/// A value of 64 bits.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Argument {
    Small(u8),
    Address(Place),
    Any(u64),
}

impl Argument {
    pub(super) fn get(self) -> u64 {
        match self {
            Self::Small(value) => value.into(),
            Self::Address(place) => place.address(),
            Self::Any(value) => value,
        }
    }
}

/// A job, near to one that is right.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) struct JobDescriptor {
    opcode: u8,
    flags: u8,
    dst: Argument,
    src: Argument,
    aux: Argument,
    count: Argument,
    arg: Argument,
    record: Place,
    sequence: u8,
}

impl JobDescriptor {
    pub(super) fn job(&self) -> Job {
        Job {
            opcode: self.opcode % 12,
            reserved0: 0,
            flags: u16::from(self.flags % 32),
            reserved1: 0,
            dst: self.dst.get(),
            src: self.src.get(),
            aux: self.aux.get(),
            count: self.count.get(),
            arg: self.arg.get(),
            record: self.record.address(),
            sequence: self.sequence.into(),
        }
    }
}

/// Where in configuration space.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum ConfigOffset {
    Command,
    Power,
    MsixControl,
    DeviceControl,
    Any(u8),
}

impl ConfigOffset {
    pub(super) fn get(self) -> u64 {
        match self {
            Self::Command => 0x04,
            Self::Power => 0x44,
            Self::MsixControl => 0x52,
            Self::DeviceControl => 0x68,
            Self::Any(offset) => offset.into(),
        }
    }
}

/// Who resets.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Cause {
    Register,
    Flr,
    VfioUser,
    Disconnect,
}

impl From<Cause> for ResetCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Register => Self::Register,
            Cause::Flr => Self::Flr,
            Cause::VfioUser => Self::VfioUser,
            Cause::Disconnect => Self::Disconnect,
        }
    }
}
