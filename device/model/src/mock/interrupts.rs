//! An interrupt sink that counts.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::Interrupt;

/// Counts how often it is raised. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct InterruptCounter {
    inner: Arc<(Mutex<u64>, Condvar)>,
}

impl InterruptCounter {
    /// A counter at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sink that counts here, for [`Device::set_interrupt`](crate::Device::set_interrupt).
    pub fn sink(&self) -> Option<Box<dyn Interrupt>> {
        Some(Box::new(self.clone()))
    }

    /// How often it was raised.
    pub fn count(&self) -> u64 {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it was raised `count` times in all. Returns whether that came in time.
    pub fn wait(&self, count: u64, limit: Duration) -> bool {
        let (mutex, condvar) = &*self.inner;
        let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        condvar
            .wait_timeout_while(guard, limit, |found| *found < count)
            .is_ok_and(|(_, timeout)| !timeout.timed_out())
    }
}

impl Interrupt for InterruptCounter {
    fn raise(&self) {
        let (mutex, condvar) = &*self.inner;
        *mutex.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        condvar.notify_all();
    }
}
