//! Whoever wants each record, not only the sums.

use std::fmt::Debug;

use crate::aggregate::ResetKind;
use crate::record::Record;
use crate::snapshot::{FaultAction, FaultSite, QueueKind, Trace};

/// Where records come from: a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// What it is for.
    pub kind: QueueKind,
    /// Its number among those of the kind.
    pub index: u32,
}

/// Sees what engines did, in batches, as it is counted. Called on the engines' threads: it must
/// not wait.
pub trait Observer: Debug + Send + Sync {
    /// The engine of `source` did this in `generation`, in order.
    fn records(&self, source: Source, generation: u32, records: &[Record]);

    /// The device was reset and is at `generation` now.
    fn reset(&self, kind: ResetKind, generation: u32);

    /// A fault was injected.
    fn injected(&self, site: FaultSite, action: FaultAction, time_ns: u64);

    /// What came of it.
    fn written(&self) -> Trace;
}
