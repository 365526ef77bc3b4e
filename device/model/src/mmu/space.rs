//! One context's address space: its page table, what is kept of it, and who may use it when.
//!
//! An access happens inside the space's [`Gate`], translation and all; an invalidation goes first
//! there. So when an invalidation returns, no access through what it took away is in flight, and
//! none can come. Slices of memory borrow the [`Space`] that made them and cannot outlive it.
//!
//! The gate comes after the DMA view in the order of locks, and nothing comes after the gate:
//! inside, a worker takes no lock that anybody could wait with. Invalidations take no view.

use std::cell::RefCell;
use std::ops::AddAssign;

use hmmgpu_contract::mmu::{FaultAccess, FaultReason, PT_LEVELS};
use vm_memory::VolatileSlice;

use super::gate::{Gate, Inside};
use super::tlb::{Cached, Tlb};
use super::walk::{MmuFault, walk};
use crate::command::Place;
use crate::dma::Access;
use crate::memory::Memory;

/// How often accesses were translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MmuCounts {
    /// Accesses.
    pub(crate) translations: u64,
    /// Accesses by a translation that was kept.
    pub(crate) tlb_hits: u64,
    /// Walks through the page table.
    pub(crate) walks: u64,
}

impl AddAssign for MmuCounts {
    fn add_assign(&mut self, other: Self) {
        self.translations += other.translations;
        self.tlb_hits += other.tlb_hits;
        self.walks += other.walks;
    }
}

/// What there is while a context is enabled.
#[derive(Debug)]
struct Active {
    root: u64,
    tlb: Tlb,
    counts: MmuCounts,
}

/// An address space.
#[derive(Debug)]
pub(crate) struct AddressSpace {
    gate: Gate<Option<Box<Active>>>,
}

impl AddressSpace {
    /// An address space in which nothing is mapped.
    pub(crate) fn new() -> Self {
        Self {
            gate: Gate::new(None),
        }
    }

    /// Begins with the page table at DMA address `root`, a multiple of 4 KiB, and an empty TLB.
    pub(crate) fn start(&self, root: u64) {
        let active = Box::new(Active {
            root,
            tlb: Tlb::new(),
            counts: MmuCounts::default(),
        });
        self.gate.first(|content| *content = Some(active));
    }

    /// Nothing is mapped any more.
    pub(crate) fn stop(&self) {
        self.gate.first(|content| *content = None);
    }

    /// Forgets what maps an address of the range. When it returns, no access through it is in
    /// flight or will come.
    pub(crate) fn invalidate(&self, address: u64, bytes: u64) {
        let end = address.saturating_add(bytes);
        self.gate.first(|content| {
            if let Some(active) = content {
                active.tlb.invalidate(address, end);
            }
        });
    }

    /// Enters for a bounded piece of work. The caller has a permit, and takes none inside.
    pub(crate) fn enter(&self) -> Space<'_> {
        Space {
            inside: RefCell::new(self.gate.enter()),
        }
    }
}

/// Being inside an address space.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    inside: RefCell<Inside<'a, Option<Box<Active>>>>,
}

impl Space<'_> {
    /// Memory at virtual address `address` for an access: at most `len` bytes, and up to the end of
    /// what one translation covers, or one range of the DMA map. Never empty unless `len` is 0.
    pub(crate) fn slice<'s>(
        &'s self,
        memory: Memory<'s>,
        address: u64,
        len: usize,
        access: FaultAccess,
    ) -> Result<VolatileSlice<'s, ()>, MmuFault> {
        let fault = |(reason, level)| MmuFault {
            address,
            access,
            reason,
            level,
        };
        let mut inside = self.inside.borrow_mut();
        let Some(Some(active)) = inside.content() else {
            return Err(fault((FaultReason::FAULT_NOT_PRESENT, ROOT_LEVEL)));
        };
        active.slice(memory, address, len, access).map_err(fault)
    }

    /// What was counted since it was last taken.
    pub(crate) fn take_counts(&self) -> MmuCounts {
        match self.inside.borrow_mut().content() {
            Some(Some(active)) => std::mem::take(&mut active.counts),
            _ => MmuCounts::default(),
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // It is 3.
const ROOT_LEVEL: u8 = PT_LEVELS as u8 - 1;

impl Active {
    fn slice<'s>(
        &mut self,
        memory: Memory<'s>,
        address: u64,
        len: usize,
        access: FaultAccess,
    ) -> Result<VolatileSlice<'s, ()>, (FaultReason, u8)> {
        self.counts.translations += 1;
        if let Some(cached) = self.tlb.lookup(address)
            && let Ok(slice) = reach(memory, &cached, address, len, access)
        {
            self.counts.tlb_hits += 1;
            return Ok(slice);
        }
        // What is kept may be older than what the driver has added to the table since.
        self.counts.walks += 1;
        let leaf = walk(memory.view, self.root, address)?;
        let cached = Cached::of(leaf, address);
        let slice =
            reach(memory, &cached, address, len, access).map_err(|reason| (reason, leaf.level))?;
        if let Place::Vram(offset) = cached.place(cached.base) {
            memory.background.vram_used(offset, cached.bytes);
        }
        self.tlb.insert(cached);
        Ok(slice)
    }
}

/// The memory behind a translation that covers `address`.
fn reach<'s>(
    memory: Memory<'s>,
    cached: &Cached,
    address: u64,
    len: usize,
    access: FaultAccess,
) -> Result<VolatileSlice<'s, ()>, FaultReason> {
    cached.leaf.allows(access)?;
    let rest = cached.bytes - (address - cached.base);
    let len = len.min(usize::try_from(rest).unwrap_or(usize::MAX));
    let slice = |access| memory.slice(cached.place(address), len, access);
    let slice = match access {
        FaultAccess::FAULT_READ => slice(Access::Read),
        FaultAccess::FAULT_WRITE => slice(Access::Write),
        _ => slice(Access::Read).and_then(|_| slice(Access::Write)),
    };
    slice.map_err(|_| FaultReason::FAULT_ADDRESS_UNREACHABLE)
}
