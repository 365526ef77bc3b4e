//! Faults that wait for this program: userfaultfd.
// The structures of these ioctls are not in any crate that is used here (they are in
// include/uapi/linux/userfaultfd.h), and pages are given by address.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Updater, ioctl};
use rustix::mm::{UserfaultfdFlags, userfaultfd};

use super::memory::{Memory, PAGE};

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
}

/// UFFDIO_API.
const API: u32 = request(0x3f, size_of::<Api>());
/// UFFDIO_REGISTER.
const REGISTER: u32 = request(0x00, size_of::<Register>());
/// UFFDIO_COPY.
const COPY: u32 = request(0x03, size_of::<Copy>());
/// UFFDIO_WRITEPROTECT, and its mode that protects.
const WRITE_PROTECT: u32 = request(0x06, size_of::<WriteProtect>());
const PROTECT: u64 = 1;
/// UFFD_API.
const VERSION: u64 = 0xaa;
/// UFFDIO_REGISTER_MODE_MISSING.
const MISSING: u64 = 1;
/// UFFDIO_REGISTER_MODE_WP.
const WRITES: u64 = 2;
/// UFFD_EVENT_PAGEFAULT.
const PAGEFAULT: u8 = 0x12;
/// Bytes of `struct uffd_msg`, and where the address is in one of a page fault.
const MESSAGE: usize = 32;
const ADDRESS: usize = 16;

const fn request(nr: u32, size: usize) -> u32 {
    #[allow(clippy::cast_possible_truncation)] // sizes of small structures
    let size = size as u32;
    3 << 30 | size << 16 | 0xaa << 8 | nr
}

/// Memory of which writes can be held.
#[derive(Debug)]
pub(crate) struct Guard {
    file: File,
}

impl Guard {
    /// Holds nothing yet.
    pub(crate) fn new() -> io::Result<Guard> {
        Ok(Guard { file: open()? })
    }

    /// Writes to this memory can be held from now on.
    pub(crate) fn register(&self, start: usize, len: usize) -> io::Result<()> {
        register(&self.file, start, len, WRITES)
    }

    /// Holds the next write to each of these pages, or lets go whoever is held.
    pub(crate) fn protect(&self, start: usize, len: usize, held: bool) -> io::Result<()> {
        let mut request = WriteProtect {
            start: start as u64,
            len: len as u64,
            mode: if held { PROTECT } else { 0 },
        };
        // SAFETY: as above; no content changes.
        let done = unsafe {
            ioctl(
                &self.file,
                Updater::<WRITE_PROTECT, WriteProtect>::new(&mut request),
            )
        };
        Ok(done?)
    }

    /// Waits until a write is held; the page's address, or none in that time.
    pub(crate) fn held(&self, limit: Duration) -> io::Result<Option<usize>> {
        match next_fault(&self.file, limit) {
            Ok(address) => Ok(usize::try_from(address).ok()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A descriptor that holds nothing yet. Faults of the kernel are held as well: a GPU's are served
/// by it. Only one that does not block can be polled.
fn open() -> io::Result<File> {
    // SAFETY: the descriptor acts on nothing before a range is registered with it.
    let file = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) }?;
    let mut api = Api {
        api: VERSION,
        features: 0,
        ioctls: 0,
    };
    // SAFETY: the number is made of the size of the structure, which the kernel fills.
    unsafe { ioctl(&file, Updater::<API, Api>::new(&mut api)) }?;
    Ok(file.into())
}

fn register(file: &File, start: usize, len: usize, mode: u64) -> io::Result<()> {
    let mut register = Register {
        start: start as u64,
        len: len as u64,
        mode,
        ioctls: 0,
    };
    // SAFETY: as above; the range is one of the program's own memory.
    Ok(unsafe { ioctl(file, Updater::<REGISTER, Register>::new(&mut register)) }?)
}

/// The address of the next page that somebody waits for.
fn next_fault(mut file: &File, limit: Duration) -> io::Result<u64> {
    let deadline = Instant::now() + limit;
    let mut message = [0; MESSAGE];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        if poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&left))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match file.read_exact(&mut message) {
            Ok(()) => break,
            // Somebody else has let it go.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    if message[0] != PAGEFAULT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut address = [0; 8];
    address.copy_from_slice(&message[ADDRESS..ADDRESS + 8]);
    Ok(u64::from_ne_bytes(address) / PAGE as u64 * PAGE as u64)
}

/// Pages of a memory whose first use waits.
#[derive(Debug)]
pub(crate) struct Held {
    file: File,
}

impl Held {
    /// Holds whoever uses one of these pages, which nobody has used yet, and does not let go until
    /// it is told.
    pub(crate) fn new(memory: &Memory, pages: std::ops::Range<usize>) -> io::Result<Held> {
        let file = open()?;
        let start = memory.page_address(pages.start);
        register(
            &file,
            start,
            memory.page_address(pages.end) - start,
            MISSING,
        )?;
        Ok(Held { file })
    }

    /// Waits until somebody is held; the page's address.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<u64> {
        next_fault(&self.file, limit)
    }

    /// Gives pages the content of others, and lets go whoever waits for them.
    pub(crate) fn fill(
        &self,
        memory: &Memory,
        pages: std::ops::Range<usize>,
        from: &Memory,
    ) -> io::Result<()> {
        let dst = memory.page_address(pages.start) as u64;
        let len = memory.page_address(pages.end) as u64 - dst;
        assert!(len <= from.len() as u64);
        let mut copy = Copy {
            dst,
            src: from.address() as u64,
            len,
            mode: 0,
            copied: 0,
        };
        // SAFETY: as above; the source is as long, and the destination has not been used, so no
        // reference into it has been made.
        Ok(unsafe { ioctl(&self.file, Updater::<COPY, Copy>::new(&mut copy)) }?)
    }
}
