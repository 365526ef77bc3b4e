//! Sums by class: what was transferred and migrated, for one order, direction and trigger.

use std::collections::BTreeMap;

use hmmgpu_contract::{MAX_ORDER, PAGE_SHIFT};

use crate::histogram::Times;
use crate::record::{FallbackReason, PhaseTimes};
use crate::snapshot::{Direction, Fallbacks, Phases, Spans, Transfers, Trigger};
use crate::spans::Covered;

/// What sums are kept by. The device lets no other orders than 0 to [`MAX_ORDER`] through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class {
    pub(crate) order: u8,
    pub(crate) direction: Direction,
    pub(crate) trigger: Trigger,
}

/// Directions and triggers.
pub(crate) const KINDS: usize = 16;
/// All classes that there are.
const CLASSES: usize = (MAX_ORDER as usize + 1) * KINDS;

impl Class {
    /// Its number, in the order of [`Ord`].
    fn number(self) -> usize {
        usize::from(self.order) * KINDS + self.kind()
    }

    /// The number of its direction and trigger, below [`KINDS`].
    pub(crate) fn kind(self) -> usize {
        self.direction as usize * 4 + self.trigger as usize
    }
}

/// Something for each class that was met. Found by number: this is on the path of every
/// descriptor.
#[derive(Clone, Debug)]
struct Table<T>(Vec<Option<Box<(Class, T)>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(std::iter::repeat_with(|| None).take(CLASSES).collect())
    }
}

impl<T> Table<T> {
    fn get(&mut self, class: Class, new: impl FnOnce() -> T) -> &mut T {
        let entry = &mut self.0[class.number()];
        &mut entry.get_or_insert_with(|| Box::new((class, new()))).1
    }

    /// Those that were met, in the order of classes.
    fn iter(&self) -> impl Iterator<Item = &(Class, T)> {
        self.0.iter().flatten().map(|entry| &**entry)
    }
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
    waits: Times,
}

/// Transfers by class.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransferTable(Table<TransferSums>);

/// Transfers that are over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transferred {
    pub(crate) descriptors: u64,
    pub(crate) folios: u64,
    pub(crate) fill: bool,
    pub(crate) engine_ns: u64,
    pub(crate) waited_ns: u64,
}

impl TransferTable {
    fn sums(&mut self, class: Class) -> &mut TransferSums {
        self.0.get(class, || TransferSums {
            folios: 0,
            bytes: 0,
            filled_folios: 0,
            filled_bytes: 0,
            engine_ns: 0,
            errors: 0,
            times: Times::new(),
            waits: Times::new(),
        })
    }

    pub(crate) fn done(&mut self, class: Class, done: Transferred) {
        let Transferred {
            descriptors,
            folios,
            fill,
            engine_ns,
            waited_ns,
        } = done;
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
        sums.times.record_even(engine_ns, descriptors);
        sums.waits
            .record_even(waited_ns.saturating_mul(descriptors), descriptors);
    }

    pub(crate) fn failed(&mut self, class: Class, failed: Transferred) {
        let sums = self.sums(class);
        sums.errors += failed.descriptors;
        sums.engine_ns += failed.engine_ns;
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
                queue_wait: sums.waits.latency(),
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
    busy: Covered,
    times: Times,
    phases: Phases,
}

/// Spans that ended, by class.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpanTable(Table<SpanSums>);

/// A span that has ended, as its class counts it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migrated {
    pub(crate) asked: u64,
    pub(crate) moved: u64,
    pub(crate) ns: u64,
    /// What the class gains in covered time.
    pub(crate) busy: Covered,
    /// What the driver told of its phases.
    pub(crate) phases: Option<PhaseTimes>,
}

impl SpanTable {
    pub(crate) fn ended(&mut self, class: Class, span: Migrated) {
        let sums = self.0.get(class, || SpanSums {
            count: 0,
            pages_asked: 0,
            pages_moved: 0,
            busy: Covered::default(),
            times: Times::new(),
            phases: Phases::default(),
        });
        sums.count += 1;
        sums.pages_asked += span.asked;
        sums.pages_moved += span.moved;
        sums.busy.ns += span.busy.ns;
        sums.busy.engine_ns += span.busy.engine_ns;
        sums.times.record(span.ns);
        if let Some(times) = span.phases {
            let phases = &mut sums.phases;
            phases.spans += 1;
            phases.collect_ns += times.collect_ns;
            phases.alloc_ns += times.alloc_ns;
            phases.copy_ns += times.copy_ns;
            phases.commit_ns += times.commit_ns;
            phases.finish_ns += times.finish_ns;
        }
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
                busy_ns: sums.busy.ns,
                engine_ns: sums.busy.engine_ns,
                latency: sums.times.latency(),
                phases: sums.phases,
            })
            .collect()
    }
}

/// Folios that did not move whole, by class and reason. All keys are the device's, which bounds
/// the map.
#[derive(Clone, Debug, Default)]
pub(crate) struct FallbackTable(BTreeMap<(Class, FallbackReason), u64>);

impl FallbackTable {
    pub(crate) fn add(&mut self, class: Class, reason: FallbackReason, folios: u64) {
        *self.0.entry((class, reason)).or_insert(0) += folios;
    }

    pub(crate) fn rows(&self) -> Vec<Fallbacks> {
        self.0
            .iter()
            .map(|((class, reason), folios)| Fallbacks {
                order: class.order,
                direction: class.direction,
                trigger: class.trigger,
                reason: reason.name().to_owned(),
                folios: *folios,
            })
            .collect()
    }
}
