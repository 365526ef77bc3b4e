//! Guest RAM: a memfd that the driver maps and the device is given.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{AtomicAccess, Bytes, FileOffset, MmapRegion, VolatileMemory};

use crate::DmaMapping;

/// Guest RAM at a DMA address.
///
/// Accesses beyond its end panic: it is the test that is wrong then.
#[derive(Debug)]
pub struct GuestRam {
    file: File,
    region: MmapRegion,
    base: u64,
}

impl GuestRam {
    /// Makes `size` bytes of zeroed RAM at DMA address `base`; both multiples of 4 KiB.
    ///
    /// # Errors
    /// The host refuses the memory.
    pub fn new(base: u64, size: usize) -> io::Result<Self> {
        let file = File::from(memfd_create("hmmgpu-mock-ram", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, size as u64)?;
        let backing = FileOffset::new(file.try_clone()?, 0);
        let region = MmapRegion::from_file(backing, size).map_err(io::Error::other)?;
        Ok(Self { file, region, base })
    }

    /// First DMA address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.region.size() as u64
    }

    /// A map of `size` bytes from `offset`, at the address where they belong.
    ///
    /// # Errors
    /// The host refuses another file descriptor.
    pub fn mapping(&self, offset: u64, size: u64, write: bool) -> io::Result<DmaMapping> {
        Ok(DmaMapping {
            address: self.base + offset,
            size,
            read: true,
            write,
            backing: Some((self.file.try_clone()?, offset)),
        })
    }

    /// Shortens the file behind it to `size` bytes. What lies beyond must not be accessed here any
    /// more: it would end the process.
    ///
    /// # Errors
    /// The host refuses.
    pub fn shorten(&self, size: u64) -> io::Result<()> {
        Ok(ftruncate(&self.file, size)?)
    }

    fn at(&self, address: u64) -> usize {
        usize::try_from(address - self.base).expect("address in guest RAM")
    }

    /// Writes bytes at a DMA address.
    pub fn write(&self, address: u64, data: &[u8]) {
        let slice = self.region.get_slice(self.at(address), data.len());
        slice.expect("range in guest RAM").copy_from(data);
    }

    /// Reads bytes from a DMA address.
    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        let slice = self.region.get_slice(self.at(address), len);
        slice.expect("range in guest RAM").copy_to(&mut data);
        data
    }

    /// Loads an aligned word.
    pub fn load<T: AtomicAccess>(&self, address: u64, order: Ordering) -> T {
        let word = self
            .region
            .as_volatile_slice()
            .load(self.at(address), order);
        word.expect("aligned word in guest RAM")
    }

    /// Stores an aligned word.
    pub fn store<T: AtomicAccess>(&self, address: u64, value: T, order: Ordering) {
        let stored = self
            .region
            .as_volatile_slice()
            .store(value, self.at(address), order);
        stored.expect("aligned word in guest RAM");
    }

    /// Adds to an aligned word of 64 bits, atomically. Returns what it was before.
    pub fn fetch_add(&self, address: u64, addend: u64) -> u64 {
        let word = self.region.get_atomic_ref::<AtomicU64>(self.at(address));
        word.expect("aligned word in guest RAM")
            .fetch_add(addend, Ordering::SeqCst)
    }
}
