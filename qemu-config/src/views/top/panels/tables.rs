//! Faults and other events, queues, and processes.

use hmmgpu_telemetry::snapshot::{EngineState, Queue, QueueKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Panel, below, fit, heading, text};
use crate::text::printable;
use crate::views::figures::resets;
use crate::views::top::state::Gpu;
use crate::views::units;

/// Three lines: faults, what went otherwise than wished, and queues. Resets are in the heading.
pub(crate) fn events(panel: &Panel<'_>, gpu: &Gpu, area: Rect, buffer: &mut Buffer) {
    let Some(snapshot) = gpu.snapshot.as_ref().filter(|_| !area.is_empty()) else {
        return;
    };
    let name = "Faults, queues";
    let width = usize::from(area.width);
    let room = width.saturating_sub(name.len() + 6);
    let right = units::cut(&format!("resets: {}", resets(snapshot)), room);
    heading(panel, name, vec![Span::raw(right)], area, buffer);
    let figures = &gpu.figures;
    let (all, now) = (&figures.events, &figures.events_now);
    let plain = |text: String| vec![Span::raw(text)];
    let counted = |name: &str, all: u64, now: u64| {
        let rate = units::per_second(figures.per_second(now));
        plain(format!("{name} {} ({rate})", units::short_count(all)))
    };
    let replay = &snapshot.mmu.replay;
    let known = |ns: u64| units::time_or_dash((replay.count > 0).then_some(ns));
    let faults = vec![
        counted("faults GPU", all.gpu_faults, now.gpu_faults),
        counted("CPU", all.cpu_faults, now.cpu_faults),
        plain(format!(
            "replay p50 {} p99 {}",
            known(replay.p50_ns),
            known(replay.p99_ns)
        )),
    ];
    let errors = format!("errors {}", units::short_count(all.errors));
    let bad = |text: String, count: u64| match count {
        0 => vec![Span::raw(text)],
        _ => vec![Span::styled(text, panel.palette.bad())],
    };
    let mut other = vec![bad(errors, all.errors)];
    if all.checks > 0 {
        let checks = format!("VRAM checks {}", units::short_count(all.checks));
        other.push(bad(checks, all.checks));
    }
    other.extend([
        counted("fallbacks", all.fallbacks, now.fallbacks),
        counted("splits", all.splits, now.splits),
        plain(format!("replayed {}", units::short_count(all.replays))),
    ]);
    // One that has stopped may be why nothing moves.
    let (stopped, running): (Vec<_>, Vec<_>) = snapshot
        .queues
        .iter()
        .partition(|queue| queue.state == EngineState::Stopped);
    let mut queues: Vec<_> = stopped
        .into_iter()
        .chain(running)
        .map(|queue| queue_spans(panel, queue))
        .collect();
    if queues.is_empty() {
        queues.push(plain("no queue is enabled".into()));
    }
    let lines = vec![
        fit(faults, ", ", width),
        fit(other, ", ", width),
        fit(queues, "  ", width),
    ];
    text(lines, below(area), buffer);
}

/// A queue: its engine, what that does, and how many entries wait if any do.
fn queue_spans(panel: &Panel<'_>, queue: &Queue) -> Vec<Span<'static>> {
    let kind = match queue.kind {
        QueueKind::Copy => "copy",
        QueueKind::Invalidation => "inval.",
        QueueKind::Compute => "compute",
        QueueKind::Fault => "fault",
    };
    let state = match queue.state {
        EngineState::Busy => "busy",
        EngineState::Polling => "polls",
        EngineState::Sleeping => "sleeps",
        EngineState::Faulted => "faulted",
        EngineState::Stopped => "stopped",
    };
    let mut spans = vec![
        Span::raw(format!("{kind} {} ", queue.index)),
        Span::styled(state, panel.palette.engine(queue.state)),
    ];
    if queue.depth > 0 {
        let depth = units::short_count(queue.depth.into());
        spans.push(Span::raw(format!(" {depth}")));
    }
    spans
}

/// A line for each process whose memory moved.
pub(crate) fn processes(panel: &Panel<'_>, gpu: &Gpu, area: Rect, buffer: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let sorted = gpu.sorted(panel.top.sort);
    let name = format!("Processes by {}", panel.top.sort.name());
    let room = usize::from(area.height).saturating_sub(2);
    let more = match sorted.len().saturating_sub(room) {
        0 => Vec::new(),
        more => vec![Span::raw(format!("{more} more"))],
    };
    heading(panel, &name, more, area, buffer);
    // What is wider than the columns goes to the name.
    let wide = usize::from(panel.width).saturating_sub(64).clamp(8, 40);
    let row = |cells: [&str; 7]| {
        let [pid, name, vram, now, faults, to_device, home] = cells;
        let name = units::cut(name, wide);
        format!("{pid:>7} {name:<wide$} {vram:>8} {now:>9} {faults:>15} {to_device:>9} {home:>8}")
    };
    let mut lines = vec![Line::styled(
        row([
            "pid",
            "process",
            "VRAM",
            "now",
            "GPU/CPU faults",
            "to device",
            "home",
        ]),
        panel.palette.quiet(),
    )];
    for (process, rate) in sorted.into_iter().take(room) {
        let name = printable(process.name.as_bytes());
        let faults = format!(
            "{}/{}",
            units::count(process.gpu_fault_spans),
            units::count(process.cpu_fault_spans)
        );
        lines.push(Line::raw(row([
            &process.pid.to_string(),
            if name.is_empty() { "?" } else { &name },
            &units::bytes(process.vram_bytes),
            &units::rate(rate),
            &faults,
            &units::bytes(process.sys_to_dev_bytes),
            &units::bytes(process.dev_to_sys_bytes),
        ])));
    }
    text(lines, below(area), buffer);
}
