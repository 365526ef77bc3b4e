//! The parts of the screen.

mod memory;
mod movement;
mod tables;

use hmmgpu_telemetry::snapshot::Snapshot;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget};

use super::state::{Gpu, Top};
use super::style::Palette;
use crate::text::printable;
use crate::views::smi::link_state;
use crate::views::units;

pub(super) use memory::{map, map_rows, summary};
pub(super) use movement::{graphs, transfers};
pub(super) use tables::{events, processes};

/// What all parts need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    pub(super) top: &'a Top,
    pub(super) palette: Palette,
    /// Columns of the screen.
    pub(super) width: u16,
}

/// What keys do.
pub(super) const HELP: &[(&str, &str)] = &[
    ("q, Esc, ^C", "quit; ^Z suspends"),
    (
        "space",
        "pause: nothing changes until space is pressed again",
    ),
    ("Tab, 1 to 9", "another GPU"),
    ("+ and -", "longer or shorter interval"),
    ("s", "sort processes by VRAM, rate, faults or pid"),
    ("r", "reset peaks"),
    ("h, ?", "this help"),
    ("", ""),
    (
        "Map",
        "a cell is what most of its memory in use is; the lighter of",
    ),
    ("", "two glyphs: half of the cell or less is in use"),
    ("now, graph", "bytes a second of the interval"),
    ("migration", "bytes over the time that migrations took"),
    (
        "engine",
        "bytes over the time that the copy engine was busy",
    ),
    (
        "copy",
        "share of the migrations' time that the engine was busy",
    ),
    ("p50, p99", "time of one migration"),
    (
        "dim rows",
        "nothing moved in the interval: figures since the start",
    ),
];

/// The first line: which GPU this is, and how it is.
pub(super) fn title(panel: &Panel<'_>, gpu: &Gpu) -> Line<'static> {
    let top = panel.top;
    let label = printable(gpu.hello.label.as_bytes());
    let mut text = format!(
        " GPU {}/{} {} pid {} ",
        top.selected + 1,
        top.gpus.len(),
        units::cut(&label, 24),
        gpu.hello.pid,
    );
    let state = match (&gpu.lost, &gpu.snapshot) {
        (Some(reason), _) => format!(" {reason}; waiting for another "),
        (None, Some(snapshot)) => format!(
            " {}, up {} ",
            link_state(snapshot),
            units::uptime(age(snapshot))
        ),
        (None, None) => String::new(),
    };
    text.push_str(&state);
    let pause = if top.paused { " PAUSED " } else { "" };
    let right = format!("{pause} every {} ", seconds(top.interval));
    let room = usize::from(panel.width).saturating_sub(right.chars().count());
    let text = units::cut(&text, room);
    Line::styled(format!("{text:<room$}{right}"), panel.palette.title())
}

fn age(snapshot: &Snapshot) -> u64 {
    snapshot.time_ns.saturating_sub(snapshot.started_ns)
}

fn seconds(interval: std::time::Duration) -> String {
    format!("{} s", interval.as_secs_f64())
}

/// Where no GPU can be shown: why, and what to do.
pub(super) fn waiting(panel: &Panel<'_>, gpu: Option<&Gpu>) -> Vec<Line<'static>> {
    let mut lines = vec![Line::raw("")];
    match gpu.map(|gpu| &gpu.lost) {
        None if !panel.top.unanswered.is_empty() => {
            lines.push(Line::raw("  No GPU answers. Trying again:"));
        }
        None => {
            lines.push(Line::raw("  No GPU runs. Waiting for one; start it with"));
            for command in ["bench", "run -- COMMAND", "shell", "serve"] {
                lines.push(Line::raw(format!("    hmmgpu {command}")));
            }
        }
        Some(Some(reason)) => lines.push(Line::raw(format!("  {reason}; waiting for another"))),
        Some(None) => lines.push(Line::raw("  Waiting for the first figures")),
    }
    let blind = Some(&panel.top.blind).filter(|blind| !blind.is_empty());
    for reason in panel.top.unanswered.values().chain(blind) {
        lines.push(Line::raw(""));
        let reason = printable(reason.as_bytes());
        let width = usize::from(panel.width).saturating_sub(4).max(1);
        let characters: Vec<char> = reason.chars().collect();
        for part in characters.chunks(width) {
            let part: String = part.iter().collect();
            lines.push(Line::styled(format!("  {part}"), panel.palette.bad()));
        }
    }
    lines
}

/// The last line.
pub(super) fn keys(panel: &Panel<'_>) -> Line<'static> {
    let mut spans = Vec::new();
    let pause = if panel.top.paused { "resume" } else { "pause" };
    for (key, meaning) in [
        ("q", "quit"),
        ("h", "help"),
        ("space", pause),
        ("Tab", "GPU"),
        ("+-", "interval"),
        ("s", "sort"),
        ("r", "reset peaks"),
    ] {
        spans.push(Span::styled(format!(" {key}"), panel.palette.heading()));
        spans.push(Span::raw(format!(" {meaning} ")));
    }
    Line::from(spans)
}

/// A heading: a rule with a name on its left and, where there is room, more on its right.
fn heading(
    panel: &Panel<'_>,
    name: &str,
    right: Vec<Span<'static>>,
    area: Rect,
    buffer: &mut Buffer,
) {
    let width = usize::from(area.width);
    let left = format!("─ {name} ");
    let used: usize = right.iter().map(Span::width).sum();
    let mut spans = vec![Span::styled(left.clone(), panel.palette.heading())];
    let fits = left.chars().count() + used + 2 <= width;
    let rule = width
        .saturating_sub(left.chars().count())
        .saturating_sub(if fits { used + 2 } else { 0 });
    spans.push(Span::styled("─".repeat(rule), panel.palette.quiet()));
    if fits && used > 0 {
        spans.push(Span::raw(" "));
        spans.extend(right);
        spans.push(Span::raw(" "));
    } else if fits {
        spans.push(Span::styled("──", panel.palette.quiet()));
    }
    Widget::render(Line::from(spans), first(area), buffer);
}

/// Parts in a row, with this between them. Where not all have room the last ones are left out,
/// and an ellipsis says so.
fn fit(parts: Vec<Vec<Span<'static>>>, separator: &'static str, width: usize) -> Line<'static> {
    const MORE: &str = " …";
    let mut spans = vec![Span::raw(" ")];
    let mut used = 1;
    let count = parts.len();
    for (index, part) in parts.into_iter().enumerate() {
        let between = if index == 0 { "" } else { separator };
        let wider = used + between.len() + part.iter().map(Span::width).sum::<usize>();
        let mark = if index + 1 == count { 0 } else { 2 };
        if wider + mark > width {
            spans.push(Span::raw(MORE));
            break;
        }
        used = wider;
        spans.push(Span::raw(between));
        spans.extend(part);
    }
    Line::from(spans)
}

/// The first line of an area.
fn first(area: Rect) -> Rect {
    Rect {
        height: area.height.min(1),
        ..area
    }
}

/// All but the first line of an area.
fn below(area: Rect) -> Rect {
    let skipped = area.height.min(1);
    Rect {
        y: area.y + skipped,
        height: area.height - skipped,
        ..area
    }
}

fn text(lines: Vec<Line<'_>>, area: Rect, buffer: &mut Buffer) {
    Paragraph::new(lines).render(area, buffer);
}
