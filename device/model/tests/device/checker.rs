//! What the checker of VRAM says of drivers that do wrong, and of one that does not.

use std::sync::Arc;

use hmmgpu_contract::desc::{Desc, NOTE_ALLOC, NOTE_FREE, NOTE_SPLIT};
use hmmgpu_contract::regs::{RESET_CTRL_RESET, Reg, STATE_READY};
use hmmgpu_model::mock::descriptors::{Side, copy, fill, note, span_begin, unload};
use hmmgpu_model::mock::{Driver, QueueConfig};
use hmmgpu_model::{Config, Device};
use hmmgpu_telemetry::{CheckKind, CheckMode, Checks};
use vm_memory::Bytes;

use crate::rig::{MIB, Mock, PAGE, VRAM, assert_clean, ram};

/// Where the folio is that tests do wrong with.
const AT: u64 = 4 * MIB;
const SPAN: u64 = 77;

fn driver(check: CheckMode) -> (Arc<Device>, Mock) {
    let config = Config {
        vram_bytes: VRAM,
        check,
        ..Config::default()
    };
    let device = Arc::new(Device::new(config).expect("device"));
    let driver = Driver::new(device.clone(), ram(8 * MIB), QueueConfig::default());
    (device, driver.expect("driver"))
}

fn alloc(order: u8) -> Desc {
    note(NOTE_ALLOC, order, 1, AT, 0)
}

fn free(order: u8) -> Desc {
    note(NOTE_FREE, order, 1, AT, 0)
}

/// What is reported of descriptors that a driver submits in a span.
fn checks(check: CheckMode, descs: impl Fn(u64) -> Vec<Desc>) -> Checks {
    let (device, mut driver) = driver(check);
    let data = driver.data().next_multiple_of(2 * MIB);
    let descs: Vec<_> = std::iter::once(span_begin(SPAN, 512))
        .chain(descs(data))
        .collect();
    assert_clean(&driver.run(&descs).expect("a fence"));
    device.snapshot().checker
}

/// The last of these is reported, as this kind and nothing else, for this page.
#[track_caller]
fn reported(kind: CheckKind, page: u64, history: usize, descs: impl Fn(u64) -> Vec<Desc>) {
    let checks = checks(CheckMode::Folio, &descs);
    assert_eq!(checks.counts, [(kind, 1)]);
    let report = &checks.reports[0];
    assert_eq!((report.kind, report.page), (kind, page));
    // The span is the first descriptor.
    let last = u32::try_from(descs(0).len()).expect("few");
    assert_eq!((report.by.index, report.by.queue.index), (last, 0));
    assert_eq!(report.by.span, Some(SPAN));
    assert_eq!(report.history.len(), history, "{:?}", report.history);
    assert!(report.history.iter().all(|event| event.span == Some(SPAN)));
}

#[test]
fn each_kind_is_named_with_its_page_history_span_and_index() {
    use CheckKind::{
        BadSplit, DoubleAlloc, DoubleFree, FreeOrder, Leak, ReadFree, ReadUnwritten, WriteFree,
    };
    let home = |data, from| copy(0, 1, Side::System(data), Side::Vram(from));
    let whole = |data| copy(9, 1, Side::Vram(AT), Side::System(data));
    reported(DoubleAlloc, AT, 1, |_| vec![alloc(9), alloc(9)]);
    // A larger folio whose second half is in use.
    reported(DoubleAlloc, AT, 1, |_| {
        vec![alloc(9), note(NOTE_ALLOC, 10, 1, AT - 2 * MIB, 0)]
    });
    reported(FreeOrder, AT, 2, |data| {
        vec![alloc(9), whole(data), free(0)]
    });
    reported(DoubleFree, AT, 2, |_| vec![alloc(9), free(9), free(9)]);
    reported(BadSplit, AT, 1, |_| {
        vec![alloc(0), note(NOTE_SPLIT, 9, 1, AT, 0)]
    });
    reported(ReadFree, AT, 3, |data| {
        vec![alloc(9), whole(data), free(9), home(data, AT)]
    });
    reported(ReadUnwritten, AT + PAGE, 1, |data| {
        vec![
            alloc(9),
            fill(0, 1, Side::Vram(AT), 0),
            copy(0, 2, Side::System(data), Side::Vram(AT)),
        ]
    });
    reported(WriteFree, AT, 2, |data| {
        vec![alloc(9), free(9), whole(data)]
    });
    reported(Leak, AT, 2, |data| vec![alloc(9), whole(data), unload()]);
}

#[test]
fn a_driver_that_does_no_wrong_is_not_reported() {
    for check in [CheckMode::Folio, CheckMode::Full] {
        let found = checks(check, |data| {
            let there = copy(9, 1, Side::Vram(AT), Side::System(data));
            let home = copy(9, 1, Side::System(data), Side::Vram(AT));
            vec![
                alloc(9),
                there,
                note(NOTE_SPLIT, 9, 1, AT, 0),
                home,
                note(NOTE_FREE, 0, 512, AT, 0),
                note(NOTE_ALLOC, 0, 512, AT, 0),
                fill(0, 512, Side::Vram(AT), 5),
                home,
                note(NOTE_FREE, 0, 512, AT, 0),
                alloc(9),
                there,
                home,
                free(9),
                unload(),
            ]
        });
        assert_eq!(
            (found.mode, found.total()),
            (check, 0),
            "{:?}",
            found.reports
        );
    }
}

#[test]
fn without_notes_or_a_checker_nothing_is_reported() {
    let wrong = |data| vec![copy(9, 1, Side::System(data), Side::Vram(AT))];
    assert_eq!(checks(CheckMode::Full, wrong).total(), 0);
    let noted = |data| [vec![alloc(9)], wrong(data)].concat();
    assert_eq!(checks(CheckMode::Off, noted), Checks::default());
    assert_eq!(checks(CheckMode::Folio, noted).total(), 1);
}

#[test]
fn what_changes_behind_the_engines_is_found_on_reuse() {
    for freed in [false, true] {
        let (device, mut driver) = driver(CheckMode::Full);
        if freed {
            assert_clean(&driver.run(&[alloc(9), free(9)]).expect("a fence"));
        }
        let place = usize::try_from(AT + 3 * PAGE + 8).expect("an offset");
        device.vram().write_obj(1_u8, place).expect("in VRAM");
        assert_clean(&driver.run(&[alloc(9)]).expect("a fence"));
        let checks = device.snapshot().checker;
        assert_eq!(checks.counts, [(CheckKind::UseAfterFree, 1)]);
        let report = &checks.reports[0];
        assert_eq!((report.page, report.pages), (AT + 3 * PAGE, 1));
        assert_eq!(report.history.len(), if freed { 2 } else { 0 });
    }
}

/// Pages are told together, and each report names the descriptor of its page all the same.
#[test]
fn of_pages_that_follow_each_other_the_wrong_one_is_named() {
    for downwards in [false, true] {
        let found = checks(CheckMode::Folio, |data| {
            let pages = (0..512).map(|nth| if downwards { 511 - nth } else { nth });
            let there = |page: u64| {
                let at = page * PAGE;
                copy(0, 1, Side::Vram(AT + at), Side::System(data + at))
            };
            // All but the last of 512 pages are allocated, or all but the first.
            let first = if downwards { AT + PAGE } else { AT };
            let alloc = note(NOTE_ALLOC, 0, 511, first, 0);
            std::iter::once(alloc).chain(pages.map(there)).collect()
        });
        assert_eq!(found.counts, [(CheckKind::WriteFree, 1)]);
        let report = &found.reports[0];
        let last = if downwards { AT } else { AT + 511 * PAGE };
        assert_eq!((report.page, report.pages), (last, 1));
        // Behind the span and the note.
        assert_eq!(report.by.index, 2 + 511);
    }
}

/// What is known of VRAM ends with it: the next driver begins anew, and so does a history.
#[test]
fn a_reset_frees_everything_and_keeps_the_reports() {
    let (device, mut driver) = driver(CheckMode::Folio);
    let data = driver.data().next_multiple_of(2 * MIB);
    let there = copy(9, 1, Side::Vram(AT), Side::System(data));
    assert_clean(&driver.run(&[alloc(9), free(0), there]).expect("a fence"));
    driver.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
    let ready = |driver: &Mock| driver.read(Reg::STATE.0) == STATE_READY;
    driver.until("ready state", ready).expect("in time");
    driver.start().expect("a queue");
    let home = copy(9, 1, Side::System(data), Side::Vram(AT));
    assert_clean(
        &driver
            .run(&[home, alloc(9), there, home, unload()])
            .expect("a fence"),
    );
    let found = device.snapshot().checker;
    assert_eq!(
        found.counts,
        [(CheckKind::FreeOrder, 1), (CheckKind::Leak, 1)]
    );
    let generations: Vec<u32> = found
        .reports
        .iter()
        .map(|report| report.generation)
        .collect();
    assert!(generations[0] < generations[1]);
    assert_eq!(found.reports[1].history.len(), 3);
}
