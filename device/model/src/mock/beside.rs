//! Threads that do something again and again beside a test, as vCPUs would.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Does each of `acts` again and again, on a thread of its own, while `body` runs, and at least
/// once. Returns what `body` gives.
///
/// # Panics
/// When one of the threads does.
pub fn beside<T>(acts: &[&(dyn Fn() + Sync)], body: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    /// Ends the threads, too, when `body` fails.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    thread::scope(|scope| {
        let _end = End(&over);
        for act in acts {
            scope.spawn(|| {
                loop {
                    act();
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    thread::yield_now();
                }
            });
        }
        body()
    })
}
