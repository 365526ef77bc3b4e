//! Rows of known figures.

use super::*;
use crate::bench::example::snapshot;
use crate::bench::result::{LimitBy, Percentiles};
use hmmgpu_telemetry::snapshot::{LATENCY_BUCKET_RATIO, Latency, Spans, Transfers};

const MIB: u64 = 1 << 20;
const MS: u64 = 1_000_000;

fn phase(mark: u64, repeat: u32) -> Phase {
    Phase {
        subject: Subject::Driver,
        mark,
        source_order: 9,
        repeat,
        warm_up: false,
        direction: Direction::SysToDev,
        trigger: Trigger::Prefetch,
        bytes: 4 * MIB,
        moved_bytes: 4 * MIB,
        source_share: 1.0,
        source_splits: 0,
        guest_ns: 1,
        calls: 1,
        doorbells: 0,
        verified: true,
        mismatched_bytes: 0,
    }
}

fn spans(pages_moved: u64, [busy_ns, engine_ns]: [u64; 2], buckets: &[(u64, u64)]) -> Spans {
    Spans {
        order: 9,
        direction: snapshot::Direction::SysToDev,
        trigger: snapshot::Trigger::Prefetch,
        count: 1,
        pages_asked: 1024,
        pages_moved,
        busy_ns,
        engine_ns,
        latency: Latency {
            count: buckets.iter().map(|(_, samples)| samples).sum(),
            min_ns: 500,
            max_ns: 4900,
            buckets: buckets.to_vec(),
            ..Latency::default()
        },
        phases: snapshot::Phases::default(),
    }
}

fn transfers(order: u8, folios: u64, filled: u64, engine_ns: u64) -> Transfers {
    Transfers {
        order,
        direction: snapshot::Direction::SysToDev,
        trigger: snapshot::Trigger::Prefetch,
        folios,
        bytes: folios * (PAGE << order),
        filled_folios: filled,
        filled_bytes: filled * (PAGE << order),
        engine_ns,
        errors: 0,
        latency: Latency::default(),
        queue_wait: Latency::default(),
    }
}

fn window(mark: u64, busy_ns: u64, engine_ns: u64) -> Window {
    Window {
        mark,
        begin_ns: 0,
        end_ns: Some(1),
        transfers: vec![transfers(9, 1, 1, engine_ns)],
        spans: vec![spans(1024, [busy_ns, engine_ns], &[(1000, 98), (5000, 2)])],
        splits: vec![(9, 1)],
        fallbacks: vec![],
    }
}

fn three() -> (Vec<Phase>, Vec<Window>) {
    let phases = vec![
        Phase {
            warm_up: true,
            source_splits: 1000,
            ..phase(1, 0)
        },
        Phase {
            source_splits: 7,
            ..phase(2, 0)
        },
        phase(3, 1),
        phase(4, 2),
    ];
    let windows = vec![
        window(1, MS, MS),
        window(2, 4 * MS, 2 * MS),
        window(3, 2 * MS, MS),
        window(4, 3 * MS, MS),
    ];
    (phases, windows)
}

fn compute(phases: Vec<Phase>, windows: Vec<Window>) -> (Vec<Row>, Vec<Warning>) {
    let events: Vec<_> = phases.into_iter().map(BenchEvent::Phase).collect();
    rows(&events, Some(&snapshot(windows)))
}

#[test]
fn a_row_of_known_figures() {
    let (phases, windows) = three();
    let (rows, warnings) = compute(phases, windows);
    assert_eq!(warnings, []);
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.repeats, row.bytes), (3, 12 * MIB));
    assert_eq!(
        row.device_orders,
        BTreeMap::from([(9, 6)]),
        "copies and fills"
    );
    let rate = |ms: f64| 4.0 * 1048576.0 / ms * 1000.0;
    let close = |a: f64, b: f64| assert!((a - b).abs() < b * 1e-9, "{a} {b}");
    close(row.migration_bytes_per_s.min, rate(4.0));
    close(row.migration_bytes_per_s.median, rate(3.0));
    close(row.migration_bytes_per_s.max, rate(2.0));
    close(row.engine_bytes_per_s.min, rate(2.0));
    close(row.engine_bytes_per_s.median, rate(1.0));
    close(row.copy_share, 0.5);
    // Three windows: 294 times in the bucket up to 1000 ns and 6 in that up to 5000 ns.
    let inside = |high: f64, share: f64| {
        let low = high / LATENCY_BUCKET_RATIO;
        (low + (high - low) * share) / 1000.0
    };
    close(row.latency_us.p50, inside(1000.0, 150.0 / 294.0));
    close(row.latency_us.p99, inside(5000.0, 3.0 / 6.0));
    assert_eq!(
        row.splits,
        7 + 3,
        "of the source and of the device, without the warm-up"
    );
    assert!(row.verified);
}

#[test]
fn phases_waits_and_fallbacks_are_of_the_counted_rounds() {
    let (rounds, mut windows) = three();
    for (window, ns) in windows.iter_mut().zip([100 * MS, 3 * MS, 6 * MS, 9 * MS]) {
        window.spans[0].phases = snapshot::Phases {
            spans: 1,
            collect_ns: ns,
            alloc_ns: 2 * ns,
            copy_ns: 3 * ns,
            commit_ns: 4 * ns,
            finish_ns: 5 * ns,
        };
        window.transfers[0].queue_wait = Latency {
            count: 1,
            min_ns: 2000,
            max_ns: 2000,
            buckets: vec![(2048, 1)],
            ..Latency::default()
        };
        let fallback = |reason: &str, direction| snapshot::Fallbacks {
            order: 9,
            direction,
            trigger: snapshot::Trigger::Prefetch,
            reason: reason.into(),
            folios: 2,
        };
        window.fallbacks = vec![
            fallback("no_vram", snapshot::Direction::SysToDev),
            fallback("shared", snapshot::Direction::DevToSys),
        ];
    }
    let (rows, _) = compute(rounds, windows);
    let [row] = &rows[..] else { panic!("{rows:?}") };
    let phases = row.phases.expect("the driver told");
    let ms: Vec<f64> = phases
        .in_order()
        .iter()
        .map(|(_, seconds)| (seconds * 1e6).round() / 1e3)
        .collect();
    assert_eq!(ms, [6.0, 12.0, 18.0, 24.0, 30.0]);
    assert_eq!(row.queue_wait_us, Percentiles { p50: 2.0, p99: 2.0 });
    let [fallback] = &row.fallbacks[..] else {
        panic!("{:?}", row.fallbacks)
    };
    assert_eq!(
        (fallback.order, &fallback.reason[..], fallback.folios),
        (9, "no_vram", 6)
    );
    assert_eq!(row.latency_buckets, [(1000, 294), (5000, 6)]);
    assert_eq!(row.migration_s.samples, [0.004, 0.002, 0.003]);
}

#[test]
fn without_phases_there_are_none() {
    let (rounds, windows) = three();
    let (rows, _) = compute(rounds, windows);
    assert_eq!((rows[0].phases, rows[0].round_bytes), (None, 4 * MIB));
}

#[test]
fn other_directions_and_triggers_in_a_window_do_not_count() {
    let (phases, mut windows) = three();
    for window in &mut windows {
        let mut other = spans(1024, [100 * MS, 0], &[(MS, 1000)]);
        other.direction = snapshot::Direction::DevToSys;
        window.spans.push(other);
        let mut other = transfers(0, 1024, 0, 100 * MS);
        other.trigger = snapshot::Trigger::Evict;
        window.transfers.push(other);
    }
    let (phases_again, windows_again) = three();
    assert_eq!(
        compute(phases, windows),
        compute(phases_again, windows_again)
    );
}

#[test]
fn classes_of_one_direction_add_up() {
    let mut with_small = window(2, 2 * MS, MS);
    with_small.spans.push(spans(512, [2 * MS, MS], &[]));
    with_small.transfers.push(transfers(0, 512, 0, MS));
    let moved = Phase {
        moved_bytes: 6 * MIB,
        bytes: 6 * MIB,
        ..phase(2, 0)
    };
    let (rows, _) = compute(vec![moved], vec![with_small]);
    assert_eq!(rows[0].device_orders, BTreeMap::from([(0, 512), (9, 2)]));
    assert_eq!(rows[0].bytes, 6 * MIB);
    assert_eq!(
        rows[0].migration_bytes_per_s.median,
        6.0 * 1048576.0 / 4e6 * 1e9
    );
}

#[test]
fn wrong_data_is_never_verified() {
    for broken in [
        Phase {
            verified: false,
            ..phase(2, 0)
        },
        Phase {
            mismatched_bytes: 1,
            ..phase(2, 0)
        },
        Phase {
            warm_up: true,
            verified: false,
            ..phase(2, 0)
        },
    ] {
        let (rows, warnings) = compute(
            vec![broken, phase(3, 1)],
            vec![window(2, MS, MS), window(3, MS, MS)],
        );
        assert!(!rows[0].verified);
        assert!(
            warnings
                .iter()
                .any(|warning| matches!(warning, Warning::NotVerified { .. }))
        );
    }
}

#[test]
fn doubts_have_types() {
    let kinds = |phases: Vec<Phase>, windows: Vec<Window>| -> Vec<String> {
        let (_, warnings) = compute(phases, windows);
        warnings
            .iter()
            .map(|warning| {
                assert!(!warning.to_string().is_empty());
                let json = serde_json::to_value(warning).expect("JSON");
                json["warning"].as_str().expect("a tag").to_owned()
            })
            .collect()
    };
    let (phases, mut windows) = three();
    windows.remove(1);
    assert_eq!(
        kinds(phases.clone(), windows),
        ["window_missing", "few_repeats"]
    );

    let (_, mut windows) = three();
    windows[1].spans.clear();
    assert_eq!(
        kinds(phases.clone(), windows),
        [
            "nothing_moved",
            "counts_differ",
            "partly_moved",
            "few_repeats"
        ]
    );

    let (mut phases, mut windows) = three();
    phases[1].moved_bytes -= 4096;
    windows[3].spans[0].busy_ns = 40 * MS;
    assert_eq!(kinds(phases, windows), ["counts_differ", "noisy"]);

    let (mut phases, windows) = three();
    phases[2].source_share = 0.5;
    assert_eq!(kinds(phases, windows), ["source_share"]);
}

#[test]
fn nothing_measured_is_not_verified() {
    let (rows, warnings) = compute(vec![phase(1, 0)], vec![]);
    assert!(!rows[0].verified && rows[0].repeats == 0);
    assert!(
        warnings
            .iter()
            .any(|warning| matches!(warning, Warning::WindowMissing { .. }))
    );
    let (rows, _) = super::rows(&[BenchEvent::Phase(phase(1, 0))], None);
    assert!(!rows[0].verified, "a server that was lost");
}

#[test]
fn errors_of_the_device_are_told() {
    let mut with_errors = snapshot(vec![]);
    with_errors.events.descriptor_errors = vec![("bad_address".into(), 3)];
    with_errors.windows_dropped = 2;
    let (_, warnings) = rows(&[], Some(&with_errors));
    let [Warning::DeviceErrors { what }] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    assert!(
        what.contains("3 descriptors ended with 'bad_address'"),
        "{what}"
    );
    assert!(what.contains("2 telemetry windows"), "{what}");
}

#[test]
fn rows_come_in_order() {
    let home = Phase {
        direction: Direction::DevToSys,
        ..phase(1, 0)
    };
    let fault = Phase {
        trigger: Trigger::CpuFault,
        ..home.clone()
    };
    let small = Phase {
        source_order: 0,
        ..phase(1, 0)
    };
    let (rows, _) = compute(vec![fault, home, phase(1, 0), small], vec![]);
    let keys: Vec<_> = rows
        .iter()
        .map(|row| (row.source_order, row.direction, row.trigger))
        .collect();
    assert_eq!(
        keys,
        [
            (0, Direction::SysToDev, Trigger::Prefetch),
            (9, Direction::SysToDev, Trigger::Prefetch),
            (9, Direction::DevToSys, Trigger::Prefetch),
            (9, Direction::DevToSys, Trigger::CpuFault),
        ]
    );
}

/// The rounds of [`three`], and one without copies after each, that take this long.
fn three_and_floors(busy: [u64; 3]) -> (Vec<Phase>, Vec<Window>) {
    let (mut phases, mut windows) = three();
    for ((mark, repeat), busy_ns) in (11..).zip(0..).zip(busy) {
        phases.push(Phase {
            subject: Subject::Floor,
            verified: false,
            doorbells: 1000,
            ..phase(mark, repeat)
        });
        let mut window = window(mark, busy_ns, 0);
        window.transfers.clear();
        windows.push(window);
    }
    (phases, windows)
}

#[test]
fn rounds_without_copies_make_the_limit_and_nothing_else() {
    let (phases, windows) = three();
    let (plain, _) = compute(phases, windows);
    assert_eq!(plain[0].limit_ratio, None);

    // Rounds of 4 ms, 2 ms and 3 ms, of which the engine needs 2 ms, 1 ms and 1 ms.
    let (phases, windows) = three_and_floors([MS, MS, MS / 2]);
    let (rows, warnings) = compute(phases, windows);
    assert_eq!(warnings, []);
    let row = &rows[0];
    let samples = |stat: &Option<Stat>| stat.as_ref().map(|stat| stat.samples.clone());
    let rate = |ms: f64| 4.0 * 1_048_576.0 / (ms / 1000.0);
    assert_eq!(
        samples(&row.floor_bytes_per_s),
        Some(vec![rate(1.0), rate(1.0), rate(0.5)])
    );
    let share = |ratio: Option<Vec<f64>>| {
        ratio.map(|ratio| ratio.iter().map(|r| (r * 1000.0).round()).collect())
    };
    // The floor's median equals the engine's here: then the kernel is the limit.
    assert_eq!(row.limit_by, Some(LimitBy::Kernel));
    let expected: Vec<f64> = vec![250.0, 500.0, 167.0];
    assert_eq!(share(samples(&row.limit_ratio)), Some(expected));
    let without = Row {
        floor_bytes_per_s: None,
        limit_bytes_per_s: None,
        limit_by: None,
        limit_ratio: None,
        ..row.clone()
    };
    assert_eq!(without, plain[0]);
}

#[test]
fn a_floor_is_no_faster_than_the_driver_worked() {
    let (phases, mut windows) = three_and_floors([1, 1, 1]);
    for window in windows
        .iter_mut()
        .filter(|window| window.transfers.is_empty())
    {
        window.spans[0].phases.collect_ns = MS / 2;
        window.spans[0].phases.finish_ns = MS / 2;
    }
    let (rows, _) = compute(phases, windows);
    let floor = rows[0].floor_bytes_per_s.as_ref().unwrap();
    assert_eq!(floor.samples, [4.0 * 1_048_576.0 * 1000.0; 3]);
}

#[test]
fn a_floor_that_is_not_known_is_told_of() {
    let (phases, mut windows) = three_and_floors([MS; 3]);
    windows.retain(|window| window.mark != 12);
    let (rows, warnings) = compute(phases, windows);
    let row = rows[0].key();
    assert_eq!(warnings, [Warning::WindowMissing { row, mark: 12 }]);
    let ratio = rows[0].limit_ratio.as_ref();
    assert_eq!(ratio.map(|ratio| ratio.samples.len()), Some(2));
}

#[test]
fn doorbells_and_time_are_for_so_many_bytes() {
    let (mut phases, windows) = three();
    for (phase, doorbells) in phases.iter_mut().zip([100, 1, 2, 0]) {
        phase.doorbells = doorbells;
    }
    let (rows, _) = compute(phases, windows);
    // Three rounds of 4 MiB; the warm-up does not count.
    assert_eq!(rows[0].doorbells_per_2mib, Some(0.5));
    // 4 MiB in 3 ms at the median.
    let ms = rows[0].s_per_gib.map(|s| (s * 1000.0).round());
    assert_eq!(ms, Some(768.0));
}
