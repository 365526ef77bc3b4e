//! What the launcher on the host and `init` in the guest say to each other.
//!
//! The launcher puts a [`Job`] at [`JOB_PATH`] in the initramfs. Init answers with [`Event`]s,
//! one JSON object a line, on the virtio-serial port [`PORT_EVENTS`]; the command's output and
//! input are the raw ports [`PORT_STDOUT`], [`PORT_STDERR`] and [`PORT_STDIN`], or, for an
//! interactive job, the virtio console `/dev/hvc0`.
#![forbid(unsafe_code)]

pub mod bench;
pub mod reports;
pub mod runner;
pub mod selftest;
pub mod stress;

use serde::{Deserialize, Serialize};

/// Version of this protocol; init refuses another.
pub const PROTOCOL_VERSION: u32 = 1;
/// Where init finds the job.
pub const JOB_PATH: &str = "/hmmgpu/job.json";
/// Port of the events, guest to host.
pub const PORT_EVENTS: &str = "org.hmmgpu.events";
/// Port of the command's standard output, guest to host.
pub const PORT_STDOUT: &str = "org.hmmgpu.stdout";
/// Port of the command's standard error, guest to host.
pub const PORT_STDERR: &str = "org.hmmgpu.stderr";
/// Port of the command's standard input, host to guest; a host that disconnects is end of file.
/// The host's end should shut down its sending side only (QEMU drops what the guest has not read
/// yet when a socket is closed as a whole), and be connected before the guest starts.
pub const PORT_STDIN: &str = "org.hmmgpu.stdin";

/// What the guest is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The command; looked up in the guest's PATH.
    pub argv: Vec<String>,
    /// Added to the guest's environment.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// The command gets the virtio console as its controlling terminal.
    #[serde(default)]
    pub interactive: bool,
    /// Size of the terminal as (rows, columns), for an interactive job.
    #[serde(default)]
    pub terminal: Option<(u16, u16)>,
    /// Parameters of the driver module, for example `"fault_around_pages=16"`; `None`: do not load it.
    pub driver: Option<String>,
}

/// What happened in the guest, in this order: `Booted`, `DriverLoaded` or `Fatal`, `Started`,
/// `Exited` or `Fatal`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// User space runs.
    Booted {
        /// `uname -r`.
        kernel: String,
        /// `/proc/cmdline`.
        cmdline: String,
        /// Seconds since the kernel started.
        uptime: f64,
    },
    /// The driver is loaded and its devices are there.
    DriverLoaded {
        /// For example `["/dev/hmmgpu0"]`.
        devices: Vec<String>,
    },
    /// The command runs.
    Started,
    /// The command has ended and its output is complete.
    Exited {
        /// Its exit status.
        status: ExitStatus,
        /// Lines of the kernel log that are warnings, bugs or stalls (the first hundred).
        kernel_warnings: Vec<String>,
        /// `/proc/sys/kernel/tainted`.
        tainted: u64,
    },
    /// Init cannot go on.
    Fatal {
        /// What failed and what to do.
        error: String,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this status.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
}
