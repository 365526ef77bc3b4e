//! The checker of VRAM against a plain model of it: a state for each page, and nothing else.

use std::collections::BTreeMap;

use hmmgpu_contract::VRAM_BLOCK_BYTES;
use hmmgpu_telemetry::snapshot::QueueKind;
use hmmgpu_telemetry::{
    CheckKind, CheckMode, Known, NoteKind, Record, ResetKind, Source, Telemetry, Touch,
};
use proptest::prelude::*;

const PAGE: u64 = 4096;
/// Two words of the checker's bits, and a part of the third: nothing is aligned by chance.
const PAGES: usize = 160;
const SOURCE: Source = Source {
    kind: QueueKind::Copy,
    index: 0,
};

/// What a driver does; pages are of the first [`PAGES`].
#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc { page: usize, order: u8 },
    Free { page: usize, order: u8 },
    Split { page: usize, order: u8, to: u8 },
    Read { page: usize, pages: usize },
    Write { page: usize, pages: usize },
    Reset,
    Unload,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let folio = || {
        (0..=5_u8).prop_flat_map(|order| {
            let last = (PAGES >> order) - 1;
            (0..=last).prop_map(move |nth| (nth << order, order))
        })
    };
    let pages = || (0..PAGES, 1..80_usize).prop_map(|(page, n)| (page, n.min(PAGES - page)));
    let step = prop_oneof![
        8 => folio().prop_map(|(page, order)| Step::Alloc { page, order }),
        8 => folio().prop_map(|(page, order)| Step::Free { page, order }),
        2 => (folio(), 0..5_u8).prop_map(|((page, order), to)| Step::Split {
            page,
            order: order.max(to + 1),
            to,
        }),
        6 => pages().prop_map(|(page, pages)| Step::Read { page, pages }),
        6 => pages().prop_map(|(page, pages)| Step::Write { page, pages }),
        1 => Just(Step::Reset),
        1 => Just(Step::Unload),
    ];
    proptest::collection::vec(step, 1..200)
}

/// A page in use: the first one of its folio, the folio's order, and whether it was written.
#[derive(Clone, Copy, Debug)]
struct Used {
    head: usize,
    order: u8,
    written: bool,
}

/// What must be found, as far as the kind and the first page go.
#[derive(Default)]
struct Model {
    pages: BTreeMap<usize, Used>,
    noted: bool,
    found: Vec<(CheckKind, u64)>,
}

impl Model {
    fn says(&mut self, kind: CheckKind, pages: impl IntoIterator<Item = usize>) {
        if let Some(first) = pages.into_iter().next() {
            self.found.push((kind, first as u64 * PAGE));
        }
    }

    fn is_folio(&self, page: usize, order: u8) -> bool {
        let used = self.pages.get(&page);
        used.is_some_and(|used| (used.head, used.order) == (page, order))
    }

    fn step(&mut self, step: Step) {
        let range = |page: usize, order: u8| page..page + (1 << order);
        match step {
            Step::Alloc { page, order } => {
                self.noted = true;
                let used = range(page, order).find(|page| self.pages.contains_key(page));
                if used.is_some() {
                    self.says(CheckKind::DoubleAlloc, used);
                    return;
                }
                let folio = Used {
                    head: page,
                    order,
                    written: false,
                };
                self.pages
                    .extend(range(page, order).map(|page| (page, folio)));
            }
            Step::Free { page, order } if self.is_folio(page, order) => {
                self.pages.retain(|at, _| !range(page, order).contains(at));
            }
            Step::Free { page, .. } if self.pages.contains_key(&page) => {
                self.says(CheckKind::FreeOrder, [page]);
            }
            Step::Free { page, .. } => self.says(CheckKind::DoubleFree, [page]),
            Step::Split { page, order, to } => {
                if !self.is_folio(page, order) {
                    self.says(CheckKind::BadSplit, [page]);
                    return;
                }
                for at in range(page, order) {
                    if let Some(used) = self.pages.get_mut(&at) {
                        used.order = to;
                        used.head = at >> to << to;
                    }
                }
            }
            Step::Read { page, pages } if self.noted => {
                let free = (page..page + pages).find(|at| !self.pages.contains_key(at));
                self.says(CheckKind::ReadFree, free);
                let unwritten = |at: &usize| self.pages.get(at).is_some_and(|used| !used.written);
                let unwritten = (page..page + pages).find(unwritten);
                self.says(CheckKind::ReadUnwritten, unwritten);
            }
            Step::Read { .. } => {}
            Step::Write { page, pages } => {
                for at in page..page + pages {
                    if let Some(used) = self.pages.get_mut(&at) {
                        used.written = true;
                    }
                }
                let free = (page..page + pages).find(|at| !self.pages.contains_key(at));
                self.says(CheckKind::WriteFree, free.filter(|_| self.noted));
            }
            Step::Reset => {
                self.pages.clear();
                self.noted = false;
            }
            Step::Unload => {
                let runs: Vec<usize> = self
                    .pages
                    .keys()
                    .filter(|page| {
                        !page
                            .checked_sub(1)
                            .is_some_and(|at| self.pages.contains_key(&at))
                    })
                    .copied()
                    .collect();
                for first in runs {
                    self.says(CheckKind::Leak, [first]);
                }
            }
        }
    }
}

/// The step as engines tell it; `index` is that of its descriptor.
fn record(step: Step, index: u32) -> Record {
    let note = |kind, page: usize, order| Record::Note {
        kind,
        address: page as u64 * PAGE,
        order,
        count: 1,
        index,
    };
    let touch = |write, page: usize, pages: usize| {
        Record::Touch(Touch::new(
            write,
            page as u64 * PAGE,
            pages as u64 * PAGE,
            index,
        ))
    };
    match step {
        Step::Alloc { page, order } => note(NoteKind::Alloc { process: 0 }, page, order),
        Step::Free { page, order } => note(NoteKind::Free, page, order),
        Step::Split { page, order, to } => note(NoteKind::Split(to), page, order),
        Step::Read { page, pages } => touch(false, page, pages),
        Step::Write { page, pages } => touch(true, page, pages),
        // A reset is no record.
        Step::Unload | Step::Reset => Record::Unload { index },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_finds_what_is_wrong_and_nothing_else(steps in steps()) {
        let telemetry = Telemetry::checking(64 * VRAM_BLOCK_BYTES, 0, CheckMode::Folio);
        let mut model = Model::default();
        let mut generation = 0;
        for (index, step) in (0..).zip(&steps) {
            if let Step::Reset = step {
                generation += 1;
                telemetry.reset(ResetKind::Register, generation, 1);
            } else {
                telemetry.record(SOURCE, generation, 1, &[record(*step, index)]);
            }
            model.step(*step);
        }
        let checks = telemetry.snapshot(Known::default(), false).checker;
        let found: Vec<_> = checks.reports.iter().map(|report| (report.kind, report.page)).collect();
        // The first ones are kept, all are counted.
        prop_assert_eq!(&found[..], &model.found[..found.len()]);
        prop_assert_eq!(found.len(), model.found.len().min(hmmgpu_telemetry::MAX_CHECK_REPORTS));
        prop_assert_eq!(checks.total(), model.found.len() as u64);
        for report in &checks.reports {
            prop_assert!(report.history.iter().all(|before| before.index < report.by.index));
        }
    }
}
