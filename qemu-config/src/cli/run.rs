//! Arguments of `hmmgpu run`.

use std::path::PathBuf;

use clap::Args;

use super::machine::MachineArgs;
use crate::commands;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu run -- uname -a
  hmmgpu run -- sh -c 'dmesg | grep hmmgpu'
  hmmgpu run --file ./my-workload -- my-workload --size 64M
  hmmgpu run --file data.bin:/data/in.bin -- md5sum /data/in.bin
  echo hello | hmmgpu run -- cat
  hmmgpu run --profile two-gpus --telemetry counted.json -- sh -c 'ls /dev/hmmgpu*'
  hmmgpu run --driver-params fault_around_pages=1 -- my-workload
  hmmgpu run --kernel debian:7.2 -- uname -r

A file without a path of its own in the guest goes to /usr/local/bin, which is in the guest's PATH.
Programs must be linked statically. The command's output and exit status are passed through (128+n
when signal n ended it); hmmgpu's own failures exit with 120 to 125, or 2 for a wrong command line,
and write a line that begins with 'hmmgpu: error:'.";

/// See [`Command::Run`](super::Command::Run).
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Copy a file into the guest first.
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    pub files: Vec<commands::GuestFile>,
    /// Write what the devices have counted into this file: a JSON list, one entry for each
    /// GPU, null where its server could not say.
    #[arg(long, value_name = "FILE")]
    pub telemetry: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// The command in the guest and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
