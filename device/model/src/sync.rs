//! The locks of what is model-checked: such a module takes them from here, and the check compiles
//! the same file with locks whose interleavings it explores.

pub(crate) use std::sync::atomic::{Ordering, fence};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
