//! VRAM: a sparse memfd, so that host memory is used only for what was used since the last scrub,
//! and for what is populated ahead of that (see the `background` module).

use std::fs::File;
use std::io;

use hmmgpu_contract::desc::Status;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use crate::advise::{Want, advise};
use crate::command::Fault;

/// The memory of the device.
#[derive(Debug)]
pub(crate) struct Vram {
    file: File,
    region: MmapRegion,
}

impl Vram {
    /// Makes `bytes` of zeroed VRAM, none of it populated.
    pub(crate) fn new(bytes: u64) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("hmmgpu-vram", flags)?);
        ftruncate(&file, bytes)?;
        // A file that shrank under the mapping would kill the process by SIGBUS.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let size = usize::try_from(bytes).map_err(io::Error::other)?;
        let backing = FileOffset::new(file.try_clone()?, 0);
        let region = MmapRegion::from_file(backing, size).map_err(io::Error::other)?;
        advise(&region, 0, size, Want::HugePages);
        Ok(Self { file, region })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.region.size() as u64
    }

    /// The file behind it.
    pub(crate) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    pub(crate) fn region(&self) -> &MmapRegion {
        &self.region
    }

    /// Whether a range lies in VRAM.
    pub(crate) fn check(&self, offset: u64, bytes: u64) -> Result<(), Fault> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes() => Ok(()),
            _ => Err(Fault::at(Status::STATUS_VRAM_RANGE, offset)),
        }
    }

    /// A range of VRAM.
    pub(crate) fn slice(&self, offset: u64, bytes: usize) -> Result<VolatileSlice<'_, ()>, Fault> {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| self.region.get_slice(offset, bytes).ok())
            .ok_or(Fault::at(Status::STATUS_VRAM_RANGE, offset))
    }

    /// Gives a range back to the host; it reads as zero afterwards.
    pub(crate) fn scrub(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&self.file, mode, offset, bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn size_is_sealed_and_scrubbing_zeroes() {
        let vram = Vram::new(64 << 20).unwrap();
        assert!(ftruncate(&vram.file, 4096).is_err());
        assert!(ftruncate(&vram.file, 128 << 20).is_err());
        let slice = vram.slice(10 << 20, 4).unwrap();
        slice.write_slice(&[1, 2, 3, 4], 0).unwrap();
        vram.scrub(0, vram.bytes()).unwrap();
        let mut found = [9; 4];
        slice.read_slice(&mut found, 0).unwrap();
        assert_eq!(found, [0; 4]);
    }

    #[test]
    fn ranges_are_checked_at_the_ends() {
        let vram = Vram::new(64 << 20).unwrap();
        let end = vram.bytes();
        assert!(vram.check(end - 4096, 4096).is_ok());
        for (offset, bytes) in [(end - 4096, 8192), (end, 1), (u64::MAX, 4096), (0, end + 1)] {
            let fault = vram.check(offset, bytes).unwrap_err();
            assert_eq!(fault.status, Status::STATUS_VRAM_RANGE);
        }
        assert!(vram.slice(end - 1, 2).is_err());
    }
}
