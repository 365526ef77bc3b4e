//! What counting costs: pages of 4 KiB that the copy engine moves, with counting and without.
//!
//! Two devices that differ in nothing else take turns; the same with two that do not differ at all
//! shows what the measurement itself can tell. A turn is a full ring of migrations as a
//! driver sends them: a span with its process, one note of the allocation, 512 pages with a
//! descriptor each, the phases, the end. That is the worst case: a driver that puts pages which
//! follow each other into one descriptor has fewer. The time is the engine's own, from a fence
//! before the turn to one after it. Nothing but the engine takes part, so the ratio is what
//! counting costs at the engine's limit; a whole migration of a page takes the guest 3 to 13 us.

use std::sync::Arc;

use hmmgpu_contract::PAGE_SIZE;
use hmmgpu_contract::desc::{Desc, NOTE_ALLOC, NOTE_FREE};
use hmmgpu_contract::queue::FenceRecord;
use hmmgpu_model::mock::descriptors::{
    Side, copy, fence, note, of_process, phases, span_begin, span_end,
};
use hmmgpu_model::mock::{Driver, GuestRam, MockError, QueueConfig};
use hmmgpu_model::{Config, Counting, Device};

const MIB: u64 = 1 << 20;
/// Far more than the caches hold.
const DATA: u64 = 64 * MIB;
const SPAN_PAGES: u32 = 512;
const SPANS: u64 = 16;
const PAGES: u64 = SPANS * SPAN_PAGES as u64;
const ROUNDS: usize = 24;
const PAIRS: usize = 12;
const WARM_UP: usize = 3;
/// What a page costs a guest, from the call to the end of the migration, in nanoseconds.
const MIGRATION_NS: [f64; 2] = [3_000.0, 13_000.0];

struct Rig {
    driver: Driver<Arc<Device>>,
    turns: u64,
}

fn device(counting: Counting) -> Result<Rig, Box<dyn std::error::Error>> {
    let config = Config {
        vram_bytes: DATA,
        counting,
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
    driver.run(&[copy(0, all, Side::Vram(0), Side::System(from))])?;
    Ok(Rig { driver, turns: 0 })
}

impl Rig {
    /// One turn. Returns the engine's time for a page, in nanoseconds.
    fn turn(&mut self) -> Result<f64, MockError> {
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
        Ok((time(1) - time(0)) as f64 / PAGES as f64)
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

/// Quartiles.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// Engine times for a page, side by side: medians of the pairs of one round.
type Round = [f64; 2];

/// Two devices take turns. Where their memory is makes one up to a tenth faster than the other,
/// so that each round makes them anew, and rounds take turns in which is made first.
fn round(number: usize, sides: [Counting; 2]) -> Result<Round, Box<dyn std::error::Error>> {
    let first = number % 2;
    let mut rigs = [None, None];
    for side in [first, 1 - first] {
        rigs[side] = Some(device(sides[side])?);
    }
    let mut times = [Vec::new(), Vec::new()];
    for pair in 0..PAIRS + WARM_UP {
        for side in [pair % 2, 1 - pair % 2] {
            let Some(rig) = &mut rigs[side] else { continue };
            let time = rig.turn()?;
            if pair >= WARM_UP {
                times[side].push(time);
            }
        }
    }
    for (rig, counting) in rigs.iter().flatten().zip(sides) {
        let counted = rig.driver.function().snapshot().transfers;
        let pages: u64 = counted.iter().map(|row| row.folios).sum();
        match counting {
            Counting::Full => assert!(pages >= rig.turns * PAGES, "counting is on"),
            _ => assert_eq!(pages, 0, "counting is off"),
        }
    }
    Ok(times.map(|times| quartiles(times)[1]))
}

/// Prints how the first side does beside the second. Returns what it costs, in nanoseconds a page.
fn compare(what: &str, sides: [Counting; 2]) -> Result<f64, Box<dyn std::error::Error>> {
    let rounds: Result<Vec<Round>, _> = (0..ROUNDS).map(|number| round(number, sides)).collect();
    let rounds = rounds?;
    let of = |side: usize| quartiles(rounds.iter().map(|round| round[side]).collect())[1];
    // Of two rounds, one of each kind, so that what being first does is in neither.
    let pairs = rounds.chunks_exact(2);
    let ratios = pairs.map(|two| (two[0][1] * two[1][1] / (two[0][0] * two[1][0])).sqrt());
    let [low, ratio, high] = quartiles(ratios.collect());
    println!(
        "{what}: {ratio:.3} of the throughput ({low:.3} to {high:.3}), {:.0} ns beside {:.0} ns a page",
        of(0),
        of(1)
    );
    Ok((1.0 / ratio - 1.0) * of(1))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "order 0, a descriptor for each page; {ROUNDS} rounds of {PAIRS} pairs of {PAGES} pages; \
         medians and quartiles"
    );
    compare("off beside off", [Counting::Off, Counting::Off])?;
    let cost = compare("counting beside off", [Counting::Full, Counting::Off])?;
    let [most, least] = MIGRATION_NS.map(|whole| 100.0 * cost / whole);
    println!(
        "cost of counting: {cost:.1} ns a page, {least:.2} % to {most:.2} % of its whole migration"
    );
    Ok(())
}
