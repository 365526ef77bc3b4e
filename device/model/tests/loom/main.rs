//! Handshakes between threads, in all their interleavings: the model's own files, compiled with
//! locks whose schedule is explored.
//!
//! The checks run with any build; they need no configuration of the compiler.

mod sync {
    pub(crate) use loom::sync::atomic::fence;
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::PoisonError;
    pub(crate) use std::sync::atomic::Ordering;
}

#[path = "../../src/mmu/gate.rs"]
mod gate;
#[path = "../../src/kick.rs"]
mod kick;
#[path = "../../src/mmu/pending.rs"]
mod pending;
#[allow(dead_code)] // Here it is about wakes alone.
#[path = "../../src/compute/schedule.rs"]
mod schedule;

mod faults;
mod invalidation;
mod sleep;
