//! Arguments of `hmmgpu doctor`.

use clap::Args;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu doctor
  hmmgpu doctor --json

Exits with 0 when everything that is needed is there, else with 1.";

/// See [`Command::Doctor`](super::Command::Doctor).
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
