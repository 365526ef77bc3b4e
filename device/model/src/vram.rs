//! VRAM: sparse memory of this process, so that host memory is used only for what was used since the
//! last scrub, and for what is populated ahead of that (see the `background` module).
//!
//! It has no file behind it: hosts give huge pages to such memory when asked, but by default none to
//! that of a memfd. A fresh page of 4 KiB costs as much as copying ten.

use std::io;

use hmmgpu_contract::desc::Status;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use crate::advise::{Want, advise};
use crate::command::Fault;

/// Size of the host's huge pages. VRAM begins at a multiple of it, so that its folios have them.
const HUGE_PAGE: usize = 2 << 20;

/// The memory of the device.
#[derive(Debug)]
pub(crate) struct Vram {
    region: MmapRegion,
    /// Where VRAM begins in the region.
    start: usize,
    bytes: usize,
}

impl Vram {
    /// Makes `bytes` of zeroed VRAM, none of it populated.
    pub(crate) fn new(bytes: u64) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let bytes = usize::try_from(bytes).map_err(|_| too_large())?;
        let size = bytes.checked_add(HUGE_PAGE).ok_or_else(too_large)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let region = MmapRegion::build(None, size, prot, flags).map_err(|error| match error {
            vm_memory::mmap::MmapRegionError::Mmap(error) => error,
            other => io::Error::other(other),
        })?;
        let start = region.as_ptr().align_offset(HUGE_PAGE);
        let vram = Self {
            region,
            start,
            bytes,
        };
        for want in [Want::HugePages, Want::Undumped] {
            // It is as good without, only slower or larger when dumped.
            let _ = vram.advise(0, vram.bytes(), want);
        }
        Ok(vram)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Advises the host about a range, cut to VRAM.
    pub(crate) fn advise(&self, offset: u64, bytes: u64, want: Want) -> io::Result<()> {
        let within = |offset: u64| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            self.start + offset.min(self.bytes)
        };
        let (begin, end) = (within(offset), within(offset.saturating_add(bytes)));
        advise(&self.region, begin, end - begin, want)
    }

    /// All of it.
    pub(crate) fn all(&self) -> VolatileSlice<'_, ()> {
        let all = self.region.as_volatile_slice();
        all.subslice(self.start, self.bytes).unwrap_or(all)
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
        self.check(offset, bytes as u64)?;
        usize::try_from(offset)
            .ok()
            .and_then(|offset| self.region.get_slice(self.start + offset, bytes).ok())
            .ok_or(Fault::at(Status::STATUS_VRAM_RANGE, offset))
    }

    /// Gives a range back to the host; it reads as zero afterwards.
    pub(crate) fn scrub(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.advise(offset, bytes, Want::Discarded)
    }

    /// Bytes that the host has populated.
    #[cfg(test)]
    pub(crate) fn populated(&self) -> u64 {
        use std::os::unix::fs::FileExt;
        const PAGE: usize = 4096;
        // A word for each page of the process; the top bits are set for what is in memory or swapped.
        let pagemap = std::fs::File::open("/proc/self/pagemap").expect("the map of pages");
        let first = (self.region.as_ptr() as usize + self.start) / PAGE;
        let mut words = vec![0; self.bytes / PAGE * size_of::<u64>()];
        let at = (first * size_of::<u64>()) as u64;
        pagemap.read_exact_at(&mut words, at).expect("its words");
        let words = words.chunks_exact(size_of::<u64>());
        let there = words.filter(|word| word[size_of::<u64>() - 1] & 0xc0 != 0);
        (there.count() * PAGE) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn scrubbing_zeroes_and_gives_back() {
        let vram = Vram::new(64 << 20).unwrap();
        assert_eq!(vram.populated(), 0);
        let slice = vram.slice(10 << 20, 4).unwrap();
        slice.write_slice(&[1, 2, 3, 4], 0).unwrap();
        assert!(vram.populated() > 0);
        vram.scrub(0, vram.bytes()).unwrap();
        let mut found = [9; 4];
        slice.read_slice(&mut found, 0).unwrap();
        assert_eq!(found, [0; 4]);
        vram.scrub(0, u64::MAX).unwrap();
    }

    #[test]
    fn folios_have_the_hosts_huge_pages() {
        let vram = Vram::new(64 << 20).unwrap();
        let begin = vram.slice(0, 1).unwrap().ptr_guard().as_ptr();
        assert_eq!(begin.align_offset(HUGE_PAGE), 0);
    }

    #[test]
    fn what_the_host_does_not_have_is_an_error() {
        for bytes in [u64::MAX, 1 << 60] {
            let error = Vram::new(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
        }
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
        for (offset, bytes) in [(end - 1, 2), (end, 1), (u64::MAX, 1), (0, usize::MAX)] {
            assert!(vram.slice(offset, bytes).is_err());
        }
    }
}
