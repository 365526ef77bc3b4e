//! Advice to the host about mapped memory. It changes speed, never content.
#![allow(unsafe_code)] // madvise takes a raw address range.

use rustix::mm::{Advice, madvise};
use vm_memory::MmapRegion;

/// What is wanted for a part of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Huge pages, where the host allows them.
    HugePages,
    /// Pages that are there, for reading.
    Readable,
    /// Pages that are there, for writing.
    Writable,
    /// No pages: they stay in the file, and come back when they are touched.
    Unmapped,
}

/// Advises the host about `len` bytes from `offset`, cut to the mapping. Returns whether the host
/// took it; an old kernel does not know all advice.
pub(crate) fn advise(region: &MmapRegion, offset: usize, len: usize, want: Want) -> bool {
    let offset = offset.min(region.size());
    let len = len.min(region.size() - offset);
    let advice = match want {
        Want::HugePages => Advice::LinuxHugepage,
        Want::Readable => Advice::LinuxPopulateRead,
        Want::Writable => Advice::LinuxPopulateWrite,
        Want::Unmapped => Advice::LinuxDontNeed,
    };
    let start = region.as_ptr().wrapping_add(offset).cast();
    // SAFETY: the range lies in a mapping that `region` keeps alive, and as that is a shared one
    // of a file, as all here are, none of this advice changes what the memory holds.
    unsafe { madvise(start, len, advice) }.is_ok()
}
