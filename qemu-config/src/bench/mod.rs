//! The bench: what is asked of the guest, and what is made of its answers and the device's.

pub mod plan;
pub mod result;
pub mod rows;
pub mod table;
