//! Windows: what happened between two marks.

use std::collections::{BTreeMap, VecDeque};

use crate::classes::{FallbackTable, SpanTable, TransferTable};
use crate::snapshot::Window;

/// Most windows that are kept. Stops a driver that marks without end from filling the host's
/// memory: beyond it the oldest is dropped and counted.
pub const MAX_WINDOWS: usize = 4096;

/// Most rows that are kept in all closed windows: what [`Window::rows`] counts, which are at
/// most some 100 bytes of indented JSON each. A bench of all orders and thirty rounds has half as
/// many. Stops a driver that does a little of everything between its marks: beyond it the oldest
/// windows are dropped and counted, but never the last.
pub const MAX_WINDOW_ROWS: usize = 1 << 19;

/// Rows that a distribution counts as, besides its buckets: with what its class has beside it.
const CLASS_ROWS: usize = 16;

impl Window {
    /// How much it takes to keep it: its latency buckets, splits and fallbacks, and 16 for each
    /// distribution.
    pub fn rows(&self) -> usize {
        let transfers = self.transfers.iter();
        let transfers = transfers.flat_map(|row| [&row.latency, &row.queue_wait]);
        let latencies = transfers.chain(self.spans.iter().map(|row| &row.latency));
        let classes: usize = latencies.map(|row| CLASS_ROWS + row.buckets.len()).sum();
        classes + self.splits.len() + self.fallbacks.len()
    }
}

/// The window that is open, with its sums still growing.
#[derive(Clone, Debug)]
pub(crate) struct OpenWindow {
    mark: u64,
    begin_ns: u64,
    pub(crate) transfers: TransferTable,
    pub(crate) spans: SpanTable,
    pub(crate) splits: BTreeMap<u8, u64>,
    pub(crate) fallbacks: FallbackTable,
}

impl OpenWindow {
    fn close(&self, end_ns: Option<u64>) -> Window {
        Window {
            mark: self.mark,
            begin_ns: self.begin_ns,
            end_ns,
            transfers: self.transfers.rows(),
            spans: self.spans.rows(),
            splits: self.splits.iter().map(|(k, v)| (*k, *v)).collect(),
            fallbacks: self.fallbacks.rows(),
        }
    }
}

/// All windows. Closed ones are kept as the rows of the snapshot, which are small; only the open
/// one has histograms.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    pub(crate) open: Option<OpenWindow>,
    closed: VecDeque<Window>,
    /// Rows of all closed ones.
    rows: usize,
    dropped: u64,
}

impl Windows {
    /// Closes the open window and, unless `mark` is zero, opens one of that name.
    pub(crate) fn mark(&mut self, mark: u64, now: u64) {
        if let Some(open) = self.open.take() {
            let window = open.close(Some(now));
            self.rows += window.rows();
            self.closed.push_back(window);
        }
        if mark != 0 {
            self.open = Some(OpenWindow {
                mark,
                begin_ns: now,
                transfers: TransferTable::default(),
                spans: SpanTable::default(),
                splits: BTreeMap::new(),
                fallbacks: FallbackTable::default(),
            });
        }
        while self.too_many()
            && let Some(oldest) = self.closed.pop_front()
        {
            self.rows -= oldest.rows();
            self.dropped += 1;
        }
    }

    fn too_many(&self) -> bool {
        let windows = self.closed.len() + usize::from(self.open.is_some());
        windows > MAX_WINDOWS || self.rows > MAX_WINDOW_ROWS && self.closed.len() > 1
    }

    pub(crate) fn snapshot(&self) -> Vec<Window> {
        let open = self.open.as_ref().map(|open| open.close(None));
        self.closed.iter().cloned().chain(open).collect()
    }

    /// Windows that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::{Class, Migrated, Transferred};
    use crate::record::FallbackReason;
    use crate::snapshot::{Direction, Trigger};
    use crate::spans::Covered;

    /// A window of `orders` classes of transfers and of spans, each with `times` latency buckets.
    fn window(windows: &mut Windows, mark: u64, orders: u8, times: u32) {
        windows.mark(mark, 0);
        let open = windows.open.as_mut().expect("it was just opened");
        for order in 0..orders {
            let class = Class {
                order,
                direction: Direction::SysToDev,
                trigger: Trigger::Evict,
            };
            for time in 0..times {
                let ns = 1 << (10 + time);
                open.transfers.done(
                    class,
                    Transferred {
                        descriptors: 1,
                        folios: 1,
                        fill: false,
                        engine_ns: ns,
                        waited_ns: ns,
                    },
                );
                open.spans.ended(
                    class,
                    Migrated {
                        asked: 1,
                        moved: 1,
                        ns,
                        busy: Covered {
                            ns: 1,
                            engine_ns: 1,
                        },
                        phases: None,
                    },
                );
            }
            open.splits.insert(order, 1);
            open.fallbacks.add(class, FallbackReason::Shared, 1);
        }
    }

    #[test]
    fn a_long_bench_has_room() {
        let mut windows = Windows::default();
        // Thirty rounds and one to warm up, of all orders, there, back, and back by faults; some
        // large folios have moved as single pages.
        let rounds = 31 * 10 * 3;
        for mark in 1..=rounds {
            window(&mut windows, mark, 2, 40);
        }
        windows.mark(0, 0);
        assert_eq!(windows.dropped(), 0);
        assert_eq!(windows.snapshot().len() as u64, rounds);
    }

    #[test]
    fn closed_windows_are_bounded_by_their_rows() {
        let mut windows = Windows::default();
        let (orders, times) = (19, 24);
        let rows = 3 * 19 * (CLASS_ROWS + 24) + 2 * 19;
        let fit = MAX_WINDOW_ROWS / rows;
        let mark_count = 1000;
        assert!(fit < 999);
        for mark in 1..=mark_count {
            window(&mut windows, mark, orders, times);
        }
        let (kept, dropped) = (windows.snapshot(), windows.dropped());
        assert_eq!(kept[0].rows(), rows);
        assert_eq!(kept.len(), fit + 1, "closed ones and the open one");
        assert_eq!(dropped + kept.len() as u64, mark_count);
        assert_eq!(kept.last().map(|window| window.mark), Some(mark_count));
        // Small ones make room for as many windows as without the large ones.
        for mark in 1..=5000 {
            windows.mark(mark, 0);
        }
        assert_eq!(windows.rows, 0);
        assert_eq!(windows.snapshot().len(), MAX_WINDOWS);
    }
}
