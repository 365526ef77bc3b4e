//! Events of a client, raised without waiting for it.
//!
//! A write to an eventfd waits while its counter is full, unless the file is marked not to. The mark
//! is the client's as well: it can take it off between any look of ours and the write. So there is a
//! look before each write, and a thread that empties the counter of an event that got somebody stuck.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hmmgpu_model::{Interrupt, Occasional};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Time from one look for those who are stuck to the next: that long a client can hold up the engines of
/// its own device.
const LOOK: Duration = Duration::from_secs(1);

/// An event that the client waits on. Clones are the same event.
#[derive(Clone, Debug)]
pub(crate) struct EventFd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event: OwnedFd,
    /// Threads that are raising it.
    raising: AtomicU32,
}

impl EventFd {
    /// The event behind a descriptor that a client has sent.
    ///
    /// # Errors
    /// It is no eventfd, so that raising it could take any time; or there is no thread to be had.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        if !is_event(&file) {
            return Err(Errno::INVAL.into());
        }
        let inner = Arc::new(Inner {
            event: file.into(),
            raising: AtomicU32::new(0),
        });
        inner.do_not_block()?;
        watch(Arc::downgrade(&inner))?;
        Ok(Self(inner))
    }
}

impl Interrupt for EventFd {
    /// Where the counter is full, the client has something to wake for already.
    fn raise(&self) {
        if self.0.has_room() {
            self.0.write();
        }
    }
}

impl Inner {
    fn do_not_block(&self) -> io::Result<()> {
        let flags = fcntl_getfl(&self.event)?;
        Ok(fcntl_setfl(&self.event, flags | OFlags::NONBLOCK)?)
    }

    fn has_room(&self) -> bool {
        let mut room = [PollFd::new(&self.event, PollFlags::OUT)];
        poll(&mut room, Some(&Timespec::default())) == Ok(1)
            && room[0].revents().contains(PollFlags::OUT)
    }

    fn write(&self) {
        self.raising.fetch_add(1, Ordering::Relaxed);
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        self.raising.fetch_sub(1, Ordering::Relaxed);
    }

    /// Frees whoever is stuck in a write. A client that only waits for its event never has it full.
    fn look(&self) {
        if self.raising.load(Ordering::Relaxed) > 0 && !self.has_room() {
            let emptied = self.do_not_block().map(|()| {
                // It fails when the client was quicker.
                let _ = rustix::io::read(&self.event, &mut [0; 8]);
            });
            if let Some(times) = FULL.count() {
                tracing::warn!(
                    times,
                    "a client's event was full, and an interrupt waited for it: {emptied:?}"
                );
            }
        }
    }
}

/// Whether a file is an eventfd, as far as `/proc` can tell.
fn is_event(file: &File) -> bool {
    match std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        Ok(target) => target.as_os_str() == "anon_inode:[eventfd]",
        Err(_) => true,
    }
}

/// All events that there are; none: there is no thread that looks at them.
static WATCHED: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// Times that an event got somebody stuck.
static FULL: Occasional = Occasional::new();

/// Looks at an event from now on, for as long as it is used.
fn watch(event: Weak<Inner>) -> io::Result<()> {
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    if watched.is_empty() {
        let thread = std::thread::Builder::new().name("events".to_owned());
        thread.spawn(look_at_all)?;
    }
    watched.push(event);
    Ok(())
}

/// Ends when nobody uses an event any more.
fn look_at_all() {
    loop {
        std::thread::sleep(LOOK);
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|event| event.upgrade().inspect(|event| event.look()).is_some());
        if watched.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn one_that_is_filled_behind_the_look_holds_nobody_up_for_long() {
        let client = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        let event = EventFd::new(client.try_clone().expect("clone").into()).expect("an event");
        assert!(event.0.has_room());
        // Now the client fills it, and takes off the mark.
        fcntl_setfl(&client, OFlags::empty()).expect("fcntl");
        rustix::io::write(&client, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
        let (sender, raised) = channel();
        std::thread::spawn(move || {
            event.0.write();
            sender.send(())
        });
        raised
            .recv_timeout(Duration::from_secs(30))
            .expect("it is stuck");
        let mut count = [0; 8];
        rustix::io::read(&client, &mut count).expect("read");
        assert_eq!(u64::from_ne_bytes(count), 1, "it was raised");
    }

    #[test]
    fn one_that_is_full_is_not_raised_and_not_emptied() {
        let client = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        let event = EventFd::new(client.try_clone().expect("clone").into()).expect("an event");
        rustix::io::write(&client, &(u64::MAX - 1).to_ne_bytes()).expect("fill");
        event.raise();
        event.0.look();
        let mut count = [0; 8];
        rustix::io::read(&client, &mut count).expect("read");
        assert_eq!(u64::from_ne_bytes(count), u64::MAX - 1);
    }
}
