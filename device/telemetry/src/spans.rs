//! Open spans, and how much time spans of a class cover together.
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

use std::collections::{BTreeMap, HashMap};

use crate::classes::Class;
use crate::record::PhaseTimes;

/// Most spans open at once. Stops a driver that never ends its spans from filling the host's
/// memory: beyond it, the span that began first is given up and counted as lost.
pub const MAX_OPEN_SPANS: usize = 1024;

/// Time covered together by overlapping spans. See the module's description.
#[derive(Clone, Debug, Default)]
struct Coverage {
    begin: u64,
    covered: BTreeMap<Class, u64>,
}

/// Coverage over one stretch of time: all of it, or one window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Union {
    open: HashMap<u64, Coverage>,
}

impl Union {
    fn begin(&mut self, id: u64, begin: u64) {
        let covered = BTreeMap::new();
        self.open.insert(id, Coverage { begin, covered });
    }

    fn forget(&mut self, id: u64) {
        self.open.remove(&id);
    }

    /// Ends `id` and returns the time that its class gains.
    fn end(&mut self, id: u64, class: Class, now: u64) -> u64 {
        let Some(ended) = self.open.remove(&id) else {
            return 0;
        };
        let before = ended.covered.get(&class).copied().unwrap_or(0);
        let gained = (now - ended.begin).saturating_sub(before);
        for other in self.open.values_mut() {
            let covered = other.covered.entry(class).or_insert(0);
            if other.begin >= ended.begin {
                *covered = now - other.begin;
            } else {
                *covered += gained;
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
    pub(crate) busy_ns: u64,
    /// What its class gains in covered time, in the open window.
    pub(crate) window_busy_ns: u64,
}

/// All spans that have begun and not ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenSpans {
    open: HashMap<u64, Open>,
    all: Union,
    window: Union,
    /// Latest time seen. Queues hand over their batches independently, so a record can be older
    /// than one before it by the length of a batch; coverage needs time that never runs back.
    latest: u64,
}

impl OpenSpans {
    fn clamp(&mut self, time: u64) -> u64 {
        self.latest = self.latest.max(time);
        self.latest
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
            busy_ns: self.all.end(id, class, now),
            window_busy_ns: self.window.end(id, class, now),
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
        assert_eq!(spans.end(1, class(9), 200).unwrap().busy_ns, 100);
        let second = spans.end(2, class(9), 260).unwrap();
        assert_eq!((second.ns, second.busy_ns), (110, 60));
    }

    #[test]
    fn inner_spans_are_covered_by_the_outer_one() {
        let mut spans = OpenSpans::default();
        spans.begin(1, 0, 0, 0);
        for inner in 0..5 {
            spans.begin(10 + inner, 0, 0, 100 * inner + 10);
            let ended = spans.end(10 + inner, class(0), 100 * inner + 30).unwrap();
            assert_eq!(ended.busy_ns, 20);
        }
        assert_eq!(spans.end(1, class(0), 1000).unwrap().busy_ns, 900);
    }

    #[test]
    fn classes_do_not_cover_each_other() {
        let mut spans = OpenSpans::default();
        spans.begin(1, 0, 0, 0);
        spans.begin(2, 0, 0, 0);
        assert_eq!(spans.end(1, class(0), 10).unwrap().busy_ns, 10);
        assert_eq!(spans.end(2, class(9), 10).unwrap().busy_ns, 10);
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
            let (mut busy, mut window_busy) = ([0, 0], [0, 0]);
            for (i, (gap, begin, pick, order)) in events.into_iter().enumerate() {
                now += gap;
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
                    busy[c] += sum.busy_ns;
                    ended[c].push((began, now));
                    if let Some(floor) = floor {
                        window_busy[c] += sum.window_busy_ns;
                        in_window[c].push((began.max(floor), now));
                    }
                }
            }
            for c in 0..2 {
                prop_assert_eq!(busy[c], union_length(ended[c].clone()));
                prop_assert_eq!(window_busy[c], union_length(in_window[c].clone()));
            }
        }
    }
}
