//! Memory that two GPUs and the CPU use in turn.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hmmgpu_uapi::Stats;

use super::{mib, ms, needs_memory};
use crate::gpu::{Command, Gpu, Job};
use crate::sys::memory::{Memory, UNIT, WORDS};
use crate::{device, pagemap, pattern, reference, size, thp};

/// Pass memory to and fro between two GPUs, and verify what each of them wrote on the other and on
/// the CPU. Memory that is on one GPU comes home and goes on to the one that faults on it.
#[derive(Debug, Parser)]
#[command(
    name = "svm-two-gpus",
    after_help = "Example: hmmgpu run --profile two-gpus -- svm-two-gpus --rounds 10"
)]
struct Args {
    /// Memory that is passed, a multiple of 2 MiB.
    #[arg(long, default_value = "16M", value_parser = size::parse)]
    size: usize,
    /// How often it is passed from one to the other, for each folio order.
    #[arg(long, default_value_t = 4)]
    rounds: u64,
    /// Device nodes.
    #[arg(long, num_args = 2, default_values = [device::NODE, "/dev/hmmgpu1"])]
    nodes: Vec<PathBuf>,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    ensure!(
        args.size >= UNIT && args.size % UNIT == 0,
        "--size: a multiple of 2M is needed"
    );
    needs_memory(2 * args.size)?;
    let gpus: Vec<Gpu> = args
        .nodes
        .iter()
        .map(|node| Gpu::open(node))
        .collect::<Result<_>>()
        .context("two GPUs are needed: hmmgpu run --profile two-gpus")?;
    let controls = thp::Controls::take()?;
    for order in [9, 0] {
        controls.only(order)?;
        passed(&gpus, &args, order).with_context(|| format!("order {order}"))?;
    }
    both_at_once(&gpus, &args)?;
    Ok(ExitCode::SUCCESS)
}

/// Each round, a GPU verifies what the one before wrote, and writes anew.
fn passed(gpus: &[Gpu], args: &Args, order: u8) -> Result<()> {
    let mut memory = Memory::anonymous(args.size).context("cannot map memory")?;
    let pages = memory.pages();
    memory.words_of_mut(0..pages).fill(value(0));
    let mut time = std::time::Duration::ZERO;
    let before = stats(gpus)?;
    for round in 0..args.rounds {
        let gpu = &gpus[usize::from(round % 2 == 1)];
        let report = gpu.run(checksum(&memory))?;
        ensure!(
            report.value == expected(&memory, value(round)),
            "round {round}: a GPU does not read what the other one wrote"
        );
        time += report.time;
        let away = pagemap::away(&memory, 0..pages)?;
        ensure!(
            nearly(away as u64, pages as u64),
            "round {round}: only {away} of {pages} pages are on a GPU"
        );
        gpu.run(fill(&memory, value(round + 1)))?;
    }
    let after = stats(gpus)?;
    // What one has given, the other has taken: all but the first round's came from the other GPU.
    let units = (memory.len() / UNIT) as u64;
    let folios = if order == 9 { units } else { pages as u64 };
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        let index = usize::from(order);
        let came = after.sys_to_dev_folios[index] - before.sys_to_dev_folios[index];
        let rounds = (args.rounds + 1 - number as u64) / 2;
        ensure!(
            nearly(came, rounds * folios),
            "GPU {number} took {came} folios of order {order} in {rounds} rounds of {folios}"
        );
    }
    for page in 0..pages {
        let right = memory
            .words(page)
            .iter()
            .all(|&word| word == value(args.rounds));
        ensure!(right, "page {page}: the CPU does not read what a GPU wrote");
    }
    println!(
        "order {order}: {} MiB passed {} times between two GPUs, all right; {} on the GPUs",
        mib(args.size),
        args.rounds,
        ms(time)
    );
    Ok(())
}

/// Both read one memory and write another of their own at the same time.
fn both_at_once(gpus: &[Gpu], args: &Args) -> Result<()> {
    let mut shared = Memory::anonymous(args.size).context("cannot map memory")?;
    for page in 0..shared.pages() {
        pattern::fill(shared.words_mut(page), pattern::page_base(3, page));
    }
    let own: Vec<Memory> = gpus
        .iter()
        .map(|_| Memory::anonymous(args.size).context("cannot map memory"))
        .collect::<Result<_>>()?;
    let mut jobs: Vec<(usize, Job)> = Vec::new();
    for _ in 0..args.rounds {
        for (number, gpu) in gpus.iter().enumerate() {
            let copy = Command::Copy {
                dst: own[number].address() as u64,
                src: shared.address() as u64,
                bytes: args.size as u64,
            };
            jobs.push((number, gpu.submit(copy)?));
        }
    }
    for (number, job) in jobs {
        gpus[number].wait(job)?.complete()?;
    }
    for (number, memory) in own.iter().chain([&shared]).enumerate() {
        for page in 0..memory.pages() {
            let wrong = pattern::differing_bytes(memory.words(page), pattern::page_base(3, page));
            ensure!(
                wrong == 0,
                "copy {number}, page {page}: {wrong} bytes differ"
            );
        }
    }
    println!(
        "both at once: {} copies of the same {} MiB, all right",
        2 * args.rounds,
        mib(args.size)
    );
    Ok(())
}

/// All but a few: the kernel leaves a page where it is to which somebody else holds a reference at
/// that moment.
fn nearly(found: u64, wanted: u64) -> bool {
    found <= wanted && found * 16 >= wanted * 15
}

fn value(round: u64) -> u64 {
    pattern::mix(round + 100)
}

fn fill(memory: &Memory, pattern: u64) -> Command {
    Command::Fill {
        dst: memory.address() as u64,
        pattern,
        bytes: memory.len() as u64,
    }
}

fn checksum(memory: &Memory) -> Command {
    Command::Checksum {
        src: memory.address() as u64,
        words: (memory.len() / 8) as u64,
    }
}

fn expected(memory: &Memory, word: u64) -> u64 {
    reference::checksum(std::iter::repeat_n(word, memory.pages() * WORDS))
}

fn stats(gpus: &[Gpu]) -> Result<Vec<Stats>> {
    gpus.iter().map(|gpu| gpu.device().stats()).collect()
}
