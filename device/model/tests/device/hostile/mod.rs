//! A driver that means harm: what it may do at any time, while engines work.
//!
//! What holds in all of these: what the device must not touch it does not touch, it goes on to
//! answer, and a driver that does better finds it working.

mod mid_copy;
mod overlaps;
mod rewritten;
mod storms;
