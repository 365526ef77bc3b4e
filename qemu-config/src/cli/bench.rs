//! Arguments of `hmmgpu bench`.

use std::path::PathBuf;

use clap::Args;
use hmmgpu_images::KernelSpec;

use super::compare::JudgeArgs;
use super::machine::MachineArgs;
use super::selftest::OtherDriver;
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
  hmmgpu bench --orders 0,9 --floor
  hmmgpu bench --orders 0,9 --against test_hmm --format hmm-tests
  hmmgpu bench --orders 9 --floor --json - | jq '.rows[] | [.direction, .trigger, .limit_ratio.median]'
  hmmgpu bench --metrics 9400 --trace trace.json
  hmmgpu bench --kernel-a debian:7.2 --kernel-b debian:7.3 --json both.json

The table goes to standard output; with '--json -' the JSON does, and the table goes to standard
error. 'hmmgpu report' makes page and table of a result again.

Exits with 0 when every byte was verified and the driver's counters are the host's, else with 1.
Other codes: see 'hmmgpu --help'.";

/// See [`Command::Bench`](super::Command::Bench).
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Memory to migrate in each round; a multiple of 2M. [default: 256M, and 64M for orders 2 to
    /// 8, whose folios the kernel splits; with two kernels 64M for order 0, too]
    #[arg(long, value_name = "SIZE", value_parser = two_mib)]
    pub size: Option<Size>,
    /// Folio orders of the source memory: 0 and 2 to 9, single or as ranges. [default: 0,2-9; with
    /// two kernels 0,9]
    #[arg(long, value_name = "LIST")]
    pub orders: Option<Orders>,
    /// Counted rounds for each order in a boot. [default: 5; with two kernels 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: Option<u32>,
    /// Memory for each migration request; a multiple of 2M.
    #[arg(long, value_name = "SIZE", default_value = "32M", value_parser = two_mib)]
    pub call_size: Size,
    /// Also measure what the kernel needs besides the copy: after each round, another one with a
    /// driver that copies nothing. Its data is lost by intent and not verified. Each row then has
    /// its limit, the slower of that floor and the engine, and how near to it the migration comes.
    #[arg(long)]
    pub floor: bool,
    /// Have another driver do the same work in the same guest, at orders 0 and 9, and show how much
    /// faster the migration is. The comparison flatters; the table says why.
    #[arg(long, value_enum, value_name = "DRIVER", conflicts_with = "kernel_a")]
    pub against: Option<OtherDriver>,
    /// Take the other driver from this Linux source tree, not from the kernel's own source.
    #[arg(long, value_name = "TREE", requires = "against")]
    pub kernel_source: Option<PathBuf>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Write a page that shows the result into this file: HTML that needs no network and no script.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Write the result as JSON into this file; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Two kernels.
    #[command(flatten)]
    pub alternate: AlternateArgs,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Two kernels to compare, a boot of each by turns.
#[derive(Debug, Args)]
#[command(next_help_heading = "Comparison")]
pub struct AlternateArgs {
    /// Measure this kernel and that of --kernel-b by turns, and compare them; see --kernel.
    #[arg(long, value_name = "KERNEL", requires = "kernel_b", conflicts_with_all = ["kernel", "report", "trace"])]
    pub kernel_a: Option<KernelSpec>,
    /// The kernel that is compared with that of --kernel-a.
    #[arg(long, value_name = "KERNEL", requires = "kernel_a")]
    pub kernel_b: Option<KernelSpec>,
    /// Boots of each kernel. [default: as many as it takes to tell a change of a single row from
    /// chance: 5 for two orders, 7 for all of them]
    #[arg(long, value_name = "N", requires = "kernel_a", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rounds: Option<u8>,
    /// How to judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
}
