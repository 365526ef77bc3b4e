//! A driver that makes mistakes on purpose, for the tests of the device's checker of VRAM.

use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::device::{self, Device, Outcome};
use crate::gpu::{Command, Gpu};
use crate::reload::{Module, unload};
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES};
use crate::thp;

/// Let the driver make mistakes, one by one, and load it anew after each.
///
/// Needs a driver that was built with HMMGPU_MUTATIONS=1. The device's generation changes with each
/// load, so that what its checker reports can be told apart.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-mutations")]
struct Args {
    /// Names of mistakes; "none" is none.
    #[arg(required = true)]
    mistakes: Vec<String>,
    /// The driver's module.
    #[command(flatten)]
    module: Module,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// The driver's parameter that names the next mistake.
const PARAMETER: &str = "/sys/module/hmmgpu/parameters/mutation";
/// What it says when there is none to make.
const NONE: &str = "none";
/// Order of the folios, and their pages.
const ORDER: u8 = 9;
const FOLIO: usize = UNIT_PAGES;
/// Bound of every wait.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    for mistake in &args.mistakes {
        exercise(&args.device, mistake).with_context(|| format!("mistake {mistake}"))?;
        unload().with_context(|| format!("mistake {mistake}: cannot unload the driver"))?;
        args.module.load(&args.device)?;
        println!("{mistake}: made");
    }
    Ok(ExitCode::SUCCESS)
}

/// What programs do: folios go to the device and home, one of them in parts, and jobs use one before
/// and after it went home. There is an occasion for each mistake.
fn exercise(node: &Path, mistake: &str) -> Result<()> {
    let gpu = Gpu::open(node)?;
    let device = gpu.device();
    let [a, b, c, d, e] = [folio()?, folio()?, folio()?, folio()?, folio()?];
    let all = 0..FOLIO;

    // The device gets to know the driver before any mistake.
    for memory in [&a, &b, &c, &d, &e] {
        to_device(device, memory)?;
    }
    gpu.run(fill(&a, 1))
        .context("a job on the device's memory")?;
    home(device, &c, all.clone())?;
    fs::write(PARAMETER, mistake)
        .with_context(|| format!("cannot write {PARAMETER}: is it a driver for mutations?"))?;

    home(device, &b, all.clone())?;
    to_device(device, &c)?;
    home(device, &a, all.clone())?;
    // The device knows of what was freed when this is done.
    home(device, &d, all.clone())?;
    for job in [checksum(&a), fill(&a, 2)] {
        gpu.run(job).context("a job on memory that came home")?;
    }
    home(device, &a, all.clone())?;
    // In parts, for which it is split.
    home(device, &e, 0..1)?;
    home(device, &e, 1..FOLIO)?;
    // What was freed is used anew, all of it.
    for memory in [&a, &b, &d, &e] {
        to_device(device, memory)?;
    }
    for memory in [&a, &b, &c, &d, &e] {
        home(device, memory, all.clone())?;
    }

    let left = fs::read_to_string(PARAMETER).with_context(|| format!("cannot read {PARAMETER}"))?;
    ensure!(left.trim() == NONE, "there was no occasion for it");
    Ok(())
}

/// 2 MiB of memory in one folio.
fn folio() -> Result<Memory> {
    let controls = thp::Controls::take()?;
    controls.only(ORDER)?;
    let memory = Memory::anonymous(UNIT).context("cannot map memory")?;
    let pages = memory.populate(0..FOLIO);
    pages.context("cannot allocate memory")?;
    Ok(memory)
}

fn fill(memory: &Memory, pattern: u64) -> Command {
    Command::Fill {
        dst: memory.address() as u64,
        pattern,
        bytes: PAGE as u64,
    }
}

fn checksum(memory: &Memory) -> Command {
    Command::Checksum {
        src: memory.address() as u64,
        words: 1,
    }
}

fn to_device(device: &Device, memory: &Memory) -> Result<()> {
    until_all_moved("MIGRATE_TO_DEVICE", || device.to_device(memory, 0..FOLIO))
}

fn home(device: &Device, memory: &Memory, pages: Range<usize>) -> Result<()> {
    until_all_moved("MIGRATE_TO_SYSTEM", || {
        device.to_system(memory, pages.clone())
    })
}

/// Pages that somebody has a reference to for a moment stay; they move when they are asked again.
fn until_all_moved(call: &str, migrate: impl Fn() -> Outcome) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let outcome = migrate().complete(call)?;
        if outcome.skipped == 0 {
            return Ok(());
        }
        let left = outcome.skipped;
        ensure!(Instant::now() < deadline, "{call}: {left} bytes stay");
        std::thread::yield_now();
    }
}
