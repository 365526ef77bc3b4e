//! Translations that are kept: a bounded cache of leaves.
//!
//! There is an array for 4 KiB and one for 2 MiB. A leaf of 1 GiB is kept as the piece of 2 MiB
//! that was asked for, so that the memory of a TLB has a bound and two sizes are looked up.

use hmmgpu_contract::PAGE_SHIFT;
use hmmgpu_contract::mmu::PT_LARGE_SHIFT;

use super::walk::Translation;
use crate::command::Place;

/// Translations whose addresses meet in one set.
const WAYS: usize = 4;
const SMALL_SETS: usize = 256;
const LARGE_SETS: usize = 64;

/// A part of what a leaf maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cached {
    /// The leaf.
    pub(crate) leaf: Translation,
    /// First virtual address of the part.
    pub(crate) base: u64,
    /// Its size in bytes.
    pub(crate) bytes: u64,
}

impl Cached {
    /// The part of a leaf that is kept for an access to `address`, which the leaf maps.
    pub(crate) fn of(leaf: Translation, address: u64) -> Self {
        let shift = leaf.shift().min(PT_LARGE_SHIFT);
        Self {
            leaf,
            base: address >> shift << shift,
            bytes: 1 << shift,
        }
    }

    /// Whether it maps a virtual address.
    pub(crate) fn covers(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.bytes
    }

    /// Where a virtual address is that it maps.
    pub(crate) fn place(&self, address: u64) -> Place {
        self.leaf.place.at(address - self.leaf.base)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Set {
    ways: [Option<Cached>; WAYS],
    /// The way that is replaced next.
    next: usize,
}

/// Translations of one size.
#[derive(Debug)]
struct Array {
    shift: u32,
    sets: Box<[Set]>,
}

impl Array {
    fn new(shift: u32, sets: usize) -> Self {
        Self {
            shift,
            sets: vec![Set::default(); sets].into(),
        }
    }

    fn set(&mut self, address: u64) -> &mut Set {
        let sets = self.sets.len() as u64;
        // A remainder of the number of sets fits.
        let set = usize::try_from((address >> self.shift) % sets).unwrap_or(0);
        &mut self.sets[set]
    }

    fn lookup(&mut self, address: u64) -> Option<Cached> {
        let ways = self.set(address).ways;
        ways.into_iter()
            .flatten()
            .find(|cached| cached.covers(address))
    }

    fn insert(&mut self, cached: Cached) {
        let set = self.set(cached.base);
        let same = |way: &Option<Cached>| way.is_some_and(|way| way.base == cached.base);
        let way = set.ways.iter().position(same).unwrap_or_else(|| {
            let next = set.next;
            set.next = (next + 1) % WAYS;
            next
        });
        set.ways[way] = Some(cached);
    }

    /// `from` is below `to`.
    fn invalidate(&mut self, from: u64, to: u64) {
        let first = from >> self.shift;
        let units = ((to - 1) >> self.shift) - first + 1;
        // As many successive units as there are sets are in all sets.
        for unit in first..first + units.min(self.sets.len() as u64) {
            for way in &mut self.set(unit << self.shift).ways {
                if way.is_some_and(|way| way.base < to && from < way.base + way.bytes) {
                    *way = None;
                }
            }
        }
    }
}

/// The translations that one context keeps.
#[derive(Debug)]
pub(crate) struct Tlb {
    small: Array,
    large: Array,
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self {
            small: Array::new(PAGE_SHIFT, SMALL_SETS),
            large: Array::new(PT_LARGE_SHIFT, LARGE_SETS),
        }
    }

    /// What is kept for a virtual address.
    pub(crate) fn lookup(&mut self, address: u64) -> Option<Cached> {
        self.small
            .lookup(address)
            .or_else(|| self.large.lookup(address))
    }

    /// Keeps a translation, in place of what was kept for the same addresses.
    pub(crate) fn insert(&mut self, cached: Cached) {
        if cached.bytes == 1 << PAGE_SHIFT {
            self.small.insert(cached);
        } else {
            self.large.insert(cached);
        }
    }

    /// Forgets whatever maps an address of `from..to`, which is not empty.
    pub(crate) fn invalidate(&mut self, from: u64, to: u64) {
        self.small.invalidate(from, to);
        self.large.invalidate(from, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Addresses that meet often: in few sets, and in each other's ranges.
    fn addresses() -> impl Strategy<Value = u64> {
        let page = prop_oneof![
            0_u64..8,
            (0_u64..6).prop_map(|i| i * SMALL_SETS as u64),
            500_u64..520
        ];
        let block = prop_oneof![
            0_u64..4,
            (0_u64..6).prop_map(|i| i * LARGE_SETS as u64),
            510_u64..514
        ];
        (block, page).prop_map(|(block, page)| (block << PT_LARGE_SHIFT) + (page << PAGE_SHIFT))
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { address: u64, level: u8, place: u64 },
        Invalidate { address: u64, bytes: u64 },
        Lookup(u64),
    }

    fn steps() -> impl Strategy<Value = Step> {
        let bytes = prop_oneof![
            Just(1 << PAGE_SHIFT),
            Just(1 << PT_LARGE_SHIFT),
            Just(1_u64 << 30),
            Just(1 << 47),
        ];
        prop_oneof![
            4 => (addresses(), 0_u8..3, 1_u64..1000)
                .prop_map(|(address, level, place)| Step::Insert { address, level, place }),
            1 => (addresses(), bytes)
                .prop_map(|(address, bytes)| Step::Invalidate { address, bytes }),
            4 => addresses().prop_map(Step::Lookup),
        ]
    }

    fn leaf(address: u64, level: u8, place: u64) -> Translation {
        let shift = super::super::entry::level_shift(level);
        Translation {
            base: address >> shift << shift,
            place: Place::System(place << shift),
            write: place.is_multiple_of(2),
            atomic: false,
            level,
        }
    }

    proptest! {
        /// What is found was put in, and not invalidated since.
        #[test]
        fn never_returns_what_was_invalidated(steps in prop::collection::vec(steps(), 1..300)) {
            let mut tlb = Tlb::new();
            let mut kept: Vec<Cached> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert { address, level, place } => {
                        let cached = Cached::of(leaf(address, level, place), address);
                        prop_assert!(cached.covers(address) && cached.bytes <= 1 << PT_LARGE_SHIFT);
                        kept.retain(|old| old.base != cached.base || old.bytes != cached.bytes);
                        kept.push(cached);
                        tlb.insert(cached);
                        // The last one is there.
                        let found = tlb.lookup(address);
                        prop_assert!(found.is_some_and(|found| found.covers(address)));
                        let small = cached.bytes == 1 << PAGE_SHIFT;
                        prop_assert!(!small || found == Some(cached));
                    }
                    Step::Invalidate { address, bytes } => {
                        tlb.invalidate(address, address + bytes);
                        kept.retain(|old| {
                            old.base + old.bytes <= address || address + bytes <= old.base
                        });
                        prop_assert_eq!(tlb.lookup(address), None);
                        prop_assert_eq!(tlb.lookup(address + bytes - 1), None);
                    }
                    Step::Lookup(address) => {
                        if let Some(found) = tlb.lookup(address) {
                            prop_assert!(found.covers(address));
                            prop_assert!(kept.contains(&found), "{found:?} of long ago");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn as_many_as_fit_are_kept() {
        let mut tlb = Tlb::new();
        let pages = (SMALL_SETS * WAYS) as u64;
        for page in 0..pages {
            let address = page << PAGE_SHIFT;
            tlb.insert(Cached::of(leaf(address, 0, page), address));
        }
        for page in 0..pages {
            let found = tlb.lookup((page << PAGE_SHIFT) + 8).expect("kept");
            let expected = Place::System((page << PAGE_SHIFT) + 8);
            assert_eq!(found.place((page << PAGE_SHIFT) + 8), expected);
        }
        assert_eq!(tlb.lookup(pages << PAGE_SHIFT), None);
    }

    #[test]
    fn of_a_leaf_of_1_gib_a_piece_is_kept() {
        let address = (5 << 30) + (3 << 20);
        let cached = Cached::of(leaf(address, 2, 7), address);
        assert_eq!(
            (cached.base, cached.bytes),
            ((5 << 30) + (2 << 20), 2 << 20)
        );
        assert_eq!(cached.place(address), Place::System((7 << 30) + (3 << 20)));
    }
}
