//! Sums about address spaces and compute engines.

use std::collections::BTreeMap;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::FaultReason;

use crate::histogram::Times;
use crate::snapshot::{Access, Faults, Jobs, Kernel, Latency, Outcome};

/// Jobs that ended. The device names all of their keys, which bounds the map.
#[derive(Debug, Default)]
pub(crate) struct JobTable(BTreeMap<(Kernel, Status), JobSums>);

#[derive(Debug, Default)]
struct JobSums {
    count: u64,
    elements: u64,
    engine_ns: u64,
}

impl JobTable {
    pub(crate) fn ended(&mut self, kernel: Kernel, status: Status, elements: u64, engine_ns: u64) {
        let sums = self.0.entry((kernel, status)).or_default();
        sums.count += 1;
        // How many elements a job has is the driver's to say.
        sums.elements = sums.elements.saturating_add(elements);
        sums.engine_ns += engine_ns;
    }

    pub(crate) fn rows(&self) -> Vec<Jobs> {
        self.0
            .iter()
            .map(|((kernel, status), sums)| Jobs {
                kernel: *kernel,
                status: format!("{status:?}"),
                count: sums.count,
                elements: sums.elements,
                engine_ns: sums.engine_ns,
            })
            .collect()
    }
}

/// Faults that are over. The device names all of their keys, which bounds the map.
#[derive(Debug)]
pub(crate) struct FaultTable {
    counts: BTreeMap<(Access, FaultReason, Outcome), u64>,
    replay: Times,
}

impl FaultTable {
    pub(crate) fn new() -> Self {
        Self {
            counts: BTreeMap::new(),
            replay: Times::new(),
        }
    }

    pub(crate) fn over(
        &mut self,
        access: Access,
        reason: FaultReason,
        outcome: Outcome,
        waited_ns: u64,
    ) {
        *self.counts.entry((access, reason, outcome)).or_insert(0) += 1;
        if matches!(outcome, Outcome::Replayed | Outcome::Cancelled) {
            self.replay.record(waited_ns);
        }
    }

    pub(crate) fn rows(&self) -> Vec<Faults> {
        self.counts
            .iter()
            .map(|((access, reason, outcome), count)| Faults {
                access: *access,
                reason: format!("{reason:?}"),
                outcome: *outcome,
                count: *count,
            })
            .collect()
    }

    pub(crate) fn replay(&self) -> Latency {
        self.replay.latency()
    }
}
