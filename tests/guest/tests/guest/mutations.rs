//! A driver that makes mistakes on purpose, and what the checker of VRAM says of each.
//!
//! One guest goes through all of them. The driver is loaded anew after each, which resets the
//! device: what is reported in one generation is of one mistake.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hmmgpu::views::checks::lines;
use hmmgpu_telemetry::{CheckKind, CheckMode, CheckReport};
use hmmgpu_vm_tests::program::Program;
use hmmgpu_vm_tests::session::{Machine, Session, Step};
use libtest_mimic::Trial;

use crate::guest::Guest;
use crate::trial;

const MACHINE: Machine = Machine {
    check: CheckMode::Folio,
    mutations: true,
    ..Machine::SMALL
};

const STEPS: &[Step] = &[Step {
    name: "mutations",
    command: "hmmgpu-mutations none double-alloc overlap copy-freed short-copy no-alloc free-order \
              no-split double-free stale keep-entry leak none",
    limit: 120,
}];

/// Each mistake, in the order of the command line, and what names it: the first report.
const MISTAKES: &[(&str, CheckKind)] = &[
    ("double-alloc", CheckKind::DoubleAlloc),
    ("overlap", CheckKind::DoubleAlloc),
    ("copy-freed", CheckKind::ReadFree),
    ("short-copy", CheckKind::ReadUnwritten),
    ("no-alloc", CheckKind::WriteFree),
    ("free-order", CheckKind::FreeOrder),
    ("no-split", CheckKind::FreeOrder),
    ("double-free", CheckKind::DoubleFree),
    ("stale", CheckKind::UseAfterFree),
    ("keep-entry", CheckKind::UseAfterFree),
    ("leak", CheckKind::Leak),
];

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let guest = Guest::new(program, MACHINE, STEPS);
    let mut trials = Vec::new();
    for (nth, (mistake, kind)) in MISTAKES.iter().enumerate() {
        let guest = guest.clone();
        trials.push(trial(format!("mutations::{mistake}_is_named"), move || {
            named(guest.session()?, nth, *kind)
        }));
    }
    trials.push(trial(
        "mutations::all_were_made_and_nothing_else_is_reported",
        move || of_each_mistake(guest.session()?).map(drop),
    ));
    trials
}

/// Reports by mistake.
fn of_each_mistake(session: &Session) -> Result<Vec<Vec<&CheckReport>>> {
    session.succeeded("mutations")?;
    let host = session.outcome.telemetry.first().context("no telemetry")?;
    let mut of: BTreeMap<u32, Vec<&CheckReport>> = BTreeMap::new();
    for report in &host.checker.reports {
        of.entry(report.generation).or_default().push(report);
    }
    // Nothing is reported of the first and the last load, which make no mistake.
    ensure!(
        of.len() == MISTAKES.len(),
        "reports in {} generations of {} mistakes:\n{}",
        of.len(),
        MISTAKES.len(),
        lines(&host.checker).join("\n")
    );
    Ok(of.into_values().collect())
}

fn named(session: &Session, nth: usize, kind: CheckKind) -> Result<()> {
    let of = of_each_mistake(session)?;
    let reports = &of[nth];
    let first = reports.first().context("no report")?;
    ensure!(
        first.kind == kind,
        "{} was expected:\n{reports:#?}",
        kind.name()
    );
    ensure!(
        !first.history.is_empty(),
        "nothing is said of the page before: {first:#?}"
    );
    // Notes come when they come; copies are in a migration.
    let copied = matches!(
        kind,
        CheckKind::ReadFree | CheckKind::ReadUnwritten | CheckKind::WriteFree
    );
    ensure!(first.by.span.is_some() || !copied, "no span: {first:#?}");
    Ok(())
}
