//! What a hostile driver does with address spaces, one step at a time.

use arbitrary::Arbitrary;
use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::compute::{JOB_NO_REPLAY, Job};
use hmmgpu_contract::mmu::{PTE_LEAF, PTE_VALID, PTE_VRAM};

use super::{READ_ONLY, READ_ONLY_PAGES, TABLE_PAGES, TABLES};
use crate::breakage::{Fault, Link};
use crate::device::VRAM_BYTES;

/// A step.
#[derive(Debug, Arbitrary)]
pub(super) enum Action {
    /// Writes an entry of a page that may be a table.
    Entry(Change),
    /// Gives a context a job, and does not wait for it.
    Submit {
        context: u8,
        job: JobDescriptor,
    },
    /// Takes the context's jobs away.
    Stop {
        context: u8,
    },
    /// As it comes, whatever the queue does.
    Invalidate {
        context: u8,
        address: Address,
        pages: u16,
    },
    /// Answers the next fault.
    Answer {
        cancel: bool,
        wrong: bool,
    },
    /// Maps the tables or what is read-only, or takes it away.
    Map {
        tables: bool,
        on: bool,
    },
    Reset,
    /// Looks whether translations are right, with nothing else going on: before a change, and
    /// after it and an invalidation.
    Probe {
        before: Access,
        change: Change,
        after: Access,
        narrow: bool,
    },
    /// Arms a fault.
    Fault(Fault),
    /// Disarms all faults.
    ClearFaults,
    /// Models a link, or none.
    Link(Link),
}

/// A new entry.
#[derive(Debug, Arbitrary)]
pub(super) struct Change {
    page: u8,
    index: Index,
    entry: Entry,
}

impl Change {
    /// DMA address of the entry, and the entry.
    pub(super) fn get(&self) -> (u64, u64) {
        let page = u64::from(self.page) % TABLE_PAGES;
        let at = TABLES + page * PAGE_SIZE + self.index.get() * 8;
        (at, self.entry.get())
    }
}

/// Indices of tables: few, so that addresses meet entries.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Index {
    First,
    Second,
    Last,
    Any(u16),
}

impl Index {
    fn get(self) -> u64 {
        match self {
            Self::First => 0,
            Self::Second => 1,
            Self::Last => 511,
            Self::Any(index) => u64::from(index) % 512,
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Entry {
    Table { page: u8 },
    Small { to: Target, permissions: u8 },
    Large { to: Target, permissions: u8 },
    Any(u64),
    None,
}

/// What an entry maps.
#[derive(Debug, Arbitrary)]
enum Target {
    Tables(u8),
    ReadOnly(u8),
    Vram(u16),
    VramEnd,
    Elsewhere(u32),
}

impl Target {
    /// Address, with the bit of its aperture.
    fn get(&self) -> u64 {
        match self {
            Self::Tables(page) => TABLES + u64::from(*page) % TABLE_PAGES * PAGE_SIZE,
            Self::ReadOnly(page) => READ_ONLY + u64::from(*page) % READ_ONLY_PAGES * PAGE_SIZE,
            Self::Vram(page) => (u64::from(*page) * PAGE_SIZE) | PTE_VRAM,
            Self::VramEnd => (VRAM_BYTES - PAGE_SIZE) | PTE_VRAM,
            Self::Elsewhere(page) => u64::from(*page) * PAGE_SIZE,
        }
    }
}

impl Entry {
    fn get(&self) -> u64 {
        let permissions = |bits: u8| u64::from(bits % 4) << 1 | PTE_VALID;
        match self {
            Self::Table { page } => {
                (TABLES + u64::from(*page) % TABLE_PAGES * PAGE_SIZE) | PTE_VALID
            }
            Self::Small {
                to,
                permissions: bits,
            } => to.get() | permissions(*bits),
            Self::Large {
                to,
                permissions: bits,
            } => {
                // Mostly aligned, as it must be.
                let aligned = if bits & 0x80 == 0 { !0x1f_f000 } else { !0 };
                to.get() & aligned | permissions(*bits) | PTE_LEAF
            }
            Self::Any(entry) => *entry,
            Self::None => 0,
        }
    }
}

/// A virtual address, by the indices that lead to it.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Address {
    Path { indices: [Index; 4], offset: u16 },
    Any(u64),
}

impl Address {
    pub(super) fn get(self) -> u64 {
        match self {
            Self::Path { indices, offset } => {
                let path = indices
                    .into_iter()
                    .fold(0, |path, index| path << 9 | index.get());
                (path << 12) | (u64::from(offset) % PAGE_SIZE)
            }
            Self::Any(address) => address,
        }
    }
}

/// An access of 8 bytes.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) struct Access {
    pub(super) address: Address,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Arbitrary)]
pub(super) enum Kind {
    Read,
    Write,
    Atomic,
}

/// A job, near to one that is right.
#[derive(Debug, Arbitrary)]
pub(super) struct JobDescriptor {
    opcode: u8,
    flags: u8,
    dst: Address,
    src: Address,
    aux: Value,
    count: Value,
    arg: Value,
}

#[derive(Debug, Arbitrary)]
enum Value {
    Small(u8),
    Address(Address),
    Any(u64),
}

impl Value {
    fn get(&self) -> u64 {
        match self {
            Self::Small(value) => (*value).into(),
            Self::Address(address) => address.get(),
            Self::Any(value) => *value,
        }
    }
}

impl JobDescriptor {
    /// The job, but for its record.
    pub(super) fn job(&self) -> Job {
        Job {
            opcode: self.opcode % 12,
            reserved0: 0,
            flags: u16::from(self.flags) & !JOB_NO_REPLAY,
            reserved1: 0,
            dst: self.dst.get(),
            src: self.src.get(),
            aux: self.aux.get(),
            count: self.count.get(),
            arg: self.arg.get(),
            record: 0,
            sequence: 0,
        }
    }
}
