//! Arguments of `hmmgpu stress`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use hmmgpu_guest_protocol::stress::SCENARIOS;

use super::machine::MachineArgs;

pub(super) const HELP: &str = "\
Examples:
  hmmgpu stress
  hmmgpu stress --list
  hmmgpu stress --scenario fork-storm --scenario kill --minutes 5
  hmmgpu stress --seed 7 --json result.json
  hmmgpu stress --json - | jq '.tests[] | select(.result == \"fail\") | .name, .seed'
  hmmgpu stress --minutes 30 --kernel debian:7.2

Each scenario makes one kind of trouble while memory migrates in both directions, and verifies every
byte. It fails if a byte differs, if the guest's kernel complains, if it does not end, and if the
trouble did not happen while migrations were in flight. After a failure the rest runs in a new guest.
Scenarios that need another machine (--list tells) run in guests of their own.

TAP goes to standard output, one line a scenario as it ends, and after a failure what the kernel and
the device say, and the command that repeats it; with '--json -' the JSON does, and TAP goes to
standard error. A seed repeats the random choices of every thread, not how threads meet. Exits with 0
when all passed or were skipped and one passed, else with 1. Other codes: see 'hmmgpu --help'.";

/// See [`Command::Stress`](super::Command::Stress).
#[derive(Debug, Args)]
pub struct StressArgs {
    /// Run only this scenario. May be given several times.
    #[arg(long = "scenario", value_name = "NAME", value_parser = PossibleValuesParser::new(SCENARIOS.iter().map(|one| one.name)), hide_possible_values = true)]
    pub scenarios: Vec<String>,
    /// Share so many minutes among the scenarios, in rounds with new seeds; each runs once at
    /// least. [default: each runs once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub minutes: Option<u32>,
    /// Seed of the first round; each further round has the next number. [default: another one
    /// each time, which is told]
    #[arg(long, value_name = "S")]
    pub seed: Option<u32>,
    /// Print the scenarios, what they do and what machine they need, and do nothing.
    #[arg(long)]
    pub list: bool,
    /// Write the result as JSON into this file; - is standard output.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}
