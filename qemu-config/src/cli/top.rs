//! Arguments of `hmmgpu top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values::seconds;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu top
  hmmgpu top --interval 0.2
  hmmgpu top --control /run/user/1000/hmmgpu/4711.control
  hmmgpu top --batch -n 3 --interval 5 > frames.txt
  NO_COLOR=1 hmmgpu top

Shows the GPUs of this user that run, and waits where there is none. Keys: q quits, h helps, space
pauses, Tab or a digit goes to another GPU, + and - change the interval, s sorts the processes, r
resets the peaks. Ends with 0 on q, Ctrl-C, or after -n frames. Exit codes: see 'hmmgpu --help'.";

/// See [`Command::Top`](super::Command::Top).
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between updates.
    #[arg(short, long, value_name = "SEC", default_value = "1", value_parser = seconds)]
    pub interval: Duration,
    /// Print frames as text, without a terminal.
    #[arg(short, long)]
    pub batch: bool,
    /// Print so many frames, then end.
    #[arg(short = 'n', long, value_name = "N", requires = "batch", value_parser = clap::value_parser!(u64).range(1..))]
    pub iterations: Option<u64>,
    /// Columns of a frame in a batch.
    #[arg(long, value_name = "COLUMNS", requires = "batch", default_value = "80", value_parser = clap::value_parser!(u16).range(40..=500))]
    pub width: u16,
    /// Show the GPU of this control socket; can be given several times.
    #[arg(long, value_name = "PATH")]
    pub control: Vec<PathBuf>,
}
