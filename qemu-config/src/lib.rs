//! Machine profiles, QEMU command line, launch and supervision; the `hmmgpu` command.
//!
//! A program that wants guests of its own starts with [`vm::Vm`]. The device server of each guest
//! is a process of its own, which is the `hmmgpu` program or any other whose `main` begins with
//! [`cli::serve_if_asked`].

pub mod accel;
pub mod bench;
pub mod cli;
mod commands;
pub mod compare;
pub mod control;
pub mod exit;
pub mod interrupt;
mod lines;
pub mod profile;
pub mod progress;
pub mod qemu;
pub mod report;
pub mod selftest;
pub mod server_fault;
pub mod size;
pub mod stress;
pub mod testing;
mod text;
pub mod views;
pub mod vm;
