//! The last steps before an engine sleeps, or a fault waits for room in its ring: ask for the
//! doorbell, then look once more.
//!
//! The driver does the reverse: it moves its index, executes a full barrier, and reads `need_kick`.
//! With a full barrier on both sides, at least one sees what the other has stored: either the
//! doorbell is written, or the second look finds what has come.

use crate::sync::{Ordering, fence};

/// Asks for the doorbell by `ask`. What `look` returns was seen after that.
pub(crate) fn ask_then_look<T, E>(
    ask: impl FnOnce() -> Result<(), E>,
    look: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    ask()?;
    fence(Ordering::SeqCst);
    look()
}
