//! Joining what the guest says of each phase with what the device counted in its window.

use std::collections::BTreeMap;

use hmmgpu_guest_protocol::bench::{BenchEvent, Direction, Phase, Trigger};
use hmmgpu_telemetry::snapshot::{self, LATENCY_BUCKET_RATIO, Latency, Snapshot, Window};

use super::result::{Percentiles, Row, RowKey, Stat, Warning};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// A share of less than this is worth a word.
const NEARLY_ALL: f64 = 0.99;
/// The fastest round over the slowest, beyond which the host is called noisy.
const NOISY: f64 = 2.0;
/// Rounds that make a median.
const ENOUGH_REPEATS: u32 = 3;

/// Rows, ascending by order, to the device before home, requests before faults; and the doubts.
pub fn rows(events: &[BenchEvent], snapshot: Option<&Snapshot>) -> (Vec<Row>, Vec<Warning>) {
    let mut warnings = Vec::new();
    let mut phases: BTreeMap<RowKey, Vec<&Phase>> = BTreeMap::new();
    for event in events {
        match event {
            BenchEvent::Phase(phase) => {
                let key = RowKey {
                    source_order: phase.source_order,
                    direction: phase.direction,
                    trigger: phase.trigger,
                };
                phases.entry(key).or_default().push(phase);
            }
            BenchEvent::Skipped {
                source_order,
                reason,
            } => {
                warnings.push(Warning::OrderSkipped {
                    source_order: *source_order,
                    reason: reason.clone(),
                });
            }
            BenchEvent::Progress { .. } | BenchEvent::Counters { .. } | BenchEvent::Done => {}
        }
    }
    let mut windows: BTreeMap<u64, &Window> = BTreeMap::new();
    if let Some(snapshot) = snapshot {
        windows.extend(snapshot.windows.iter().map(|window| (window.mark, window)));
        if let Some(what) = device_errors(snapshot) {
            warnings.push(Warning::DeviceErrors { what });
        }
    }
    let mut least_share: BTreeMap<u8, f64> = BTreeMap::new();
    let mut rows = Vec::new();
    let mut repeats = u32::MAX;
    for (key, phases) in &phases {
        let row = row(*key, phases, &windows, &mut warnings);
        let share = least_share
            .entry(key.source_order)
            .or_insert(row.source_share);
        *share = share.min(row.source_share);
        repeats = repeats.min(row.repeats);
        rows.push(row);
    }
    for (source_order, share) in least_share {
        if share < NEARLY_ALL {
            warnings.push(Warning::SourceShare {
                source_order,
                share,
            });
        }
    }
    if !rows.is_empty() && repeats < ENOUGH_REPEATS {
        warnings.push(Warning::FewRepeats { repeats });
    }
    (rows, warnings)
}

/// What one counted phase adds to its row.
struct Measured {
    span_bytes: u64,
    engine_bytes: u64,
    busy_ns: u64,
    engine_ns: u64,
}

fn row(
    key: RowKey,
    phases: &[&Phase],
    windows: &BTreeMap<u64, &Window>,
    warnings: &mut Vec<Warning>,
) -> Row {
    let mut row = Row {
        source_order: key.source_order,
        direction: key.direction,
        trigger: key.trigger,
        source_share: phases
            .iter()
            .map(|phase| phase.source_share)
            .fold(1.0, f64::min),
        device_orders: BTreeMap::new(),
        bytes: 0,
        repeats: 0,
        migration_bytes_per_s: Stat::default(),
        engine_bytes_per_s: Stat::default(),
        copy_share: 0.0,
        latency_us: Percentiles::default(),
        splits: 0,
        // The round that is not counted has to be right as well.
        verified: phases
            .iter()
            .all(|phase| phase.verified && phase.mismatched_bytes == 0),
    };
    let mut migration = Vec::new();
    let mut engine = Vec::new();
    let mut shares = Vec::new();
    let mut times = Times::default();
    let (mut asked, mut guest, mut spans, mut copied) = (0u64, 0u64, 0u64, 0u64);
    for phase in phases.iter().filter(|phase| !phase.warm_up) {
        let Some(window) = windows.get(&phase.mark) else {
            warnings.push(Warning::WindowMissing {
                row: key,
                mark: phase.mark,
            });
            continue;
        };
        let measured = measure(key, window, &mut row.device_orders, &mut times);
        asked = asked.saturating_add(phase.bytes);
        guest = guest.saturating_add(phase.moved_bytes);
        spans = spans.saturating_add(measured.span_bytes);
        copied = copied.saturating_add(measured.engine_bytes);
        if measured.span_bytes == 0 || measured.busy_ns == 0 {
            warnings.push(Warning::NothingMoved {
                row: key,
                repeat: phase.repeat,
            });
            continue;
        }
        row.repeats += 1;
        let device_splits: u64 = window.splits.iter().map(|(_, folios)| folios).sum();
        row.splits = row
            .splits
            .saturating_add(phase.source_splits)
            .saturating_add(device_splits);
        migration.push(per_second(measured.span_bytes, measured.busy_ns));
        if measured.engine_ns != 0 {
            engine.push(per_second(measured.engine_bytes, measured.engine_ns));
        }
        shares.push(ratio(measured.engine_ns, measured.busy_ns));
    }
    row.bytes = spans;
    row.migration_bytes_per_s = Stat::of(&migration);
    row.engine_bytes_per_s = Stat::of(&engine);
    row.copy_share = Stat::of(&shares).median;
    row.latency_us = times.percentiles();
    if row.repeats == 0 {
        row.verified = false;
    }

    if !row.verified {
        let mismatched_bytes = phases.iter().map(|phase| phase.mismatched_bytes).sum();
        warnings.push(Warning::NotVerified {
            row: key,
            mismatched_bytes,
        });
    }
    if guest != spans || spans != copied {
        warnings.push(Warning::CountsDiffer {
            row: key,
            guest_bytes: guest,
            span_bytes: spans,
            engine_bytes: copied,
        });
    }
    if row.repeats > 0 && ratio(spans, asked) < NEARLY_ALL {
        warnings.push(Warning::PartlyMoved {
            row: key,
            asked_bytes: asked,
            moved_bytes: spans,
        });
    }
    let rate = row.migration_bytes_per_s;
    if rate.min > 0.0 && rate.max / rate.min > NOISY {
        warnings.push(Warning::Noisy {
            row: key,
            spread: rate.max / rate.min,
        });
    }
    row
}

/// Sums up a window, for one direction and trigger.
fn measure(
    key: RowKey,
    window: &Window,
    device_orders: &mut BTreeMap<u8, u64>,
    times: &mut Times,
) -> Measured {
    let direction = match key.direction {
        Direction::SysToDev => snapshot::Direction::SysToDev,
        Direction::DevToSys => snapshot::Direction::DevToSys,
    };
    let trigger = match key.trigger {
        Trigger::Prefetch => snapshot::Trigger::Prefetch,
        Trigger::CpuFault => snapshot::Trigger::CpuFault,
    };
    let mut sum = Measured {
        span_bytes: 0,
        engine_bytes: 0,
        busy_ns: 0,
        engine_ns: 0,
    };
    let ours = window
        .transfers
        .iter()
        .filter(|t| t.direction == direction && t.trigger == trigger);
    for transfers in ours {
        let folios = transfers.folios.saturating_add(transfers.filled_folios);
        if folios != 0 {
            *device_orders.entry(transfers.order).or_default() += folios;
        }
        sum.engine_bytes += transfers.bytes.saturating_add(transfers.filled_bytes);
        sum.engine_ns += transfers.engine_ns;
    }
    let ours = window
        .spans
        .iter()
        .filter(|s| s.direction == direction && s.trigger == trigger);
    for spans in ours {
        sum.span_bytes += spans.pages_moved.saturating_mul(PAGE);
        sum.busy_ns += spans.busy_ns;
        times.add(&spans.latency);
    }
    sum
}

/// As a float: figures here are far below 2^53, where it is exact.
#[allow(clippy::cast_precision_loss)]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn per_second(bytes: u64, ns: u64) -> f64 {
    ratio(bytes, ns) * 1e9
}

/// Times of several distributions, put together.
#[derive(Default)]
struct Times {
    /// Upper bound of a bucket in nanoseconds, and samples in it.
    buckets: BTreeMap<u64, u64>,
    /// Smallest and largest time.
    range: Option<(u64, u64)>,
}

impl Times {
    fn add(&mut self, latency: &Latency) {
        if latency.count == 0 {
            return;
        }
        for (bound, samples) in &latency.buckets {
            *self.buckets.entry(*bound).or_default() += samples;
        }
        let (min, max) = self.range.unwrap_or((u64::MAX, 0));
        self.range = Some((min.min(latency.min_ns), max.max(latency.max_ns)));
    }

    fn percentiles(&self) -> Percentiles {
        Percentiles {
            p50: self.percentile(50),
            p99: self.percentile(99),
        }
    }

    /// In microseconds. Within a bucket, times are taken to be spread evenly.
    fn percentile(&self, percent: u64) -> f64 {
        let Some((min, max)) = self.range else {
            return 0.0;
        };
        let count: u64 = self.buckets.values().sum();
        let wanted = count.saturating_mul(percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (&bound, &samples) in &self.buckets {
            if seen + samples >= wanted {
                let high = ratio(bound, 1);
                let low = high / LATENCY_BUCKET_RATIO;
                let ns = low + ratio(wanted - seen, samples) * (high - low);
                return ns.clamp(ratio(min, 1), ratio(max.max(min), 1)) / 1000.0;
            }
            seen += samples;
        }
        ratio(max, 1000)
    }
}

/// What the device counted that must not happen.
fn device_errors(snapshot: &Snapshot) -> Option<String> {
    let mut found = Vec::new();
    for (status, descriptors) in &snapshot.events.descriptor_errors {
        found.push(format!("{descriptors} descriptors ended with '{status}'"));
    }
    let events = &snapshot.events;
    for (count, what) in [
        (events.lost_spans, "spans never ended"),
        (events.unmatched_spans, "spans ended or began out of turn"),
        (
            snapshot.vram.inconsistent_notes,
            "VRAM notes contradict the ones before",
        ),
        (snapshot.windows_dropped, "telemetry windows were dropped"),
        (events.dma_map_errors, "DMA maps were refused"),
        (
            events.unknown_register_accesses,
            "accesses to registers that are not defined",
        ),
    ] {
        if count != 0 {
            found.push(format!("{count} {what}"));
        }
    }
    (!found.is_empty()).then(|| found.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{Spans, Transfers};

    const MIB: u64 = 1 << 20;
    const MS: u64 = 1_000_000;

    fn phase(mark: u64, repeat: u32) -> Phase {
        Phase {
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
            verified: true,
            mismatched_bytes: 0,
        }
    }

    fn spans(pages_moved: u64, busy_ns: u64, buckets: &[(u64, u64)]) -> Spans {
        Spans {
            order: 9,
            direction: snapshot::Direction::SysToDev,
            trigger: snapshot::Trigger::Prefetch,
            count: 1,
            pages_asked: 1024,
            pages_moved,
            busy_ns,
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
            spans: vec![spans(1024, busy_ns, &[(1000, 98), (5000, 2)])],
            splits: vec![(9, 1)],
            fallbacks: vec![],
        }
    }

    fn snapshot(windows: Vec<Window>) -> Snapshot {
        Snapshot {
            schema: snapshot::SCHEMA.into(),
            time_ns: 0,
            started_ns: 0,
            generation: 0,
            vram: snapshot::Vram::default(),
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
    fn percentiles_stay_between_smallest_and_largest() {
        let mut times = Times::default();
        assert_eq!(times.percentiles(), Percentiles::default());
        let one = Latency {
            count: 1,
            min_ns: 700,
            max_ns: 700,
            ..Latency::default()
        };
        times.add(&Latency {
            buckets: vec![(1024, 1)],
            ..one
        });
        assert_eq!(times.percentiles(), Percentiles { p50: 0.7, p99: 0.7 });
    }

    #[test]
    fn other_directions_and_triggers_in_a_window_do_not_count() {
        let (phases, mut windows) = three();
        for window in &mut windows {
            let mut other = spans(1024, 100 * MS, &[(MS, 1000)]);
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
        with_small.spans.push(spans(512, 2 * MS, &[]));
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
}
