//! What a snapshot of a large device costs: engines wait that long for the lock, each time that
//! somebody asks.
//!
//! `cargo bench -p hmmgpu-telemetry --bench snapshot`

use std::process::ExitCode;
use std::time::Instant;

use hmmgpu_bench_support::{Options, Row, Table, Target};
use hmmgpu_contract::{PAGE_SIZE, VRAM_BLOCK_BYTES};
use hmmgpu_telemetry::snapshot::QueueKind;
use hmmgpu_telemetry::{Known, NoteKind, Record, Source, Telemetry};

const VRAM: u64 = 64 << 30;
const BLOCKS: u64 = VRAM / VRAM_BLOCK_BYTES;
const ROUNDS: usize = 51;

/// Folios of this order from an address on.
fn folios(address: u64, order: u8, count: u64) -> Record {
    Record::Note {
        kind: NoteKind::Alloc { process: 0 },
        address,
        order,
        count: u32::try_from(count).expect("fits"),
        index: 0,
    }
}

/// Ways in which VRAM is full.
fn fillings() -> Vec<(&'static str, Vec<Record>)> {
    let every = |bytes: u64, order| {
        let addresses = (0..VRAM / bytes).map(move |i| i * bytes);
        addresses.map(move |address| folios(address, order, 1))
    };
    vec![
        ("empty", vec![]),
        ("full, order 9", vec![folios(0, 9, BLOCKS)]),
        ("full, order 0", vec![folios(0, 0, VRAM / PAGE_SIZE)]),
        ("every second page", every(2 * PAGE_SIZE, 0).collect()),
        (
            "one page in each block",
            every(VRAM_BLOCK_BYTES, 0).collect(),
        ),
        // The longest list of runs.
        (
            "every second block",
            every(2 * VRAM_BLOCK_BYTES, 9).collect(),
        ),
    ]
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::from_arguments();
    let mut table = Table::new("Time of a snapshot, 64 GiB of VRAM", &options)?;
    for (name, notes) in fillings() {
        if !options.wants(name) {
            continue;
        }
        let telemetry = Telemetry::new(VRAM, 0);
        let source = Source {
            kind: QueueKind::Copy,
            index: 0,
        };
        telemetry.record(source, 0, 0, &notes);
        let times: Vec<f64> = (0..options.rounds(ROUNDS))
            .map(|_| {
                let begun = Instant::now();
                let snapshot = telemetry.snapshot(Known::default(), false);
                let time = begun.elapsed();
                assert_eq!(snapshot.vram.inconsistent_notes, 0);
                time.as_secs_f64() * 1e6
            })
            .collect();
        // Engines wait that long.
        table.add(Row::of_figures(name, "us", Target::AtMost(1000.0), &times))?;
    }
    Ok(table.finish())
}
