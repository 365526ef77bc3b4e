//! Compute engines: jobs on memory behind page tables.

mod checked;
mod faults;
mod invalidate;
mod jobs;
mod lifecycle;
mod many;
mod rules;
pub(crate) mod world;
