//! What the device counts, and the snapshot it is read as.
//!
//! Engines collect [`Record`]s and hand them over in batches ([`Telemetry::record`]): one lock
//! for a batch. Events off the engines' path are relaxed atomics. [`Telemetry::snapshot`] makes
//! the document of all of it.
#![forbid(unsafe_code)]

mod aggregate;
mod classes;
mod compute;
mod counters;
mod histogram;
pub mod snapshot;
mod spans;
mod vram_map;
mod windows;

pub use aggregate::{NoteKind, Record, ResetKind, Telemetry, TransferKind};
pub use counters::{Counters, UNKNOWN_REGISTER_OFFSETS};
pub use spans::MAX_OPEN_SPANS;
pub use windows::{MAX_WINDOW_ROWS, MAX_WINDOWS};
