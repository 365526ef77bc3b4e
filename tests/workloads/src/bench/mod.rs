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
//! copies nothing. What is in the memory then is of no use, and not compared. Where the plan wants
//! upstream's `test_hmm`, it does the same with the same memory after that; every byte is compared.
//!
//! At the end the driver's counters are told, for the host to compare with its own.
//!
//! Each phase lies in a telemetry window of its own, named by its cookie; filling and comparing
//! lie outside. The first round of a source is a warm-up: of full size where no source before
//! was as large (the host populates the memory then), of one call else.

mod content;
mod floor;
mod mover;
mod test_hmm;

use std::ffi::OsString;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hmmgpu_guest_protocol::bench::{BenchEvent, BenchPlan, Direction, Phase, Subject, Trigger};

use self::content::{Data, Filled, fill, in_parts};
use self::mover::{Mover, subjects};
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
    first_migration(&device)?;
    if plan.wait {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
            .context("cannot wait for the host")?;
    }
    if let Some(module) = &plan.test_hmm {
        test_hmm::load(module)?;
    }
    let rounds: usize = plan
        .sources
        .iter()
        .map(|source| subjects(&plan, source.order).len())
        .sum();
    let mut bench = Bench {
        device: Rc::new(device),
        controls: thp::Controls::take()?,
        call: pages_of(plan.call_bytes)?,
        next_cookie: 1,
        done: 0,
        total: u32::try_from(rounds).unwrap_or(u32::MAX) * plan.repeats.saturating_add(1) * PHASES,
        clean: true,
    };
    let mut largest = 0;
    for source in &plan.sources {
        let pages = pages_of(source.size_bytes)?;
        let warm_up = if pages > largest { pages } else { bench.call };
        largest = largest.max(pages);
        let rounds = Rounds {
            order: source.order,
            pages,
            warm_up: warm_up.min(pages),
            repeats: plan.repeats,
        };
        bench.source(&rounds, &subjects(&plan, source.order))?;
    }
    bench.counters()?;
    emit(&BenchEvent::Done)?;
    Ok(if bench.clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Takes 2 MiB to the device and home, and tells when that was done.
fn first_migration(device: &Device) -> Result<()> {
    let mut memory = Memory::anonymous(UNIT).context("cannot map 2 MiB")?;
    let seed = pattern::mix(u64::MAX);
    fill(&mut memory, seed);
    let pages = 0..UNIT_PAGES;
    let there = device.to_device(&memory, pages.clone());
    there.complete("MIGRATE_TO_DEVICE")?;
    let back = device.to_system(&memory, pages);
    back.complete("MIGRATE_TO_SYSTEM")?;
    let text = std::fs::read_to_string("/proc/uptime").context("cannot read /proc/uptime")?;
    let data = Data::compare(Subject::Driver, &Filled { memory, seed });
    ensure!(
        data.verified,
        "{} bytes of the first 2 MiB came home wrong",
        data.mismatched_bytes
    );
    let uptime = text.split(' ').next().unwrap_or_default();
    emit(&BenchEvent::FirstMigration {
        uptime: uptime.parse().context("/proc/uptime")?,
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
    device: Rc<Device>,
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

/// The rounds of a source.
struct Rounds {
    order: u8,
    pages: usize,
    /// Pages of the first round, which is not counted.
    warm_up: usize,
    repeats: u32,
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

impl Bench {
    fn source(&mut self, rounds: &Rounds, subjects: &[Subject]) -> Result<()> {
        let Rounds {
            order,
            pages,
            repeats,
            ..
        } = *rounds;
        if !thp::available(order) {
            self.done += (repeats + 1) * PHASES * u32::try_from(subjects.len())?;
            return emit(&BenchEvent::Skipped {
                source_order: order,
                reason: format!("this kernel has no anonymous folios of order {order}"),
            });
        }
        self.controls.only(order)?;
        for &subject in subjects {
            // The first round of test_hmm at an order makes its device memory for that order.
            let pages = match subject {
                Subject::Driver | Subject::Floor => rounds.warm_up,
                Subject::TestHmm => pages,
            };
            let round = Round {
                subject,
                order,
                repeat: 0,
                warm_up: true,
                pages,
            };
            self.round(round, None)?;
        }
        let mut memory = None;
        for repeat in 0..repeats {
            for &subject in subjects {
                let round = Round {
                    subject,
                    order,
                    repeat,
                    warm_up: false,
                    pages,
                };
                memory = Some(self.round(round, memory)?);
            }
        }
        Ok(())
    }

    fn round(&mut self, round: Round, memory: Option<Memory>) -> Result<Memory> {
        let Round { order, pages, .. } = round;
        self.progress(round)?;
        let (memory, share) = Self::prepare(order, pages, memory)?;
        let label = |direction, trigger| Label {
            round,
            direction,
            trigger,
            share,
        };

        let filled = self.fill(memory);
        let calls = self.calls(pages);
        let device = Rc::clone(&self.device);
        let mut mover = Mover::begin(round.subject, &device, self.call)?;
        let there = self.window(round, calls.clone(), |range| {
            mover.send(&filled.memory, range)
        })?;
        let back = self.window(round, calls.clone(), |range| {
            mover.bring_home(&filled.memory, range, order)
        })?;
        let data = Data::compare(round.subject, &filled);
        let request = |direction| label(direction, Trigger::Prefetch);
        self.phase(&request(Direction::SysToDev), &there, data)?;
        self.phase(&request(Direction::DevToSys), &back, data)?;

        let filled = self.fill(filled.memory);
        let mut there_again = 0;
        for range in calls {
            there_again += mover.send_all(&filled.memory, range)?;
        }
        let mut touched = self.window(round, std::iter::once(0..pages), |range| {
            for page in range {
                filled.memory.touch(page);
            }
            Ok(0)
        })?;
        mover.end()?;
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

    /// Makes calls in a telemetry window of their own, if the device has a part in them.
    fn window(
        &mut self,
        round: Round,
        calls: impl Iterator<Item = Range<usize>>,
        mut call: impl FnMut(Range<usize>) -> Result<u64>,
    ) -> Result<Measured> {
        let on_device = round.subject != Subject::TestHmm;
        let mut measured = Measured::default();
        let splits = thp::splits(round.order);
        // The next pattern is made of it, so nobody shares one.
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut doorbells = 0;
        if on_device {
            measured.mark = cookie;
            self.device.mark(cookie)?;
            doorbells = self.device.stats()?.doorbells;
        }
        for range in calls {
            let begin = Instant::now();
            let moved = call(range)?;
            let elapsed = begin.elapsed().as_nanos();
            measured.guest_ns += u64::try_from(elapsed).unwrap_or(u64::MAX);
            measured.moved += moved;
            measured.calls += 1;
        }
        if on_device {
            measured.doorbells = self.device.stats()?.doorbells - doorbells;
            self.device.mark(0)?;
        }
        measured.splits = thp::splits(round.order).saturating_sub(splits);
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
            Subject::TestHmm => ", test_hmm",
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
            wait: false,
            floor: false,
            test_hmm: None,
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
