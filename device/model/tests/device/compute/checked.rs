//! What the checker of VRAM says of jobs.

use hmmgpu_contract::compute::Job;
use hmmgpu_contract::desc::{Desc, NOTE_ALLOC, NOTE_FREE};
use hmmgpu_contract::regs::{RESET_CTRL_RESET, Reg, STATE_READY};
use hmmgpu_model::mock::Driver;
use hmmgpu_model::mock::descriptors::{Side, fill as fill_vram, note};
use hmmgpu_model::mock::jobs::{atomic_add, checksum, copy, fill};
use hmmgpu_telemetry::snapshot::QueueKind;
use hmmgpu_telemetry::{CheckKind, CheckMode, Checks};

use super::world::{ALL, BASE, Process, Queues, World, assert_done, world_of};
use crate::rig::{MIB, PAGE, assert_clean, device_checking};

/// A folio of 2 MiB.
const AT: u64 = 4 * MIB;
const CONTEXT: u32 = 3;

struct Checked {
    world: World,
    queues: Queues,
    process: Process,
}

fn checked(check: CheckMode) -> Checked {
    let (world, queues) = world_of(device_checking(check), 4 * MIB, 4);
    let process = world.process(CONTEXT);
    Checked {
        world,
        queues,
        process,
    }
}

fn alloc() -> Desc {
    note(NOTE_ALLOC, 9, 1, AT, 0)
}

fn free() -> Desc {
    note(NOTE_FREE, 9, 1, AT, 0)
}

fn write() -> Desc {
    fill_vram(9, 1, Side::Vram(AT), 7)
}

impl Checked {
    fn notes(&mut self, descs: &[Desc]) {
        assert_clean(&self.queues.copy.run(descs).expect("a fence"));
    }

    /// A job that has its memory, whatever is thought of that.
    fn job(&mut self, job: &Job, done: u64) {
        let record = self.process.driver.run(job).expect("a record");
        assert_done(&record, done, record.value);
    }

    fn checks(&self) -> Checks {
        self.world.device.snapshot().checker
    }

    /// The translation of a page is used, the page freed, and the page used again.
    fn through_a_stale_translation(&mut self, job: &Job, done: u64) {
        self.notes(&[alloc(), write()]);
        self.process.map(BASE, Side::Vram(AT + 3 * PAGE), ALL);
        self.job(job, done);
        assert_eq!(self.checks().total(), 0, "{:?}", self.checks().reports);
        // The entry goes, but what the device keeps of it stays.
        self.process.unmap(BASE);
        self.notes(&[free()]);
        self.job(job, done);
    }
}

#[test]
fn a_stale_translation_is_named_by_its_first_use() {
    for (job, done, how) in [
        (checksum(BASE + 16, 2), 2, "read"),
        (fill(BASE + 16, 5, 1), 5, "written"),
        (atomic_add(BASE + 16, 1, 1), 1, "changed"),
    ] {
        for check in [CheckMode::Folio, CheckMode::Full] {
            let mut rig = checked(check);
            rig.through_a_stale_translation(&job, done);
            let checks = rig.checks();
            assert_eq!(checks.counts, [(CheckKind::UseAfterFree, 1)]);
            let report = &checks.reports[0];
            assert_eq!((report.page, report.pages), (AT + 3 * PAGE, 1));
            let by = &report.by;
            assert_eq!(
                (by.queue.kind, by.queue.index),
                (QueueKind::Compute, CONTEXT)
            );
            // The second job of its ring.
            assert_eq!((by.index, by.span), (1, None));
            let text = format!("{how} by a job at address {:#x}: ", BASE + 16);
            assert!(by.text.starts_with(&text), "{by:?}");
            let before: Vec<_> = report
                .history
                .iter()
                .map(|event| &event.text[..5])
                .collect();
            assert_eq!(before, ["alloc", "writt", "free "]);
        }
    }
}

#[test]
fn an_entry_that_stays_is_named_as_well() {
    let mut rig = checked(CheckMode::Folio);
    rig.notes(&[alloc(), write()]);
    rig.process.map_large(BASE, Side::Vram(AT), ALL);
    rig.notes(&[free()]);
    rig.queues.invalidate(CONTEXT, BASE, 2 * MIB);
    // More pages than are told of at once, of which the job goes through each.
    rig.job(&checksum(BASE, 2 * MIB / 8), 2 * MIB / 8);
    let checks = rig.checks();
    assert_eq!(checks.reports[0].kind, CheckKind::UseAfterFree);
    assert_eq!(checks.reports[0].page, AT);
    assert!((1..=4).contains(&checks.total()), "{checks:?}");
}

#[test]
fn memory_that_nothing_was_put_into_is_not_to_be_read() {
    let mut rig = checked(CheckMode::Folio);
    rig.notes(&[alloc(), fill_vram(0, 1, Side::Vram(AT), 1)]);
    rig.process.map_range(BASE, Side::Vram(AT), 2 * PAGE);
    rig.job(&fill(BASE, 2 * PAGE, 0), 2 * PAGE);
    rig.job(&checksum(BASE, 1), 1);
    assert_eq!(rig.checks().total(), 0, "{:?}", rig.checks().reports);
    rig.job(&checksum(BASE, 2 * PAGE / 8), 2 * PAGE / 8);
    let checks = rig.checks();
    assert_eq!(checks.counts, [(CheckKind::ReadUnwritten, 1)]);
    assert_eq!(checks.reports[0].page, AT + PAGE);
}

#[test]
fn a_job_that_may_is_not_reported() {
    for check in [CheckMode::Folio, CheckMode::Full] {
        let mut rig = checked(check);
        for round in 0..3 {
            rig.notes(&[alloc(), write()]);
            rig.process.map_large(BASE, Side::Vram(AT), ALL);
            rig.job(&fill(BASE, 2 * MIB, round), 2 * MIB);
            rig.job(&copy(BASE, BASE + MIB, MIB), MIB);
            rig.process.unmap_large(BASE);
            rig.queues.invalidate(CONTEXT, BASE, 2 * MIB);
            rig.notes(&[free()]);
        }
        let checks = rig.checks();
        assert_eq!((checks.mode, checks.total()), (check, 0), "{checks:?}");
    }
}

#[test]
fn without_a_note_or_a_checker_or_after_a_reset_nothing_is_known() {
    let job = checksum(BASE, 1);
    let mut off = checked(CheckMode::Off);
    off.through_a_stale_translation(&job, 1);
    assert_eq!(off.checks(), Checks::default());

    let mut rig = checked(CheckMode::Folio);
    rig.process.map(BASE, Side::Vram(AT), ALL);
    rig.job(&job, 1);
    assert_eq!(rig.checks().total(), 0);
    rig.notes(&[alloc(), free()]);
    rig.job(&job, 1);
    assert_eq!(rig.checks().total(), 1);
    let copy = &mut rig.queues.copy;
    copy.write(Reg::RESET_CTRL.0, RESET_CTRL_RESET);
    let ready = |driver: &Driver<_>| driver.read(Reg::STATE.0) == STATE_READY;
    copy.until("ready state", ready).expect("in time");
    rig.process.driver.start().expect("a context");
    rig.job(&job, 1);
    assert_eq!(rig.checks().total(), 1);
}
