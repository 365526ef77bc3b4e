//! The checker of VRAM: what the driver notes, and what engines do, against each other.
//!
//! Which page is in use, and of what folio, is in the [`VramMap`]; here is what came of the
//! comparison, and what happened lately, for the history of a page. A driver that notes no
//! allocation is not checked: nothing is known of its VRAM.

use std::collections::{BTreeMap, VecDeque};

use hmmgpu_contract::PAGE_SHIFT;

use crate::checks::{
    CheckKind, CheckMode, CheckReport, Checks, MAX_CHECK_REPORTS, MAX_PAGE_EVENTS, PageEvent,
};
use crate::misuse::Misuse;
use crate::observer::Source;
use crate::record::NoteKind;
use crate::snapshot::Access;
use crate::touch::Touch;
use crate::vram_map::{Pages, VramMap, page};

/// Events of all of VRAM that are kept for histories: some 3 MiB.
const MAX_HISTORY: usize = 32768;
/// Open spans that are kept. Stops a driver that ends none from filling memory: beyond it the one
/// that began first is forgotten.
const MAX_SPANS: usize = 64;

/// The descriptor that something is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) source: Source,
    pub(crate) index: u32,
    pub(crate) time_ns: u64,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Note {
        kind: NoteKind,
        order: u8,
    },
    Touched(Touch),
    Found,
    /// A job did so at this virtual address.
    Reached {
        access: Access,
        address: u64,
    },
    Unload,
}

/// Something that happened to pages.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: At,
    span: Option<u64>,
    what: What,
    first: usize,
    pages: u64,
}

#[derive(Debug)]
pub(crate) struct Checker {
    mode: CheckMode,
    /// Whether the driver has noted an allocation in this generation.
    noted: bool,
    generation: u32,
    spans: VecDeque<(Source, u64)>,
    history: VecDeque<Seen>,
    counts: BTreeMap<CheckKind, u64>,
    reports: Vec<CheckReport>,
}

impl Checker {
    pub(crate) fn new(mode: CheckMode) -> Self {
        Self {
            mode,
            noted: false,
            generation: 0,
            spans: VecDeque::new(),
            history: VecDeque::new(),
            counts: BTreeMap::new(),
            reports: Vec::new(),
        }
    }

    fn off(&self) -> bool {
        self.mode == CheckMode::Off
    }

    /// All of VRAM is free and unknown again.
    pub(crate) fn reset(&mut self, generation: u32) {
        self.noted = false;
        self.generation = generation;
        self.spans.clear();
        self.history.clear();
    }

    pub(crate) fn span_begins(&mut self, source: Source, id: u64) {
        if self.off() {
            return;
        }
        if self.spans.len() >= MAX_SPANS {
            self.spans.pop_front();
        }
        self.spans.push_back((source, id));
    }

    pub(crate) fn span_ends(&mut self, id: u64) {
        self.spans.retain(|(_, open)| *open != id);
    }

    /// A note about folios was applied to the map, but for those in `refused`.
    pub(crate) fn noted(
        &mut self,
        at: At,
        kind: NoteKind,
        order: u8,
        all: Pages,
        refused: Pages,
        map: &VramMap,
    ) {
        if self.off() {
            return;
        }
        self.noted |= matches!(kind, NoteKind::Alloc { .. });
        let seen = self.seen(at, What::Note { kind, order }, all);
        if let Some(first) = refused.first {
            let in_use = map.is_used(first);
            let (wrong, first) = match kind {
                // What is in use may begin behind the folio's first page.
                NoteKind::Alloc { .. } => (
                    CheckKind::DoubleAlloc,
                    map.first_used(first).unwrap_or(first),
                ),
                NoteKind::Free if in_use => (CheckKind::FreeOrder, first),
                NoteKind::Free => (CheckKind::DoubleFree, first),
                NoteKind::Split(_) => (CheckKind::BadSplit, first),
            };
            self.report(wrong, seen, first, refused.count);
        }
        self.remember(seen);
    }

    /// Pages were copied from, or copied or filled to.
    pub(crate) fn touched(&mut self, at: At, touch: Touch, map: &mut VramMap) {
        if self.off() {
            return;
        }
        let (first, pages) = (page(touch.address), page(touch.bytes()));
        let wrong = if touch.write {
            let free = map.written(first, pages);
            [
                (CheckKind::WriteFree, free),
                (CheckKind::ReadUnwritten, Pages::default()),
            ]
        } else {
            let (free, unwritten) = map.read(first, pages);
            [
                (CheckKind::ReadFree, free),
                (CheckKind::ReadUnwritten, unwritten),
            ]
        };
        if !self.noted {
            return;
        }
        let all = Pages {
            first: Some(first),
            count: pages as u64,
        };
        let seen = self.seen(at, What::Touched(touch), all);
        for (kind, Pages { first, count }) in wrong {
            if let Some(first) = first {
                self.report(kind, seen, first, count);
            }
        }
        self.remember(seen);
    }

    /// Pages that are about to be allocated have changed since they were freed. Those that are in
    /// use are another matter: the allocation is wrong.
    pub(crate) fn changed(&mut self, at: At, first: usize, pages: u64, map: &VramMap) {
        if !self.off() && !map.is_used(first) {
            let all = Pages {
                first: Some(first),
                count: pages,
            };
            let seen = self.seen(at, What::Found, all);
            self.report(CheckKind::UseAfterFree, seen, first, pages);
        }
    }

    /// A job reached pages that no driver lets it reach, as whoever told it has seen.
    pub(crate) fn misused(&mut self, at: At, misuse: Misuse) {
        if self.off() {
            return;
        }
        let first = page(misuse.address);
        let all = Pages {
            first: Some(first),
            count: misuse.pages,
        };
        let reached = What::Reached {
            access: misuse.access,
            address: misuse.virtual_address,
        };
        let seen = self.seen(at, reached, all);
        self.report(misuse.kind(), seen, first, misuse.pages);
        self.remember(seen);
    }

    /// The driver unloads: one report for each run of pages that it has not freed.
    pub(crate) fn unloads(&mut self, at: At, map: &VramMap) {
        if self.off() {
            return;
        }
        for (first, pages) in map.used_runs() {
            let all = Pages {
                first: Some(first),
                count: pages,
            };
            let seen = self.seen(at, What::Unload, all);
            self.report(CheckKind::Leak, seen, first, pages);
        }
    }

    fn seen(&self, at: At, what: What, Pages { first, count }: Pages) -> Seen {
        let mut spans = self.spans.iter().rev();
        let span = spans.find(|(source, _)| *source == at.source);
        Seen {
            at,
            span: span.map(|(_, id)| *id),
            what,
            first: first.unwrap_or(0),
            pages: count,
        }
    }

    fn remember(&mut self, seen: Seen) {
        if self.history.len() >= MAX_HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(seen);
    }

    fn report(&mut self, kind: CheckKind, by: Seen, first: usize, pages: u64) {
        *self.counts.entry(kind).or_insert(0) += 1;
        if self.reports.len() >= MAX_CHECK_REPORTS {
            return;
        }
        let of_page = |seen: &&Seen| {
            let behind = first.checked_sub(seen.first);
            behind.is_some_and(|behind| (behind as u64) < seen.pages)
        };
        let latest = self.history.iter().rev().filter(of_page);
        let mut history: Vec<_> = latest
            .take(MAX_PAGE_EVENTS)
            .map(|seen| seen.event(first))
            .collect();
        history.reverse();
        self.reports.push(CheckReport {
            kind,
            generation: self.generation,
            page: (first as u64) << PAGE_SHIFT,
            pages,
            by: by.event(first),
            history,
        });
    }

    /// How many reports there are that are kept.
    pub(crate) fn kept(&self) -> usize {
        self.reports.len()
    }

    /// Those reports behind the first `known` that are kept: where, when, and what in a line.
    pub(crate) fn since(&self, known: usize) -> Vec<CheckReport> {
        self.reports.get(known..).unwrap_or_default().to_vec()
    }

    pub(crate) fn snapshot(&self) -> Checks {
        Checks {
            mode: self.mode,
            counts: self.counts.iter().map(|(k, v)| (*k, *v)).collect(),
            reports: self.reports.clone(),
        }
    }
}

impl Seen {
    /// What it was to a page.
    fn event(&self, page: usize) -> PageEvent {
        let Self {
            at,
            span,
            what,
            first,
            pages,
        } = *self;
        let place = (first as u64) << PAGE_SHIFT;
        let index = match what {
            What::Touched(touch) => touch.index_of(page as u64),
            _ => at.index,
        };
        let what = match what {
            What::Note { kind, order } => match kind {
                NoteKind::Alloc { process: 0 } => format!("alloc at order {order}"),
                NoteKind::Alloc { process } => format!("alloc at order {order} for {process}"),
                NoteKind::Free => format!("free at order {order}"),
                NoteKind::Split(to) => format!("split of order {order} to {to}"),
            },
            What::Touched(Touch { write: false, .. }) => "copied from".to_owned(),
            What::Touched(Touch { write: true, .. }) => "written".to_owned(),
            What::Found => "found changed by an alloc".to_owned(),
            What::Reached { access, address } => {
                let how = match access {
                    Access::Read => "read",
                    Access::Write => "written",
                    Access::Atomic => "changed",
                };
                format!("{how} by a job at address {address:#x}")
            }
            What::Unload => "in use at unload".to_owned(),
        };
        PageEvent {
            time_ns: at.time_ns,
            queue: at.source.into(),
            index,
            span,
            text: format!("{what}: {pages} pages from VRAM {place:#x}"),
        }
    }
}
