//! Pages that somebody else holds on to.
// vmsplice lends pages to a pipe; rustix has no wrapper that takes plain memory.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::memory::{Memory, PAGE};

/// Puts a page into a pipe without copying: the pipe holds a reference to it until it is read.
pub(crate) fn lend(memory: &Memory, page: usize, pipe: BorrowedFd<'_>) -> io::Result<()> {
    let part = libc::iovec {
        iov_base: memory.bytes(page).as_ptr().cast_mut().cast(),
        iov_len: PAGE,
    };
    // SAFETY: the vector names one page of memory that outlives the call; the kernel keeps its
    // own reference to the page.
    let sent = unsafe { libc::vmsplice(pipe.as_raw_fd(), &raw const part, 1, 0) };
    match usize::try_from(sent) {
        Ok(PAGE) => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
