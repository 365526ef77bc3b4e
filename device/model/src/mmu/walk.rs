//! The walk through a page table.

use std::sync::atomic::Ordering;

use hmmgpu_contract::PAGE_SHIFT;
use hmmgpu_contract::mmu::{FaultAccess, FaultReason, PT_BITS, PT_LEVELS, VA_BITS};

use super::entry::{Entry, level_shift};
use crate::command::Place;
use crate::dma::DmaView;

/// Level of the root.
#[allow(clippy::cast_possible_truncation)] // It is 3.
const ROOT_LEVEL: u8 = PT_LEVELS as u8 - 1;
const ENTRY_BYTES: u64 = 8;
const _: () = assert!(VA_BITS == PAGE_SHIFT + PT_BITS * PT_LEVELS);

/// An access that cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MmuFault {
    /// Virtual address.
    pub(crate) address: u64,
    pub(crate) access: FaultAccess,
    pub(crate) reason: FaultReason,
    /// Level of the entry that it is about.
    pub(crate) level: u8,
}

/// What a leaf says of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// First virtual address.
    pub(crate) base: u64,
    /// Where that is.
    pub(crate) place: Place,
    pub(crate) write: bool,
    pub(crate) atomic: bool,
    /// Level of the leaf.
    pub(crate) level: u8,
}

impl Translation {
    /// log2 of the bytes that it covers.
    pub(crate) fn shift(&self) -> u32 {
        level_shift(self.level)
    }

    /// Whether it allows an access.
    pub(crate) fn allows(&self, access: FaultAccess) -> Result<(), FaultReason> {
        match access {
            FaultAccess::FAULT_READ => Ok(()),
            FaultAccess::FAULT_WRITE if self.write => Ok(()),
            FaultAccess::FAULT_WRITE => Err(FaultReason::FAULT_NOT_WRITABLE),
            _ if self.atomic => Ok(()),
            _ => Err(FaultReason::FAULT_NOT_ATOMIC),
        }
    }
}

/// Walks from the table at DMA address `root` to the leaf of a virtual address. A failure is its
/// reason, and the level of the entry that it is about.
pub(crate) fn walk(
    view: &DmaView<'_>,
    root: u64,
    address: u64,
) -> Result<Translation, (FaultReason, u8)> {
    if address >> VA_BITS != 0 {
        return Err((FaultReason::FAULT_VIRTUAL_ADDRESS, ROOT_LEVEL));
    }
    let mut table = root;
    for level in (0..=ROOT_LEVEL).rev() {
        let index = address >> level_shift(level) & ((1 << PT_BITS) - 1);
        // A table is page-aligned: the addition does not wrap.
        let entry = view
            .load::<u64>(table + index * ENTRY_BYTES, Ordering::Acquire)
            .map_err(|_| (FaultReason::FAULT_TABLE_UNREACHABLE, level))?;
        match Entry::decode(u64::from_le(entry), level).map_err(|reason| (reason, level))? {
            Entry::Table(next) => table = next,
            Entry::Leaf {
                place,
                write,
                atomic,
            } => {
                return Ok(Translation {
                    base: address >> level_shift(level) << level_shift(level),
                    place,
                    write,
                    atomic,
                    level,
                });
            }
        }
    }
    // Entries of level 0 never point to a table.
    Err((FaultReason::FAULT_MALFORMED, 0))
}
