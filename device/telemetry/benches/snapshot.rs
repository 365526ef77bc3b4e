//! What a snapshot of a large device costs: engines wait that long for the lock, each time that
//! somebody asks.
//!
//! `cargo bench -p hmmgpu-telemetry --bench snapshot`

use std::time::Instant;

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

fn main() {
    println!("64 GiB of VRAM; time of a snapshot in us: median, longest of {ROUNDS}");
    for (name, notes) in fillings() {
        let telemetry = Telemetry::new(VRAM, 0);
        let source = Source {
            kind: QueueKind::Copy,
            index: 0,
        };
        telemetry.record(source, 0, 0, &notes);
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let begun = Instant::now();
                let snapshot = telemetry.snapshot(Known::default(), false);
                let time = begun.elapsed();
                assert_eq!(snapshot.vram.inconsistent_notes, 0);
                time.as_secs_f64() * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "{name:24} {:8.0} {:8.0}",
            times[ROUNDS / 2],
            times[ROUNDS - 1]
        );
    }
}
