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
    /// Level of the entry that it is about; that of the root, when no entry was looked at.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::DmaMap;
    use crate::mock::GuestRam;
    use hmmgpu_contract::mmu::{PTE_ADDRESS, PTE_LEAF, PTE_VALID, PTE_WRITE};
    use proptest::prelude::*;

    const PAGES: u64 = 6;
    const BASE: u64 = 0x1_0000_0000;

    /// Memory of a few pages, all of which are tables to somebody.
    struct Tables {
        map: DmaMap,
        words: Vec<u64>,
    }

    impl Tables {
        fn new(entries: &[(u64, u64, u64)]) -> Self {
            let bytes = PAGES * 4096;
            let ram = GuestRam::new(BASE, usize::try_from(bytes).unwrap()).unwrap();
            let mut words = vec![0; usize::try_from(bytes / 8).unwrap()];
            for (page, index, entry) in entries {
                let word = page * 512 + index;
                words[usize::try_from(word).unwrap()] = *entry;
                ram.store(BASE + word * 8, entry.to_le(), Ordering::Release);
            }
            let map = DmaMap::new().unwrap();
            map.map(ram.mapping(0, bytes, true).unwrap()).unwrap();
            Self { map, words }
        }

        /// The walk by the words of the contract, on a copy of the memory and with divisions.
        fn reference(&self, root: u64, address: u64) -> Result<(u64, u64, bool), (u8, u8)> {
            const MALFORMED: u8 = 4;
            if address >= 1 << 48 {
                return Err((7, 3));
            }
            let mut table = root;
            let mut covers = 512_u64 * 512 * 512 * 4096;
            for level in [3_u8, 2, 1, 0] {
                if !(BASE..BASE + PAGES * 4096).contains(&table) {
                    return Err((5, level));
                }
                let word = (table - BASE) / 8 + address / covers % 512;
                let entry = self.words[usize::try_from(word).unwrap()];
                let bit = |number: u32| entry / 2_u64.pow(number) % 2 == 1;
                let target = entry / 4096 % 2_u64.pow(40) * 4096;
                if !bit(0) {
                    return Err((1, level));
                }
                if (5..12).chain(52..64).any(bit) {
                    return Err((MALFORMED, level));
                }
                let maps = level == 0 || level < 3 && bit(4);
                if !maps {
                    if (1..5).any(bit) {
                        return Err((MALFORMED, level));
                    }
                    table = target;
                    covers /= 512;
                    continue;
                }
                if level == 0 && bit(4) || bit(2) && !bit(1) || !target.is_multiple_of(covers) {
                    return Err((MALFORMED, level));
                }
                return Ok((target + address % covers, covers, bit(3)));
            }
            unreachable!("level 0 maps or fails")
        }
    }

    /// Entries that lead on, entries that map, and entries that are wrong in some bit.
    fn entries() -> impl Strategy<Value = u64> {
        let table = (0..PAGES + 1).prop_map(|page| (BASE + page * 4096) | PTE_VALID);
        let leaf = (any::<u64>(), 12_u32..31, 0_u64..32).prop_map(|(address, align, bits)| {
            address & PTE_ADDRESS & (u64::MAX << align) | bits | PTE_VALID
        });
        let wrong = (table.clone(), 0_u32..64).prop_map(|(entry, bit)| entry ^ 1 << bit);
        prop_oneof![
            6 => table,
            4 => leaf,
            1 => wrong,
            1 => any::<u64>(),
            1 => Just(0),
        ]
    }

    /// Indices that are few, so that addresses meet entries.
    fn indices() -> impl Strategy<Value = u64> {
        prop_oneof![0_u64..3, Just(511_u64)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn equals_the_reference(
            tables in prop::collection::vec((0..PAGES, indices(), entries()), 1..40),
            addresses in prop::collection::vec(
                (indices(), indices(), indices(), indices(), 0_u64..4096, 0_u8..20),
                1..40,
            ),
        ) {
            let tables = Tables::new(&tables);
            let view = tables.map.view();
            for (a, b, c, d, offset, beyond) in addresses {
                let address = a << 39 | b << 30 | c << 21 | d << 12 | offset;
                let address = if beyond == 0 { address | 1 << 48 << (offset % 16) } else { address };
                for root in [BASE, BASE + 4096 * PAGES] {
                    let found = walk(&view, root, address).map(|found| {
                        let place = found.place.at(address - found.base);
                        let (at, vram) = match place {
                            Place::System(at) => (at, false),
                            Place::Vram(at) => (at, true),
                        };
                        (at, 1_u64 << found.shift(), vram)
                    });
                    let found = found.map_err(|(reason, level)| (reason.0, level));
                    prop_assert_eq!(found, tables.reference(root, address), "{:#x}", address);
                }
            }
        }
    }

    #[test]
    fn tables_in_a_circle_end_by_depth() {
        // Page 0 is table, and table of itself; at level 0 the entry maps page 0.
        let tables = Tables::new(&[(0, 0, BASE | PTE_VALID)]);
        let found = walk(&tables.map.view(), BASE, 0x123).unwrap();
        assert_eq!((found.place, found.level), (Place::System(BASE), 0));
    }

    #[test]
    fn permissions_are_those_of_the_leaf() {
        let leaf = BASE | PTE_VALID | PTE_WRITE;
        let table = |page: u64| (BASE + page * 4096) | PTE_VALID;
        let tables = Tables::new(&[
            (0, 0, table(1)),
            (1, 0, table(2)),
            (1, 1, 1 << 30 | PTE_VALID | PTE_LEAF),
            (2, 0, table(3)),
            (3, 5, leaf),
        ]);
        let view = tables.map.view();
        let small = walk(&view, BASE, 0x5000).unwrap();
        assert_eq!((small.base, small.level), (0x5000, 0));
        assert_eq!(small.allows(FaultAccess::FAULT_WRITE), Ok(()));
        let not_atomic = Err(FaultReason::FAULT_NOT_ATOMIC);
        assert_eq!(small.allows(FaultAccess::FAULT_ATOMIC), not_atomic);
        let huge = walk(&view, BASE, (1 << 30) + 0x5000).unwrap();
        assert_eq!((huge.base, huge.shift()), (1 << 30, 30));
        assert_eq!(huge.allows(FaultAccess::FAULT_READ), Ok(()));
        let not_writable = Err(FaultReason::FAULT_NOT_WRITABLE);
        assert_eq!(huge.allows(FaultAccess::FAULT_WRITE), not_writable);
    }
}
