//! A driver that means harm: what it may do at any time, while engines work.
//!
//! What holds in all of these: what the device must not touch it does not touch, it goes on to
//! answer, and a driver that does better finds it working.

mod mid_copy;
mod overlaps;
mod rewritten;
mod storms;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Does something again and again on threads of its own, as many vCPUs would, while `body` runs.
fn beside<T>(hostile: &[&(dyn Fn() + Sync)], body: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    /// Ends the others, too, when `body` fails.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    thread::scope(|scope| {
        let _end = End(&over);
        for act in hostile {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    act();
                    thread::yield_now();
                }
            });
        }
        body()
    })
}
