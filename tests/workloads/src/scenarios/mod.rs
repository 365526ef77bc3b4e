//! Targeted checks of the driver, one by one. Each runs in a process of its own, so that one
//! that crashes or hangs fails alone. Output is TAP.

mod advice;
mod arguments;
mod basics;
mod compute;
mod fork;
mod mappings;
mod setup;
mod told;
mod vram;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::device;
use crate::sys::fork::{Ended, PANICKED, fork};
use setup::{Setup, Skip};

/// Targeted checks of the driver, one by one, as TAP.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-scenarios")]
struct Args {
    /// Only scenarios whose names contain one of these.
    names: Vec<String>,
    /// Print the names.
    #[arg(long)]
    list: bool,
    /// Seconds after which a scenario has failed.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
    /// Only check that standard input, an open device of this process before it was executed,
    /// means nothing any more.
    #[arg(long)]
    kept_gpu: bool,
}

/// A check: its name and what it does.
type Scenario = (&'static str, fn(&Setup) -> Result<()>);

const SCENARIOS: &[Scenario] = &[
    (
        "order_9_moves_whole_both_ways",
        basics::order_9_moves_whole_both_ways,
    ),
    (
        "single_pages_move_both_ways",
        basics::single_pages_move_both_ways,
    ),
    (
        "orders_between_arrive_as_single_pages",
        basics::orders_between_arrive_as_single_pages,
    ),
    (
        "one_fault_brings_2_mib_home",
        basics::one_fault_brings_2_mib_home,
    ),
    (
        "a_store_keeps_the_rest_of_the_page",
        basics::a_store_keeps_the_rest_of_the_page,
    ),
    (
        "memory_that_is_there_stays",
        basics::memory_that_is_there_stays,
    ),
    (
        "part_of_a_device_folio_goes_home",
        basics::part_of_a_device_folio_goes_home,
    ),
    (
        "untouched_memory_is_filled",
        basics::untouched_memory_is_filled,
    ),
    ("huge_zero_page_is_filled", basics::huge_zero_page_is_filled),
    ("unaligned_ranges_move", basics::unaligned_ranges_move),
    ("arguments_are_checked", arguments::arguments_are_checked),
    (
        "unmapped_ranges_are_skipped",
        arguments::unmapped_ranges_are_skipped,
    ),
    ("partial_munmap", mappings::partial_munmap),
    ("partial_mprotect", mappings::partial_mprotect),
    ("read_only_memory_moves", mappings::read_only_memory_moves),
    (
        "inaccessible_memory_is_safe",
        mappings::inaccessible_memory_is_safe,
    ),
    ("aligned_mremap", mappings::aligned_mremap),
    ("unaligned_mremap", mappings::unaligned_mremap),
    ("file_memory_is_skipped", mappings::file_memory_is_skipped),
    (
        "shared_memory_is_skipped",
        mappings::shared_memory_is_skipped,
    ),
    (
        "pinned_pages_are_skipped",
        mappings::pinned_pages_are_skipped,
    ),
    (
        "direct_io_reaches_device_pages",
        mappings::direct_io_reaches_device_pages,
    ),
    ("dontneed_frees_vram", advice::dontneed_frees_vram),
    ("free_keeps_or_drops", advice::free_keeps_or_drops),
    (
        "collapse_brings_pages_home",
        advice::collapse_brings_pages_home,
    ),
    (
        "forked_child_writes_its_copy",
        fork::forked_child_writes_its_copy,
    ),
    (
        "forked_child_faults_pages_home",
        fork::forked_child_faults_pages_home,
    ),
    (
        "inherited_device_means_the_opener",
        fork::inherited_device_means_the_opener,
    ),
    ("killed_in_the_middle", fork::killed_in_the_middle),
    ("exit_frees_vram", fork::exit_frees_vram),
    ("requests_keep_no_memory", vram::requests_keep_no_memory),
    (
        "full_vram_is_refused_cleanly",
        vram::full_vram_is_refused_cleanly,
    ),
    (
        "freed_folios_are_used_again",
        vram::freed_folios_are_used_again,
    ),
    ("marks_return", vram::marks_return),
    ("fallbacks_have_reasons", told::fallbacks_have_reasons),
    (
        "debugfs_has_the_same_counters",
        told::debugfs_has_the_same_counters,
    ),
    ("fdinfo_tells_of_vram", told::fdinfo_tells_of_vram),
];

/// All names, in order.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| *name)
}

fn all() -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().chain(compute::SCENARIOS)
}

/// Exit status of a scenario that cannot be run here.
const SKIPPED: i32 = 77;

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    if args.kept_gpu {
        return compute::kept_gpu(&args.device).map(|()| ExitCode::SUCCESS);
    }
    let chosen: Vec<&Scenario> = all()
        .filter(|(name, _)| {
            args.names.is_empty() || args.names.iter().any(|part| name.contains(part))
        })
        .collect();
    if args.list {
        for (name, _) in chosen {
            println!("{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        !chosen.is_empty(),
        "no scenario has such a name: --list prints them"
    );

    println!("TAP version 13");
    println!("1..{}", chosen.len());
    let mut failed = 0;
    for (number, (name, scenario)) in (1..).zip(chosen) {
        let child = fork(|| run(&args, *scenario)).context("cannot fork")?;
        let ended = child
            .wait_for(Duration::from_secs(args.limit))
            .context("cannot wait for a scenario")?;
        match ended {
            Some(Ended::Code(0)) => println!("ok {number} - {name}"),
            Some(Ended::Code(SKIPPED)) => println!("ok {number} - {name} # SKIP"),
            other => {
                failed += 1;
                println!("not ok {number} - {name}");
                match other {
                    None => println!("# no end within {} s; killed", args.limit),
                    Some(Ended::Signal(signal)) => println!("# ended by signal {signal}"),
                    Some(Ended::Code(PANICKED)) => println!("# panicked"),
                    Some(Ended::Code(_)) => {}
                }
            }
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A scenario's own process: nothing of the device may be used before and after.
fn run(args: &Args, scenario: fn(&Setup) -> Result<()>) -> i32 {
    let result = Setup::new(&args.device).and_then(|setup| {
        setup.nothing_is_used().context("before the scenario")?;
        scenario(&setup)?;
        setup.bring_home()?;
        setup.nothing_is_used().context("after the scenario")
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                println!("# {line}");
            }
            if error.is::<Skip>() { SKIPPED } else { 1 }
        }
    }
}
