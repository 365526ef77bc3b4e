//! What the end-to-end tests are made of: the `hmmgpu` program as a child process, a guest that
//! runs several programs one after another, and a look at what a run has left behind.
#![forbid(unsafe_code)]

pub mod leftovers;
pub mod program;
pub mod session;
pub mod tap;
