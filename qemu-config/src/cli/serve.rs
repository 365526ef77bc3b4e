//! Arguments of `hmmgpu serve`.

use std::path::PathBuf;

use clap::Args;
use hmmgpu_server::{FaultSpec, LinkSpec};
use hmmgpu_telemetry::CheckMode;

use super::telemetry::TelemetryArgs;
use super::values::vram;
use crate::size::Size;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu serve --socket /tmp/gpu.sock
  hmmgpu serve --socket /tmp/gpu.sock --vram 8G --telemetry telemetry.json
  hmmgpu serve --socket /tmp/gpu.sock --telemetry - | jq .vram
  hmmgpu serve --socket /tmp/gpu.sock --check full --telemetry - | jq .checker
  hmmgpu serve --socket /tmp/gpu.sock --metrics 9400 --trace trace.json
  hmmgpu serve --socket /tmp/gpu.sock --label 'my VM' --control /tmp/gpu.control

Prints the QEMU arguments that attach the device: on standard output, or on standard error with
'--telemetry -'. Serves one client after the other until SIGTERM or SIGINT (Ctrl-C); then it
writes the telemetry, removes the socket and exits with 0. Exits with 125 when the socket belongs
to a server that lives, or cannot be made. Other codes: see 'hmmgpu --help'.";

/// See [`Command::Serve`](super::Command::Serve).
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where clients connect.
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// VRAM of the device.
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = vram)]
    pub vram: Size,
    /// How closely the driver's use of VRAM is checked: off; folio: what the driver says and what
    /// engines copy, against each other; full: and free VRAM is poisoned, and looked at before it is
    /// used anew.
    #[arg(long, value_name = "off|folio|full", default_value = "folio")]
    pub check: CheckMode,
    /// Write the telemetry into this file at the end; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub telemetry: Option<PathBuf>,
    /// Listen for readers of the telemetry (smi, top) here. [default: PID.control in
    /// $XDG_RUNTIME_DIR/hmmgpu or /tmp/hmmgpu-UID, where they look for it]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Do not listen for readers of the telemetry.
    #[arg(long, conflicts_with = "control")]
    pub no_control: bool,
    /// What smi and top call this device.
    #[arg(long, value_name = "TEXT", default_value = "serve")]
    pub label: String,
    /// Make something go wrong, for example copy:fail@100; can be given several times. See
    /// 'hmmgpu inject --help'.
    #[arg(long, value_name = "FAULT")]
    pub inject: Vec<FaultSpec>,
    /// Model a link between guest RAM and VRAM, for example pcie4-x8, c2c, 12.5G or 8G/6G,2us
    /// (bytes a second to the device, home, and latency). See docs/link.md.
    #[arg(long, value_name = "NAME|RATE", default_value = "off")]
    pub link: LinkSpec,
    /// Who is told while it works.
    #[command(flatten)]
    pub outputs: TelemetryArgs,
    /// Do not confine the server: mistakes in it then are mistakes with all files of the user.
    #[arg(long)]
    pub no_sandbox: bool,
    /// Say "ready" instead of the arguments, and die with the parent: for launchers.
    #[arg(long, hide = true)]
    pub supervised: bool,
}
