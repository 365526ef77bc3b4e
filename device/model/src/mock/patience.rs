//! Waiting for the device, with an end.

use std::time::{Duration, Instant};

use super::MockError;

/// How long is waited; nobody is that slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again, without sleeping, until there is something.
///
/// # Errors
/// It does not come in time.
pub fn await_some<T>(
    what: &'static str,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, MockError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(MockError::Timeout(what));
        }
        std::thread::yield_now();
    }
}

/// The same for something that is to become true.
///
/// # Errors
/// It does not in time.
pub fn until(what: &'static str, mut done: impl FnMut() -> bool) -> Result<(), MockError> {
    await_some(what, || done().then_some(()))
}
