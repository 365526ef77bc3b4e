//! The bench: what is asked of the guest, and what is made of its answers and the device's.

pub mod alternate;
pub mod counters;
#[cfg(test)]
pub(crate) mod example;
pub mod file;
pub mod format;
mod gate;
mod limit;
pub mod measure;
pub mod plan;
pub mod result;
pub mod rows;
pub mod table;
mod times;
pub mod vram_history;
pub mod warning;
mod watch;
