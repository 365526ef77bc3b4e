//! What the device counts, and the snapshot it is read as.
#![forbid(unsafe_code)]

pub mod snapshot;
