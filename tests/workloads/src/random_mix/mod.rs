//! Random operations on memory that goes to and fro, from several processes that together hold
//! more than VRAM does, with every byte verified.

mod process;
mod region;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::device::{self, Device};
use crate::sys::fork::{Child, Ended, fork};
use crate::sys::memory::UNIT;
use crate::{size, thp};
use process::Process;

/// Migrate, touch, unmap, protect, fork, move and advise at random; verify every byte.
///
/// Each process keeps a model of what each of its pages must hold. A byte that differs ends the
/// program with status 1; the seed repeats the sequence of operations of each process.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-random-mix")]
struct Args {
    /// Operations in all; the processes share them evenly.
    #[arg(long, default_value_t = 1000)]
    rounds: usize,
    /// Processes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Seed of the sequence.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Memory of all processes together (such as 256M) [default: four times VRAM, or half of what
    /// the guest has free if that is less].
    #[arg(long, value_parser = size::parse)]
    memory: Option<usize>,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
    /// Do all but migrate: a failure that remains is not the driver's.
    #[arg(long)]
    no_device: bool,
    /// Print every operation before it is done.
    #[arg(long)]
    trace: bool,
}

/// What a process, or all of them, did.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Counts {
    /// Operations by name.
    operations: BTreeMap<String, u64>,
    /// Bytes that requests moved to the device.
    to_device_bytes: u64,
    /// Bytes that requests moved home.
    to_system_bytes: u64,
    /// Requests refused because VRAM or memory was full.
    refused: u64,
    /// MADV_COLLAPSE that the kernel refused.
    collapse_refused: u64,
    /// Bytes compared.
    verified_bytes: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        for (name, count) in other.operations {
            *self.operations.entry(name).or_default() += count;
        }
        self.to_device_bytes += other.to_device_bytes;
        self.to_system_bytes += other.to_system_bytes;
        self.refused += other.refused;
        self.collapse_refused += other.collapse_refused;
        self.verified_bytes += other.verified_bytes;
    }
}

/// The line that the program ends with.
#[derive(Debug, Serialize)]
struct Summary {
    program: &'static str,
    seed: u64,
    processes: u32,
    rounds: u64,
    memory_bytes: u64,
    vram_bytes: u64,
    vram_free_before: u64,
    vram_free_after: u64,
    seconds: f64,
    ok: bool,
    #[serde(flatten)]
    counts: Counts,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let begin = Instant::now();
    let device = if args.no_device {
        None
    } else {
        Some(Device::open(&args.device)?)
    };
    let before = device.as_ref().map(Device::query).transpose()?;
    let before = before.unwrap_or_default();
    let memory = match args.memory {
        Some(memory) => memory,
        None => default_memory(before.vram_bytes)?,
    };
    let share = memory / args.processes as usize / UNIT * UNIT;
    ensure!(
        share >= 2 * UNIT,
        "{memory} bytes are too few for {} processes: 4 MiB each are needed",
        args.processes
    );

    let controls = thp::Controls::take()?;
    // Regions that ask for it get 2 MiB, the others 64 KiB, unless they refuse both.
    controls.set(|order| match order {
        9 => Some("madvise"),
        4 => Some("always"),
        _ => None,
    })?;

    let mut children = Vec::new();
    for number in 0..args.processes {
        let (reader, writer) = rustix::pipe::pipe()?;
        let rounds = args.rounds.div_ceil(args.processes as usize);
        let child = fork(|| run_process(&args, number, rounds, share, writer.into()))
            .context("cannot fork")?;
        children.push((number, child, File::from(reader)));
    }
    let mut counts = Counts::default();
    let mut ok = true;
    for (number, child, mut reader) in children {
        match finish(child, &mut reader)? {
            Ok(mine) => counts.add(mine),
            Err(how) => {
                ok = false;
                eprintln!(
                    "hmmgpu-random-mix: process {number} {how}; --seed {} --processes {} --rounds {} --memory {memory} repeats its operations, --trace prints them",
                    args.seed, args.processes, args.rounds
                );
            }
        }
    }
    drop(controls);

    let mut after = before;
    if let Some(device) = &device {
        // Pages that were unmapped are freed by then, but the last of them may be on their way
        // through the kernel's deferred work.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            after = device.query()?;
            if after.vram_free_bytes == before.vram_free_bytes || Instant::now() > deadline {
                break;
            }
            std::thread::yield_now();
        }
        if after.vram_free_bytes != before.vram_free_bytes {
            ok = false;
            eprintln!(
                "hmmgpu-random-mix: {} bytes of VRAM were free before, {} are free now",
                before.vram_free_bytes, after.vram_free_bytes
            );
        }
    }
    let summary = Summary {
        program: "hmmgpu-random-mix",
        seed: args.seed,
        processes: args.processes,
        rounds: counts.operations.values().sum(),
        memory_bytes: (share * args.processes as usize) as u64,
        vram_bytes: before.vram_bytes,
        vram_free_before: before.vram_free_bytes,
        vram_free_after: after.vram_free_bytes,
        seconds: begin.elapsed().as_secs_f64(),
        ok,
        counts,
    };
    println!("{}", serde_json::to_string(&summary)?);
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The child's side: runs its rounds, sends its counts, and returns its exit status.
fn run_process(args: &Args, number: u32, rounds: usize, share: usize, mut out: File) -> i32 {
    let mut run = || -> Result<()> {
        // Its own open file: an inherited one is the scenarios' subject.
        let device = if args.no_device {
            None
        } else {
            Some(Device::open(&args.device)?)
        };
        let mut process = Process::new(args.seed, number, device, share, args.trace)?;
        let result = process.run(rounds);
        if result.is_err() {
            process.print_history();
        }
        result?;
        let counts = serde_json::to_vec(process.counts())?;
        out.write_all(&counts).context("cannot send the counts")
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("hmmgpu-random-mix: process {number}: {error:#}");
            1
        }
    }
}

/// The parent's side: the counts, or how the child ended.
fn finish(child: Child, reader: &mut File) -> Result<std::result::Result<Counts, String>> {
    let mut text = Vec::new();
    reader
        .read_to_end(&mut text)
        .context("cannot read the counts of a process")?;
    Ok(match child.wait().context("cannot wait for a process")? {
        Ended::Code(0) => Ok(serde_json::from_slice(&text).context("the counts cannot be read")?),
        Ended::Code(code) => Err(format!("failed with status {code}")),
        Ended::Signal(signal) => Err(format!("was ended by signal {signal}")),
    })
}

fn default_memory(vram_bytes: u64) -> Result<usize> {
    // Much of it is at home at any time: touches see to that.
    let vram = usize::try_from(vram_bytes.max(64 << 20)).unwrap_or(usize::MAX);
    Ok(vram.saturating_mul(4).min(available_memory()? / 2))
}

/// MemAvailable in bytes.
pub(crate) fn available_memory() -> Result<usize> {
    let path = Path::new("/proc/meminfo");
    let text = std::fs::read_to_string(path).context("cannot read /proc/meminfo")?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok())
        .map(|kib| kib << 10)
        .context("/proc/meminfo has no MemAvailable")
}
