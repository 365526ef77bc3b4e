//! What counting costs: pages of 4 KiB that the copy engine moves, with counting and without.
//!
//! The checker of VRAM is counting's largest part and has rows of its own: what is checked by default
//! is the row that a user pays, and with poison the engine works twice on what is freed.
//!
//! Two devices that differ in nothing else take turns; the same with two that do not differ at all
//! shows what the measurement itself can tell. A turn is a full ring of migrations as a
//! driver sends them: a span with its process, one note of the allocation, 512 pages with a
//! descriptor each, the phases, the end. That is the worst case: a driver that puts pages which
//! follow each other into one descriptor has fewer. The time is the engine's own, from a fence
//! before the turn to one after it. Nothing but the engine takes part, so the quotient is what
//! counting costs at the engine's limit; a guest takes ten times as long for a page.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::ensure;
use hmmgpu_bench_support::{Options, Pair, Row, Table, Target, median, take_turns};
use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::{Desc, NOTE_ALLOC, NOTE_FREE};
use hmmgpu_contract::queue::FenceRecord;
use hmmgpu_model::mock::descriptors::{
    Side, copy, fence, note, of_process, phases, span_begin, span_end,
};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Counting, Device};
use hmmgpu_telemetry::CheckMode;

const MIB: u64 = 1 << 20;
/// Far more than the caches hold.
const DATA: u64 = 64 * MIB;
const SPAN_PAGES: u32 = 512;
const SPANS: u64 = 16;
const PAGES: u64 = SPANS * SPAN_PAGES as u64;
/// Pairs of rounds, and turns of a round.
const PAIRS: usize = 12;
const TURNS: usize = 12;
const WARM_UP: usize = 3;

/// What a device counts and checks.
type Told = (Counting, CheckMode);

const NOTHING: Told = (Counting::Off, CheckMode::Off);

struct Rig {
    driver: Driver<Arc<Device>>,
    turns: u64,
}

fn device((counting, check): Told) -> anyhow::Result<Rig> {
    let config = Config {
        vram_bytes: DATA,
        counting,
        check,
        ..Config::default()
    };
    let device = Arc::new(Device::new(config)?);
    let ram = GuestRam::new(1 << 32, usize::try_from(DATA + 4 * MIB)?)?;
    let queue = QueueConfig {
        ring_log2: 14,
        ..QueueConfig::default()
    };
    let mut driver = Driver::new(device, ram, queue)?;
    // Memory is there before anything is measured.
    let from = driver.data();
    let all = u32::try_from(DATA / PAGE_SIZE)?;
    let alloc = note(NOTE_ALLOC, 0, all, 0, 0);
    driver.run(&[alloc, copy(0, all, Side::Vram(0), Side::System(from))])?;
    Ok(Rig { driver, turns: 0 })
}

impl Rig {
    /// One turn. Returns the engine's rate, in million pages a second.
    fn turn(&mut self) -> anyhow::Result<f64> {
        self.turns += 1;
        let data = self.driver.data();
        let at = |record: u64| data + DATA + record * FenceRecord::SIZE as u64;
        let mut descs = vec![fence(at(0), self.turns, false)];
        for span in 0..SPANS {
            descs.extend(migration(self.turns * SPANS + span, data));
        }
        descs.push(fence(at(1), self.turns, false));
        self.driver.run(&descs)?;
        let time = |record| {
            let bytes = self.driver.ram().read(at(record), FenceRecord::SIZE);
            let bytes = bytes.try_into().unwrap_or([0; FenceRecord::SIZE]);
            FenceRecord::from_le_bytes(&bytes).time_ns
        };
        #[allow(clippy::cast_precision_loss)] // Milliseconds.
        Ok(PAGES as f64 * 1e3 / (time(1) - time(0)) as f64)
    }
}

/// One migration to VRAM, and the note that what was there before is free.
fn migration(number: u64, data: u64) -> Vec<Desc> {
    let bytes = u64::from(SPAN_PAGES) * PAGE_SIZE;
    let place = number * bytes % DATA;
    let mut descs = vec![
        of_process(span_begin(number, SPAN_PAGES), 1000),
        note(NOTE_FREE, 0, SPAN_PAGES, place, 0),
        of_process(note(NOTE_ALLOC, 0, SPAN_PAGES, place, 0), 1000),
    ];
    // From the end to the beginning: no two descriptors could be one.
    descs.extend((0..u64::from(SPAN_PAGES)).rev().map(|page| {
        let offset = place + page * PAGE_SIZE;
        copy(0, 1, Side::Vram(offset), Side::System(data + offset))
    }));
    descs.push(phases(number, [100, 20, 300, 50, 10]));
    descs.push(span_end(number, 0, SPAN_PAGES, 0, 0));
    descs
}

/// Two devices take turns. Where their memory is makes one up to a tenth faster than the other,
/// so that each round makes them anew, and rounds take turns in which is made first. Returns the
/// medians of the rates, in million pages a second.
fn round(number: usize, sides: [Told; 2]) -> anyhow::Result<Pair> {
    let first = number % 2;
    let mut made = [None, None];
    for side in [first, 1 - first] {
        made[side] = Some(device(sides[side])?);
    }
    let [Some(ours), Some(theirs)] = made else {
        anyhow::bail!("no device");
    };
    let mut rigs = [ours, theirs];
    let turns: Vec<Pair> = take_turns(TURNS, WARM_UP, |side| rigs[side].turn())?;
    for (rig, (counting, check)) in rigs.iter().zip(sides) {
        let snapshot = rig.driver.function().snapshot();
        let counted = snapshot.transfers;
        let pages: u64 = counted.iter().map(|row| row.folios).sum();
        let right = match counting {
            Counting::Full => pages >= rig.turns * PAGES,
            _ => pages == 0,
        };
        let checks = snapshot.checker;
        ensure!(checks.mode == check && checks.total() == 0, "{checks:?}");
        ensure!(right, "{pages} pages were counted with {counting:?}");
    }
    Ok([0, 1].map(|side| median(turns.iter().map(|turn| turn[side]))))
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::from_arguments();
    let title =
        "Counting, order 0, a descriptor for each page: quotients of pairs of rounds in one run";
    let mut table = Table::new(title, &options)?;
    let full = |check| (Counting::Full, check);
    for (name, told, target) in [
        ("not counting", NOTHING, Target::None),
        ("counting", full(CheckMode::Off), Target::None),
        (
            "and checking",
            full(CheckMode::Folio),
            Target::AtLeast(0.98),
        ),
        ("and poisoning", full(CheckMode::Full), Target::None),
    ] {
        if !options.wants(name) {
            continue;
        }
        // Of two rounds, one of each kind, so that what being first does is in neither.
        let rounds: anyhow::Result<Vec<Pair>> = (0..2 * options.rounds(PAIRS))
            .map(|number| round(number, [told, NOTHING]))
            .collect();
        let pair = |two: &[Pair]| [0, 1].map(|side| (two[0][side] * two[1][side]).sqrt());
        let pairs: Vec<Pair> = rounds?.chunks_exact(2).map(pair).collect();
        table.add(Row::of_pairs(name, "not counting", "M/s", target, &pairs))?;
    }
    Ok(table.finish())
}
