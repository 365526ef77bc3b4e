//! Where events are drawn: tracks of queues, lanes of spans, and counters.

use std::collections::BTreeMap;

use hmmgpu_contract::PAGE_SHIFT;
use hmmgpu_telemetry::Source;
use hmmgpu_telemetry::snapshot::{Direction, QueueKind};

use super::event::Track;

/// The engines' group of tracks; counters are there, too.
pub(super) const ENGINES: u32 = 1;
/// The migrations' group of tracks.
pub(super) const MIGRATIONS: u32 = 2;
/// Length of the intervals that throughput is told of, in nanoseconds.
pub(super) const INTERVAL_NS: u64 = 10_000_000;

/// The track of a queue, and what it is called.
pub(super) fn of_queue(source: Source) -> (Track, String) {
    let Source { kind, index } = source;
    // More than there are queues of any kind.
    let (base, name) = match kind {
        QueueKind::Copy => (1_000, "copy queue"),
        QueueKind::Invalidation => (2_000, "invalidation queue"),
        QueueKind::Fault => (3_000, "fault queue"),
        QueueKind::Compute => (4_000, "context"),
    };
    let track = Track {
        pid: ENGINES,
        tid: base + index,
    };
    (track, format!("{name} {index}"))
}

/// Lanes for slices that overlap: slices of one track must not.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// The end of the last slice of each.
    ends: Vec<u64>,
}

impl Lanes {
    /// The first lane with room for a slice, and whether it is new.
    pub(super) fn place(&mut self, begin_ns: u64, end_ns: u64) -> (Track, bool) {
        let found = self.ends.iter().position(|end| *end <= begin_ns);
        let new = found.is_none();
        let lane = found.unwrap_or_else(|| {
            self.ends.push(0);
            self.ends.len() - 1
        });
        self.ends[lane] = end_ns;
        let track = Track {
            pid: MIGRATIONS,
            // As many as spans that are open at once, which has a bound.
            tid: u32::try_from(lane + 1).unwrap_or(u32::MAX),
        };
        (track, new)
    }
}

/// VRAM in use by order, as the notes say.
#[derive(Debug, Default)]
pub(super) struct VramCounter {
    bytes: BTreeMap<u8, i128>,
    changed: bool,
}

/// Bytes of folios; more than any VRAM has where a driver talks nonsense.
fn bytes(order: u8, folios: u32) -> i128 {
    i128::from(folios) << (u32::from(order.min(63)) + PAGE_SHIFT)
}

impl VramCounter {
    pub(super) fn allocated(&mut self, order: u8, folios: u32) {
        *self.bytes.entry(order).or_insert(0) += bytes(order, folios);
        self.changed = true;
    }

    pub(super) fn freed(&mut self, order: u8, folios: u32) {
        *self.bytes.entry(order).or_insert(0) -= bytes(order, folios);
        self.changed = true;
    }

    pub(super) fn split(&mut self, order: u8, folios: u32, to: u8) {
        let moved = bytes(order, folios);
        *self.bytes.entry(order).or_insert(0) -= moved;
        *self.bytes.entry(to).or_insert(0) += moved;
        self.changed = true;
    }

    pub(super) fn clear(&mut self) {
        self.bytes.values_mut().for_each(|bytes| *bytes = 0);
        self.changed = true;
    }

    /// Bytes by order if they have changed since the last time.
    pub(super) fn take(&mut self) -> Option<BTreeMap<String, u64>> {
        if !std::mem::take(&mut self.changed) || self.bytes.is_empty() {
            return None;
        }
        let series = self.bytes.iter().map(|(order, bytes)| {
            let bytes = u64::try_from((*bytes).max(0)).unwrap_or(u64::MAX);
            (format!("order {order}"), bytes)
        });
        Some(series.collect())
    }
}

/// Bytes that moved in an interval, by direction.
#[derive(Debug, Default)]
pub(super) struct ThroughputCounter {
    bytes: BTreeMap<Direction, u64>,
    was_zero: bool,
}

impl ThroughputCounter {
    pub(super) fn moved(&mut self, direction: Direction, bytes: u64) {
        let sum = self.bytes.entry(direction).or_insert(0);
        *sum = sum.saturating_add(bytes);
    }

    /// Bytes per second by direction, unless nothing moved in this interval and the one before.
    pub(super) fn take(&mut self) -> Option<BTreeMap<Direction, u64>> {
        let zero = self.bytes.values().all(|bytes| *bytes == 0);
        if zero && self.was_zero || self.bytes.is_empty() {
            return None;
        }
        self.was_zero = zero;
        let rates = self.bytes.clone();
        self.bytes.values_mut().for_each(|bytes| *bytes = 0);
        let per_second = 1_000_000_000 / INTERVAL_NS;
        Some(
            rates
                .into_iter()
                .map(|(direction, bytes)| (direction, bytes.saturating_mul(per_second)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_that_overlap_are_on_lanes_of_their_own() {
        let mut lanes = Lanes::default();
        let mut place = |begin, end| {
            let (track, new) = lanes.place(begin, end);
            (track.tid, new)
        };
        assert_eq!(place(0, 10), (1, true));
        assert_eq!(place(5, 12), (2, true));
        assert_eq!(place(10, 13), (1, false));
        assert_eq!(place(11, 14), (3, true));
        assert_eq!(place(12, 15), (2, false));
    }

    #[test]
    fn vram_is_what_the_notes_add_up_to() {
        let mut vram = VramCounter::default();
        assert_eq!(vram.take(), None);
        vram.allocated(9, 2);
        vram.split(9, 1, 0);
        vram.freed(0, 12);
        let series = vram.take().expect("it changed");
        assert_eq!(series["order 9"], 2 << 20);
        assert_eq!(series["order 0"], 500 << 12);
        assert_eq!(vram.take(), None);
        vram.clear();
        assert!(
            vram.take()
                .expect("it changed")
                .values()
                .all(|bytes| *bytes == 0)
        );
        // Nonsense does no harm.
        vram.freed(255, u32::MAX);
        vram.allocated(255, u32::MAX);
        vram.allocated(255, u32::MAX);
        assert_eq!(vram.take().expect("it changed")["order 255"], u64::MAX);
    }

    #[test]
    fn throughput_ends_with_one_zero() {
        let mut moved = ThroughputCounter::default();
        assert_eq!(moved.take(), None);
        moved.moved(Direction::SysToDev, 1000);
        assert_eq!(
            moved.take().expect("it moved")[&Direction::SysToDev],
            100_000
        );
        assert_eq!(moved.take().expect("it stopped")[&Direction::SysToDev], 0);
        assert_eq!(moved.take(), None);
    }
}
