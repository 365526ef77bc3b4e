//! Messages that a guest or a client can cause as often as it likes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts, and tells when to log: the first time, the second, the fourth and so on.
#[derive(Debug, Default)]
pub struct Occasional(AtomicU64);

impl Occasional {
    /// Nothing has happened yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts once; the number of times when it is to be logged.
    pub fn count(&self) -> Option<u64> {
        let times = self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        times.is_power_of_two().then_some(times)
    }
}
