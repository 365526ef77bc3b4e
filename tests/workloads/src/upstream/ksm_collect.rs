//! `migrate_vma_collect_pmd()` makes migration entries of mappings that KSM does not know, and nobody
//! removes them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use super::begin;
use crate::device;
use crate::pagemap;
use crate::sys::memory::Advice;

/// Has ksmd pass over merged pages while a migration has them unmapped, and migrates them again.
#[derive(Debug, Parser)]
#[command(
    name = "upstream-ksm-collect",
    after_help = "Example: hmmgpu run --inject copy.sys_to_dev:delay=2s@1 -- upstream-ksm-collect\n\n\
        Exits with 0 when pages are neither mapped nor on the device afterwards, nor ever will be, as \
        is expected of the kernel; with 1 when all are mapped: it is mended, or the copy is not \
        delayed, or there is no KSM."
)]
struct Args {
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// What ksmd does happens within this time.
const SOON: Duration = Duration::from_secs(60);
/// Between its passes ksmd sleeps for so long when it is to make one only, in milliseconds: longer
/// than the program runs.
const LONG: &str = "600000";
/// Passes that ksmd needs to merge pages: it looks twice whether they change.
const TO_MERGE: u64 = 3;

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    if !Path::new(KSM).exists() {
        println!("not shown: this kernel has no KSM");
        return Ok(ExitCode::FAILURE);
    }
    let (device, _controls, mut memory) = begin(&args.device, 0)?;
    let pages = memory.pages();
    // Each content is in two pages, and that of the last one nowhere else: it moves, so that there
    // is a copy to wait for.
    let merged = 0..pages - 2;
    memory.advise(0..pages, Advice::Mergeable)?;
    for page in 0..pages {
        let word = if merged.contains(&page) {
            page / 2
        } else {
            page
        };
        memory.words_mut(page).fill(1 + word as u64);
    }
    // A pass takes one call, and ends before ksmd sleeps.
    set("pages_to_scan", "100000")?;
    set("sleep_millisecs", "1")?;
    pass(TO_MERGE)?;
    let sharing = number("pages_sharing")?;
    ensure!(sharing > 0, "ksmd has merged nothing: nothing was shown");
    println!("{sharing} pages are merged with others");

    set("sleep_millisecs", LONG)?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| device.to_device(&memory, 0..pages));
        while pagemap::away(&memory, merged.clone())? < merged.len() && !sending.is_finished() {
            thread::yield_now();
        }
        pass(1)?;
        let sent = sending.join();
        let sent = sent.map_err(|_| anyhow::anyhow!("the thread that sends panicked"))?;
        println!("{} bytes moved while ksmd passed", sent.moved);
        anyhow::Ok(())
    })?;
    println!(
        "ksmd still knows of {} merged pages",
        number("pages_sharing")?
    );

    let _ = device.to_device(&memory, merged.clone());
    let lost = pagemap::away(&memory, merged.clone())?;
    if lost == 0 {
        println!("not shown: all merged pages are mapped after a migration");
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "shown: {lost} of {} merged pages stay unmapped after a migration",
        merged.len()
    );
    Ok(ExitCode::SUCCESS)
}

const KSM: &str = "/sys/kernel/mm/ksm";

fn set(name: &str, value: &str) -> Result<()> {
    fs::write(Path::new(KSM).join(name), value).with_context(|| format!("cannot set KSM's {name}"))
}

fn number(name: &str) -> Result<u64> {
    let text = fs::read_to_string(Path::new(KSM).join(name));
    let text = text.with_context(|| format!("cannot read KSM's {name}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("KSM's {name}: {text:?}"))
}

/// Lets ksmd pass over all memory so often, at least.
fn pass(times: u64) -> Result<()> {
    let before = number("full_scans")?;
    set("run", "1")?;
    let until = Instant::now() + SOON;
    while number("full_scans")? < before + times {
        ensure!(Instant::now() < until, "ksmd does not come to an end");
        thread::yield_now();
    }
    set("run", "0")
}
