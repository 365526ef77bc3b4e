//! What moves: the table of orders and directions, and graphs.

use std::collections::VecDeque;

use hmmgpu_telemetry::snapshot::Direction;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Sparkline, Widget};

use super::{Panel, below, first, heading, text};
use crate::views::figures::{Moved, Way, way_name};
use crate::views::top::state::{DIRECTIONS, Gpu, Track};
use crate::views::units;

/// Columns of the table without its graph.
const COLUMNS: usize = 70;
/// Columns that are shown where there is more room.
const WIDE: usize = COLUMNS + 20;
/// Columns from which on these are.
const WIDE_FROM: usize = 110;

/// A line for each order and direction that ever moved, and a graph of its rate.
pub(crate) fn transfers(panel: &Panel<'_>, gpu: &Gpu, area: Rect, buffer: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let over = format!("Transfers, over {}", units::time(gpu.figures.interval_ns));
    let inside = below(area);
    let room = usize::from(inside.height).saturating_sub(1);
    let mut ways: Vec<Way> = gpu.figures.total.keys().rev().copied().collect();
    let all = ways.len();
    if all > room {
        // What moves now is worth more than what once did; in each, the largest order first.
        ways.sort_by_key(|way| !moves(gpu, *way));
        ways.truncate(room);
    }
    let more = match all - ways.len() {
        0 => Vec::new(),
        more => vec![Span::raw(format!("{more} more rows need a higher window"))],
    };
    heading(panel, &over, more, area, buffer);
    let wide = usize::from(area.width) >= WIDE_FROM;
    let graph = usize::from(area.width).saturating_sub(if wide { WIDE } else { COLUMNS });
    let mut lines = vec![Line::styled(
        column_names(wide, graph),
        panel.palette.quiet(),
    )];
    if ways.is_empty() {
        lines.push(Line::raw("      nothing has moved yet"));
    }
    for way in ways {
        lines.push(row(panel, gpu, way, wide, graph));
    }
    text(lines, inside, buffer);
}

fn moves(gpu: &Gpu, way: Way) -> bool {
    let moved = gpu.figures.now.get(&way);
    moved.is_some_and(|moved| moved.bytes > 0 || moved.spans > 0)
}

fn column_names(wide: bool, graph: usize) -> String {
    let more = if wide {
        format!("{:>9} {:>9} ", "peak", "folios/s")
    } else {
        String::new()
    };
    format!(
        "order way       {:>9} {more}{:graph$} {:>9} {:>9} {:>5} {:>7} {:>7}",
        "now", "", "migration", "engine", "copy", "p50", "p99"
    )
}

fn row(panel: &Panel<'_>, gpu: &Gpu, way: Way, wide: bool, graph: usize) -> Line<'static> {
    let (order, direction) = way;
    let nothing = Moved::default();
    let idle = !moves(gpu, way);
    let recent = gpu.figures.now.get(&way).unwrap_or(&nothing);
    let shown = if recent.spans > 0 {
        recent
    } else {
        gpu.figures.total.get(&way).unwrap_or(&nothing)
    };
    let plain = if idle {
        panel.palette.quiet()
    } else {
        Style::new()
    };
    let coloured = if idle {
        plain
    } else {
        panel.palette.direction(direction)
    };
    let track = gpu.ways.get(&way);
    let mut spans = vec![
        Span::styled(format!("{order:>5} {:<9} ", way_name(direction)), coloured),
        Span::styled(
            format!(
                "{:>9} ",
                units::rate(gpu.figures.rate(direction, Some(order)))
            ),
            plain,
        ),
    ];
    if wide {
        spans.push(Span::styled(
            format!(
                "{:>9} {:>9} ",
                units::rate(track.map_or(0.0, |track| track.peak)),
                units::per_second(gpu.figures.per_second(recent.folios)),
            ),
            plain,
        ));
    }
    let bars = track.map_or_else(String::new, |track| sparkline(&track.history, graph));
    spans.push(Span::styled(
        format!("{bars:>graph$} "),
        panel.palette.direction(direction),
    ));
    spans.push(Span::styled(
        format!(
            "{:>9} {:>9} {:>5} {:>7} {:>7}",
            units::rate_or_dash(shown.migration_rate()),
            units::rate_or_dash(shown.engine_rate()),
            units::percent_or_dash(shown.copy_share()),
            units::time_or_dash(shown.times.percentile(50)),
            units::time_or_dash(shown.times.percentile(99)),
        ),
        plain,
    ));
    Line::from(spans)
}

/// The newest of the rates as bars beside each other, the largest of them full.
fn sparkline(history: &VecDeque<f64>, width: usize) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let newest = history.iter().rev().take(width).copied();
    let most = newest.clone().fold(0.0, f64::max);
    let mut bars: Vec<char> = newest
        .map(|rate| {
            if most <= 0.0 || rate <= 0.0 {
                return BARS[0];
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 8
            let height = (rate / most * 8.0).ceil() as usize;
            BARS[height.clamp(1, 8)]
        })
        .collect();
    bars.reverse();
    bars.into_iter().collect()
}

/// Both directions, side by side where there is room for it.
pub(crate) fn graphs(panel: &Panel<'_>, gpu: &Gpu, area: Rect, buffer: &mut Buffer) {
    if area.height < 2 * u16::try_from(DIRECTIONS.len()).unwrap_or(2) {
        return;
    }
    let upper = Rect {
        height: area.height / 2,
        ..area
    };
    let lower = Rect {
        y: area.y + upper.height,
        height: area.height - upper.height,
        ..area
    };
    for ((direction, track), part) in DIRECTIONS
        .into_iter()
        .zip(&gpu.directions)
        .zip([upper, lower])
    {
        graph(panel, direction, track, part, buffer);
    }
}

fn graph(panel: &Panel<'_>, direction: Direction, track: &Track, area: Rect, buffer: &mut Buffer) {
    let now = track.history.back().copied().unwrap_or(0.0);
    let name = format!(
        "{}: {} now, peak {}",
        match direction {
            Direction::SysToDev => "To device",
            _ => "Home",
        },
        units::rate(now),
        units::rate(track.peak)
    );
    heading(panel, &name, Vec::new(), first(area), buffer);
    let inside = below(area);
    let newest = track.history.iter().skip(
        track
            .history
            .len()
            .saturating_sub(usize::from(inside.width)),
    );
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bytes a second
    let bars: Vec<u64> = newest.map(|rate| *rate as u64).collect();
    let inside = Rect {
        x: inside.right() - u16::try_from(bars.len()).unwrap_or(0).min(inside.width),
        width: u16::try_from(bars.len()).unwrap_or(0).min(inside.width),
        ..inside
    };
    Sparkline::default()
        .data(bars)
        .style(panel.palette.direction(direction))
        .render(inside, buffer);
}
