//! Arguments of `hmmgpu bench`.

use std::path::PathBuf;

use clap::Args;

use super::machine::MachineArgs;
use super::values::two_mib;
use crate::bench::format::Format;
use crate::bench::plan::Orders;
use crate::size::Size;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu bench
  hmmgpu bench --size 1G --orders 0,9 --repeat 10
  hmmgpu bench --json result.json
  hmmgpu bench --json - | jq '.rows[].migration_bytes_per_s.median'
  hmmgpu bench --json result.json --report result.html
  hmmgpu bench --orders 0,9 --format hmm-tests
  hmmgpu bench --kernel-arg init_on_alloc=1

The table goes to standard output; with '--json -' the JSON does, and the table goes to standard
error. 'hmmgpu report' makes page and table of a result again.

Exits with 0 when every byte was verified and the driver's counters are the host's, else with 1.
Other codes: see 'hmmgpu --help'.";

/// See [`Command::Bench`](super::Command::Bench).
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Memory to migrate in each round; a multiple of 2M. [default: 256M, and 64M for orders 2 to
    /// 8, whose folios the kernel splits]
    #[arg(long, value_name = "SIZE", value_parser = two_mib)]
    pub size: Option<Size>,
    /// Folio orders of the source memory: 0 and 2 to 9, single or as ranges.
    #[arg(long, value_name = "LIST", default_value = "0,2-9")]
    pub orders: Orders,
    /// Counted rounds for each order.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Memory for each migration request; a multiple of 2M.
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = two_mib)]
    pub call_size: Size,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Write a page that shows the result into this file: HTML that needs no network and no script.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Write the result as JSON into this file; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}
