//! Arguments of `hmmgpu shell`.

use clap::Args;

use super::machine::MachineArgs;
use crate::commands;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu shell
  hmmgpu shell --file ./my-workload

Leave it with 'exit' or Ctrl-D; the exit status of the shell is passed through.
Exit codes: see 'hmmgpu --help'.";

/// See [`Command::Shell`](super::Command::Shell).
#[derive(Debug, Args)]
pub struct ShellArgs {
    /// Copy a file into the guest first.
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    pub files: Vec<commands::GuestFile>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}
