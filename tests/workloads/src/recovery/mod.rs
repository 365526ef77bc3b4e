//! Threads that use the GPU while it breaks and recovers, or goes and comes back.
//!
//! The host breaks it, by faults on purpose, or this program does what [`cause`] can. Each thread has
//! regions of memory of its own and knows of each what it holds. Operations may fail, with the errors
//! that the driver documents; pages may be lost, if they may have been in VRAM since they were last
//! known to be home. Whatever can be read has to be right.

mod cause;
mod region;
mod thread;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use serde::Serialize;

use crate::device::{self, Device};
use crate::thp;
use cause::{Cause, Function};
use thread::{Thread, Told};

/// Use the GPU with several threads while it breaks, and verify all that is not lost.
///
/// Goes on until the driver has recovered the GPU as often as asked for, or the cause has happened
/// as often. Then all has to work again, without an error. Prints one line of JSON.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-recovery")]
struct Args {
    /// Recoveries to wait for, while somebody else breaks the GPU.
    #[arg(long, default_value_t = 0)]
    recoveries: u64,
    /// Do this to the GPU meanwhile.
    #[arg(long)]
    cause: Option<Cause>,
    /// How often.
    #[arg(long, default_value_t = 3)]
    times: u32,
    /// The GPU goes at some time, for good.
    #[arg(long)]
    gone: bool,
    /// Rounds of each thread, at least.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Regions of each thread, of 2 MiB.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=512))]
    regions: u32,
    /// Seconds after which it fails.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Seed of each thread's sequence.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Device node to begin with; the machine's only GPU.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

impl Args {
    /// Something is to happen to the GPU that makes operations fail, and ends.
    fn breaks(&self) -> bool {
        self.recoveries > 0 || self.cause.is_some()
    }

    /// What is in VRAM may get lost.
    fn may_lose(&self) -> bool {
        self.recoveries > 0 || self.gone || self.cause.is_some_and(Cause::takes_vram)
    }

    /// The device may go, if only to come back.
    fn may_go(&self) -> bool {
        self.gone || matches!(self.cause, Some(Cause::Unbind | Cause::Replug))
    }
}

/// Between two times that something happens.
const PAUSE: Duration = Duration::from_millis(200);

/// What the threads did.
#[derive(Debug, Default, Serialize)]
struct Counts {
    /// Operations.
    rounds: u64,
    /// Bytes that requests moved to the device.
    to_device_bytes: u64,
    /// Bytes that requests moved home.
    to_system_bytes: u64,
    /// Jobs that ended well.
    jobs: u64,
    /// Bytes that were compared.
    verified_bytes: u64,
    /// Pages that were lost.
    lost_pages: u64,
    /// What operations failed with, and how often.
    errors: BTreeMap<String, u64>,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.rounds += other.rounds;
        self.to_device_bytes += other.to_device_bytes;
        self.to_system_bytes += other.to_system_bytes;
        self.jobs += other.jobs;
        self.verified_bytes += other.verified_bytes;
        self.lost_pages += other.lost_pages;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    fn error(&mut self, operation: &str, name: &str) {
        let count = self.errors.entry(format!("{operation} {name}"));
        *count.or_default() += 1;
    }
}

/// The line that the program ends with.
#[derive(Debug, Serialize)]
struct Summary {
    program: &'static str,
    seed: u64,
    seconds: f64,
    /// How often the cause happened.
    times: u32,
    /// What the driver has counted of this since it has the GPU.
    recoveries: u64,
    copy_retries: u64,
    fences_missed: u64,
    #[serde(flatten)]
    counts: Counts,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let begin = Instant::now();
    let controls = thp::Controls::take()?;
    controls.only(9)?;
    let told = Told::default();
    let (times, counts) = std::thread::scope(|scope| -> Result<(u32, Counts)> {
        let threads: Vec<_> = (0..args.threads)
            .map(|number| {
                let (args, told) = (&args, &told);
                scope.spawn(move || Thread::new(args, told, number)?.run())
            })
            .collect();
        let watched = watch(&args, &told, begin);
        told.enough.store(true, Ordering::Relaxed);
        let mut counts = Counts::default();
        for thread in threads {
            counts.add(thread.join().expect("a thread does not panic")?);
        }
        watched.map(|times| (times, counts))
    })?;
    drop(controls);
    let stats = if args.gone {
        hmmgpu_uapi::Stats::default()
    } else {
        let node = device::any_node()?.unwrap_or(args.device);
        Device::open(&node)?.stats()?
    };
    let summary = Summary {
        program: "hmmgpu-recovery",
        seed: args.seed,
        seconds: begin.elapsed().as_secs_f64(),
        times,
        recoveries: stats.recoveries,
        copy_retries: stats.copy_retries,
        fences_missed: stats.fences_missed,
        counts,
    };
    println!("{}", serde_json::to_string(&summary)?);
    Ok(ExitCode::SUCCESS)
}

/// Lets the cause happen so many times, or waits until that many recoveries or the end were seen.
fn watch(args: &Args, told: &Told, begin: Instant) -> Result<u32> {
    if let Some(cause) = args.cause {
        let function = Function::of(&args.device)?;
        for _ in 0..args.times {
            // What is under way when it comes is another thing each time.
            std::thread::sleep(PAUSE);
            function.suffer(cause)?;
        }
        return Ok(args.times);
    }
    let device = Device::open(&args.device)?;
    let before = device.stats()?.recoveries;
    loop {
        if told.gone.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let recoveries = match device.stats() {
            // It goes just now: a thread will tell.
            Err(_) if args.gone => 0,
            stats => stats?.recoveries - before,
        };
        if !args.gone && recoveries >= args.recoveries {
            return Ok(0);
        }
        ensure!(
            begin.elapsed().as_secs() < args.limit,
            "{recoveries} recoveries within {} s, not {}",
            args.limit,
            args.recoveries
        );
        std::thread::sleep(PAUSE);
    }
}
