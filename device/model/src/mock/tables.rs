//! Page tables as a driver builds them.

use std::sync::atomic::Ordering;

use hmmgpu_contract::mmu::{PT_BITS, PT_LEVELS, PTE_ADDRESS, PTE_LEAF, PTE_VALID, PTE_VRAM};
use hmmgpu_contract::{PAGE_SHIFT, PAGE_SIZE};

use super::GuestRam;
use super::descriptors::Side;

/// Bytes that an entry of a level maps.
pub fn level_bytes(level: u32) -> u64 {
    1 << (PAGE_SHIFT + PT_BITS * level)
}

/// An entry of a level that maps memory, with PTE_WRITE and PTE_ATOMIC as given.
pub fn leaf(level: u32, side: Side, permissions: u64) -> u64 {
    let (address, aperture) = match side {
        Side::System(address) => (address, 0),
        Side::Vram(offset) => (offset, PTE_VRAM),
    };
    let large = if level > 0 { PTE_LEAF } else { 0 };
    address | aperture | large | permissions | PTE_VALID
}

/// A page table in guest RAM. Like [`GuestRam`] it panics where the test is wrong: when it runs out
/// of tables.
#[derive(Debug)]
pub struct PageTables {
    root: u64,
    next: u64,
    end: u64,
}

impl PageTables {
    /// An empty page table. Its tables come from `bytes` bytes of zeroed RAM at DMA address `at`,
    /// both multiples of 4 KiB.
    pub fn new(at: u64, bytes: u64) -> Self {
        Self {
            root: at,
            next: at + PAGE_SIZE,
            end: at + bytes,
        }
    }

    /// DMA address of the root.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// DMA address of the entry of a virtual address in the table of a level. Tables on the way
    /// that are not there are made.
    pub fn entry(&mut self, ram: &GuestRam, address: u64, level: u32) -> u64 {
        let mut table = self.root;
        let mut at = PT_LEVELS - 1;
        loop {
            let index = address / level_bytes(at) % (1 << PT_BITS);
            let entry = table + index * 8;
            if at == level {
                return entry;
            }
            let found = u64::from_le(ram.load(entry, Ordering::Acquire));
            table = found & PTE_ADDRESS;
            if found & PTE_VALID == 0 {
                assert!(self.next < self.end, "no room for another table");
                table = self.next;
                self.next += PAGE_SIZE;
                ram.store(entry, (table | PTE_VALID).to_le(), Ordering::Release);
            }
            at -= 1;
        }
    }

    /// Sets the entry of a virtual address in the table of a level, as it is.
    pub fn set(&mut self, ram: &GuestRam, address: u64, level: u32, entry: u64) {
        let at = self.entry(ram, address, level);
        ram.store(at, entry.to_le(), Ordering::Release);
    }
}
