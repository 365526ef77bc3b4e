//! The guest half of `hmmgpu bench`.
//!
//! A round of one source order:
//!
//! 1. Memory in folios of that order is made, unless the last round left it so (memory that was
//!    in single pages or in folios of 2 MiB comes home the same way; other orders do not), and
//!    filled with a pattern of this round. The share that really is of the order is read from
//!    the page frames.
//! 2. All of it goes to the device by request: one phase.
//! 3. One half comes home by request, then the other half by CPU touch: one phase each; then
//!    every byte of the half is compared. Which half comes home how alternates by round. One
//!    trip to the device serves both ways home, because at single pages the trips are what the
//!    time is spent on.
//!
//! Each phase lies in a telemetry window of its own, named by its cookie; filling and comparing
//! lie outside. The first round is a warm-up: of full size for the first order (it also
//! makes the host populate the memory), of one call for the others.

use std::ffi::OsString;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hmmgpu_guest_protocol::bench::{BenchEvent, BenchPlan, Direction, Phase, Trigger};

use crate::device::Device;
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES, WORDS};
use crate::{pagemap, pattern, thp};

/// Measure migration as a plan says and print events, one JSON object a line.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-bench-guest")]
struct Args {
    /// The plan: {"device":"/dev/hmmgpu0","size_bytes":..,"orders":[..],"repeats":..,"call_bytes":..}
    #[arg(value_name = "PLAN_JSON")]
    plan: String,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let plan: BenchPlan = serde_json::from_str(&args.plan).context("the plan cannot be read")?;
    let sizes = Sizes::of(&plan)?;
    let device = Device::open(Path::new(&plan.device))?;
    let vram = device.query()?;
    ensure!(
        vram.vram_free_bytes >= plan.size_bytes,
        "{} bytes do not fit into the {} bytes of VRAM that are free: choose a smaller size or more VRAM",
        plan.size_bytes,
        vram.vram_free_bytes
    );
    let mut bench = Bench {
        device,
        controls: thp::Controls::take()?,
        sizes,
        next_cookie: 1,
        done: 0,
        total: u32::try_from(plan.orders.len()).unwrap_or(u32::MAX)
            * plan.repeats.saturating_add(1)
            * PHASES,
        clean: true,
    };
    for (index, &order) in plan.orders.iter().enumerate() {
        bench.order(order, index == 0, plan.repeats)?;
    }
    emit(&BenchEvent::Done)?;
    Ok(if bench.clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Phases of a round.
const PHASES: u32 = 3;

/// Sizes of the plan in pages.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    round: usize,
    call: usize,
}

impl Sizes {
    fn of(plan: &BenchPlan) -> Result<Sizes> {
        for &order in &plan.orders {
            ensure!(
                order == 0 || (2..=9).contains(&order),
                "order {order}: anonymous memory has folios of order 0 and 2 to 9"
            );
        }
        let unit = UNIT as u64;
        ensure!(
            plan.size_bytes >= 2 * unit && plan.size_bytes.is_multiple_of(unit),
            "size_bytes {}: a multiple of 2 MiB, at least 4 MiB, is needed",
            plan.size_bytes
        );
        ensure!(
            plan.call_bytes >= unit && plan.call_bytes.is_multiple_of(unit),
            "call_bytes {}: a multiple of 2 MiB is needed",
            plan.call_bytes
        );
        ensure!(plan.repeats > 0, "repeats is 0: nothing to measure");
        let pages = |bytes: u64| usize::try_from(bytes).map(|bytes| bytes / PAGE);
        let round = pages(plan.size_bytes).context("size_bytes is too large")?;
        let call = pages(plan.call_bytes).unwrap_or(round).min(round);
        Ok(Sizes { round, call })
    }
}

struct Bench {
    device: Device,
    controls: thp::Controls,
    sizes: Sizes,
    next_cookie: u64,
    done: u32,
    total: u32,
    clean: bool,
}

/// Memory of a round, ready to go.
struct Source {
    memory: Memory,
    share: f64,
    seed: u64,
}

/// What one window measured.
#[derive(Default)]
struct Measured {
    mark: u64,
    moved: u64,
    guest_ns: u64,
    calls: u64,
    splits: u64,
}

/// Which phase of which round a measurement belongs to.
struct Label {
    order: u8,
    repeat: u32,
    warm_up: bool,
    direction: Direction,
    trigger: Trigger,
}

impl Bench {
    fn order(&mut self, order: u8, first: bool, repeats: u32) -> Result<()> {
        if !thp::available(order) {
            self.done += (repeats + 1) * PHASES;
            return emit(&BenchEvent::Skipped {
                source_order: order,
                reason: format!("this kernel has no anonymous folios of order {order}"),
            });
        }
        self.controls.only(order)?;
        let small = self.sizes.call.max(2 * UNIT_PAGES).min(self.sizes.round);
        let warm_up = if first { self.sizes.round } else { small };
        self.round(order, 0, true, warm_up, None)?;
        let mut memory = None;
        for repeat in 0..repeats {
            memory = Some(self.round(order, repeat, false, self.sizes.round, memory)?);
        }
        Ok(())
    }

    fn round(
        &mut self,
        order: u8,
        repeat: u32,
        warm_up: bool,
        pages: usize,
        memory: Option<Memory>,
    ) -> Result<Memory> {
        self.progress(order, repeat, warm_up)?;
        let source = self.prepare(order, pages, memory)?;
        let half = pages / 2 / UNIT_PAGES * UNIT_PAGES;
        let (lower, upper) = (0..half, half..pages);
        let (requested, touched) = if repeat.is_multiple_of(2) {
            (lower.clone(), upper.clone())
        } else {
            (upper.clone(), lower.clone())
        };

        // Split at the half as well, so that the bytes of each half are known.
        let calls = self.calls(&lower).chain(self.calls(&upper));
        let mut moved = Vec::new();
        let mut there = self.window(order, calls, |device, range| {
            let outcome = device.to_device(&source.memory, range.clone());
            let outcome = outcome.complete("MIGRATE_TO_DEVICE")?;
            moved.push((range.start, outcome.moved));
            Ok(outcome.moved)
        })?;
        there.calls = moved.len() as u64;

        let mut by_request = self.window(order, self.calls(&requested), |device, range| {
            let outcome = device.to_system(&source.memory, range);
            Ok(outcome.complete("MIGRATE_TO_SYSTEM")?.moved)
        })?;
        by_request.calls = self.calls(&requested).count() as u64;
        let wrong_requested = mismatches(&source, &requested);

        let mut by_touch = self.window(order, std::iter::once(touched.clone()), |_, range| {
            for page in range {
                source.memory.touch(page);
            }
            Ok(0)
        })?;
        let mine = |&&(start, _): &&(usize, u64)| touched.contains(&start);
        by_touch.moved = moved.iter().filter(mine).map(|(_, moved)| moved).sum();
        by_touch.calls = (if order == 9 {
            touched.len() / UNIT_PAGES
        } else {
            touched.len()
        }) as u64;
        let wrong_touched = mismatches(&source, &touched);

        let label = |direction, trigger| Label {
            order,
            repeat,
            warm_up,
            direction,
            trigger,
        };
        let share = source.share;
        self.phase(
            label(Direction::SysToDev, Trigger::Prefetch),
            &there,
            pages,
            share,
            wrong_requested + wrong_touched,
        )?;
        self.phase(
            label(Direction::DevToSys, Trigger::Prefetch),
            &by_request,
            requested.len(),
            share,
            wrong_requested,
        )?;
        self.phase(
            label(Direction::DevToSys, Trigger::CpuFault),
            &by_touch,
            touched.len(),
            share,
            wrong_touched,
        )?;
        Ok(source.memory)
    }

    /// Memory backed by folios of `order`, filled with a pattern that was never used before.
    fn prepare(&mut self, order: u8, pages: usize, memory: Option<Memory>) -> Result<Source> {
        let seed = pattern::mix(self.next_cookie);
        // Home again, folios of the orders in between are single pages; the others may be, too,
        // if memory was short.
        let kept = match memory {
            Some(memory) if order == 0 || order == 9 => {
                let share = pagemap::share_of_order(&memory, 0..pages, order)?;
                (share == 1.0).then_some((memory, share))
            }
            _ => None,
        };
        let (mut memory, share) = match kept {
            Some(kept) => kept,
            None => {
                let memory =
                    Memory::anonymous(pages * PAGE).context("cannot map the source memory")?;
                in_parts(&(0..pages), |part| memory.populate(part))
                    .into_iter()
                    .collect::<std::io::Result<()>>()
                    .context("cannot allocate the source memory: give the guest more memory")?;
                let share = pagemap::share_of_order(&memory, 0..pages, order)?;
                (memory, share)
            }
        };
        fill(&mut memory, seed);
        Ok(Source {
            memory,
            share,
            seed,
        })
    }

    /// The ranges of the calls that cover `pages`.
    fn calls(&self, pages: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let (call, end) = (self.sizes.call, pages.end);
        pages
            .clone()
            .step_by(call)
            .map(move |start| start..(start + call).min(end))
    }

    /// Makes calls in a telemetry window of their own.
    fn window(
        &mut self,
        order: u8,
        calls: impl Iterator<Item = Range<usize>>,
        mut call: impl FnMut(&Device, Range<usize>) -> Result<u64>,
    ) -> Result<Measured> {
        let mark = self.next_cookie;
        self.next_cookie += 1;
        let splits = thp::splits(order);
        let mut measured = Measured {
            mark,
            ..Measured::default()
        };
        self.device.mark(mark)?;
        for range in calls {
            let begin = Instant::now();
            let moved = call(&self.device, range)?;
            let elapsed = begin.elapsed().as_nanos();
            measured.guest_ns += u64::try_from(elapsed).unwrap_or(u64::MAX);
            measured.moved += moved;
        }
        self.device.mark(0)?;
        measured.splits = thp::splits(order).saturating_sub(splits);
        Ok(measured)
    }

    fn phase(
        &mut self,
        label: Label,
        measured: &Measured,
        pages: usize,
        source_share: f64,
        mismatched_bytes: u64,
    ) -> Result<()> {
        self.done += 1;
        self.clean &= mismatched_bytes == 0;
        emit(&BenchEvent::Phase(Phase {
            mark: measured.mark,
            source_order: label.order,
            repeat: label.repeat,
            warm_up: label.warm_up,
            direction: label.direction,
            trigger: label.trigger,
            bytes: (pages * PAGE) as u64,
            moved_bytes: measured.moved,
            source_share,
            source_splits: measured.splits,
            guest_ns: measured.guest_ns,
            calls: measured.calls,
            verified: mismatched_bytes == 0,
            mismatched_bytes,
        }))
    }

    fn progress(&self, order: u8, repeat: u32, warm_up: bool) -> Result<()> {
        let what = if warm_up {
            format!("order {order}, warming up")
        } else {
            format!("order {order}, round {}", repeat + 1)
        };
        emit(&BenchEvent::Progress {
            done: self.done,
            total: self.total,
            what,
        })
    }
}

/// Writes the pattern to all of `memory`.
fn fill(memory: &mut Memory, seed: u64) {
    let pages = memory.pages();
    let part = part_of(pages);
    let words = memory.words_of_mut(0..pages);
    std::thread::scope(|scope| {
        for (index, words) in words.chunks_mut(part * WORDS).enumerate() {
            scope.spawn(move || {
                for (page, words) in (index * part..).zip(words.chunks_exact_mut(WORDS)) {
                    pattern::fill(words, pattern::page_base(seed, page));
                }
            });
        }
    });
}

/// Bytes of these pages that are not what was written.
fn mismatches(source: &Source, pages: &Range<usize>) -> u64 {
    let differing = |page| {
        let base = pattern::page_base(source.seed, page);
        pattern::differing_bytes(source.memory.words(page), base)
    };
    in_parts(pages, |part| part.map(differing).sum::<u64>())
        .into_iter()
        .sum()
}

/// Does `work` on parts of `pages`, one for each processor, at the same time. Only for what is
/// not measured: migrations are asked for, and pages touched, by one thread.
fn in_parts<T: Send>(pages: &Range<usize>, work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let part = part_of(pages.len());
    std::thread::scope(|scope| {
        let parts: Vec<_> = pages
            .clone()
            .step_by(part)
            .map(|start| {
                let (work, end) = (&work, pages.end.min(start + part));
                scope.spawn(move || work(start..end))
            })
            .collect();
        parts
            .into_iter()
            .map(|part| match part.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// Pages of a processor's part: whole units, so that no two threads share a folio.
fn part_of(pages: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    pages.div_ceil(processors).next_multiple_of(UNIT_PAGES)
}

fn emit(event: &BenchEvent) -> Result<()> {
    let mut line = serde_json::to_string(event)?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush())
        .context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> BenchPlan {
        BenchPlan {
            device: "/dev/hmmgpu0".into(),
            size_bytes: 32 << 20,
            orders: vec![0, 2, 9],
            repeats: 2,
            call_bytes: 4 << 20,
        }
    }

    #[test]
    fn plans_are_checked() {
        assert!(Sizes::of(&plan()).is_ok());
        let bad = [
            BenchPlan {
                size_bytes: 2 << 20,
                ..plan()
            },
            BenchPlan {
                size_bytes: (32 << 20) + 4096,
                ..plan()
            },
            BenchPlan {
                call_bytes: 4096,
                ..plan()
            },
            BenchPlan {
                call_bytes: 0,
                ..plan()
            },
            BenchPlan {
                orders: vec![1],
                ..plan()
            },
            BenchPlan {
                orders: vec![10],
                ..plan()
            },
            BenchPlan {
                repeats: 0,
                ..plan()
            },
        ];
        for plan in bad {
            assert!(Sizes::of(&plan).is_err(), "{plan:?}");
        }
    }

    #[test]
    fn a_wrong_byte_is_seen() -> Result<()> {
        let mut memory = Memory::anonymous(2 * UNIT)?;
        fill(&mut memory, 9);
        memory.bytes_mut(700)[4095] ^= 1;
        let source = Source {
            memory,
            share: 1.0,
            seed: 9,
        };
        assert_eq!(mismatches(&source, &(0..1024)), 1);
        assert_eq!(mismatches(&source, &(0..700)), 0);
        Ok(())
    }
}
