//! Faults on purpose: what is armed, who asks, and what came of it.
//!
//! Each kind of engine asks at one place, and only where something is armed for it: while nothing
//! is, that costs one relaxed load. A hit tells the engine what to do instead; how it does that is
//! its own affair. What has to happen later than an engine can wait for goes through [`Late`].

mod armed;
mod device;
mod late;
mod spec;
mod transfer;

pub use armed::{MAX_FAULTS, TooManyFaults};
pub use spec::{Action, FaultSpec, Part, SpecError, When, parse_fault_time};

pub(crate) use armed::{Hit, Injector};
pub(crate) use late::{Event, Held, Late};
pub(crate) use transfer::Verdict;
