//! `hmmgpu stress`: which scenarios run in which guest, and what comes of it.

pub mod device;
pub mod machine;
pub mod plan;
pub mod repeat;
pub mod result;
