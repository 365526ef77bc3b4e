//! The last events of a device, a line each.

use std::fmt::Write;

use hmmgpu_telemetry::Event;
use hmmgpu_telemetry::snapshot::QueueKind;

use crate::text::printable;

/// Lines of a list of events, the oldest first: when, in seconds since the device was made, where,
/// what, and the rest.
pub fn lines(events: &[Event], started_ns: u64) -> String {
    let mut text = String::new();
    for event in events {
        let since_ns = event.time_ns.saturating_sub(started_ns);
        let seconds = since_ns / 1_000_000_000;
        let micros = since_ns % 1_000_000_000 / 1000;
        let queue = event.queue.map_or_else(
            || "device".to_owned(),
            |queue| format!("{} {}", queue_name(queue.kind), queue.index),
        );
        let (kind, rest) = (
            printable(event.event.as_bytes()),
            printable(event.text.as_bytes()),
        );
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{seconds:>6}.{micros:06}  {queue:<14} {kind:<9} {rest}"
        );
    }
    text
}

/// What a queue is called.
pub(crate) fn queue_name(kind: QueueKind) -> &'static str {
    match kind {
        QueueKind::Copy => "copy",
        QueueKind::Invalidation => "invalidation",
        QueueKind::Compute => "context",
        QueueKind::Fault => "faults",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_telemetry::EventQueue;

    #[test]
    fn a_line_says_when_where_and_what() {
        let event = |queue, text: &str| Event {
            time_ns: 12_003_456_789,
            generation: 1,
            queue,
            event: "reset".into(),
            text: text.into(),
        };
        let copy = EventQueue {
            kind: QueueKind::Copy,
            index: 0,
        };
        let events = [event(None, "by flr"), event(Some(copy), "a\u{1b}[2J")];
        assert_eq!(
            lines(&events, 10_000_000_000),
            "     2.003456  device         reset     by flr\n     \
             2.003456  copy 0         reset     a\n"
        );
    }
}
