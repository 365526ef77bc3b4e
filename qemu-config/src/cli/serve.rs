//! Arguments of `hmmgpu serve`.

use std::path::PathBuf;

use clap::Args;

use super::values::vram;
use crate::size::Size;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu serve --socket /tmp/gpu.sock
  hmmgpu serve --socket /tmp/gpu.sock --vram 8G --telemetry telemetry.json
  hmmgpu serve --socket /tmp/gpu.sock --telemetry - | jq .vram

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
    /// Write the telemetry into this file at the end; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub telemetry: Option<PathBuf>,
    /// Say "ready" instead of the arguments, and die with the parent: for launchers.
    #[arg(long, hide = true)]
    pub supervised: bool,
}
