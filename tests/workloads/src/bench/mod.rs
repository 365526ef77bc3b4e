//! The guest half of `hmmgpu bench`.
//!
//! A round of one source order is two trips, each with a pattern of its own:
//!
//! 1. Memory in folios of that order is made, unless the last round left it so (memory that was
//!    in single pages or in folios of 2 MiB comes home the same way; other orders do not), and
//!    filled. The share that really is of the order is read from the page frames. It goes to the
//!    device by request, and comes home by request: one phase each. Every byte is compared.
//! 2. The same memory is filled anew, goes to the device once more (not measured: it may be
//!    single pages by now), and comes home by CPU touch: one phase. Every byte is compared.
//!
//! Where the plan wants the floor, the same is done once more after each round, with a driver that
//! copies nothing. What is in the memory then is of no use, and not compared.
//!
//! At the end the driver's counters are told, for the host to compare with its own.
//!
//! Each phase lies in a telemetry window of its own, named by its cookie; filling and comparing
//! lie outside. The first round of a source is a warm-up: of full size where no source before
//! was as large (the host populates the memory then), of one call else.

mod content;
mod floor;

use std::ffi::OsString;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hmmgpu_guest_protocol::bench::{BenchEvent, BenchPlan, Direction, Phase, Subject, Trigger};

use self::content::{Filled, fill, in_parts, mismatches};
use self::floor::Floor;
use crate::counters;
use crate::device::Device;
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES};
use crate::{pagemap, pattern, thp};

/// Measure migration as a plan says and print events, one JSON object a line.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-bench-guest")]
struct Args {
    /// The plan: {"device":"/dev/hmmgpu0","sources":[{"order":..,"size_bytes":..}],"repeats":..,"call_bytes":..}
    #[arg(value_name = "PLAN_JSON")]
    plan: String,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let plan: BenchPlan = serde_json::from_str(&args.plan).context("the plan cannot be read")?;
    check(&plan)?;
    let device = Device::open(Path::new(&plan.device))?;
    let vram = device.query()?;
    let largest = plan.sources.iter().map(|source| source.size_bytes).max();
    let largest = largest.unwrap_or(0);
    ensure!(
        vram.vram_free_bytes >= largest,
        "{largest} bytes do not fit into the {} bytes of VRAM that are free: choose a smaller size or more VRAM",
        vram.vram_free_bytes
    );
    let subjects: Vec<Subject> = [(true, Subject::Driver), (plan.floor, Subject::Floor)]
        .into_iter()
        .filter_map(|(wanted, subject)| wanted.then_some(subject))
        .collect();
    let mut bench = Bench {
        device,
        controls: thp::Controls::take()?,
        call: pages_of(plan.call_bytes)?,
        next_cookie: 1,
        done: 0,
        total: u32::try_from(plan.sources.len()).unwrap_or(u32::MAX)
            * plan.repeats.saturating_add(1)
            * u32::try_from(subjects.len()).unwrap_or(1)
            * PHASES,
        subjects,
        clean: true,
    };
    let mut largest = 0;
    for source in &plan.sources {
        let pages = pages_of(source.size_bytes)?;
        let warm_up = if pages > largest { pages } else { bench.call };
        largest = largest.max(pages);
        bench.source(source.order, pages, warm_up.min(pages), plan.repeats)?;
    }
    bench.counters()?;
    emit(&BenchEvent::Done)?;
    Ok(if bench.clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Phases of a round.
const PHASES: u32 = 3;

/// Refuses a plan that cannot be carried out.
fn check(plan: &BenchPlan) -> Result<()> {
    let unit = UNIT as u64;
    for source in &plan.sources {
        let (order, size) = (source.order, source.size_bytes);
        ensure!(
            order == 0 || (2..=9).contains(&order),
            "order {order}: anonymous memory has folios of order 0 and 2 to 9"
        );
        ensure!(
            size >= unit && size.is_multiple_of(unit),
            "size_bytes {size}: a multiple of 2 MiB is needed"
        );
    }
    ensure!(
        plan.call_bytes >= unit && plan.call_bytes.is_multiple_of(unit),
        "call_bytes {}: a multiple of 2 MiB is needed",
        plan.call_bytes
    );
    ensure!(plan.repeats > 0, "repeats is 0: nothing to measure");
    Ok(())
}

fn pages_of(bytes: u64) -> Result<usize> {
    let bytes = usize::try_from(bytes).context("a size of the plan is too large")?;
    Ok(bytes / PAGE)
}

struct Bench {
    device: Device,
    /// Who is measured, by turns.
    subjects: Vec<Subject>,
    controls: thp::Controls,
    /// Pages of a migration request.
    call: usize,
    next_cookie: u64,
    done: u32,
    total: u32,
    clean: bool,
}

/// What one window measured.
#[derive(Default)]
struct Measured {
    mark: u64,
    moved: u64,
    guest_ns: u64,
    calls: u64,
    splits: u64,
    doorbells: u64,
}

/// A round of a subject.
#[derive(Clone, Copy)]
struct Round {
    subject: Subject,
    order: u8,
    repeat: u32,
    warm_up: bool,
    pages: usize,
}

/// Which phase of which round a measurement belongs to.
struct Label {
    round: Round,
    direction: Direction,
    trigger: Trigger,
    share: f64,
}

/// What is known of the data after a trip.
#[derive(Clone, Copy)]
struct Data {
    verified: bool,
    mismatched_bytes: u64,
}

impl Data {
    /// Without copies there is nothing to compare.
    fn compare(subject: Subject, filled: &Filled) -> Data {
        if subject == Subject::Floor {
            return Data {
                verified: false,
                mismatched_bytes: 0,
            };
        }
        let mismatched_bytes = mismatches(filled);
        Data {
            verified: mismatched_bytes == 0,
            mismatched_bytes,
        }
    }
}

impl Bench {
    fn source(&mut self, order: u8, pages: usize, warm_up: usize, repeats: u32) -> Result<()> {
        if !thp::available(order) {
            self.done += (repeats + 1) * PHASES * u32::try_from(self.subjects.len())?;
            return emit(&BenchEvent::Skipped {
                source_order: order,
                reason: format!("this kernel has no anonymous folios of order {order}"),
            });
        }
        self.controls.only(order)?;
        let round = |subject| Round {
            subject,
            order,
            repeat: 0,
            warm_up: true,
            pages: warm_up,
        };
        let mut memory = None;
        for subject in self.subjects.clone() {
            memory = Some(self.round(round(subject), memory)?);
        }
        // The warm-up's may be smaller.
        memory = None;
        for repeat in 0..repeats {
            for subject in self.subjects.clone() {
                let round = Round {
                    repeat,
                    warm_up: false,
                    pages,
                    ..round(subject)
                };
                memory = Some(self.round(round, memory)?);
            }
        }
        Ok(())
    }

    fn round(&mut self, round: Round, memory: Option<Memory>) -> Result<Memory> {
        self.progress(round)?;
        let (memory, share) = Self::prepare(round.order, round.pages, memory)?;
        let floor = match round.subject {
            Subject::Driver => None,
            Subject::Floor => Some(Floor::set()?),
        };
        let memory = self.trips(round, share, memory)?;
        floor.map_or(Ok(()), Floor::clear)?;
        Ok(memory)
    }

    fn trips(&mut self, round: Round, share: f64, memory: Memory) -> Result<Memory> {
        let Round { order, pages, .. } = round;
        let label = |direction, trigger| Label {
            round,
            direction,
            trigger,
            share,
        };

        let filled = self.fill(memory);
        let calls = self.calls(pages);
        let there = self.window(order, calls.clone(), |device, range| {
            let outcome = device.to_device(&filled.memory, range);
            Ok(outcome.complete("MIGRATE_TO_DEVICE")?.moved)
        })?;
        let back = self.window(order, calls.clone(), |device, range| {
            let outcome = device.to_system(&filled.memory, range);
            Ok(outcome.complete("MIGRATE_TO_SYSTEM")?.moved)
        })?;
        let data = Data::compare(round.subject, &filled);
        let request = |direction| label(direction, Trigger::Prefetch);
        self.phase(&request(Direction::SysToDev), &there, data)?;
        self.phase(&request(Direction::DevToSys), &back, data)?;

        let filled = self.fill(filled.memory);
        let mut there_again = 0;
        for range in calls {
            let outcome = self.device.to_device(&filled.memory, range);
            there_again += outcome.complete("MIGRATE_TO_DEVICE")?.moved;
        }
        let mut touched = self.window(order, std::iter::once(0..pages), |_, range| {
            for page in range {
                filled.memory.touch(page);
            }
            Ok(0)
        })?;
        touched.moved = there_again;
        touched.calls = (if order == 9 {
            pages / UNIT_PAGES
        } else {
            pages
        }) as u64;
        let data = Data::compare(round.subject, &filled);
        let by_touch = label(Direction::DevToSys, Trigger::CpuFault);
        self.phase(&by_touch, &touched, data)?;
        Ok(filled.memory)
    }

    /// What the driver has counted. All memory is gone, and the mark takes the last notes about it
    /// to the device and waits until they were there: nothing is under way any more.
    fn counters(&self) -> Result<()> {
        self.device.mark(0)?;
        let counters = counters::named(&self.device.query()?, &self.device.stats()?);
        emit(&BenchEvent::Counters { counters })
    }

    /// Memory backed by folios of `order`, and the share of it that really is.
    fn prepare(order: u8, pages: usize, memory: Option<Memory>) -> Result<(Memory, f64)> {
        // Home again, folios of the orders in between are single pages; the others may be, too,
        // if memory was short.
        if let Some(memory) = memory.filter(|_| order == 0 || order == 9) {
            let share = pagemap::share_of_order(&memory, 0..pages, order)?;
            if share == 1.0 {
                return Ok((memory, share));
            }
        }
        let memory = Memory::anonymous(pages * PAGE).context("cannot map the source memory")?;
        in_parts(pages, |part| memory.populate(part))
            .into_iter()
            .collect::<std::io::Result<()>>()
            .context("cannot allocate the source memory: give the guest more memory")?;
        let share = pagemap::share_of_order(&memory, 0..pages, order)?;
        Ok((memory, share))
    }

    /// Fills memory with a pattern that was never used before.
    fn fill(&self, mut memory: Memory) -> Filled {
        let seed = pattern::mix(self.next_cookie);
        fill(&mut memory, seed);
        Filled { memory, seed }
    }

    /// The ranges of the calls that cover all pages.
    fn calls(&self, pages: usize) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let call = self.call;
        (0..pages)
            .step_by(call)
            .map(move |start| start..(start + call).min(pages))
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
        let doorbells = self.device.stats()?.doorbells;
        for range in calls {
            let begin = Instant::now();
            let moved = call(&self.device, range)?;
            let elapsed = begin.elapsed().as_nanos();
            measured.guest_ns += u64::try_from(elapsed).unwrap_or(u64::MAX);
            measured.moved += moved;
            measured.calls += 1;
        }
        measured.doorbells = self.device.stats()?.doorbells - doorbells;
        self.device.mark(0)?;
        measured.splits = thp::splits(order).saturating_sub(splits);
        Ok(measured)
    }

    fn phase(&mut self, label: &Label, measured: &Measured, data: Data) -> Result<()> {
        let round = label.round;
        self.done += 1;
        self.clean &= data.mismatched_bytes == 0;
        emit(&BenchEvent::Phase(Phase {
            subject: round.subject,
            mark: measured.mark,
            source_order: round.order,
            repeat: round.repeat,
            warm_up: round.warm_up,
            direction: label.direction,
            trigger: label.trigger,
            bytes: (round.pages * PAGE) as u64,
            moved_bytes: measured.moved,
            source_share: label.share,
            source_splits: measured.splits,
            guest_ns: measured.guest_ns,
            calls: measured.calls,
            doorbells: measured.doorbells,
            verified: data.verified,
            mismatched_bytes: data.mismatched_bytes,
        }))
    }

    fn progress(&self, round: Round) -> Result<()> {
        let what = if round.warm_up {
            "warming up".to_owned()
        } else {
            format!("round {}", round.repeat + 1)
        };
        let subject = match round.subject {
            Subject::Driver => "",
            Subject::Floor => ", copying nothing",
        };
        emit(&BenchEvent::Progress {
            done: self.done,
            total: self.total,
            what: format!("order {}, {what}{subject}", round.order),
        })
    }
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
    use hmmgpu_guest_protocol::bench::Source;

    fn plan() -> BenchPlan {
        let source = |order| Source {
            order,
            size_bytes: 32 << 20,
        };
        BenchPlan {
            device: "/dev/hmmgpu0".into(),
            sources: [0, 2, 9].map(source).into(),
            repeats: 2,
            call_bytes: 4 << 20,
            floor: false,
        }
    }

    #[test]
    fn plans_are_checked() {
        assert!(check(&plan()).is_ok());
        let refused = |change: fn(&mut BenchPlan)| {
            let mut plan = plan();
            change(&mut plan);
            assert!(check(&plan).is_err(), "{plan:?}");
        };
        refused(|plan| plan.sources[1].size_bytes = 0);
        refused(|plan| plan.sources[1].size_bytes += 4096);
        refused(|plan| plan.sources[0].order = 1);
        refused(|plan| plan.sources[0].order = 10);
        refused(|plan| plan.call_bytes = 4096);
        refused(|plan| plan.call_bytes = 0);
        refused(|plan| plan.repeats = 0);
    }
}
