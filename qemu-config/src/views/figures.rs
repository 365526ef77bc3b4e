//! What two snapshots say: rates between them, and totals since the start.

use std::collections::BTreeMap;

use hmmgpu_telemetry::snapshot::{Direction, QueueKind, Snapshot, Trigger, copy_share};

use super::histogram::Histogram;

const PAGE: u64 = 4096;

/// An order and a direction.
pub(crate) type Way = (u8, Direction);

/// What moved one way, by any trigger.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Moved {
    /// Folios copied or filled.
    pub(crate) folios: u64,
    /// Bytes copied or filled.
    pub(crate) bytes: u64,
    /// Time that engines were busy with it.
    pub(crate) engine_ns: u64,
    /// Bytes that spans moved.
    pub(crate) span_bytes: u64,
    /// Time in which spans were open.
    pub(crate) span_ns: u64,
    /// Time in it that engines were busy with what they copy.
    pub(crate) copy_ns: u64,
    /// Spans.
    pub(crate) spans: u64,
    /// Time of each span.
    pub(crate) times: Histogram,
}

impl Moved {
    /// Bytes a second of the time that migrations took.
    pub(crate) fn migration_rate(&self) -> Option<f64> {
        per_second(self.span_bytes, self.span_ns)
    }

    /// Bytes a second of the time that the engines were busy.
    pub(crate) fn engine_rate(&self) -> Option<f64> {
        per_second(self.bytes, self.engine_ns)
    }

    /// Share of the migrations' time that the engines were busy.
    pub(crate) fn copy_share(&self) -> Option<f64> {
        copy_share(self.copy_ns, self.span_ns)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.folios = self.folios.saturating_add(other.folios);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.engine_ns = self.engine_ns.saturating_add(other.engine_ns);
        self.span_bytes = self.span_bytes.saturating_add(other.span_bytes);
        self.span_ns = self.span_ns.saturating_add(other.span_ns);
        self.copy_ns = self.copy_ns.saturating_add(other.copy_ns);
        self.spans = self.spans.saturating_add(other.spans);
        self.times.merge(&other.times);
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            folios: self.folios.saturating_sub(before.folios),
            bytes: self.bytes.saturating_sub(before.bytes),
            engine_ns: self.engine_ns.saturating_sub(before.engine_ns),
            span_bytes: self.span_bytes.saturating_sub(before.span_bytes),
            span_ns: self.span_ns.saturating_sub(before.span_ns),
            copy_ns: self.copy_ns.saturating_sub(before.copy_ns),
            spans: self.spans.saturating_sub(before.spans),
            times: self.times.since(&before.times),
        }
    }
}

/// Counts of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Faults of the GPU that ended, however.
    pub(crate) gpu_faults: u64,
    /// Of these, those that were replayed.
    pub(crate) replays: u64,
    /// Migrations that a fault of a CPU triggered.
    pub(crate) cpu_faults: u64,
    /// Large folios that did not move whole.
    pub(crate) fallbacks: u64,
    /// Large folios in VRAM that were split.
    pub(crate) splits: u64,
    /// Descriptors that failed.
    pub(crate) errors: u64,
    /// Reports of the checker of VRAM.
    pub(crate) checks: u64,
    /// Resets, by any cause but a client that left.
    pub(crate) resets: u64,
    /// Accesses to registers that are not defined.
    pub(crate) unknown_registers: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Time between the snapshots; from the start, where there was only one.
    pub(crate) interval_ns: u64,
    /// What moved in it.
    pub(crate) now: BTreeMap<Way, Moved>,
    /// What moved since the start.
    pub(crate) total: BTreeMap<Way, Moved>,
    /// Share of the interval that the copy engines were busy.
    pub(crate) copy_busy: Option<f64>,
    /// Share of the interval that the compute engines were busy, of all contexts together.
    pub(crate) compute_busy: Option<f64>,
    /// Events in the interval.
    pub(crate) events_now: Counts,
    /// Events since the start.
    pub(crate) events: Counts,
}

impl Figures {
    /// What `now` says beside `before`, which is left aside when it is of another device.
    pub(crate) fn between(before: Option<&Snapshot>, now: &Snapshot) -> Self {
        let before = before
            .filter(|before| before.started_ns == now.started_ns && before.time_ns < now.time_ns);
        let since = before.map_or(now.started_ns, |before| before.time_ns);
        let interval_ns = now.time_ns.saturating_sub(since);
        let total = moved(now);
        let earlier = before.map(moved).unwrap_or_default();
        let nothing = Moved::default();
        let recent = total
            .iter()
            .map(|(way, moved)| (*way, moved.since(earlier.get(way).unwrap_or(&nothing))))
            .collect();
        let events = counts(now);
        let busy = |kind| busy_share(before, now, kind, interval_ns);
        Self {
            interval_ns,
            now: recent,
            total,
            copy_busy: busy(QueueKind::Copy),
            compute_busy: busy(QueueKind::Compute),
            events_now: events.since(before.map(counts).unwrap_or_default()),
            events,
        }
    }

    /// Bytes a second of the interval that went one way, at all orders or one.
    pub(crate) fn rate(&self, direction: Direction, order: Option<u8>) -> f64 {
        let bytes = sum(&self.now, direction, order).bytes;
        per_second(bytes, self.interval_ns).unwrap_or(0.0)
    }

    /// What went one way since the start, at all orders or one.
    pub(crate) fn total(&self, direction: Direction, order: Option<u8>) -> Moved {
        sum(&self.total, direction, order)
    }

    /// What went one way in the interval, at all orders or one.
    pub(crate) fn recent(&self, direction: Direction, order: Option<u8>) -> Moved {
        sum(&self.now, direction, order)
    }

    /// A count of the interval, as counts a second.
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        per_second(count, self.interval_ns).unwrap_or(0.0)
    }
}

/// What a direction is called.
pub(crate) fn way_name(direction: Direction) -> &'static str {
    match direction {
        Direction::SysToDev => "to device",
        Direction::DevToSys => "home",
        Direction::DevToDev => "in VRAM",
        Direction::SysToSys => "in system",
    }
}

fn sum(moved: &BTreeMap<Way, Moved>, direction: Direction, order: Option<u8>) -> Moved {
    let mut sum = Moved::default();
    for ((its_order, its_direction), moved) in moved {
        if *its_direction == direction && order.is_none_or(|order| order == *its_order) {
            sum.add(moved);
        }
    }
    sum
}

fn moved(snapshot: &Snapshot) -> BTreeMap<Way, Moved> {
    let mut all: BTreeMap<Way, Moved> = BTreeMap::new();
    for transfers in &snapshot.transfers {
        let moved = all
            .entry((transfers.order, transfers.direction))
            .or_default();
        moved.add(&Moved {
            folios: transfers.folios.saturating_add(transfers.filled_folios),
            bytes: transfers.bytes.saturating_add(transfers.filled_bytes),
            engine_ns: transfers.engine_ns,
            ..Moved::default()
        });
    }
    for spans in &snapshot.spans {
        let moved = all.entry((spans.order, spans.direction)).or_default();
        moved.span_bytes = moved
            .span_bytes
            .saturating_add(spans.pages_moved.saturating_mul(PAGE));
        moved.span_ns = moved.span_ns.saturating_add(spans.busy_ns);
        moved.copy_ns = moved.copy_ns.saturating_add(spans.engine_ns);
        moved.spans = moved.spans.saturating_add(spans.count);
        moved.times.add(&spans.latency);
    }
    all
}

fn busy_share(
    before: Option<&Snapshot>,
    now: &Snapshot,
    kind: QueueKind,
    interval_ns: u64,
) -> Option<f64> {
    let of = |snapshot: &Snapshot, index: u32| {
        snapshot
            .queues
            .iter()
            .find(|queue| queue.kind == kind && queue.index == index)
            .map_or(0, |queue| queue.busy_ns)
    };
    let queues = now.queues.iter().filter(|queue| queue.kind == kind);
    let (mut engines, mut busy) = (0u64, 0u64);
    for queue in queues {
        let earlier = before.map_or(0, |before| of(before, queue.index));
        busy = busy.saturating_add(queue.busy_ns.saturating_sub(earlier));
        engines += 1;
    }
    let time = interval_ns.saturating_mul(engines);
    (time > 0).then(|| ratio(busy, time).min(1.0))
}

fn counts(snapshot: &Snapshot) -> Counts {
    use hmmgpu_telemetry::snapshot::Outcome;
    let faults = |wanted: Option<Outcome>| {
        sum_of(snapshot.mmu.faults.iter().filter_map(|faults| {
            let counts = wanted.is_none_or(|outcome| outcome == faults.outcome);
            counts.then_some(faults.count)
        }))
    };
    let events = &snapshot.events;
    Counts {
        gpu_faults: faults(None),
        replays: faults(Some(Outcome::Replayed)),
        cpu_faults: sum_of(
            snapshot
                .spans
                .iter()
                .filter(|spans| spans.trigger == Trigger::CpuFault)
                .map(|spans| spans.count),
        ),
        fallbacks: sum_of(snapshot.fallbacks.iter().map(|fallbacks| fallbacks.folios)),
        splits: sum_of(events.splits.iter().map(|(_, folios)| *folios)),
        errors: sum_of(events.descriptor_errors.iter().map(|(_, count)| *count)),
        checks: snapshot.checker.total(),
        resets: sum_of(
            events
                .resets
                .iter()
                .filter(|(cause, _)| cause != "disconnect")
                .map(|(_, count)| *count),
        ),
        unknown_registers: events.unknown_register_accesses,
    }
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            gpu_faults: self.gpu_faults.saturating_sub(before.gpu_faults),
            replays: self.replays.saturating_sub(before.replays),
            cpu_faults: self.cpu_faults.saturating_sub(before.cpu_faults),
            fallbacks: self.fallbacks.saturating_sub(before.fallbacks),
            splits: self.splits.saturating_sub(before.splits),
            errors: self.errors.saturating_sub(before.errors),
            checks: self.checks.saturating_sub(before.checks),
            resets: self.resets.saturating_sub(before.resets),
            unknown_registers: self
                .unknown_registers
                .saturating_sub(before.unknown_registers),
        }
    }
}

/// Resets by cause, such as `register 1, vfio_user 1`. They are no errors: a driver that comes, and
/// a VM that comes or goes, reset the device.
pub(crate) fn resets(snapshot: &Snapshot) -> String {
    let causes: Vec<String> = snapshot
        .events
        .resets
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(cause, count)| {
            let cause = crate::text::printable(cause.as_bytes());
            format!("{cause} {}", super::units::count(*count))
        })
        .collect();
    if causes.is_empty() {
        "none".into()
    } else {
        causes.join(", ")
    }
}

fn sum_of(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn per_second(count: u64, ns: u64) -> Option<f64> {
    (ns > 0).then(|| ratio(count, ns) * 1e9)
}

/// One number over another, which is not 0.
#[allow(clippy::cast_precision_loss)] // a few digits are shown
pub(crate) fn ratio(over: u64, under: u64) -> f64 {
    over as f64 / under as f64
}
