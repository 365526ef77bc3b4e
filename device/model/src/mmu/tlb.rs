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

    fn invalidate(&mut self, from: u64, to: u64) {
        for way in self.sets.iter_mut().flat_map(|set| &mut set.ways) {
            if way.is_some_and(|way| way.base < to && from < way.base + way.bytes) {
                *way = None;
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

    /// Keeps a translation, and nothing else for the same addresses.
    pub(crate) fn insert(&mut self, cached: Cached) {
        if cached.bytes == 1 << PAGE_SHIFT {
            self.small.insert(cached);
        } else {
            self.large.insert(cached);
        }
    }

    /// Forgets whatever maps an address of `from..to`.
    pub(crate) fn invalidate(&mut self, from: u64, to: u64) {
        self.small.invalidate(from, to);
        self.large.invalidate(from, to);
    }
}
