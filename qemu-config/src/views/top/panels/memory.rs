//! VRAM and engines: bars, and the map.

use hmmgpu_telemetry::snapshot::Direction;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Panel, below, heading, text};
use crate::views::figures::ratio;
use crate::views::top::map::{Cell, Kind, USED, cells};
use crate::views::top::state::Gpu;
use crate::views::units;

/// Bytes of a block.
const BLOCK: u64 = 2 << 20;
/// Columns from which on there is room for more.
const WIDE: u16 = 96;
/// Characters of a bar.
const BAR: usize = 10;

/// Two lines: how full VRAM is, and how busy the engines are.
pub(crate) fn summary(panel: &Panel<'_>, gpu: &Gpu, area: Rect, buffer: &mut Buffer) {
    let Some(snapshot) = &gpu.snapshot else {
        return;
    };
    let vram = &snapshot.vram;
    let used = if vram.bytes == 0 {
        0.0
    } else {
        ratio(vram.used_bytes, vram.bytes).min(1.0)
    };
    let mut first = bar(panel, " VRAM ", used);
    first.push(Span::raw(format!(
        " {} of {}, largest free {}, frag. {}",
        units::bytes(vram.used_bytes),
        units::bytes(vram.bytes),
        units::bytes(vram.largest_free_bytes),
        units::percent(vram.fragmentation),
    )));
    if panel.width >= WIDE {
        let peak = units::bytes(vram.peak_bytes);
        first.push(Span::raw(format!(", peak {peak}")));
    }
    let figures = &gpu.figures;
    let mut second = bar(panel, " copy ", figures.copy_busy.unwrap_or(0.0));
    let ways = [
        (Direction::SysToDev, "to device"),
        (Direction::DevToSys, "home"),
    ];
    for (direction, name) in ways {
        second.push(Span::raw(format!(" {name} ")));
        second.push(Span::styled(
            units::rate(figures.rate(direction, None)),
            panel.palette.direction(direction),
        ));
        second.push(Span::raw(","));
    }
    let share = units::percent_or_dash(copy_share(gpu));
    second.push(Span::raw(format!(" copy share {share}")));
    if let Some(busy) = figures.compute_busy.filter(|_| panel.width >= WIDE) {
        second.push(Span::raw(format!(
            ", compute {} busy",
            units::percent(busy)
        )));
    }
    text(vec![Line::from(first), Line::from(second)], area, buffer);
}

/// The engine's share of the time of what migrated in the interval, both ways.
fn copy_share(gpu: &Gpu) -> Option<f64> {
    let mut moved = gpu.figures.recent(Direction::SysToDev, None);
    moved.add(&gpu.figures.recent(Direction::DevToSys, None));
    moved.copy_share()
}

fn bar(panel: &Panel<'_>, name: &'static str, share: f64) -> Vec<Span<'static>> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )] // 0 to BAR
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    vec![
        Span::styled(name, panel.palette.heading()),
        Span::styled("█".repeat(full), panel.palette.bar()),
        Span::styled("░".repeat(BAR - full), panel.palette.quiet()),
        Span::raw(format!("{:>6}", units::percent(share))),
    ]
}

/// Lines that the map takes with a cell for each block.
pub(crate) fn map_rows(panel: &Panel<'_>, gpu: &Gpu) -> u16 {
    let blocks: u64 = gpu.snapshot.as_ref().map_or(0, |snapshot| {
        snapshot
            .vram
            .map
            .iter()
            .map(|run| u64::from(run.blocks))
            .sum()
    });
    u16::try_from(blocks.div_ceil(u64::from(panel.width.max(1)))).unwrap_or(u16::MAX - 1)
}

/// The map, and its legend.
pub(crate) fn map(panel: &Panel<'_>, gpu: &Gpu, area: Rect, buffer: &mut Buffer) {
    let Some(snapshot) = gpu.snapshot.as_ref().filter(|_| !area.is_empty()) else {
        return;
    };
    let inside = below(area);
    let room = usize::from(inside.width) * usize::from(inside.height);
    let (cells, each) = cells(&snapshot.vram.map, room);
    let name = format!(
        "VRAM map, {} a cell",
        units::bytes(each.saturating_mul(BLOCK))
    );
    heading(panel, &name, legend(panel), area, buffer);
    let lines = cells
        .chunks(usize::from(inside.width.max(1)))
        .map(|row| line(panel, row))
        .collect();
    text(lines, inside, buffer);
}

fn line(panel: &Panel<'_>, row: &[Cell]) -> Line<'static> {
    let spans = row
        .chunk_by(|one, other| one == other)
        .map(|same| {
            let glyphs: String = same.iter().map(|cell| cell.glyph()).collect();
            let kind = same.first().map_or(Kind::Free, |cell| cell.kind);
            Span::styled(glyphs, panel.palette.kind(kind))
        })
        .collect::<Vec<_>>();
    Line::from(spans)
}

fn legend(panel: &Panel<'_>) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    for kind in USED {
        let name = match kind {
            Kind::Large => "order 9  ",
            Kind::Middle => "1-8  ",
            Kind::Small => "0  ",
            Kind::Split | Kind::Free => "split  ",
        };
        let glyphs = [true, false].map(|full| Cell { kind, full }.glyph());
        spans.push(Span::styled(
            glyphs.iter().collect::<String>(),
            panel.palette.kind(kind),
        ));
        spans.push(Span::raw(format!(" {name}")));
    }
    let free = Cell {
        kind: Kind::Free,
        full: false,
    };
    spans.push(Span::styled(
        free.glyph().to_string(),
        panel.palette.kind(Kind::Free),
    ));
    spans.push(Span::raw(" free"));
    spans
}
