//! What a device says of itself, as a few lines for whoever looks into a failure.

use hmmgpu_telemetry::snapshot::Snapshot;

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
