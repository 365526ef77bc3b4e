//! The compute engines: jobs on memory of address spaces.

mod job;
mod kernels;
mod memory;
