//! Random operations on memory that goes to and fro, from several processes that together hold
//! more than VRAM does, with every byte verified.

mod jobs;
mod process;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::device::{self, Device};
use crate::gpu::Gpu;
use crate::sys::fork::{Child, Ended, fork};
use crate::sys::memory::{Memory, PAGE, UNIT};
use crate::{size, thp};
use process::{Limit, Process, Setting};

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
    #[command(flatten)]
    common: Common,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
    /// Do all but migrate: a failure that remains is not the driver's.
    #[arg(long)]
    no_device: bool,
}

/// Jobs of the GPU, touches, fork, mprotect, munmap, mremap, advice and migration at random.
///
/// As hmmgpu-random-mix, and each process has jobs done by the GPU while it goes on: also while
/// the memory that they use is touched, migrated, forked, protected, unmapped or moved. Every
/// result is compared with the model; a job whose memory went away has to say so.
#[derive(Debug, Parser)]
#[command(
    name = "svm-mix",
    after_help = "Example: hmmgpu run --vram 64M -- svm-mix --minutes 10 --processes 4"
)]
struct SvmArgs {
    /// Operations in all; the processes share them evenly.
    #[arg(long, default_value_t = 1000, conflicts_with = "minutes")]
    rounds: usize,
    /// Go on for so many minutes instead.
    #[arg(long)]
    minutes: Option<f64>,
    #[command(flatten)]
    common: Common,
    /// Device node.
    #[arg(long, visible_alias = "device", default_value = device::NODE)]
    node: PathBuf,
}

/// What either program can be told.
#[derive(Debug, clap::Args)]
struct Common {
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
    /// Print every operation before it is done.
    #[arg(long)]
    trace: bool,
}

/// What is to be done, by either program.
#[derive(Debug)]
struct Plan {
    program: &'static str,
    limit: Limit,
    node: Option<PathBuf>,
    jobs: bool,
    common: Common,
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
    /// Jobs by how they ended.
    jobs: BTreeMap<String, u64>,
    /// Faults that were resolved for them.
    job_faults: u64,
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
        for (name, count) in other.jobs {
            *self.jobs.entry(name).or_default() += count;
        }
        self.job_faults += other.job_faults;
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
    contexts_before: u64,
    contexts_after: u64,
    seconds: f64,
    ok: bool,
    #[serde(flatten)]
    counts: Counts,
}

/// Runs hmmgpu-random-mix.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    run(&Plan {
        program: "hmmgpu-random-mix",
        limit: Limit::rounds(args.rounds, args.common.processes),
        node: (!args.no_device).then_some(args.device),
        jobs: false,
        common: args.common,
    })
}

/// Runs svm-mix.
pub(crate) fn svm_main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = SvmArgs::try_parse_from(args)?;
    let limit = match args.minutes {
        Some(minutes) => Limit::Until(
            Instant::now()
                .checked_add(Duration::try_from_secs_f64(minutes * 60.0)?)
                .context("--minutes: that many cannot be counted")?,
        ),
        None => Limit::rounds(args.rounds, args.common.processes),
    };
    // A clear error, before there are processes.
    drop(Gpu::open(&args.node)?);
    run(&Plan {
        program: "svm-mix",
        limit,
        node: Some(args.node),
        jobs: true,
        common: args.common,
    })
}

fn run(args: &Plan) -> Result<ExitCode> {
    let begin = Instant::now();
    let device = args.node.as_deref().map(Device::open).transpose()?;
    let before = device.as_ref().map(state).transpose()?.unwrap_or_default();
    let memory = match args.common.memory {
        Some(memory) => memory,
        None => default_memory(before.vram_bytes)?,
    };
    let share = memory / args.common.processes as usize / UNIT * UNIT;
    ensure!(
        share >= 2 * UNIT,
        "{memory} bytes are too few for {} processes: 4 MiB each are needed",
        args.common.processes
    );

    let controls = thp::Controls::take()?;
    // Regions that ask for it get 2 MiB, the others 64 KiB, unless they refuse both.
    controls.set(|order| match order {
        9 => Some("madvise"),
        4 => Some("always"),
        _ => None,
    })?;

    let start = Start::new(args.common.processes)?;
    let mut children = Vec::new();
    for number in 0..args.common.processes {
        let (reader, writer) = rustix::pipe::pipe()?;
        let child = fork(|| run_process(args, number, share, &start, writer.into()))
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
                    "{}: process {number} {how}; --seed {} --processes {} --memory {memory}, and as many rounds, repeat its operations, --trace prints them",
                    args.program, args.common.seed, args.common.processes
                );
            }
        }
    }
    drop(controls);

    let mut after = before;
    if let Some(device) = &device {
        // What processes had is free when they have ended, but the last of it may be on its way
        // through the kernel's deferred work.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            after = state(device)?;
            if after == before || Instant::now() > deadline {
                break;
            }
            std::thread::yield_now();
        }
        if after != before {
            ok = false;
            eprintln!(
                "{}: the device was {before:?} before, and is {after:?} now",
                args.program
            );
        }
    }
    let summary = Summary {
        program: args.program,
        seed: args.common.seed,
        processes: args.common.processes,
        rounds: counts.operations.values().sum(),
        memory_bytes: (share * args.common.processes as usize) as u64,
        vram_bytes: before.vram_bytes,
        vram_free_before: before.vram_free_bytes,
        vram_free_after: after.vram_free_bytes,
        contexts_before: before.contexts,
        contexts_after: after.contexts,
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

/// What has to be as it was when all is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    vram_bytes: u64,
    vram_free_bytes: u64,
    contexts: u64,
}

fn state(device: &Device) -> Result<State> {
    let query = device.query()?;
    Ok(State {
        vram_bytes: query.vram_bytes,
        vram_free_bytes: query.vram_free_bytes,
        contexts: device.stats()?.contexts,
    })
}

/// Processes begin within so long, also where much else goes on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where processes wait for each other.
struct Start {
    /// How many are there.
    arrived: Memory,
    processes: u32,
}

impl Start {
    fn new(processes: u32) -> Result<Start> {
        let arrived = Memory::shared(PAGE).context("cannot share memory with children")?;
        Ok(Start { arrived, processes })
    }

    /// Waits until all processes are there.
    fn wait(&self) -> Result<()> {
        let arrived = self.arrived.atomic(0, 0);
        arrived.fetch_add(1, Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while arrived.load(Ordering::SeqCst) < u64::from(self.processes) {
            ensure!(
                Instant::now() < deadline,
                "another process has not begun within {} s, or was killed before",
                PATIENCE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Nobody is to wait any more: a process has failed, maybe before it was there.
    fn give_up(&self) {
        let processes = u64::from(self.processes);
        self.arrived
            .atomic(0, 0)
            .fetch_add(processes, Ordering::SeqCst);
    }
}

/// The child's side: runs its rounds, sends its counts, and returns its exit status.
fn run_process(args: &Plan, number: u32, share: usize, start: &Start, mut out: File) -> i32 {
    let mut run = || -> Result<()> {
        let mut process = Process::new(
            Setting {
                program: args.program,
                seed: args.common.seed,
                number,
                node: args.node.clone(),
                jobs: args.jobs,
                trace: args.common.trace,
            },
            share,
        )?;
        // Even if they run one after the other, all want VRAM at the same time once.
        let result = process
            .send_all()
            .and_then(|()| start.wait())
            .and_then(|()| process.run(args.limit));
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
            start.give_up();
            eprintln!("{}: process {number}: {error:#}", args.program);
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
    memory_info("MemAvailable")
}

/// A line of `/proc/meminfo`, in bytes.
pub(crate) fn memory_info(name: &str) -> Result<usize> {
    let path = Path::new("/proc/meminfo");
    let text = std::fs::read_to_string(path).context("cannot read /proc/meminfo")?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok())
        .map(|kib| kib << 10)
        .with_context(|| format!("/proc/meminfo has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_process_that_failed_before_it_was_there() -> Result<()> {
        let start = Start::new(3)?;
        start.give_up();
        start.wait()?;
        start.wait()
    }
}
