//! A handle by which any thread makes a server stop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Makes a server stop. Clones are the same handle; it stays triggered once it is.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    triggered: AtomicBool,
    /// Readable once triggered.
    event: OwnedFd,
}

impl Shutdown {
    /// A handle that is not triggered.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner {
            triggered: AtomicBool::new(false),
            event,
        })))
    }

    /// Tells the server to stop. It does not wait, takes no lock and allocates nothing.
    pub fn trigger(&self) {
        self.0.triggered.store(true, Ordering::Release);
        // It can fail only by overflow, and then it is readable already.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// Whether [`trigger`](Self::trigger) was called.
    pub fn is_triggered(&self) -> bool {
        self.0.triggered.load(Ordering::Acquire)
    }
}

/// Readable once triggered, for `poll`.
impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
