//! Reports of the checker of VRAM, in words.

use hmmgpu_telemetry::snapshot::Snapshot;
use hmmgpu_telemetry::{CheckReport, Checks, PageEvent};

use super::events::queue_name;
use crate::text::printable;

/// Reports by kind, such as `double_alloc 1` and `leak 3`.
pub(crate) fn counts(checks: &Checks) -> Vec<String> {
    let kinds = checks.counts.iter();
    kinds
        .map(|(kind, count)| format!("{} {}", kind.name(), super::units::count(*count)))
        .collect()
}

/// As [`lines`], of all GPUs, whose number is said where there are several. None: nothing was found.
pub fn lines_of_gpus<'a>(gpus: impl ExactSizeIterator<Item = Option<&'a Snapshot>>) -> Vec<String> {
    let several = gpus.len() > 1;
    let mut all = Vec::new();
    for (gpu, snapshot) in gpus.enumerate() {
        let found = snapshot.map(|snapshot| lines(&snapshot.checker));
        for line in found.unwrap_or_default() {
            all.push(match several {
                true => format!("GPU {gpu}: {line}"),
                false => line,
            });
        }
    }
    all
}

/// All reports that were kept, a line each, below it the history of its page, the latest last; and
/// how many more there were.
pub fn lines(checks: &Checks) -> Vec<String> {
    let mut lines = Vec::new();
    for CheckReport {
        kind,
        page,
        pages,
        by,
        history,
        generation: _,
    } in &checks.reports
    {
        lines.push(format!(
            "{}: page {page:#x} of VRAM, of {pages} in all: {}",
            kind.name(),
            event(by)
        ));
        let history = history
            .iter()
            .map(|before| format!("  before: {}", event(before)));
        lines.extend(history);
    }
    let kept = u64::try_from(checks.reports.len()).unwrap_or(u64::MAX);
    let more = checks.total().saturating_sub(kept);
    if more > 0 {
        lines.push(format!(
            "and {more} more; all: {}",
            counts(checks).join(", ")
        ));
    }
    lines
}

fn event(event: &PageEvent) -> String {
    let PageEvent {
        queue,
        index,
        span,
        text,
        time_ns: _,
    } = event;
    let span = span.map_or(String::new(), |span| format!(", span {span}"));
    let queue = format!("{} {}", queue_name(queue.kind), queue.index);
    let text = printable(text.as_bytes());
    format!("{text} ({queue}, descriptor {index}{span})")
}

#[cfg(test)]
mod tests {
    use hmmgpu_telemetry::snapshot::QueueKind;
    use hmmgpu_telemetry::{CheckKind, CheckMode, EventQueue};

    use super::*;

    #[test]
    fn a_report_says_what_where_and_what_was_before() {
        let event = |index, span, text: &str| PageEvent {
            time_ns: 7,
            queue: EventQueue {
                kind: QueueKind::Copy,
                index: 0,
            },
            index,
            span,
            text: text.into(),
        };
        let checks = Checks {
            mode: CheckMode::Folio,
            counts: vec![(CheckKind::WriteFree, 1), (CheckKind::Leak, 4)],
            reports: vec![CheckReport {
                kind: CheckKind::WriteFree,
                generation: 1,
                page: 0x1000,
                pages: 2,
                by: event(9, Some(3), "written: 4 pages from VRAM 0x0"),
                history: vec![event(2, None, "free at order 0: 1 pages from VRAM 0x1000")],
            }],
        };
        assert_eq!(
            lines(&checks),
            [
                "write_free: page 0x1000 of VRAM, of 2 in all: written: 4 pages from VRAM 0x0 \
                 (copy 0, descriptor 9, span 3)",
                "  before: free at order 0: 1 pages from VRAM 0x1000 (copy 0, descriptor 2)",
                "and 4 more; all: write_free 1, leak 4",
            ]
        );
        assert!(lines(&Checks::default()).is_empty());
    }
}
