//! Scenarios named after the kernel's own trouble spots, each with migrations in flight and every
//! byte verified; the guest half of `hmmgpu stress`.
//!
//! The list of names, which the launcher knows too, is [`hmmgpu_guest_protocol::stress`].

mod cold_pageout;
mod collapse;
mod cpu_hotplug;
mod crew;
mod direct_io;
mod fallbacks;
mod few_address_bits;
mod fork_storm;
mod fragmented_memory;
mod fragmented_vram;
mod frame;
mod kill;
mod ksm;
mod madvise_drop;
mod memory_limit;
mod numa;
mod oom;
mod order_churn;
mod partial_mappings;
mod soft_dirty;
mod suspend;
mod swap_pressure;
mod system;
mod tally;
mod uffd_wp;
mod unbind;
mod vmsplice;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use hmmgpu_guest_protocol::runner::COUNTED;
use hmmgpu_guest_protocol::stress::WORK;

use crate::device;
use frame::{Frame, Skip};
use tally::Trouble;

/// Make one kind of trouble while migrations are in flight, and verify every byte.
///
/// Prints what it counted and a verdict as TAP. It passes only if the trouble happened while
/// migrations were in flight; it goes on until then, for two minutes more at most.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-stress")]
struct Args {
    /// Name of the scenario.
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// Print the names.
    #[arg(long)]
    list: bool,
    /// Seed of every random choice. How threads meet is not repeated.
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Seconds of work.
    #[arg(long, default_value_t = WORK.as_secs())]
    seconds: u64,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// A scenario: its name, its troubles, what it does.
struct Scenario {
    name: &'static str,
    troubles: &'static [Trouble],
    run: fn(&Frame) -> Result<()>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork-storm",
        troubles: fork_storm::TROUBLES,
        run: fork_storm::run,
    },
    Scenario {
        name: "partial-mappings",
        troubles: partial_mappings::TROUBLES,
        run: partial_mappings::run,
    },
    Scenario {
        name: "madvise-drop",
        troubles: madvise_drop::TROUBLES,
        run: madvise_drop::run,
    },
    Scenario {
        name: "order-churn",
        troubles: order_churn::TROUBLES,
        run: order_churn::run,
    },
    Scenario {
        name: "kill",
        troubles: kill::TROUBLES,
        run: kill::run,
    },
    Scenario {
        name: "cold-pageout",
        troubles: cold_pageout::TROUBLES,
        run: cold_pageout::run,
    },
    Scenario {
        name: "collapse",
        troubles: collapse::TROUBLES,
        run: collapse::run,
    },
    Scenario {
        name: "uffd-wp",
        troubles: uffd_wp::TROUBLES,
        run: uffd_wp::run,
    },
    Scenario {
        name: "soft-dirty",
        troubles: soft_dirty::TROUBLES,
        run: soft_dirty::run,
    },
    Scenario {
        name: "direct-io",
        troubles: direct_io::TROUBLES,
        run: direct_io::run,
    },
    Scenario {
        name: "vmsplice",
        troubles: vmsplice::TROUBLES,
        run: vmsplice::run,
    },
    Scenario {
        name: "ksm",
        troubles: ksm::TROUBLES,
        run: ksm::run,
    },
    Scenario {
        name: "swap-pressure",
        troubles: swap_pressure::TROUBLES,
        run: swap_pressure::run,
    },
    Scenario {
        name: "memory-limit",
        troubles: memory_limit::TROUBLES,
        run: memory_limit::run,
    },
    Scenario {
        name: "fragmented-vram",
        troubles: fragmented_vram::TROUBLES,
        run: fragmented_vram::run,
    },
    Scenario {
        name: "fragmented-memory",
        troubles: fragmented_memory::TROUBLES,
        run: fragmented_memory::run,
    },
    Scenario {
        name: "cpu-hotplug",
        troubles: cpu_hotplug::TROUBLES,
        run: cpu_hotplug::run,
    },
    Scenario {
        name: "suspend",
        troubles: suspend::TROUBLES,
        run: suspend::run,
    },
    Scenario {
        name: "out-of-memory",
        troubles: oom::TROUBLES,
        run: oom::run,
    },
    Scenario {
        name: "numa",
        troubles: numa::TROUBLES,
        run: numa::run,
    },
    Scenario {
        name: "unbind",
        troubles: unbind::UNBIND,
        run: unbind::unbind,
    },
    Scenario {
        name: "unplug",
        troubles: unbind::UNPLUG,
        run: unbind::unplug,
    },
    Scenario {
        name: "few-address-bits",
        troubles: few_address_bits::TROUBLES,
        run: few_address_bits::run,
    },
];

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    if args.list {
        for scenario in SCENARIOS {
            println!("{}", scenario.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let name = args.scenario.as_deref().unwrap_or_default();
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario =
        scenario.with_context(|| format!("there is no scenario '{name}': see --list"))?;
    let result = Frame::new(
        &args.device,
        scenario.name,
        args.seed,
        Duration::from_secs(args.seconds),
        scenario.troubles,
    )
    .and_then(|frame| {
        let result = (scenario.run)(&frame);
        println!(
            "{COUNTED}{}",
            serde_json::to_string(&frame.tally.counted())?
        );
        result?;
        frame.finish()
    });
    match result {
        Ok(()) => println!("ok 1 {name}"),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(why)) => println!("ok 1 {name} # SKIP {why}"),
            None => {
                for line in format!("{error:#}").lines() {
                    println!("# {line}");
                }
                println!("not ok 1 {name}");
                return Ok(ExitCode::FAILURE);
            }
        },
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_guest_protocol::stress;

    #[test]
    fn the_launcher_knows_the_same_scenarios() {
        let mut here: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        let mut there: Vec<_> = stress::SCENARIOS
            .iter()
            .map(|scenario| scenario.name)
            .collect();
        here.sort_unstable();
        there.sort_unstable();
        assert_eq!(here, there);
    }
}
