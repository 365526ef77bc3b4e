//! What the checker of VRAM costs jobs: the same jobs on two devices, one of which checks.
//!
//! Every piece of memory that a job reaches is looked up in what is known of VRAM. GATHER of single words
//! from anywhere is the worst case: each word is a piece. CHECKSUM reads memory in order, in pieces
//! of 64 KiB. All of it is VRAM, mapped by leaves of 2 MiB, so that translations are kept.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use hmmgpu_bench_support::{Options, Pair, Row, Table, Target, median, take_turns};
use hmmgpu_contract::compute::Job;
use hmmgpu_contract::desc::{NOTE_ALLOC, Status};
use hmmgpu_contract::mmu::PTE_WRITE;
use hmmgpu_model::mock::descriptors::{Side, fill, note};
use hmmgpu_model::mock::tables::leaf;
use hmmgpu_model::mock::{
    ContextConfig, ContextDriver, Driver, GuestRam, PageTables, QueueConfig, jobs,
};
use hmmgpu_model::{Config, Device};
use hmmgpu_telemetry::CheckMode;

const MIB: u64 = 1 << 20;
const VRAM: u64 = 64 * MIB;
const FOLIO: u64 = 2 * MIB;
const RAM_BASE: u64 = 1 << 32;
const CONTEXT_BASE: u64 = 1 << 33;
/// VRAM as processes see it; behind it are the indices, and what was gathered.
const BASE: u64 = 1 << 40;
const INDICES: u64 = BASE + VRAM;
const GATHERED: u64 = INDICES + 4 * MIB;
const TABLES: u64 = MIB;
/// Words that a GATHER takes, and a CHECKSUM reads: some milliseconds each.
const WORDS: u64 = 200_000;
const READ: u64 = VRAM / 8;
const PAIRS: usize = 8;
const TURNS: usize = 20;
const WARM_UP: usize = 3;

struct Rig {
    context: ContextDriver<Arc<Device>>,
    device: Arc<Device>,
}

fn rig(check: CheckMode) -> anyhow::Result<Rig> {
    let config = Config {
        vram_bytes: VRAM,
        check,
        ..Config::default()
    };
    let device = Arc::new(Device::new(config)?);
    let queue = QueueConfig::default();
    let mut driver = Driver::new(device.clone(), GuestRam::new(RAM_BASE, 1 << 20)?, queue)?;
    let folios = u32::try_from(VRAM / FOLIO)?;
    let all = note(NOTE_ALLOC, 9, folios, 0, 0);
    driver.run(&[all, fill(9, folios, Side::Vram(0), 1)])?;

    let ram = Arc::new(GuestRam::new(CONTEXT_BASE, 16 << 20)?);
    device.dma_map(ram.mapping(0, 16 * MIB, true)?)?;
    let mut tables = PageTables::new(CONTEXT_BASE, TABLES);
    let mut map = |address, side| tables.set(&ram, address, 1, leaf(1, side, PTE_WRITE));
    for offset in (0..VRAM).step_by(usize::try_from(FOLIO)?) {
        map(BASE + offset, Side::Vram(offset));
    }
    let system = CONTEXT_BASE + 4 * MIB;
    for offset in (0..8 * MIB).step_by(usize::try_from(FOLIO)?) {
        map(INDICES + offset, Side::System(system + offset));
    }
    let indices: Vec<u8> = (0..WORDS)
        .map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)
        .flat_map(|random| {
            u32::try_from(random % (VRAM / 8))
                .unwrap_or(0)
                .to_le_bytes()
        })
        .collect();
    ram.write(system, &indices);
    let config = ContextConfig {
        context: 0,
        ring_log2: 4,
        vector: 2,
        root: tables.root(),
        area: CONTEXT_BASE + 2 * MIB,
    };
    Ok(Rig {
        context: ContextDriver::new(device.clone(), ram, config)?,
        device,
    })
}

impl Rig {
    /// Runs a job of so many words. Returns the rate in million words a second.
    fn turn(&mut self, job: &Job) -> anyhow::Result<f64> {
        let begin = Instant::now();
        let record = self.context.run(job)?;
        let time = begin.elapsed();
        ensure!(Status(record.status) == Status::STATUS_OK, "{record:?}");
        #[allow(clippy::cast_precision_loss)] // Millions.
        Ok(record.done as f64 / time.as_secs_f64() / 1e6)
    }
}

/// Two devices take turns; rounds take turns in which is made first. Returns the medians of the
/// rates, in million words a second.
fn round(number: usize, job: &Job) -> anyhow::Result<Pair> {
    let sides = [CheckMode::Folio, CheckMode::Off];
    let first = number % 2;
    let mut made = [None, None];
    for side in [first, 1 - first] {
        made[side] = Some(rig(sides[side])?);
    }
    let [Some(ours), Some(theirs)] = made else {
        anyhow::bail!("no device");
    };
    let mut rigs = [ours, theirs];
    let turns: Vec<Pair> = take_turns(TURNS, WARM_UP, |side| rigs[side].turn(job))?;
    for (rig, check) in rigs.iter().zip(sides) {
        let checks = rig.device.snapshot().checker;
        ensure!(checks.mode == check && checks.total() == 0, "{checks:?}");
    }
    Ok([0, 1].map(|side| median(turns.iter().map(|turn| turn[side]))))
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::from_arguments();
    let title = "Jobs in VRAM, checked: quotients of pairs of rounds in one run";
    let mut table = Table::new(title, &options)?;
    for (name, job) in [
        ("gather", jobs::gather(GATHERED, BASE, INDICES, WORDS)),
        ("checksum", jobs::checksum(BASE, READ)),
    ] {
        if !options.wants(name) {
            continue;
        }
        let rounds: anyhow::Result<Vec<Pair>> = (0..2 * options.rounds(PAIRS))
            .map(|number| round(number, &job))
            .collect();
        let pair = |two: &[Pair]| [0, 1].map(|side| (two[0][side] * two[1][side]).sqrt());
        let pairs: Vec<Pair> = rounds?.chunks_exact(2).map(pair).collect();
        let target = Target::AtLeast(0.95);
        table.add(Row::of_pairs(name, "not checked", "M/s", target, &pairs))?;
    }
    Ok(table.finish())
}
