//! Sums by class: what was transferred and migrated, for one order, direction and trigger.

use std::collections::BTreeMap;

use hmmgpu_contract::PAGE_SHIFT;

use crate::histogram::Times;
use crate::snapshot::{Direction, Latency, Phases, Spans, Transfers, Trigger};

/// What sums are kept by. At most 19 orders by 4 directions by 4 triggers exist, which bounds
/// the maps below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    pub(crate) order: u8,
    pub(crate) direction: Direction,
    pub(crate) trigger: Trigger,
}

/// Sums of one class of transfers.
#[derive(Clone, Debug)]
struct TransferSums {
    folios: u64,
    bytes: u64,
    filled_folios: u64,
    filled_bytes: u64,
    engine_ns: u64,
    errors: u64,
    times: Times,
}

/// Transfers by class.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransferTable(BTreeMap<Class, TransferSums>);

impl TransferTable {
    fn sums(&mut self, class: Class) -> &mut TransferSums {
        self.0.entry(class).or_insert_with(|| TransferSums {
            folios: 0,
            bytes: 0,
            filled_folios: 0,
            filled_bytes: 0,
            engine_ns: 0,
            errors: 0,
            times: Times::new(),
        })
    }

    pub(crate) fn done(&mut self, class: Class, folios: u64, fill: bool, engine_ns: u64) {
        let bytes = folios << (u32::from(class.order) + PAGE_SHIFT);
        let sums = self.sums(class);
        if fill {
            sums.filled_folios += folios;
            sums.filled_bytes += bytes;
        } else {
            sums.folios += folios;
            sums.bytes += bytes;
        }
        sums.engine_ns += engine_ns;
        sums.times.record(engine_ns);
    }

    pub(crate) fn failed(&mut self, class: Class, engine_ns: u64) {
        let sums = self.sums(class);
        sums.errors += 1;
        sums.engine_ns += engine_ns;
    }

    pub(crate) fn rows(&self) -> Vec<Transfers> {
        self.0
            .iter()
            .map(|(class, sums)| Transfers {
                order: class.order,
                direction: class.direction,
                trigger: class.trigger,
                folios: sums.folios,
                bytes: sums.bytes,
                filled_folios: sums.filled_folios,
                filled_bytes: sums.filled_bytes,
                engine_ns: sums.engine_ns,
                errors: sums.errors,
                latency: sums.times.latency(),
                queue_wait: Latency::default(),
            })
            .collect()
    }
}

/// Sums of one class of spans.
#[derive(Clone, Debug)]
struct SpanSums {
    count: u64,
    pages_asked: u64,
    pages_moved: u64,
    busy_ns: u64,
    times: Times,
}

/// Spans that ended, by class.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpanTable(BTreeMap<Class, SpanSums>);

impl SpanTable {
    pub(crate) fn ended(&mut self, class: Class, asked: u64, moved: u64, ns: u64, busy_ns: u64) {
        let sums = self.0.entry(class).or_insert_with(|| SpanSums {
            count: 0,
            pages_asked: 0,
            pages_moved: 0,
            busy_ns: 0,
            times: Times::new(),
        });
        sums.count += 1;
        sums.pages_asked += asked;
        sums.pages_moved += moved;
        sums.busy_ns += busy_ns;
        sums.times.record(ns);
    }

    pub(crate) fn rows(&self) -> Vec<Spans> {
        self.0
            .iter()
            .map(|(class, sums)| Spans {
                order: class.order,
                direction: class.direction,
                trigger: class.trigger,
                count: sums.count,
                pages_asked: sums.pages_asked,
                pages_moved: sums.pages_moved,
                busy_ns: sums.busy_ns,
                latency: sums.times.latency(),
                phases: Phases::default(),
            })
            .collect()
    }
}
