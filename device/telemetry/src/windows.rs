//! Windows: what happened between two marks.

use std::collections::{BTreeMap, VecDeque};

use crate::classes::{SpanTable, TransferTable};
use crate::snapshot::Window;

/// Most windows that are kept. Stops a driver that marks without end from filling the host's
/// memory: beyond it the oldest is dropped and counted.
pub const MAX_WINDOWS: usize = 4096;

/// The window that is open, with its sums still growing.
#[derive(Clone, Debug)]
pub(crate) struct OpenWindow {
    mark: u64,
    begin_ns: u64,
    pub(crate) transfers: TransferTable,
    pub(crate) spans: SpanTable,
    pub(crate) splits: BTreeMap<u8, u64>,
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
        }
    }
}

/// All windows. Closed ones are kept as the rows of the snapshot, which are small; only the open
/// one has histograms.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    pub(crate) open: Option<OpenWindow>,
    closed: VecDeque<Window>,
    dropped: u64,
}

impl Windows {
    /// Closes the open window and, unless `mark` is zero, opens one of that name.
    pub(crate) fn mark(&mut self, mark: u64, now: u64) {
        if let Some(open) = self.open.take() {
            self.closed.push_back(open.close(Some(now)));
        }
        if mark != 0 {
            self.open = Some(OpenWindow {
                mark,
                begin_ns: now,
                transfers: TransferTable::default(),
                spans: SpanTable::default(),
                splits: BTreeMap::new(),
            });
        }
        while self.closed.len() + usize::from(self.open.is_some()) > MAX_WINDOWS {
            self.closed.pop_front();
            self.dropped += 1;
        }
    }

    pub(crate) fn snapshot(&self) -> (Vec<Window>, u64) {
        let open = self.open.as_ref().map(|open| open.close(None));
        (
            self.closed.iter().cloned().chain(open).collect(),
            self.dropped,
        )
    }
}
