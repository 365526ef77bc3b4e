//! Arguments of `hmmgpu selftest`.

use std::path::PathBuf;

use clap::Args;

use super::machine::MachineArgs;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu selftest
  hmmgpu selftest --only 'migrate_anon_huge_*' --only userfaultfd_read
  hmmgpu selftest --loops 20 --skip benchmark_thp_migration
  hmmgpu selftest --json result.json --against test_hmm
  hmmgpu selftest --json - | jq '.tests[] | select(.result == \"fail\").name'
  hmmgpu selftest --kernel debian:7.2
  hmmgpu selftest --kernel-source ~/linux

The tests are the kernel's tools/testing/selftests/mm/hmm-tests.c. The first use fetches the source
package of the kernel in use (170 MB). hmm_gup_test is skipped by kernels without CONFIG_GUP_TEST,
such as Debian's.

TAP goes to standard output, one line a test as it ends; with '--json -' the JSON does, and TAP
goes to standard error. Exits with 0 when a test passed, none failed, and the guest's kernel did not
warn, else with 1; tests on another driver (--against) do not count for that. Other codes: see
'hmmgpu --help'.";

/// See [`Command::Selftest`](super::Command::Selftest).
#[derive(Debug, Args)]
pub struct SelftestArgs {
    /// Run only this test; a name, or a pattern with *. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Leave this test out; a name, or a pattern with *. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub skip: Vec<String>,
    /// Run all of it so often, in one guest.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub loops: u32,
    /// Take the tests from this Linux source tree, not from the kernel's own source.
    #[arg(long, value_name = "TREE")]
    pub kernel_source: Option<PathBuf>,
    /// Run the same tests on another driver too, and show both side by side.
    #[arg(long, value_enum, value_name = "DRIVER")]
    pub against: Option<OtherDriver>,
    /// Write the result as JSON into this file; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// A driver that upstream's tests can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OtherDriver {
    /// The kernel's own lib/test_hmm.c, whose device memory is plain memory of the guest.
    #[value(name = "test_hmm")]
    TestHmm,
}
