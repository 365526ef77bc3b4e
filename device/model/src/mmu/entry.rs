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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_each_level_allows() {
        let malformed = Err(FaultReason::FAULT_MALFORMED);
        let all = PTE_VALID | PTE_WRITE | PTE_ATOMIC | PTE_VRAM;
        let leaf = |place, write, atomic| {
            Ok(Entry::Leaf {
                place,
                write,
                atomic,
            })
        };
        for level in 0..4 {
            let not_present = Err(FaultReason::FAULT_NOT_PRESENT);
            assert_eq!(Entry::decode(!PTE_VALID, level), not_present);
        }
        assert_eq!(
            Entry::decode(all | 0x1000, 0),
            leaf(Place::Vram(0x1000), true, true)
        );
        assert_eq!(
            Entry::decode(PTE_VALID | 0x1000, 0),
            leaf(Place::System(0x1000), false, false)
        );
        assert_eq!(
            Entry::decode(all | PTE_LEAF | 2 << 20, 1),
            leaf(Place::Vram(2 << 20), true, true)
        );
        assert_eq!(
            Entry::decode(PTE_VALID | PTE_WRITE | PTE_LEAF | 1 << 30, 2),
            leaf(Place::System(1 << 30), true, false)
        );
        for level in 1..4 {
            let table = Ok(Entry::Table(0x1000));
            assert_eq!(Entry::decode(PTE_VALID | 0x1000, level), table);
            for bit in [PTE_WRITE, PTE_ATOMIC, PTE_VRAM] {
                assert_eq!(Entry::decode(PTE_VALID | bit | 0x1000, level), malformed);
            }
        }
        for (entry, level) in [
            (PTE_LEAF, 0),
            (PTE_LEAF, 3),
            (PTE_LEAF | 0x1000, 1),
            (PTE_LEAF | 2 << 20, 2),
            (PTE_ATOMIC, 0),
            (1 << 5, 0),
            (1 << 52, 0),
            (1 << 63, 1),
            (PTE_LEAF | 1 << 11, 1),
        ] {
            assert_eq!(Entry::decode(PTE_VALID | entry, level), malformed);
        }
    }

    proptest! {
        #[test]
        fn an_address_is_never_taken_from_other_bits(entry in any::<u64>(), level in 0_u8..4) {
            match Entry::decode(entry, level) {
                Ok(Entry::Table(address)) => prop_assert_eq!(entry, address | PTE_VALID),
                Ok(Entry::Leaf { place, write, atomic }) => {
                    let (address, aperture) = match place {
                        Place::System(address) => (address, 0),
                        Place::Vram(address) => (address, PTE_VRAM),
                    };
                    let bits = PTE_VALID
                        | aperture
                        | if write { PTE_WRITE } else { 0 }
                        | if atomic { PTE_ATOMIC } else { 0 }
                        | if level > 0 { PTE_LEAF } else { 0 };
                    prop_assert_eq!(entry, address | bits);
                    prop_assert_eq!(address % (1 << level_shift(level)), 0);
                }
                Err(FaultReason::FAULT_NOT_PRESENT) => prop_assert_eq!(entry & PTE_VALID, 0),
                Err(reason) => prop_assert_eq!(reason, FaultReason::FAULT_MALFORMED),
            }
        }
    }
}
