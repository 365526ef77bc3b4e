//! What the device counts, and the snapshot it is read as.
//!
//! Engines collect [`Record`]s and hand them over in batches ([`Telemetry::record`]): one lock
//! for a batch. Events off the engines' path are relaxed atomics. [`Telemetry::snapshot`] makes
//! the document of all of it.
#![forbid(unsafe_code)]

mod aggregate;
mod checker;
mod checks;
mod classes;
mod compute;
pub mod control;
mod counters;
mod events;
mod histogram;
mod injected;
mod link_model;
mod misuse;
mod observer;
mod processes;
mod record;
pub mod snapshot;
mod spans;
mod touch;
mod vram_map;
mod windows;

pub use aggregate::{Known, ResetKind, Telemetry};
pub use checks::{
    CheckKind, CheckMode, CheckReport, Checks, MAX_CHECK_REPORTS, MAX_PAGE_EVENTS, PageEvent,
};
pub use counters::{Counters, UNKNOWN_REGISTER_OFFSETS};
pub use events::{Event, EventQueue, MAX_EVENT_TEXT, MAX_EVENTS};
pub use misuse::Misuse;
pub use observer::{Observer, Source};
pub use record::{FallbackReason, NoteKind, PhaseTimes, ProcessName, Record, TransferKind};
pub use spans::MAX_OPEN_SPANS;
pub use touch::Touch;

/// Most processes that a snapshot tells of. Stops a driver that names them without end from
/// filling the host's memory.
pub const MAX_PROCESSES: usize = 1024;

pub use windows::{MAX_WINDOW_ROWS, MAX_WINDOWS};
