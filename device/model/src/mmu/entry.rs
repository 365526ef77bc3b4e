//! Page-table entries: raw words from the guest stop here.

use hmmgpu_contract::PAGE_SHIFT;
use hmmgpu_contract::mmu::{
    FaultReason, PT_BITS, PTE_ADDRESS, PTE_ATOMIC, PTE_LEAF, PTE_VALID, PTE_VRAM, PTE_WRITE,
};

use crate::command::Place;

/// Highest level at which an entry may map memory.
const LAST_LEAF_LEVEL: u8 = 2;

/// An entry that breaks no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// DMA address of the next table.
    Table(u64),
    /// Memory.
    Leaf {
        place: Place,
        write: bool,
        atomic: bool,
    },
}

/// log2 of the bytes that an entry of `level` maps.
pub(crate) fn level_shift(level: u8) -> u32 {
    PAGE_SHIFT + PT_BITS * u32::from(level)
}

impl Entry {
    /// Decodes an entry of a table of `level`.
    pub(crate) fn decode(entry: u64, level: u8) -> Result<Self, FaultReason> {
        if entry & PTE_VALID == 0 {
            return Err(FaultReason::FAULT_NOT_PRESENT);
        }
        let address = entry & PTE_ADDRESS;
        let large = level > 0 && level <= LAST_LEAF_LEVEL && entry & PTE_LEAF != 0;
        if level > 0 && !large {
            return if entry & !(PTE_VALID | PTE_ADDRESS) == 0 {
                Ok(Self::Table(address))
            } else {
                Err(FaultReason::FAULT_MALFORMED)
            };
        }
        let leaf = if large { PTE_LEAF } else { 0 };
        let allowed = PTE_VALID | PTE_WRITE | PTE_ATOMIC | PTE_VRAM | PTE_ADDRESS | leaf;
        let (write, atomic) = (entry & PTE_WRITE != 0, entry & PTE_ATOMIC != 0);
        let aligned = address.trailing_zeros() >= level_shift(level);
        if entry & !allowed != 0 || atomic && !write || !aligned {
            return Err(FaultReason::FAULT_MALFORMED);
        }
        let place = if entry & PTE_VRAM != 0 {
            Place::Vram(address)
        } else {
            Place::System(address)
        };
        Ok(Self::Leaf {
            place,
            write,
            atomic,
        })
    }
}
