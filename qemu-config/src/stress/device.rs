//! What a device says of itself, as a few lines for whoever looks into a failure.

use std::path::{Path, PathBuf};

use hmmgpu_telemetry::snapshot::Snapshot;

use crate::control::{Connection, ControlError, PATIENCE};
use crate::views::{checks, events};

/// Events that are told.
const EVENTS: usize = 40;

/// How each device is, and its last events, or why it does not say so. Their control sockets are
/// given.
pub fn ask(devices: &[PathBuf]) -> Vec<String> {
    let mut said = Vec::new();
    for control in devices {
        match ask_one(control) {
            Ok(lines) => said.extend(lines),
            Err(error) => said.push(error.to_string()),
        }
    }
    said
}

fn ask_one(control: &Path) -> Result<Vec<String>, ControlError> {
    let mut connection = Connection::open(control, PATIENCE)?;
    let snapshot = connection.snapshot(false)?;
    let events = connection.events(EVENTS)?;
    let mut said = lines(&snapshot);
    let events = events::lines(&events, snapshot.started_ns);
    said.extend(events.lines().map(str::to_owned));
    Ok(said)
}

/// What the devices have said, below a heading.
pub fn told(said: &[String]) -> Vec<String> {
    let said = said.iter().map(|line| format!("| {line}"));
    std::iter::once("the device says:".to_owned())
        .chain(said)
        .collect()
}

/// Whether the driver is there, what is in VRAM, what went wrong, what was made to go wrong, what the
/// checker of VRAM found, and what each queue is at.
pub fn lines(snapshot: &Snapshot) -> Vec<String> {
    let link = &snapshot.link;
    let events = &snapshot.events;
    let vram = &snapshot.vram;
    let is = |there: bool| if there { "yes" } else { "no" };
    let mut lines = vec![
        format!(
            "connected: {}, driver: {}, generation {}, resets: {}",
            is(link.connected),
            is(link.driver),
            snapshot.generation,
            counts(events.resets.clone())
        ),
        format!(
            "VRAM: {} of {} bytes in use, in folios of order {}; {} notes contradict others",
            vram.used_bytes,
            vram.bytes,
            counts(vram.folios.iter().map(|f| (f.order.to_string(), f.folios))),
            vram.inconsistent_notes
        ),
        format!(
            "descriptors: {}, failed: {}; fences: {}; spans that never ended: {}, or never began: {}",
            events.descriptors,
            counts(events.descriptor_errors.clone()),
            events.fences,
            events.lost_spans,
            events.unmatched_spans
        ),
    ];
    if let Some(link) = &snapshot.link_model {
        lines.push(format!("link: {}", link.spec));
    }
    for fault in &snapshot.injected {
        let outcomes = fault.outcomes.iter();
        let outcomes = outcomes.map(|(outcome, times)| (outcome.name().to_owned(), *times));
        lines.push(format!(
            "injected: {}, {}, hit {} of {}; what came of it: {}",
            fault.spec,
            if fault.armed { "armed" } else { "over" },
            fault.hits,
            fault.seen,
            counts(outcomes)
        ));
    }
    let checker = &snapshot.checker;
    let reports = checker.total();
    lines.push(format!(
        "checker of VRAM: {}, {reports} reports",
        checker.mode
    ));
    lines.extend(checks::lines(checker));
    for queue in &snapshot.queues {
        let kind = format!("{:?} queue {}", queue.kind, queue.index);
        let state = format!("{:?}", queue.state);
        lines.push(format!(
            "{}: {}, {} of {} entries wait",
            kind.to_lowercase(),
            state.to_lowercase(),
            queue.depth,
            queue.entries
        ));
    }
    lines
}

/// `name (3), other (4)`, or `none`.
fn counts(all: impl IntoIterator<Item = (String, u64)>) -> String {
    let told: Vec<_> = all
        .into_iter()
        .map(|(name, count)| format!("{name} ({count})"))
        .collect();
    match told.is_empty() {
        true => "none".to_owned(),
        false => told.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use hmmgpu_telemetry::snapshot::{
        FaultAction, FaultOutcome, FaultSite, InjectedFault, LinkLane, LinkModel,
    };
    use hmmgpu_telemetry::{CheckKind, CheckMode};

    use super::*;

    #[test]
    fn what_was_made_to_go_wrong_and_what_the_checker_found_are_told() {
        let mut snapshot = crate::views::sample::now();
        snapshot.link_model = Some(LinkModel {
            spec: "pcie4-x8".into(),
            latency_ns: 1000,
            to_device: LinkLane::default(),
            to_system: LinkLane::default(),
        });
        snapshot.injected = vec![InjectedFault {
            spec: "copy:corrupt@300".into(),
            site: FaultSite::Copy,
            action: FaultAction::Corrupt,
            armed: false,
            seen: 411,
            hits: 1,
            last_ns: 5,
            outcomes: vec![(FaultOutcome::Untold, 1)],
        }];
        snapshot.checker.mode = CheckMode::Full;
        snapshot.checker.counts = vec![(CheckKind::Leak, 2)];
        snapshot.checker.reports = Vec::new();
        let told = lines(&snapshot);
        for line in [
            "link: pcie4-x8",
            "injected: copy:corrupt@300, over, hit 1 of 411; what came of it: untold (1)",
            "checker of VRAM: full, 2 reports",
            "and 2 more; all: leak 2",
        ] {
            assert!(told.iter().any(|one| one == line), "no '{line}': {told:#?}");
        }
    }

    #[test]
    fn a_device_that_cannot_be_asked_is_told_of() {
        let said = ask(&["/nonexistent/1.control".into()]);
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("/nonexistent/1.control"), "{said:?}");
        let told = told(&said);
        assert_eq!(told[0], "the device says:");
        assert!(told[1].starts_with("| "), "{told:?}");
    }

    #[test]
    fn counts_are_told_by_name() {
        assert_eq!(counts([]), "none");
        let some = [("flr".to_owned(), 1), ("register".to_owned(), 2)];
        assert_eq!(counts(some), "flr (1), register (2)");
    }
}
