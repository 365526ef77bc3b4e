//! Advice to the host about mapped memory.
#![allow(unsafe_code)] // madvise takes a raw address range.

use std::io;

use rustix::mm::{Advice, madvise};
use vm_memory::MmapRegion;

/// What is wanted for a part of a mapping. It changes speed; [`Want::Discarded`] alone may change
/// content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Huge pages, where the host allows them.
    HugePages,
    /// Pages that are there, for reading.
    Readable,
    /// Pages that are there, for writing.
    Writable,
    /// No pages here. Those of a shared file stay in it, and come back when they are touched; private
    /// ones without a file are given back to the host, and read as zero afterwards.
    Discarded,
    /// To be left out of core dumps.
    Undumped,
}

/// Advises the host about `len` bytes from `offset`, cut to the mapping.
///
/// # Errors
/// The host does not take it; an old kernel does not know all advice.
pub(crate) fn advise(region: &MmapRegion, offset: usize, len: usize, want: Want) -> io::Result<()> {
    let offset = offset.min(region.size());
    let len = len.min(region.size() - offset);
    let advice = match want {
        Want::HugePages => Advice::LinuxHugepage,
        Want::Readable => Advice::LinuxPopulateRead,
        Want::Writable => Advice::LinuxPopulateWrite,
        Want::Discarded => Advice::LinuxDontNeed,
        Want::Undumped => Advice::LinuxDontDump,
    };
    let start = region.as_ptr().wrapping_add(offset).cast();
    // SAFETY: the range lies in a mapping that `region` keeps alive. Nobody holds a reference to what
    // is in it: whoever uses `MmapRegion`s reads and writes through raw pointers, and reckons with
    // content that changes at any time.
    Ok(unsafe { madvise(start, len, advice) }?)
}
