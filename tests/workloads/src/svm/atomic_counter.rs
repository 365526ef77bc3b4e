//! One counter, incremented by CPU threads and by the GPU at the same time.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;

use super::{Common, ms};
use crate::gpu::{Gpu, Policy};
use crate::sys::memory::PAGE;

/// Increment one counter with CPU threads and the GPU at the same time; the sum has to be exact.
///
/// Twice: with the counter's page migrating to whoever wants it, and with the page staying in
/// system memory, where the GPU gets exclusive access for its atomic operations.
#[derive(Debug, Parser)]
#[command(
    name = "svm-atomic-counter",
    after_help = "Example: hmmgpu run -- svm-atomic-counter --threads 4 --increments 100000"
)]
struct Args {
    /// Threads of the CPU.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// Increments of the GPU. The threads count until it is done, and as much at least.
    #[arg(long, default_value_t = 20_000)]
    increments: u64,
    /// Increments of one job; between jobs the GPU lets go of the counter.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    #[command(flatten)]
    common: Common,
}

/// A counter with a page of its own, so that nothing else is affected by where it is.
#[repr(align(4096))]
struct Counter(AtomicU64);

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let gpu = Gpu::open(&args.common.node)?;
    for (policy, how) in [
        (Policy::Default, "migrating"),
        (Policy::AccessInPlace, "in place"),
    ] {
        let counter = Box::new(Counter(AtomicU64::new(0)));
        gpu.advise(std::ptr::from_ref(&*counter).addr(), PAGE, policy)?;
        let before = gpu.device().stats()?;
        let report = count(&gpu, &counter.0, &args).with_context(|| how.to_owned())?;
        let after = gpu.device().stats()?;
        let exclusive = after.exclusive_pages - before.exclusive_pages;
        if policy == Policy::AccessInPlace {
            ensure!(
                exclusive >= report.jobs,
                "in place, the GPU had exclusive access {exclusive} times in {} jobs, though the threads took the counter back before each",
                report.jobs
            );
        }
        let sum = counter.0.load(Ordering::Relaxed);
        let expected = args.increments + report.by_threads;
        ensure!(sum == expected, "{how}: {sum} instead of {expected}");
        println!(
            "{how}: {} threads and the GPU ({} of it) counted to {sum}, exactly; {} on the GPU, {} faults, {exclusive} times exclusive",
            args.threads,
            args.increments,
            ms(report.time),
            report.faults
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// What the jobs took together.
#[derive(Default)]
struct Sum {
    time: std::time::Duration,
    faults: u64,
    jobs: u64,
    /// Increments of the threads.
    by_threads: u64,
}

fn count(gpu: &Gpu, counter: &AtomicU64, args: &Args) -> Result<Sum> {
    let gpu_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let increment = || {
            let mut done = 0;
            while done < args.increments || !gpu_done.load(Ordering::Relaxed) {
                counter.fetch_add(1, Ordering::Relaxed);
                done += 1;
            }
            done
        };
        let threads: Vec<_> = (0..args.threads).map(|_| scope.spawn(increment)).collect();
        let sum = count_on_gpu(gpu, counter, args);
        gpu_done.store(true, Ordering::Relaxed);
        let mut sum = sum?;
        for thread in threads {
            sum.by_threads += thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        }
        Ok(sum)
    })
}

fn count_on_gpu(gpu: &Gpu, counter: &AtomicU64, args: &Args) -> Result<Sum> {
    let mut sum = Sum::default();
    let mut left = args.increments;
    while left > 0 {
        wait_for_the_threads(counter);
        let times = left.min(args.batch);
        let report = gpu.increment(counter, times)?;
        ensure!(report.done == times, "a job did {} additions", report.done);
        sum.time += report.time;
        sum.faults += u64::from(report.faults);
        sum.jobs += 1;
        left -= times;
    }
    Ok(sum)
}

/// Waits until a thread has counted. The threads do until the GPU is done, so this ends, and the
/// page is the CPU's afterwards: however fast the GPU is, each job has to ask for it again.
fn wait_for_the_threads(counter: &AtomicU64) {
    let seen = counter.load(Ordering::Relaxed);
    while counter.load(Ordering::Relaxed) == seen {
        std::thread::yield_now();
    }
}
