//! Faults and other events, queues, and processes.

use hmmgpu_telemetry::snapshot::{EngineState, Queue, QueueKind};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Panel, below, heading, text};
use crate::text::printable;
use crate::views::top::state::Gpu;
use crate::views::units;

/// Three lines: faults, what went otherwise than wished, and queues.
pub(crate) fn events(panel: &Panel<'_>, gpu: &Gpu, area: Rect, buffer: &mut Buffer) {
    let Some(snapshot) = gpu.snapshot.as_ref().filter(|_| !area.is_empty()) else {
        return;
    };
    heading(panel, "Faults, queues", Vec::new(), area, buffer);
    let figures = &gpu.figures;
    let (all, now) = (&figures.events, &figures.events_now);
    let rate = |count: u64| units::per_second(figures.per_second(count));
    let replay = &snapshot.mmu.replay;
    let known = |ns: u64| units::time_or_dash((replay.count > 0).then_some(ns));
    let faults = format!(
        " GPU faults {} ({}), replayed {} (p50 {}, p99 {}), CPU faults {} ({})",
        units::count(all.gpu_faults),
        rate(now.gpu_faults),
        units::count(all.replays),
        known(replay.p50_ns),
        known(replay.p99_ns),
        units::count(all.cpu_faults),
        rate(now.cpu_faults),
    );
    let mut other = vec![Span::raw(format!(
        " fallbacks {} ({}), splits {} ({}), resets {}, ",
        units::count(all.fallbacks),
        rate(now.fallbacks),
        units::count(all.splits),
        rate(now.splits),
        units::count(all.resets),
    ))];
    let errors = format!("errors {}", units::count(all.errors));
    other.push(if all.errors > 0 {
        Span::styled(errors, panel.palette.bad())
    } else {
        Span::raw(errors)
    });
    let mut queues = vec![Span::raw(" ")];
    for queue in &snapshot.queues {
        queues.extend(queue_spans(panel, queue));
    }
    if snapshot.queues.is_empty() {
        queues.push(Span::raw("no queue is enabled"));
    }
    text(
        vec![Line::raw(faults), Line::from(other), Line::from(queues)],
        below(area),
        buffer,
    );
}

fn queue_spans(panel: &Panel<'_>, queue: &Queue) -> [Span<'static>; 3] {
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
    [
        Span::raw(format!("{kind} {} ", queue.index)),
        Span::styled(state, panel.palette.engine(queue.state)),
        Span::raw(format!(" {}  ", units::count(queue.depth.into()))),
    ]
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
