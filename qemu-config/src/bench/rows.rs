//! Joining what the guest says of each phase with what the device counted in its window.

use std::collections::BTreeMap;

use hmmgpu_guest_protocol::bench::{BenchEvent, Direction, Phase, Subject, Trigger};
use hmmgpu_telemetry::snapshot::{self, Snapshot, Window, copy_share};

use super::limit::{Rates, against, limit};
use super::result::{Fallback, PhaseTimes, Row, RowKey, Stat};
use super::times::Times;
use super::warning::Warning;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Nanoseconds of a second.
const NS: u64 = 1_000_000_000;
/// Bytes of what figures are given for.
const GIB: f64 = 1_073_741_824.0;
const TWO_MIB: f64 = 2_097_152.0;
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
    let mut beside: BTreeMap<(RowKey, Subject), Vec<&Phase>> = BTreeMap::new();
    for event in events {
        match event {
            BenchEvent::Phase(phase) => {
                let key = RowKey {
                    source_order: phase.source_order,
                    direction: phase.direction,
                    trigger: phase.trigger,
                };
                let rounds = match phase.subject {
                    Subject::Driver => phases.entry(key).or_default(),
                    subject => beside.entry((key, subject)).or_default(),
                };
                rounds.push(phase);
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
            BenchEvent::Progress { .. }
            | BenchEvent::FirstMigration { .. }
            | BenchEvent::Counters { .. }
            | BenchEvent::Done => {}
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
        let of = |subject| {
            let rounds = beside.get(&(*key, subject));
            rounds.map(Vec::as_slice).unwrap_or_default()
        };
        let others = Others {
            floor: floor_rates(*key, of(Subject::Floor), &windows, &mut warnings),
            test_hmm: test_hmm_rates(*key, of(Subject::TestHmm), &mut warnings),
        };
        let row = row(*key, phases, &others, &windows, &mut warnings);
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

/// What the windows of a row's counted rounds say, summed up.
#[derive(Default)]
struct Sums {
    device_orders: BTreeMap<u8, u64>,
    latency: Times,
    queue_wait: Times,
    phases: snapshot::Phases,
    fallbacks: BTreeMap<(u8, String), u64>,
}

/// What one counted round adds to its row.
struct Round {
    span_bytes: u64,
    engine_bytes: u64,
    busy_ns: u64,
    engine_ns: u64,
    /// Of `busy_ns`, time that engines were busy.
    copy_ns: u64,
}

/// The window of a phase.
fn window_of<'a>(
    row: RowKey,
    phase: &Phase,
    windows: &BTreeMap<u64, &'a Window>,
    warnings: &mut Vec<Warning>,
) -> Option<&'a Window> {
    let mark = phase.mark;
    let window = windows.get(&mark).copied();
    if window.is_none() {
        warnings.push(Warning::WindowMissing { row, mark });
    }
    window
}

impl Round {
    /// Whether it has a rate.
    fn moved(&self, row: RowKey, phase: &Phase, warnings: &mut Vec<Warning>) -> bool {
        let moved = self.span_bytes != 0 && self.busy_ns != 0;
        if !moved {
            let repeat = phase.repeat;
            warnings.push(Warning::NothingMoved { row, repeat });
        }
        moved
    }

    fn migration_rate(&self) -> f64 {
        per_second(self.span_bytes, self.busy_ns)
    }
}

/// Rates of the rounds beside a row's own, by their number.
struct Others {
    floor: Vec<(u32, f64)>,
    test_hmm: Vec<(u32, f64)>,
}

/// Rates of the counted rounds of `test_hmm`, by their number.
fn test_hmm_rates(row: RowKey, phases: &[&Phase], warnings: &mut Vec<Warning>) -> Vec<(u32, f64)> {
    let mut rates = Vec::new();
    for phase in phases.iter().filter(|phase| !phase.warm_up) {
        if phase.moved_bytes < phase.bytes || !phase.verified {
            warnings.push(Warning::TestHmm {
                row,
                repeat: phase.repeat,
                moved_bytes: phase.moved_bytes,
                mismatched_bytes: phase.mismatched_bytes,
            });
        } else {
            rates.push((phase.repeat, per_second(phase.bytes, phase.guest_ns)));
        }
    }
    rates
}

/// Time that the driver was at work, by its own clock.
fn worked_ns(phases: &snapshot::Phases) -> u64 {
    let snapshot::Phases {
        spans: _,
        collect_ns,
        alloc_ns,
        copy_ns,
        commit_ns,
        finish_ns,
    } = *phases;
    [collect_ns, alloc_ns, copy_ns, commit_ns, finish_ns]
        .into_iter()
        .fold(0, u64::saturating_add)
}

/// Rates of the counted rounds without copies, by their number.
fn floor_rates(
    key: RowKey,
    phases: &[&Phase],
    windows: &BTreeMap<u64, &Window>,
    warnings: &mut Vec<Warning>,
) -> Vec<(u32, f64)> {
    let mut rates = Vec::new();
    for phase in phases.iter().filter(|phase| !phase.warm_up) {
        let Some(window) = window_of(key, phase, windows, warnings) else {
            continue;
        };
        // Nothing but the rate of these rounds is of interest.
        let mut sums = Sums::default();
        let mut round = sums.add(key, window);
        // An engine without a copy to do may come to a span's beginning and end at once, however long
        // it took; the driver knows how long it worked.
        round.busy_ns = round.busy_ns.max(worked_ns(&sums.phases));
        if round.moved(key, phase, warnings) {
            rates.push((phase.repeat, round.migration_rate()));
        }
    }
    rates
}

fn row(
    key: RowKey,
    phases: &[&Phase],
    others: &Others,
    windows: &BTreeMap<u64, &Window>,
    warnings: &mut Vec<Warning>,
) -> Row {
    let counted = || phases.iter().filter(|phase| !phase.warm_up);
    let mut sums = Sums::default();
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    let (mut migration_s, mut guest_s) = (Vec::new(), Vec::new());
    let (mut asked, mut guest, mut spans, mut copied) = (0u64, 0u64, 0u64, 0u64);
    let (mut repeats, mut splits, mut doorbells) = (0u32, 0u64, 0u64);
    for phase in counted() {
        let Some(window) = window_of(key, phase, windows, warnings) else {
            continue;
        };
        let round = sums.add(key, window);
        asked = asked.saturating_add(phase.bytes);
        guest = guest.saturating_add(phase.moved_bytes);
        spans = spans.saturating_add(round.span_bytes);
        copied = copied.saturating_add(round.engine_bytes);
        if !round.moved(key, phase, warnings) {
            continue;
        }
        repeats += 1;
        let device_splits: u64 = window.splits.iter().map(|(_, folios)| folios).sum();
        splits = splits
            .saturating_add(phase.source_splits)
            .saturating_add(device_splits);
        doorbells = doorbells.saturating_add(phase.doorbells);
        rates.push(Rates {
            repeat: phase.repeat,
            migration: round.migration_rate(),
            engine: per_second(round.engine_bytes, round.engine_ns),
            guest: per_second(phase.moved_bytes, phase.guest_ns),
        });
        shares.extend(copy_share(round.copy_ns, round.busy_ns));
        migration_s.push(ratio(round.busy_ns, NS));
        guest_s.push(ratio(phase.guest_ns, NS));
    }
    // The round that is not counted has to be right as well.
    let right = phases
        .iter()
        .all(|phase| phase.verified && phase.mismatched_bytes == 0);
    let limit = limit(&rates, &others.floor);
    let (test_hmm, test_hmm_ratio) = against(&rates, &others.test_hmm).unzip();
    let migration = Stat::of(rates.iter().map(|round| round.migration).collect());
    let shares_of_source = phases.iter().map(|phase| phase.source_share);
    let row = Row {
        source_order: key.source_order,
        direction: key.direction,
        trigger: key.trigger,
        source_share: shares_of_source.fold(1.0, f64::min),
        device_orders: sums.device_orders,
        round_bytes: counted().map(|phase| phase.bytes).max().unwrap_or(0),
        bytes: spans,
        repeats,
        s_per_gib: (migration.median > 0.0).then(|| GIB / migration.median),
        doorbells_per_2mib: (spans > 0).then(|| ratio(doorbells, spans) * TWO_MIB),
        floor_bytes_per_s: limit.as_ref().map(|limit| limit.floor.clone()),
        limit_bytes_per_s: limit.as_ref().map(|limit| limit.limit.clone()),
        limit_by: limit.as_ref().map(|limit| limit.by),
        limit_ratio: limit.map(|limit| limit.ratio),
        test_hmm_bytes_per_s: test_hmm,
        test_hmm_ratio,
        migration_bytes_per_s: migration,
        engine_bytes_per_s: Stat::of(rates.iter().map(|round| round.engine).collect()),
        migration_s: Stat::of(migration_s),
        guest_s: Stat::of(guest_s),
        copy_share: Stat::of(shares).median,
        latency_us: sums.latency.percentiles(),
        latency_buckets: sums.latency.buckets(),
        queue_wait_us: sums.queue_wait.percentiles(),
        phases: phase_times(&sums.phases, repeats),
        splits,
        fallbacks: sums
            .fallbacks
            .into_iter()
            .map(|((order, reason), folios)| Fallback {
                order,
                reason,
                folios,
            })
            .collect(),
        verified: right && repeats > 0,
    };

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
    let rate = &row.migration_bytes_per_s;
    if rate.min > 0.0 && rate.max / rate.min > NOISY {
        warnings.push(Warning::Noisy {
            row: key,
            spread: rate.max / rate.min,
        });
    }
    row
}

impl Sums {
    /// Takes what a window says of one direction and trigger.
    fn add(&mut self, key: RowKey, window: &Window) -> Round {
        let direction = match key.direction {
            Direction::SysToDev => snapshot::Direction::SysToDev,
            Direction::DevToSys => snapshot::Direction::DevToSys,
        };
        let trigger = match key.trigger {
            Trigger::Prefetch => snapshot::Trigger::Prefetch,
            Trigger::CpuFault => snapshot::Trigger::CpuFault,
        };
        let mut round = Round {
            span_bytes: 0,
            engine_bytes: 0,
            busy_ns: 0,
            engine_ns: 0,
            copy_ns: 0,
        };
        let ours = window
            .transfers
            .iter()
            .filter(|t| t.direction == direction && t.trigger == trigger);
        for transfers in ours {
            let folios = transfers.folios.saturating_add(transfers.filled_folios);
            if folios != 0 {
                *self.device_orders.entry(transfers.order).or_default() += folios;
            }
            round.engine_bytes += transfers.bytes.saturating_add(transfers.filled_bytes);
            round.engine_ns += transfers.engine_ns;
            self.queue_wait.add(&transfers.queue_wait);
        }
        let ours = window
            .spans
            .iter()
            .filter(|s| s.direction == direction && s.trigger == trigger);
        for spans in ours {
            round.span_bytes += spans.pages_moved.saturating_mul(PAGE);
            round.busy_ns += spans.busy_ns;
            round.copy_ns += spans.engine_ns;
            self.latency.add(&spans.latency);
            let (sum, more) = (&mut self.phases, &spans.phases);
            sum.spans += more.spans;
            sum.collect_ns += more.collect_ns;
            sum.alloc_ns += more.alloc_ns;
            sum.copy_ns += more.copy_ns;
            sum.commit_ns += more.commit_ns;
            sum.finish_ns += more.finish_ns;
        }
        let ours = window
            .fallbacks
            .iter()
            .filter(|f| f.direction == direction && f.trigger == trigger);
        for fallbacks in ours {
            let key = (fallbacks.order, fallbacks.reason.clone());
            *self.fallbacks.entry(key).or_default() += fallbacks.folios;
        }
        round
    }
}

/// Means of these rounds, if the driver told about any migration in them.
fn phase_times(sums: &snapshot::Phases, repeats: u32) -> Option<PhaseTimes> {
    if sums.spans == 0 || repeats == 0 {
        return None;
    }
    let mean = |ns: u64| ratio(ns, NS) / f64::from(repeats);
    Some(PhaseTimes {
        collect_s: mean(sums.collect_ns),
        alloc_s: mean(sums.alloc_ns),
        copy_s: mean(sums.copy_ns),
        commit_s: mean(sums.commit_ns),
        finish_s: mean(sums.finish_ns),
    })
}

/// As a float: figures here are far below 2^53, where it is exact.
#[allow(clippy::cast_precision_loss)]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn per_second(bytes: u64, ns: u64) -> f64 {
    ratio(bytes, ns) * 1e9
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
mod tests;
