//! Upstream's own tests: what is made of what the runner in the guest says.

pub mod compare;
pub mod record;
pub mod result;
pub mod tap;
