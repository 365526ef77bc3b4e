//! Arguments of `hmmgpu smi`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::seconds;
use crate::views::smi::{Format, Query};

pub(super) const HELP: &str = "\
Examples:
  hmmgpu smi
  hmmgpu smi -l 5
  hmmgpu smi --query index,label,vram.used,utilization.copy --format csv
  hmmgpu smi --query sys_to_dev.o9.migration,dev_to_sys.o9.p99 --format csv,noheader,nounits -l 1
  hmmgpu smi --query vram.used,vram.total --format json
  hmmgpu smi --json | jq '.gpus[].snapshot.vram.used_bytes'
  hmmgpu smi --events 200
  hmmgpu smi --help-query

Finds the GPUs of this user that run: of serve, run, shell, bench and selftest. Utilization and
throughput are over a fifth of a second, everything else is since the GPU's server started. Exits
with 1 when no GPU runs, and with 0 when -l is ended by Ctrl-C. Other codes: see 'hmmgpu --help'.";

/// See [`Command::Smi`](super::Command::Smi).
#[derive(Debug, Args)]
pub struct SmiArgs {
    /// Print all that is known, as JSON; with -l one document a line.
    #[arg(long, conflicts_with = "query")]
    pub json: bool,
    /// Print these fields only, separated by commas.
    #[arg(long, value_name = "FIELDS")]
    pub query: Option<Query>,
    /// How the fields are printed: json, or csv, with noheader and nounits as you like.
    #[arg(long, value_name = "FORMAT", requires = "query", default_value = "csv")]
    pub format: Format,
    /// List the fields that can be asked for, and exit.
    #[arg(long, conflicts_with_all = ["json", "query", "format", "every", "events", "control"])]
    pub help_query: bool,
    /// Again and again, every so many seconds, until Ctrl-C.
    #[arg(short = 'l', long = "loop", value_name = "SEC", value_parser = seconds)]
    pub every: Option<Duration>,
    /// Print the last events of each GPU instead: what its engines did, notes, faults, resets. So
    /// many at most, of 4096 that are kept; with --json one document a GPU and line.
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        default_missing_value = "64",
        conflicts_with_all = ["query", "format", "every"]
    )]
    pub events: Option<usize>,
    /// Ask the GPU of this control socket; can be given several times.
    #[arg(long, value_name = "PATH")]
    pub control: Vec<PathBuf>,
}
