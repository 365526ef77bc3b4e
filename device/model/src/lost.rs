//! Memory of a client that goes away under its mapping.
//!
//! A client shares its memory as a file. If it shortens the file, or the host cannot read it, the
//! next access is a SIGBUS, which would end this process with all of its devices. Here the access
//! finds zeroed memory of this process instead: the signal's handler maps it over the whole
//! mapping, notes that memory of that device was lost, and wakes whoever waits for that. From then
//! on each DMA access of the device fails, so that nothing tells the guest of what was copied
//! meanwhile, until the client has gone.
//!
//! Signals of accesses that are not to such memory go to whoever handled them before.
#![allow(unsafe_code)] // A signal handler, and a mapping that it replaces.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Mappings that are guarded at once, in all of the process. Stops clients from making the handler
/// search for long; it is eight times what a device can have.
const SLOTS: usize = 4096;
/// The host's smallest page; where it has larger ones alone, only whole mappings are replaced.
const HOST_PAGE: usize = 4096;

/// Whether memory of a device's client was lost.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Where the access was that found it, in this process; 0: none was lost.
    at: AtomicUsize,
    /// Readable once it is found.
    event: OwnedFd,
}

impl Lost {
    /// Nothing is lost yet. Makes the process survive it.
    ///
    /// # Errors
    /// The process may open no more files, or handle no signals.
    pub(crate) fn new() -> io::Result<Self> {
        install()?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let at = AtomicUsize::new(0);
        Ok(Self { at, event })
    }

    /// Where memory was lost, in this process.
    pub(crate) fn at(&self) -> Option<usize> {
        match self.at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(at),
        }
    }

    /// The client has gone, and its memory with it.
    pub(crate) fn forget(&self) {
        self.at.store(0, Ordering::Relaxed);
        // It fails when there is nothing to take back.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }
}

/// Readable once memory is lost.
impl AsFd for Lost {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A mapping whose memory may go away. Dropped before the mapping is.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: &'static Slot,
    /// What the slot points to.
    _lost: Arc<Lost>,
}

impl Guard {
    /// Guards the `len` bytes from `start`, of which losses are noted in `lost`.
    ///
    /// # Errors
    /// All slots are taken.
    pub(crate) fn new(start: *const u8, len: usize, lost: &Arc<Lost>) -> io::Result<Self> {
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |slot: &&Slot| slot.end.load(Ordering::Relaxed) == 0;
        let slot = TABLE.iter().find(free);
        let slot = slot.ok_or(io::ErrorKind::QuotaExceeded)?;
        let start = start.addr();
        slot.set(start, start + len, Arc::as_ptr(lost).cast_mut());
        let _lost = Arc::clone(lost);
        Ok(Self { slot, _lost })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _alone = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.set(0, 0, ptr::null_mut());
    }
}

/// One guarded mapping, for a handler that can take no lock: the version is odd while the rest
/// changes.
#[derive(Debug)]
struct Slot {
    version: AtomicUsize,
    start: AtomicUsize,
    /// 0: the slot is free.
    end: AtomicUsize,
    lost: AtomicPtr<Lost>,
}

static TABLE: [Slot; SLOTS] = [const { Slot::free() }; SLOTS];
/// Held by whoever changes a slot.
static CHANGING: Mutex<()> = Mutex::new(());

impl Slot {
    const fn free() -> Self {
        Self {
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            lost: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn set(&self, start: usize, end: usize, lost: *mut Lost) {
        self.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.lost.store(lost, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// What is guarded here, if it has `address`. One that is just being changed has not: the
    /// mapping that a thread is accessing stays as it is until it has done so.
    fn at(&self, address: usize) -> Option<(usize, usize, *const Lost)> {
        let version = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let lost = self.lost.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        (stable && start <= address && address < end).then_some((start, end, lost.cast_const()))
    }
}

/// Who handled the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Handles the signal from now on; once for the process.
fn install() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let checked = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: all bytes zero is a value of this type; both pointers are valid for it or null.
    let before = unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        checked(libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before))?;
        before
    };
    // Before the handler can run, which looks at it.
    let _ = BEFORE.set(before);
    let handler: extern "C" fn(_, _, _) = on_bus_error;
    // SAFETY: the handler has the type that SA_SIGINFO asks for, and does only what a handler may
    // at any time: atomic loads and stores, and the system calls mmap, write and sigaction.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        checked(libc::sigaction(
            libc::SIGBUS,
            &raw const action,
            ptr::null_mut(),
        ))?;
    }
    *installed = true;
    Ok(())
}

extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid one; for a fault (a positive code) it has an address. The
    // thread's errno is valid for as long as the thread is.
    let (code, address, errno) = unsafe {
        let errno = libc::__errno_location();
        ((*info).si_code, (*info).si_addr().addr(), errno)
    };
    // SAFETY: as above. Whatever was interrupted finds its errno again.
    let saved = unsafe { *errno };
    if code <= 0 || !replace(address) {
        hand_on(signal, code);
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// Puts zeroed memory where a guarded mapping has lost its own.
fn replace(address: usize) -> bool {
    let Some((start, end, lost)) = TABLE.iter().find_map(|slot| slot.at(address)) else {
        return false;
    };
    // SAFETY: the guard of the mapping keeps it alive, and lives until nobody accesses the mapping,
    // which this thread was doing.
    let lost = unsafe { &*lost };
    // Before anybody can read zeros.
    lost.at.store(address, Ordering::SeqCst);
    let zeroed = |start: usize, len: usize| {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let start = ptr::without_provenance_mut(start);
        // SAFETY: the range is in a mapping that belongs to its `GuestMemory`, which is accessed
        // through raw pointers alone, and reckoned with as memory that changes at any time.
        unsafe { libc::mmap(start, len, protection, flags, -1, 0) != libc::MAP_FAILED }
    };
    // A host that does not promise more memory than it has may have a page, if not all of it.
    let replaced = zeroed(start, end - start) || zeroed(address & !(HOST_PAGE - 1), HOST_PAGE);
    let one = 1_u64;
    // SAFETY: the pointer is valid for as many bytes. It can fail only when it is readable already.
    let _ = unsafe { libc::write(lost.event.as_raw_fd(), (&raw const one).cast(), 8) };
    replaced
}

/// Lets whoever handled the signal before do so: the access is made again, or the signal sent again.
fn hand_on(signal: libc::c_int, code: libc::c_int) {
    let Some(before) = BEFORE.get() else { return };
    // SAFETY: it is what the kernel said; the other pointer may be null.
    unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
    if code <= 0 {
        // SAFETY: it takes a number alone.
        unsafe { libc::raise(signal) };
    }
}
