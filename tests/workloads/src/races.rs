//! Threads of one process that use the same memory at the same time.
//!
//! One thread sends parts of the memory to the device and requests them home. The others each own
//! some of the parts, of 2 MiB: they drop the content of a whole part, write another one, and
//! compare. So a part's content is known at every moment, whatever the first thread does with it:
//! zero after it was dropped, else what was written last.
//!
//! A part is touched by the thread that drops it, and by no other. A touch that brings a device
//! folio home while another thread drops it meets a mistake of the kernel that no driver can
//! avoid; a request that does so is the driver's to get right.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hmmgpu_uapi::Migrate;
use rustix::io::Errno;
use serde::Serialize;

use crate::device::{self, Device, Outcome};
use crate::rng::Rng;
use crate::sys::memory::{Advice, Memory, UNIT, UNIT_PAGES};
use crate::{pattern, size, thp};

/// Drop, write and verify memory while another thread sends it to the device and requests it home.
///
/// A byte that differs ends the program with status 1.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-races")]
struct Args {
    /// Operations of each thread that writes.
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
    /// Threads that write.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// Memory of all threads together; what does not fit into VRAM is refused.
    #[arg(long, default_value = "48M", value_parser = size::parse)]
    memory: usize,
    /// Seed of each thread's sequence. How the threads meet is not repeated.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// The memory lies here, far from where the kernel puts mappings by itself.
const ARENA: usize = 0x2800_0000_0000;
/// One part of so many keeps to single pages.
const SMALL: usize = 4;
/// Parts of one request, at most.
const REQUEST: usize = 4;

/// What the threads did.
#[derive(Debug, Default, Serialize)]
struct Counts {
    /// Parts whose content was dropped.
    dropped: u64,
    /// Parts that were written.
    written: u64,
    /// Bytes compared.
    verified_bytes: u64,
    /// Bytes of them that were wrong.
    wrong_bytes: u64,
    /// Bytes that requests moved to the device.
    to_device_bytes: u64,
    /// Bytes that requests moved home.
    to_system_bytes: u64,
    /// Requests refused because VRAM or memory was full.
    refused: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.dropped += other.dropped;
        self.written += other.written;
        self.verified_bytes += other.verified_bytes;
        self.wrong_bytes += other.wrong_bytes;
        self.to_device_bytes += other.to_device_bytes;
        self.to_system_bytes += other.to_system_bytes;
        self.refused += other.refused;
    }
}

/// The line that the program ends with.
#[derive(Debug, Serialize)]
struct Summary {
    program: &'static str,
    seed: u64,
    writers: u32,
    memory_bytes: usize,
    seconds: f64,
    ok: bool,
    #[serde(flatten)]
    counts: Counts,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let writers = args.writers as usize;
    let parts = args.memory / UNIT;
    ensure!(
        parts >= writers,
        "{} bytes are too few: each of {writers} threads needs 2 MiB",
        args.memory
    );
    let begin = Instant::now();
    let controls = thp::Controls::take()?;
    controls.only(9)?;

    let mut threads: Vec<Writer> = (0..writers).map(|n| Writer::new(args.seed, n)).collect();
    for number in 0..parts {
        threads[number % writers].take(number)?;
    }
    let done = AtomicBool::new(false);
    let mut counts = Counts::default();
    let result = std::thread::scope(|scope| {
        let mover = scope.spawn(|| mover(&args.device, args.seed, parts, &done));
        let writers: Vec<_> = threads
            .iter_mut()
            .map(|writer| scope.spawn(|| writer.run(args.rounds)))
            .collect();
        let mut result = Ok(());
        for writer in writers {
            result = result.and(joined(writer.join()));
        }
        done.store(true, Ordering::Relaxed);
        joined(mover.join()).map(|moved| counts.add(&moved))?;
        result
    });
    for thread in &threads {
        counts.add(&thread.counts);
    }
    drop(controls);
    let ok = result.is_ok() && counts.wrong_bytes == 0;
    let summary = Summary {
        program: "hmmgpu-races",
        seed: args.seed,
        writers: args.writers,
        memory_bytes: parts * UNIT,
        seconds: begin.elapsed().as_secs_f64(),
        ok,
        counts,
    };
    println!("{}", serde_json::to_string(&summary)?);
    result?;
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A thread's result; that it panicked is told here, why was told by itself.
fn joined<T>(result: std::thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
}

/// Sends and requests home until the others are done.
fn mover(node: &Path, seed: u64, parts: usize, done: &AtomicBool) -> Result<Counts> {
    let device = Device::open(node)?;
    let mut rng = Rng::new(seed, u64::MAX);
    let mut counts = Counts::default();
    while !done.load(Ordering::Relaxed) {
        let request = any_request(&mut rng, parts);
        let outcome = device.to_device_raw(request);
        counts.to_device_bytes += outcome.moved;
        counts.refused += u64::from(refused(outcome, "MIGRATE_TO_DEVICE")?);
        // Mostly what has just been sent, so that little of it was touched in between.
        let request = if rng.one_in(4) {
            any_request(&mut rng, parts)
        } else {
            request
        };
        let outcome = device.to_system_raw(request);
        counts.to_system_bytes += outcome.moved;
        counts.refused += u64::from(refused(outcome, "MIGRATE_TO_SYSTEM")?);
    }
    Ok(counts)
}

fn any_request(rng: &mut Rng, parts: usize) -> Migrate {
    let first = rng.below(parts);
    let count = 1 + rng.below(REQUEST.min(parts - first));
    Migrate {
        addr: (ARENA + first * UNIT) as u64,
        size: (count * UNIT) as u64,
        ..Migrate::default()
    }
}

/// Full is a clean answer; anything else is a failure.
fn refused(outcome: Outcome, call: &str) -> Result<bool> {
    if matches!(outcome.error, Some(Errno::NOSPC | Errno::NOMEM)) {
        return Ok(true);
    }
    outcome.complete(call).map(|_| false)
}

/// 2 MiB with the content that they must have.
struct Part {
    number: usize,
    memory: Memory,
    /// Seed of the pattern; `None`: all zero.
    seed: Option<u64>,
}

/// A thread that writes.
struct Writer {
    number: usize,
    rng: Rng,
    parts: Vec<Part>,
    counts: Counts,
}

impl Writer {
    fn new(seed: u64, number: usize) -> Writer {
        Writer {
            number,
            rng: Rng::new(seed, number as u64),
            parts: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Makes a part its own.
    fn take(&mut self, number: usize) -> Result<()> {
        let mut memory = Memory::at(ARENA + number * UNIT, UNIT).context("cannot map memory")?;
        if number % SMALL == SMALL - 1 {
            memory
                .advise(0..UNIT_PAGES, Advice::NoHugePage)
                .context("MADV_NOHUGEPAGE")?;
        }
        self.parts.push(Part {
            number,
            memory,
            seed: None,
        });
        Ok(())
    }

    fn run(&mut self, rounds: u32) -> Result<()> {
        for round in 0..rounds {
            self.operation()
                .with_context(|| format!("thread {}, round {round}", self.number))?;
        }
        for part in &self.parts {
            verify(part, &mut self.counts).context("at the end")?;
        }
        Ok(())
    }

    fn operation(&mut self) -> Result<()> {
        let index = self.rng.below(self.parts.len());
        let part = &mut self.parts[index];
        match self.rng.below(8) {
            0 => verify(part, &mut self.counts)?,
            1 => {
                write(part, self.rng.next(), &mut self.counts);
                verify(part, &mut self.counts)?;
            }
            // Mostly without a look at what is dropped: it would bring the part home first.
            2 => {
                discard(part, &mut self.counts)?;
                verify(part, &mut self.counts)?;
            }
            3 => discard(part, &mut self.counts)?,
            _ => {
                discard(part, &mut self.counts)?;
                write(part, self.rng.next(), &mut self.counts);
            }
        }
        Ok(())
    }
}

fn discard(part: &mut Part, counts: &mut Counts) -> Result<()> {
    part.memory
        .advise(0..UNIT_PAGES, Advice::DontNeed)
        .context("MADV_DONTNEED")?;
    part.seed = None;
    counts.dropped += 1;
    Ok(())
}

fn write(part: &mut Part, seed: u64, counts: &mut Counts) {
    for page in 0..UNIT_PAGES {
        pattern::fill(part.memory.words_mut(page), pattern::page_base(seed, page));
    }
    part.seed = Some(seed);
    counts.written += 1;
}

fn verify(part: &Part, counts: &mut Counts) -> Result<()> {
    for page in 0..UNIT_PAGES {
        let words = part.memory.words(page);
        let wrong = match part.seed {
            Some(seed) => pattern::differing_bytes(words, pattern::page_base(seed, page)),
            None => pattern::nonzero_bytes(words),
        };
        counts.wrong_bytes += wrong;
        ensure!(
            wrong == 0,
            "part {}, page {page}: {wrong} bytes are not {}",
            part.number,
            if part.seed.is_some() {
                "what was written"
            } else {
                "zero, though it was dropped"
            }
        );
    }
    counts.verified_bytes += UNIT as u64;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a device, on the memory alone.
    #[test]
    fn wrong_data_is_found_in_what_was_written_and_in_what_was_dropped() {
        let mut writer = Writer::new(1, 0);
        for number in 0..2 {
            let memory = Memory::anonymous(UNIT).unwrap();
            writer.parts.push(Part {
                number,
                memory,
                seed: None,
            });
        }
        writer.run(50).unwrap();
        assert!(writer.counts.dropped > 0 && writer.counts.written > 0);
        assert_eq!(writer.counts.wrong_bytes, 0);

        let (part, counts) = (&mut writer.parts[0], &mut writer.counts);
        write(part, 7, counts);
        part.memory.words_mut(300)[5] ^= 0xff;
        let error = verify(part, counts).unwrap_err().to_string();
        assert!(error.contains("page 300: 1 bytes"), "{error}");
        discard(part, counts).unwrap();
        part.memory.words_mut(20)[0] = 1;
        let error = verify(part, counts).unwrap_err().to_string();
        assert!(error.contains("page 20: 1 bytes"), "{error}");
        assert_eq!(counts.wrong_bytes, 2);
    }

    #[test]
    fn requests_stay_within_the_memory() {
        let mut rng = Rng::new(1, 1);
        for parts in [1, 2, 24] {
            let end = (ARENA + parts * UNIT) as u64;
            for _ in 0..1000 {
                let request = any_request(&mut rng, parts);
                assert!(request.addr >= ARENA as u64 && request.size > 0);
                assert!(request.addr + request.size <= end);
            }
        }
    }
}
