//! One context's address space: its page table, what is kept of it, and who may use it when.
//!
//! An access happens inside the space's [`Gate`], translation and all; an invalidation goes first
//! there. So when an invalidation returns, no access through what it took away is in flight, and
//! none can come. Slices of memory borrow the [`Space`] that made them and cannot outlive it.
//!
//! The gate comes after the DMA view in the order of locks. Inside, a worker takes only the lock of
//! the background's jobs, when a block of VRAM comes into use; whoever holds that takes no other, so
//! that nobody holds it and waits for a gate or a view. Invalidations take no view.

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
use crate::usage::Misuse;

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
    /// The first access that was wrong since it was last asked for, if that is checked.
    misused: Option<Misused>,
}

/// An access to VRAM that no driver lets a job do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misused {
    /// Virtual address that it began at.
    pub(crate) address: u64,
    /// What the job wanted to do.
    pub(crate) access: FaultAccess,
    /// What is wrong.
    pub(crate) misuse: Misuse,
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
            misused: None,
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

    /// The first access that was wrong since this was last asked for.
    pub(crate) fn take_misused(&self) -> Option<Misused> {
        match self.inside.borrow_mut().content() {
            Some(Some(active)) => active.misused.take(),
            _ => None,
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
            self.judge(memory, &cached, address, slice.len(), access);
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
        self.judge(memory, &cached, address, slice.len(), access);
        Ok(slice)
    }

    /// Remembers an access if the driver should not have let it happen.
    fn judge(
        &mut self,
        memory: Memory<'_>,
        cached: &Cached,
        address: u64,
        len: usize,
        access: FaultAccess,
    ) {
        if let Some(usage) = memory.usage
            && let Place::Vram(offset) = cached.place(address)
            && self.misused.is_none()
        {
            let reads = access != FaultAccess::FAULT_WRITE;
            let misuse = usage.judge(offset, len as u64, reads);
            self.misused = misuse.map(|misuse| Misused {
                address,
                access,
                misuse,
            });
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::Background;
    use crate::dma::DmaMap;
    use crate::mock::descriptors::Side;
    use crate::mock::tables::{PageTables, leaf};
    use crate::mock::{GuestRam, MockError, until};
    use crate::vram::Vram;
    use hmmgpu_contract::mmu::{PTE_ATOMIC, PTE_LEAF, PTE_VALID, PTE_VRAM, PTE_WRITE};
    use hmmgpu_contract::{MIN_VRAM_BYTES, PAGE_SIZE};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};
    use vm_memory::Bytes;

    const MIB: u64 = 1 << 20;
    const BASE: u64 = 0x1_0000_0000;
    const DATA: u64 = BASE + 2 * MIB;
    const READ: FaultAccess = FaultAccess::FAULT_READ;
    const WRITE: FaultAccess = FaultAccess::FAULT_WRITE;
    const ATOMIC: FaultAccess = FaultAccess::FAULT_ATOMIC;

    /// Tables in the first MiB of guest RAM, data from 2 to 8 MiB, and read-only memory behind it.
    struct Rig {
        ram: GuestRam,
        map: DmaMap,
        vram: Arc<Vram>,
        background: Background,
        tables: PageTables,
        space: AddressSpace,
    }

    impl Rig {
        fn new() -> Result<Self, MockError> {
            let ram = GuestRam::new(BASE, 10 << 20)?;
            let map = DmaMap::new().unwrap();
            map.map(ram.mapping(0, 8 * MIB, true)?).expect("map");
            map.map(ram.mapping(8 * MIB, 2 * MIB, false)?).expect("map");
            let vram = Arc::new(Vram::new(MIN_VRAM_BYTES)?);
            let background =
                Background::start(vram.clone(), Box::new(|_, _| ()), Box::new(|| true))?;
            let tables = PageTables::new(BASE, MIB);
            let space = AddressSpace::new();
            space.start(tables.root());
            Ok(Self {
                ram,
                map,
                vram,
                background,
                tables,
                space,
            })
        }

        fn set(&mut self, address: u64, level: u32, entry: u64) {
            self.tables.set(&self.ram, address, level, entry);
        }

        /// An access of a word; its value before, and how far memory reaches.
        fn access(&self, address: u64, access: FaultAccess) -> Result<(u64, usize), MmuFault> {
            let view = self.map.view();
            let memory = Memory {
                view: &view,
                vram: &self.vram,
                background: &self.background,
                usage: None,
            };
            let space = self.space.enter();
            let slice = space.slice(memory, address, 64 << 20, access)?;
            let value: u64 = slice.read_obj(0).expect("a word");
            if access != READ {
                slice.write_obj(!value, 0).expect("a word");
            }
            Ok((value, slice.len()))
        }

        #[track_caller]
        fn refused(&self, address: u64, access: FaultAccess) -> (FaultReason, u8) {
            let fault = self.access(address, access).expect_err("a fault");
            assert_eq!((fault.address, fault.access), (address, access));
            (fault.reason, fault.level)
        }

        fn counts(&self) -> (u64, u64, u64) {
            let counts = self.space.enter().take_counts();
            (counts.translations, counts.tlb_hits, counts.walks)
        }
    }

    fn system(page: u64, permissions: u64) -> u64 {
        leaf(0, Side::System(DATA + page * PAGE_SIZE), permissions)
    }

    #[test]
    fn memory_of_both_apertures_and_all_sizes_is_reached() {
        let mut rig = Rig::new().unwrap();
        rig.ram.store(DATA + 8, 1_u64, Ordering::Relaxed);
        rig.ram.store(DATA + 2 * MIB + 16, 2_u64, Ordering::Relaxed);
        rig.vram
            .slice(4096, 8)
            .unwrap()
            .write_obj(3_u64, 0)
            .unwrap();
        rig.vram
            .slice(33 * MIB, 8)
            .unwrap()
            .write_obj(4_u64, 0)
            .unwrap();
        rig.set(0x5000, 0, system(0, 0));
        rig.set(4 * MIB, 1, leaf(1, Side::System(DATA + 2 * MIB), 0));
        rig.set(0x7000, 0, leaf(0, Side::Vram(4096), PTE_WRITE));
        rig.set(1 << 30, 2, leaf(2, Side::Vram(0), PTE_WRITE | PTE_ATOMIC));
        assert_eq!(rig.access(0x5008, READ), Ok((1, 4096 - 8)));
        let rest = (2 << 20) - 16;
        assert_eq!(rig.access(4 * MIB + 16, READ), Ok((2, rest)));
        assert_eq!(rig.access(0x7000, WRITE), Ok((3, 4096)));
        let huge = (1 << 30) + 33 * MIB;
        assert_eq!(rig.access(huge, ATOMIC), Ok((4, 1 << 20)));
        assert_eq!(rig.access(huge, READ), Ok((!4, 1 << 20)));
        assert_eq!(rig.counts(), (5, 1, 4));
        assert_eq!(rig.counts(), (0, 0, 0));
    }

    #[test]
    fn reasons_and_levels() {
        use FaultReason as R;
        let mut rig = Rig::new().unwrap();
        rig.set(0x5000, 0, system(0, 0));
        rig.set(0x6000, 0, system(0, PTE_WRITE));
        rig.set(0x7000, 0, PTE_VALID | PTE_LEAF | DATA);
        rig.set(
            0x8000,
            0,
            leaf(0, Side::System(BASE + 8 * MIB), PTE_WRITE | PTE_ATOMIC),
        );
        rig.set(0x9000, 0, leaf(0, Side::System(0x5000), 0));
        rig.set(0xa000, 0, leaf(0, Side::Vram(MIN_VRAM_BYTES), 0));
        rig.set(4 * MIB, 1, PTE_VALID | 0x5000);
        rig.set(1 << 30, 2, leaf(2, Side::Vram(0), 0));
        rig.set(2 << 30, 2, PTE_VALID | PTE_VRAM | BASE);
        assert_eq!(rig.refused(0x4000, READ), (R::FAULT_NOT_PRESENT, 0));
        assert_eq!(rig.refused(6 * MIB, READ), (R::FAULT_NOT_PRESENT, 1));
        assert_eq!(rig.refused(5 << 30, READ), (R::FAULT_NOT_PRESENT, 2));
        assert_eq!(rig.refused(1 << 40, READ), (R::FAULT_NOT_PRESENT, 3));
        assert_eq!(rig.refused(0x5000, WRITE), (R::FAULT_NOT_WRITABLE, 0));
        assert_eq!(rig.refused(0x5000, ATOMIC), (R::FAULT_NOT_ATOMIC, 0));
        assert_eq!(rig.refused(0x6000, ATOMIC), (R::FAULT_NOT_ATOMIC, 0));
        assert_eq!(rig.refused(0x7000, READ), (R::FAULT_MALFORMED, 0));
        assert_eq!(rig.refused(2 << 30, READ), (R::FAULT_MALFORMED, 2));
        assert_eq!(rig.refused(4 * MIB, READ), (R::FAULT_TABLE_UNREACHABLE, 0));
        let unreachable = R::FAULT_ADDRESS_UNREACHABLE;
        for access in [WRITE, ATOMIC] {
            assert_eq!(rig.refused(0x8000, access), (unreachable, 0));
        }
        assert_eq!(rig.access(0x8000, READ), Ok((0, 4096)));
        assert_eq!(rig.refused(0x9000, READ), (unreachable, 0));
        assert_eq!(rig.refused(0xa000, READ), (unreachable, 0));
        let beyond = (1 << 30) + MIN_VRAM_BYTES;
        assert_eq!(rig.refused(beyond, READ), (unreachable, 2));
        assert_eq!(rig.access(beyond - 8, READ), Ok((0, 8)));
        for address in [1 << 48, u64::MAX - 7] {
            assert_eq!(rig.refused(address, READ), (R::FAULT_VIRTUAL_ADDRESS, 3));
        }
    }

    #[test]
    fn what_is_kept_holds_until_it_is_invalidated_and_more_needs_no_invalidation() {
        let mut rig = Rig::new().unwrap();
        for page in 0..4 {
            rig.ram
                .store(DATA + page * PAGE_SIZE, page, Ordering::Relaxed);
        }
        assert_eq!(rig.refused(0x5000, READ).0, FaultReason::FAULT_NOT_PRESENT);
        // What was absent may come at any time, and so may a permission.
        rig.set(0x5000, 0, system(1, 0));
        assert_eq!(rig.access(0x5000, READ).unwrap().0, 1);
        rig.set(0x5000, 0, system(1, PTE_WRITE));
        assert_eq!(rig.access(0x5000, WRITE).unwrap().0, 1);
        // What has gone is there until it is invalidated: the range decides.
        rig.set(0x5000, 0, system(2, PTE_WRITE));
        rig.space.invalidate(0, 0x5000);
        rig.space.invalidate(0x6000, !0xfff);
        assert_eq!(rig.access(0x5000, READ).unwrap().0, !1);
        rig.space.invalidate(0x5000, 0x1000);
        assert_eq!(rig.access(0x5000, READ).unwrap().0, 2);
        // A new life of the context begins with nothing kept.
        rig.set(0x5000, 0, system(3, 0));
        rig.space.stop();
        assert_eq!(rig.refused(0x5000, READ).0, FaultReason::FAULT_NOT_PRESENT);
        rig.space.invalidate(0x5000, 0x1000);
        rig.space.start(rig.tables.root());
        assert_eq!(rig.access(0x5000, READ).unwrap().0, 3);
    }

    #[test]
    fn memory_that_left_the_map_is_not_reached_by_what_is_kept() {
        let mut rig = Rig::new().unwrap();
        rig.set(0x8000, 0, leaf(0, Side::System(BASE + 8 * MIB), 0));
        assert!(rig.access(0x8000, READ).is_ok());
        rig.map.unmap(BASE + 8 * MIB, 2 * MIB).unwrap();
        let unreachable = FaultReason::FAULT_ADDRESS_UNREACHABLE;
        assert_eq!(rig.refused(0x8000, READ), (unreachable, 0));
    }

    #[test]
    fn vram_that_is_translated_to_is_populated_further_on() {
        const BLOCK: u64 = 2 * MIB;
        let mut rig = Rig::new().unwrap();
        rig.set(0x5000, 0, leaf(0, Side::Vram(2 * BLOCK - PAGE_SIZE), 0));
        let vram = rig.vram.clone();
        assert_eq!(vram.populated(), 0);
        assert!(rig.access(0x5000, READ).is_ok());
        until("VRAM ahead", || vram.populated() > BLOCK).unwrap();
    }

    #[test]
    fn an_invalidation_waits_for_whoever_is_inside_and_goes_first() {
        let rig = Rig::new().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let inside = rig.space.enter();
            scope.spawn(|| {
                rig.space.invalidate(0, PAGE_SIZE);
                done.store(true, Ordering::SeqCst);
            });
            until("whoever waits", || rig.space.gate.waits()).unwrap();
            assert!(!done.load(Ordering::SeqCst));
            drop(inside);
            // Whoever comes back gets in only after it.
            drop(rig.space.enter());
            assert!(!rig.space.gate.waits());
        });
    }

    #[test]
    fn a_busy_worker_starves_no_invalidation_and_never_uses_an_old_entry() {
        const ROUNDS: u64 = 300;
        let mut rig = Rig::new().unwrap();
        rig.set(0x5000, 0, system(0, PTE_WRITE));
        let entry = rig.tables.entry(&rig.ram, 0x5000, 0);
        let (rig, over) = (&rig, &AtomicBool::new(false));
        // Should the test fail: it ends all the same.
        let limit = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) && Instant::now() < limit {
                    // Writes to the page, if it is there.
                    let _ = rig.access(0x5000, WRITE);
                }
            });
            for round in 1..=ROUNDS {
                rig.ram.store(entry, 0_u64, Ordering::Release);
                rig.space.invalidate(0x5000, PAGE_SIZE);
                // The page is the driver's: nobody else writes to it.
                rig.ram.store(DATA, round, Ordering::SeqCst);
                for _ in 0..100 {
                    std::hint::spin_loop();
                }
                assert_eq!(rig.ram.load::<u64>(DATA, Ordering::SeqCst), round);
                rig.ram
                    .store(entry, system(0, PTE_WRITE), Ordering::Release);
                let written = || rig.ram.load::<u64>(DATA, Ordering::SeqCst) != round;
                until("write", written).unwrap();
            }
            over.store(true, Ordering::SeqCst);
        });
    }
}
