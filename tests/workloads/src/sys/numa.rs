//! Nodes of memory.
// mbind and migrate_pages are in no crate that is used here; they take addresses and bitmaps.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;

use super::memory::Memory;

/// MPOL_BIND: from these nodes only.
const BIND: libc::c_long = 2;
/// MPOL_MF_MOVE: pages that are elsewhere are moved.
const MOVE: libc::c_long = 2;
/// Bits of the bitmaps that are passed; the kernel leaves out the last one.
const BITS: libc::c_long = 65;

/// Binds some pages to a node, and moves those that are elsewhere as far as that can be done.
pub(crate) fn bind(memory: &mut Memory, pages: &Range<usize>, node: u32) -> io::Result<()> {
    let address = memory.page_address(pages.start);
    let len = memory.page_address(pages.end) - address;
    let nodes = 1_u64 << node;
    // SAFETY: the range belongs to `memory`, and no content changes; the bitmap has the bits that
    // are said to be there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            address,
            len,
            BIND,
            &raw const nodes,
            BITS,
            MOVE,
        )
    };
    outcome(result).map(drop)
}

/// Moves all memory of this process from one node to another; the pages that did not move.
pub(crate) fn migrate(from: u32, to: u32) -> io::Result<u64> {
    let (from, to) = (1_u64 << from, 1_u64 << to);
    // SAFETY: no content changes; the bitmaps as above.
    let result = unsafe {
        libc::syscall(
            libc::SYS_migrate_pages,
            0,
            BITS,
            &raw const from,
            &raw const to,
        )
    };
    outcome(result)
}

fn outcome(result: libc::c_long) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}
