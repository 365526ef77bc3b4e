//! Being told to stop: Ctrl-C and friends, or another thread.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by the one who interrupts and all who may have to stop. Clones are the same interrupt.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Inner>);

type Callback = Box<dyn Fn(i32) + Send>;

#[derive(Default)]
struct Inner {
    /// Number of the first signal, 0 when there was none.
    signal: AtomicI32,
    next: AtomicU64,
    watchers: Mutex<Vec<(u64, Callback)>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}

impl Interrupt {
    /// One that has not happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops everybody. `signal` is the signal's number, which becomes the exit code.
    /// Returns whether somebody watched, and so will end the work in an orderly way.
    pub fn trip(&self, signal: i32) -> bool {
        let _ = self
            .0
            .signal
            .compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        let watchers = self
            .0
            .watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (_, callback) in watchers.iter() {
            callback(signal);
        }
        !watchers.is_empty()
    }

    /// The signal's number, once it has happened.
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Calls `callback` for every signal, until the watch is dropped. It must not block.
    pub fn watch(&self, callback: impl Fn(i32) + Send + 'static) -> Watch {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0
            .watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((id, Box::new(callback)));
        Watch {
            id,
            inner: Arc::clone(&self.0),
        }
    }
}

/// See [`Interrupt::watch`].
#[derive(Debug)]
pub struct Watch {
    id: u64,
    inner: Arc<Inner>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inner
            .watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(id, _)| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_are_called_until_they_are_dropped() {
        let interrupt = Interrupt::new();
        assert!(!interrupt.trip(2), "nobody watches");
        let (sender, receiver) = crossbeam_channel::unbounded();
        let watch = interrupt.clone().watch(move |signal| {
            let _ = sender.send(signal);
        });
        assert!(interrupt.trip(15));
        assert_eq!(receiver.recv(), Ok(15));
        assert_eq!(
            interrupt.signal(),
            Some(2),
            "the first signal is the reason"
        );
        drop(watch);
        assert!(!interrupt.trip(15));
        assert!(receiver.recv().is_err());
    }
}
