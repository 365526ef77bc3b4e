//! What a device says of itself, as a few lines for whoever looks into a failure.

use std::path::{Path, PathBuf};

use hmmgpu_telemetry::snapshot::Snapshot;

use crate::control::{Connection, ControlError, PATIENCE};
use crate::views::events;

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

/// Whether the driver is there, what is in VRAM, what went wrong, and what each queue is at.
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
    use super::*;

    #[test]
    fn counts_are_told_by_name() {
        assert_eq!(counts([]), "none");
        let some = [("flr".to_owned(), 1), ("register".to_owned(), 2)];
        assert_eq!(counts(some), "flr (1), register (2)");
    }
}
