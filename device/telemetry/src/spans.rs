//! Open spans, and how much time spans of a class cover together: how much of the host's clock,
//! and how much of the engines' time for what such spans copy.
//!
//! A span's class is known only when it ends, so a union of intervals cannot be kept per class
//! while spans run. Instead every open span keeps, per class, how much time since its own
//! beginning is covered by spans that have ended already. When a span `j` with beginning `b`
//! ends at `now` in class `c`:
//!
//! - it adds `now - b - covered(j, c)`, the time that no ended span of `c` had covered yet;
//! - every other open span `i` learns of it: if `i` began after `b`, all of its time so far is
//!   covered; otherwise what `j` added lies after `i`'s beginning and adds to `covered(i, c)`.
//!
//! That is exact for spans that end in any order, because ends come in the order of time. Memory
//! is bounded by the number of open spans times the number of classes.
//!
//! Engine time is a clock like the host's, one for each direction and trigger: what is said above
//! of time holds of it, too. Descriptors do not name their span, so that where spans of several
//! orders move in one direction for one reason at once, each has all that was copied meanwhile.

use std::collections::{BTreeMap, HashMap};

use crate::classes::{Class, KINDS};
use crate::record::PhaseTimes;

/// Most spans open at once. Stops a driver that never ends its spans from filling the host's
/// memory: beyond it, the span that began first is given up and counted as lost.
pub const MAX_OPEN_SPANS: usize = 1024;

/// A point in time: of the host's clock, and of the engines'.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    ns: u64,
    /// By [`Class::kind`].
    engine_ns: [u64; KINDS],
}

impl Moment {
    /// Time from `before`, for spans of a class.
    fn since(&self, before: &Self, class: Class) -> Covered {
        let kind = class.kind();
        Covered {
            ns: self.ns - before.ns,
            engine_ns: self.engine_ns[kind] - before.engine_ns[kind],
        }
    }
}

/// Time that spans of a class cover together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Covered {
    /// Of the host's clock.
    pub(crate) ns: u64,
    /// Of it, time that engines were busy with transfers of the same direction and trigger.
    pub(crate) engine_ns: u64,
}

/// Time covered together by overlapping spans. See the module's description.
#[derive(Clone, Debug, Default)]
struct Coverage {
    begin: Moment,
    covered: BTreeMap<Class, Covered>,
}

/// Coverage over one stretch of time: all of it, or one window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Union {
    open: HashMap<u64, Coverage>,
}

impl Union {
    fn begin(&mut self, id: u64, begin: Moment) {
        let covered = BTreeMap::new();
        self.open.insert(id, Coverage { begin, covered });
    }

    fn forget(&mut self, id: u64) {
        self.open.remove(&id);
    }

    /// Ends `id` and returns the time that its class gains.
    fn end(&mut self, id: u64, class: Class, now: &Moment) -> Covered {
        let Some(ended) = self.open.remove(&id) else {
            return Covered::default();
        };
        let before = ended.covered.get(&class).copied().unwrap_or_default();
        let all = now.since(&ended.begin, class);
        let gained = Covered {
            ns: all.ns.saturating_sub(before.ns),
            engine_ns: all.engine_ns.saturating_sub(before.engine_ns),
        };
        for other in self.open.values_mut() {
            let covered = other.covered.entry(class).or_default();
            if other.begin.ns >= ended.begin.ns {
                *covered = now.since(&other.begin, class);
            } else {
                covered.ns += gained.ns;
                covered.engine_ns += gained.engine_ns;
            }
        }
        gained
    }
}

#[derive(Clone, Copy, Debug)]
struct Open {
    begin: u64,
    pages_asked: u64,
    process: u32,
    phases: Option<PhaseTimes>,
}

/// A span that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Pages asked for when it began.
    pub(crate) pages_asked: u64,
    /// Whose memory moved; 0: the driver did not say.
    pub(crate) process: u32,
    /// What the driver told of its phases.
    pub(crate) phases: Option<PhaseTimes>,
    /// Its own time.
    pub(crate) ns: u64,
    /// What its class gains in covered time, in all.
    pub(crate) busy: Covered,
    /// What its class gains in covered time, in the open window.
    pub(crate) window_busy: Covered,
}

/// All spans that have begun and not ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenSpans {
    open: HashMap<u64, Open>,
    all: Union,
    window: Union,
    /// Latest time seen. Queues hand over their batches independently, so a record can be older
    /// than one before it by the length of a batch; coverage needs time that never runs back.
    latest: Moment,
}

impl OpenSpans {
    fn clamp(&mut self, time: u64) -> Moment {
        self.latest.ns = self.latest.ns.max(time);
        self.latest
    }

    /// An engine was busy for so long with a transfer of this class.
    pub(crate) fn transferred(&mut self, class: Class, engine_ns: u64) {
        self.latest.engine_ns[class.kind()] += engine_ns;
    }

    /// Begins a span. Returns `(unmatched, lost)`: whether one of that id was open already (it
    /// begins anew), and whether the oldest had to be given up.
    pub(crate) fn begin(
        &mut self,
        id: u64,
        pages_asked: u64,
        process: u32,
        begin: u64,
    ) -> (bool, bool) {
        let now = self.clamp(begin);
        let unmatched = self.open.contains_key(&id);
        let mut lost = false;
        if !unmatched && self.open.len() >= MAX_OPEN_SPANS {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.begin);
            if let Some((&oldest, _)) = oldest {
                self.open.remove(&oldest);
                self.all.forget(oldest);
                self.window.forget(oldest);
                lost = true;
            }
        }
        self.open.insert(
            id,
            Open {
                begin,
                pages_asked,
                process,
                phases: None,
            },
        );
        self.all.begin(id, now);
        self.window.begin(id, now);
        (unmatched, lost)
    }

    /// The driver tells of the phases of a span. Of one that is not open it is of no use.
    pub(crate) fn phases(&mut self, id: u64, phases: PhaseTimes) {
        if let Some(open) = self.open.get_mut(&id) {
            open.phases = Some(phases);
        }
    }

    /// Ends a span; `None` when none of that id is open.
    pub(crate) fn end(&mut self, id: u64, class: Class, end: u64) -> Option<Ended> {
        let now = self.clamp(end);
        let open = self.open.remove(&id)?;
        Some(Ended {
            pages_asked: open.pages_asked,
            process: open.process,
            phases: open.phases,
            ns: end.saturating_sub(open.begin),
            busy: self.all.end(id, class, &now),
            window_busy: self.window.end(id, class, &now),
        })
    }

    /// Begins a window: time before `now` counts no more for it.
    pub(crate) fn open_window(&mut self, now: u64) {
        let now = self.clamp(now);
        for coverage in self.window.open.values_mut() {
            coverage.begin = now;
            coverage.covered.clear();
        }
    }

    /// Gives up all open spans and returns how many they were.
    pub(crate) fn lose_all(&mut self) -> u64 {
        let lost = self.open.len();
        self.open.clear();
        self.all.open.clear();
        self.window.open.clear();
        lost as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Direction, Trigger};
    use proptest::prelude::*;

    fn class(order: u8) -> Class {
        Class {
            order,
            direction: Direction::SysToDev,
            trigger: Trigger::Prefetch,
        }
    }

    /// Length of the union of intervals, by sorting.
    fn union_length(mut intervals: Vec<(u64, u64)>) -> u64 {
        intervals.sort_unstable();
        let (mut total, mut reach) = (0, 0);
        for (begin, end) in intervals {
            let begin = begin.max(reach);
            if end > begin {
                total += end - begin;
                reach = end;
            }
        }
        total
    }

    #[test]
    fn overlap_counts_once() {
        let mut spans = OpenSpans::default();
        spans.begin(1, 0, 0, 100);
        spans.begin(2, 0, 0, 150);
        assert_eq!(spans.end(1, class(9), 200).unwrap().busy.ns, 100);
        let second = spans.end(2, class(9), 260).unwrap();
        assert_eq!((second.ns, second.busy.ns), (110, 60));
    }

    #[test]
    fn inner_spans_are_covered_by_the_outer_one() {
        let mut spans = OpenSpans::default();
        spans.begin(1, 0, 0, 0);
        for inner in 0..5 {
            spans.begin(10 + inner, 0, 0, 100 * inner + 10);
            let ended = spans.end(10 + inner, class(0), 100 * inner + 30).unwrap();
            assert_eq!(ended.busy.ns, 20);
        }
        assert_eq!(spans.end(1, class(0), 1000).unwrap().busy.ns, 900);
    }

    #[test]
    fn classes_do_not_cover_each_other() {
        let mut spans = OpenSpans::default();
        spans.begin(1, 0, 0, 0);
        spans.begin(2, 0, 0, 0);
        assert_eq!(spans.end(1, class(0), 10).unwrap().busy.ns, 10);
        assert_eq!(spans.end(2, class(9), 10).unwrap().busy.ns, 10);
    }

    #[test]
    fn a_migration_has_the_time_of_its_copies_whatever_their_order() {
        let mut spans = OpenSpans::default();
        let by_fault = Class {
            trigger: Trigger::CpuFault,
            ..class(0)
        };
        spans.begin(1, 0, 0, 0);
        // A large folio that moved as single pages, while a fault copied a page.
        spans.transferred(class(0), 60);
        spans.transferred(by_fault, 7);
        spans.begin(2, 0, 0, 50);
        spans.transferred(class(9), 20);
        let first = spans.end(1, class(9), 100).unwrap().busy;
        assert_eq!((first.ns, first.engine_ns), (100, 80));
        // It adds nothing but what was copied after the first one's end.
        spans.transferred(class(9), 30);
        let second = spans.end(2, class(9), 140).unwrap().busy;
        assert_eq!((second.ns, second.engine_ns), (40, 30));
    }

    #[test]
    fn too_many_open_spans_give_up_the_oldest() {
        let mut spans = OpenSpans::default();
        for id in 0..MAX_OPEN_SPANS as u64 {
            assert_eq!(spans.begin(id, 0, 0, id), (false, false));
        }
        assert_eq!(spans.begin(99_999, 0, 0, 5000), (false, true));
        assert!(spans.end(0, class(0), 6000).is_none());
        assert_eq!(spans.end(1, class(0), 6000).unwrap().ns, 5999);
    }

    proptest! {
        #[test]
        fn coverage_equals_the_union(
            // (gap to the next event, begin a new one or end the n-th open one, class)
            events in prop::collection::vec((0_u64..50, any::<bool>(), 0_usize..8, 0_u8..2), 1..200),
            window_at in 0_usize..200,
        ) {
            let mut spans = OpenSpans::default();
            let (mut now, mut next, mut floor) = (0, 0, None);
            let mut open: Vec<(u64, u64)> = Vec::new();
            let mut ended: [Vec<(u64, u64)>; 2] = [vec![], vec![]];
            let mut in_window: [Vec<(u64, u64)>; 2] = [vec![], vec![]];
            let (mut busy, mut window_busy) = ([Covered::default(); 2], [Covered::default(); 2]);
            let add = |sum: &mut Covered, more: Covered| {
                sum.ns += more.ns;
                sum.engine_ns += more.engine_ns;
            };
            for (i, (gap, begin, pick, order)) in events.into_iter().enumerate() {
                now += gap;
                // An engine that is always busy, for as many classes as there are.
                spans.transferred(class(7), gap);
                if i == window_at {
                    spans.open_window(now);
                    floor = Some(now);
                }
                if begin || open.is_empty() {
                    spans.begin(next, 0, 0, now);
                    open.push((next, now));
                    next += 1;
                } else {
                    let (id, began) = open.remove(pick % open.len());
                    let sum = spans.end(id, class(order), now).unwrap();
                    let c = usize::from(order);
                    add(&mut busy[c], sum.busy);
                    ended[c].push((began, now));
                    if let Some(floor) = floor {
                        add(&mut window_busy[c], sum.window_busy);
                        in_window[c].push((began.max(floor), now));
                    }
                }
            }
            for c in 0..2 {
                let always = |ns| Covered { ns, engine_ns: ns };
                prop_assert_eq!(busy[c], always(union_length(ended[c].clone())));
                prop_assert_eq!(window_busy[c], always(union_length(in_window[c].clone())));
            }
        }
    }
}
