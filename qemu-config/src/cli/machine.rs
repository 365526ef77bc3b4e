//! The machine: arguments that every command with a guest has.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hmmgpu_images::KernelSpec;
use hmmgpu_server::{FaultSpec, LinkSpec};

use super::telemetry::TelemetryArgs;
use hmmgpu_telemetry::CheckMode;

use super::values::{cpus, duration, gpus, kernel_arg, memory, vram};
use crate::accel::Choice;
use crate::size::Size;

/// What the machine is made of.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Machine profile: a built-in name (default, bench, stress, two-gpus) or the path of a TOML file.
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Kernel of the guest: one of Debian's (debian:7.2 is the newest of that series, debian:7.2.12
    /// that one), one of 'hmmgpu kernel build' (debug, debug:7.3), the folder of a built tree, or an
    /// image, its modules, and what to build against where lib/modules has no 'build'. [default: the
    /// tool root's]
    #[arg(
        long,
        value_name = "debian:SERIES|debug|TREE|BZIMAGE,MODULES[,HEADERS]"
    )]
    pub kernel: Option<KernelSpec>,
    /// Accelerator. auto tries KVM and falls back to TCG when no guest reaches user space.
    #[arg(long, value_enum)]
    pub accel: Option<Choice>,
    /// Guest memory.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<Size>,
    /// Virtual CPUs.
    #[arg(long, value_name = "N", value_parser = cpus)]
    pub cpus: Option<u32>,
    /// VRAM of each device.
    #[arg(long, value_name = "SIZE", value_parser = vram)]
    pub vram: Option<Size>,
    /// How closely the driver's use of VRAM is checked: off; folio: what the driver says and what
    /// engines copy, against each other; full: and free VRAM is poisoned, and looked at before it is
    /// used anew. [default: folio]
    #[arg(long, value_name = "off|folio|full")]
    pub check: Option<CheckMode>,
    /// hmmgpu devices.
    #[arg(long, value_name = "N", value_parser = gpus)]
    pub gpus: Option<u32>,
    /// Add to the guest kernel's command line; replaces an earlier value of the same key.
    #[arg(long = "kernel-arg", value_name = "KEY[=VALUE]", value_parser = kernel_arg)]
    pub kernel_args: Vec<String>,
    /// Parameters of the driver module, for example "fault_around_pages=16".
    #[arg(
        long,
        value_name = "PARAMETERS",
        default_value = "",
        hide_default_value = true
    )]
    pub driver_params: String,
    /// Make something go wrong in the devices, for example copy:fail@100; can be given several times.
    /// See 'hmmgpu inject --help'.
    #[arg(long, value_name = "FAULT")]
    pub inject: Vec<FaultSpec>,
    /// Model a link between guest RAM and VRAM, for example pcie4-x8, c2c, 12.5G or 8G/6G,2us
    /// (bytes a second to the device, home, and latency). See docs/link.md. [default: as fast as the
    /// host copies]
    #[arg(long, value_name = "NAME|RATE")]
    pub link: Option<LinkSpec>,
    /// Give up after this time, for example 90, 90s, 10m or 1h.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Write the guest kernel's console into this file.
    #[arg(long, value_name = "FILE")]
    pub console_log: Option<PathBuf>,
    /// Do not confine the device servers: a guest that finds a mistake in one then has all files of
    /// the user.
    #[arg(long)]
    pub no_sandbox: bool,
    /// Who is told while it works.
    #[command(flatten)]
    pub outputs: TelemetryArgs,
}
