//! Upstream's own tests: what is special about them.

pub mod compare;
pub mod result;
