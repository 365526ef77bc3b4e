//! A made-up result with known figures, for tests of everything that shows results.

use std::collections::BTreeMap;

use hmmgpu_guest_protocol::bench::{BenchPlan, Direction, Source, Trigger};
use hmmgpu_telemetry::snapshot::{self, Snapshot, Window};

use super::result::{BenchResult, LimitBy, Percentiles, PhaseTimes, Row, SCHEMA, Stat};
use crate::vm::Environment;

const MIB: u64 = 1 << 20;

/// A row of five rounds of 256 MiB to the device by request; the rates are half of, twice and
/// three times `median`.
pub(crate) fn row(source_order: u8, device_order: u8, median: f64) -> Row {
    let round = 268_435_456.0;
    let rates = [median, median * 2.0, median / 2.0, median, median];
    let seconds: Vec<f64> = rates.iter().map(|rate| round / rate).collect();
    Row {
        source_order,
        direction: Direction::SysToDev,
        trigger: Trigger::Prefetch,
        source_share: 1.0,
        device_orders: BTreeMap::from([(device_order, 128)]),
        round_bytes: 256 * MIB,
        bytes: 1280 * MIB,
        repeats: 5,
        migration_bytes_per_s: Stat::of(rates.to_vec()),
        engine_bytes_per_s: Stat::of(vec![8e9; 5]),
        migration_s: Stat::of(seconds.clone()),
        guest_s: Stat::of(seconds.iter().map(|seconds| seconds * 1.25).collect()),
        copy_share: 0.756,
        latency_us: Percentiles {
            p50: 12.4,
            p99: 123_456.0,
        },
        latency_buckets: vec![(10_000, 20), (13_000, 70), (120_000_000, 10)],
        queue_wait_us: Percentiles { p50: 0.8, p99: 3.2 },
        phases: Some(PhaseTimes {
            collect_s: 0.01,
            alloc_s: 0.002,
            copy_s: 0.07,
            commit_s: 0.015,
            finish_s: 0.003,
        }),
        splits: 3,
        fallbacks: vec![],
        s_per_gib: Some(1_073_741_824.0 / median),
        doorbells_per_2mib: Some(0.05),
        floor_bytes_per_s: None,
        limit_bytes_per_s: None,
        limit_by: None,
        limit_ratio: None,
        test_hmm_bytes_per_s: None,
        test_hmm_ratio: None,
        verified: true,
    }
}

/// The same row with its limit: the engine's 8 GB/s, below a floor of 16 GB/s.
pub(crate) fn with_limit(row: Row) -> Row {
    let rates = &row.migration_bytes_per_s.samples;
    Row {
        floor_bytes_per_s: Some(Stat::of(vec![16e9; rates.len()])),
        limit_bytes_per_s: Some(row.engine_bytes_per_s.clone()),
        limit_by: Some(LimitBy::Engine),
        limit_ratio: Some(Stat::of(rates.iter().map(|rate| rate / 8e9).collect())),
        ..row
    }
}

/// The same row beside a `test_hmm` that takes a second for each round.
pub(crate) fn with_test_hmm(row: Row) -> Row {
    let ours = row.guest_s.samples.iter().map(|seconds| 1.0 / seconds);
    Row {
        test_hmm_ratio: Some(Stat::of(ours.collect())),
        test_hmm_bytes_per_s: Some(Stat::of(vec![268_435_456.0; row.guest_s.samples.len()])),
        ..row
    }
}

/// A result of these rows.
pub(crate) fn result(rows: Vec<Row>) -> BenchResult {
    BenchResult {
        schema: SCHEMA.to_owned(),
        environment: Environment {
            kernel: "7.3.4".into(),
            cmdline: "console=ttyS0 init_on_alloc=0".into(),
            qemu: "11.1.3".into(),
            accel: "tcg".into(),
            cpus: 2,
            revision: "v0.1.0".into(),
            ..Environment::default()
        },
        plan: BenchPlan {
            device: "/dev/hmmgpu0".into(),
            sources: rows
                .iter()
                .map(|row| Source {
                    order: row.source_order,
                    size_bytes: row.round_bytes,
                })
                .collect(),
            repeats: 5,
            call_bytes: 32 * MIB,
            wait: true,
            floor: false,
            test_hmm: None,
        },
        boot: None,
        rows,
        errors: vec![],
        warnings: vec![],
        counters: vec![],
        telemetry: None,
        vram_history: None,
    }
}

/// A snapshot of these windows, with nothing else in it.
pub(crate) fn snapshot(windows: Vec<Window>) -> Snapshot {
    Snapshot {
        schema: snapshot::SCHEMA.into(),
        time_ns: 0,
        started_ns: 0,
        generation: 0,
        vram: snapshot::Vram::default(),
        checker: hmmgpu_telemetry::Checks::default(),
        transfers: vec![],
        spans: vec![],
        fallbacks: vec![],
        processes: vec![],
        events: snapshot::Events::default(),
        queues: vec![],
        link: snapshot::Link::default(),
        trace: None,
        windows,
        windows_dropped: 0,
        mmu: snapshot::Mmu::default(),
        compute: snapshot::Compute::default(),
        injected: vec![],
        link_model: None,
    }
}
