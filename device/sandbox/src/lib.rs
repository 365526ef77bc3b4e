//! What a device server may still ask of the kernel once it serves.
//!
//! A guest and a client decide what a server does next, so a mistake in it must not give them the
//! rest of its user's files. Before a thread of it reads a byte of theirs, the process gives up
//! what it will not need: by Landlock all files but the few folders that it [is granted](Grant),
//! all of the network, and signals to others; by seccomp all system calls but those in `calls`.
//! Engines, which work on what guests write, get a list of their own, without files and sockets.
//!
//! | module | knows |
//! |---|---|
//! | `allocator` | what the allocator wants to know of the host |
//! | `calls` | the system calls that are allowed, and what for |
//! | `filter` | how a list becomes a filter |
//! | `files` | Landlock |
//! | `refused` | how a refused call shows |
//!
//! Both hold for the calling thread and for threads that it starts later. Where the host lacks one
//! of them, the other is used alone, and [`missing`] says what is lost.
#![deny(unsafe_code)]

mod allocator;
mod calls;
mod files;
mod filter;
mod refused;

use std::backtrace::Backtrace;

pub use files::Grant;

/// Why a thread cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Landlock is there, and refuses.
    #[error("cannot confine the server by Landlock; --no-sandbox runs it without")]
    Landlock(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Seccomp is there, and refuses.
    #[error("cannot confine the server by seccomp; --no-sandbox runs it without")]
    Seccomp(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What confining a server lacks on this host, and what that means: a sentence for each; none if it
/// is all there.
pub fn missing() -> Vec<String> {
    files::missing()
        .into_iter()
        .chain(filter::missing())
        .collect()
}

/// What the host has of it; for a person.
pub fn available() -> String {
    let seccomp = if has_seccomp() { "" } else { "no " };
    format!("{}, {seccomp}seccomp", files::available())
}

/// Whether the host has seccomp. It says so in `/proc/PID/status` of a confined thread, too, as it
/// does not of Landlock.
pub fn has_seccomp() -> bool {
    filter::missing().is_none()
}

/// Lets what a process does later find the files that it needs for that now: the allocator, which wants to
/// know the number of processors, and panics, if `RUST_BACKTRACE` asks for where they came from.
pub fn prepare() {
    allocator::prepare();
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        // To print it is what reads the symbols.
        drop(Backtrace::force_capture().to_string());
    }
}

/// Takes all files and the network from this thread and those that it starts from now on, but for
/// what is granted. Does nothing where the host has no Landlock.
///
/// # Errors
/// A folder of a grant cannot be found, or the host refuses.
pub fn confine_files(grants: &[Grant]) -> Result<(), SandboxError> {
    files::confine(grants).map_err(|error| SandboxError::Landlock(error.into()))
}

/// Which list of system calls a thread gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Works on what a guest wrote: memory, threads, events.
    Engine,
    /// Talks to clients that it is connected to, or waits for; and ends the server.
    Server,
}

/// Takes all system calls but those of its role from this thread, and those that it starts from now
/// on. A call that is refused fails with `EPERM`, and a line on standard error names it. Does
/// nothing where the host has no seccomp.
///
/// # Errors
/// The host refuses.
pub fn confine_calls(role: Role) -> Result<(), SandboxError> {
    if !has_seccomp() {
        return Ok(());
    }
    filter::confine(role).map_err(SandboxError::Seccomp)
}
