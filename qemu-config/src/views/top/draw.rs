//! Where everything goes on the screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Widget};

use super::panels::{self, Panel};
use super::state::{Gpu, Top};
use super::style::Palette;

/// Most lines of the table of transfers.
const MAX_TRANSFERS: u16 = 24;
/// Most lines of the table of processes.
const MAX_PROCESSES: u16 = 64;
/// Lines that the graphs take at least, with their titles.
const GRAPHS: u16 = 8;
/// Lines that they take at most.
const MAX_GRAPHS: u16 = 16;

/// Lines of each part; 0: it is left out. Titles are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    keys: u16,
    summary: u16,
    map: u16,
    graphs: u16,
    transfers: u16,
    events: u16,
    processes: u16,
}

/// What parts would have, if there were room.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    map: u16,
    transfers: u16,
    processes: u16,
}

impl Lines {
    /// Shares so many lines out. Each part gets the least that it makes sense with, the more
    /// important first; then as much as shows in 24 lines; then what it wants.
    fn share(height: u16, wanted: Wanted) -> Self {
        let mut lines = Self::default();
        let mut left = height.saturating_sub(1);
        let mut whole = |part: &mut u16, least: u16| {
            if left >= least {
                *part = least;
                left -= least;
            }
        };
        whole(&mut lines.summary, 2);
        whole(&mut lines.keys, 1);
        whole(&mut lines.transfers, 4);
        whole(&mut lines.map, 3);
        whole(&mut lines.events, 4);
        whole(&mut lines.processes, 3);
        let mut grow = |part: &mut u16, to: u16| {
            if *part > 0 {
                let more = to.saturating_sub(*part).min(left);
                *part += more;
                left -= more;
            }
        };
        grow(&mut lines.map, 5);
        grow(&mut lines.transfers, 6);
        grow(&mut lines.processes, 5);
        grow(&mut lines.transfers, wanted.transfers);
        grow(&mut lines.processes, wanted.processes.min(12));
        grow(&mut lines.map, wanted.map.min(17));
        if left >= GRAPHS && lines.processes > 0 {
            lines.graphs = left.min(MAX_GRAPHS);
            left -= lines.graphs;
        }
        let mut grow = |part: &mut u16, to: u16| {
            let more = to.saturating_sub(*part).min(left);
            *part += more;
            left -= more;
        };
        grow(&mut lines.map, wanted.map);
        grow(&mut lines.processes, wanted.processes);
        lines
    }
}

/// Draws all of it.
pub(super) fn draw(top: &Top, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    Clear.render(area, buffer);
    if area.is_empty() {
        return;
    }
    let panel = Panel {
        top,
        palette: Palette {
            colours: top.colours,
        },
        width: area.width,
    };
    let mut rest = area;
    let mut below = |lines: u16| {
        let (upper, lower) = split(rest, lines);
        rest = lower;
        upper
    };
    let title = below(1);
    match top.gpu().filter(|gpu| gpu.snapshot.is_some()) {
        Some(gpu) => {
            let lines = Lines::share(area.height, wanted(&panel, gpu));
            Widget::render(panels::title(&panel, gpu), title, buffer);
            panels::summary(&panel, gpu, below(lines.summary), buffer);
            panels::map(&panel, gpu, below(lines.map), buffer);
            panels::graphs(&panel, gpu, below(lines.graphs), buffer);
            panels::transfers(&panel, gpu, below(lines.transfers), buffer);
            panels::events(&panel, gpu, below(lines.events), buffer);
            panels::processes(&panel, gpu, below(lines.processes), buffer);
        }
        None => {
            let text = panels::waiting(&panel, top.gpu());
            Widget::render(
                Line::styled("hmmgpu top", panel.palette.title()),
                title,
                buffer,
            );
            let wait = below(area.height.saturating_sub(2));
            Paragraph::new(text).render(wait, buffer);
        }
    }
    if area.height > 3 {
        let last = Rect {
            y: area.bottom() - 1,
            height: 1,
            ..area
        };
        Widget::render(panels::keys(&panel), last, buffer);
    }
    if top.help {
        help(&panel, area, buffer);
    }
}

fn wanted(panel: &Panel<'_>, gpu: &Gpu) -> Wanted {
    let rows = |count: usize, most: u16| u16::try_from(count).unwrap_or(most).min(most);
    let processes = gpu.snapshot.as_ref().map_or(0, |s| s.processes.len());
    Wanted {
        map: 1 + panels::map_rows(panel, gpu),
        transfers: 2 + rows(gpu.figures.total.len(), MAX_TRANSFERS),
        processes: 2 + rows(processes, MAX_PROCESSES),
    }
}

fn split(area: Rect, lines: u16) -> (Rect, Rect) {
    let lines = lines.min(area.height);
    let upper = Rect {
        height: lines,
        ..area
    };
    let lower = Rect {
        y: area.y + lines,
        height: area.height - lines,
        ..area
    };
    (upper, lower)
}

/// In the middle, over everything else.
fn help(panel: &Panel<'_>, area: Rect, buffer: &mut Buffer) {
    let text: Vec<Line<'_>> = panels::HELP
        .iter()
        .map(|(key, meaning)| {
            Line::from(vec![
                Span::styled(format!(" {key:<12}"), panel.palette.heading()),
                Span::raw(*meaning),
            ])
        })
        .collect();
    let height = u16::try_from(text.len() + 2)
        .unwrap_or(u16::MAX)
        .min(area.height);
    let width = 76.min(area.width);
    let middle = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(middle, buffer);
    let block = Block::bordered().title(" Help: any of q, Esc, h closes ");
    Paragraph::new(text).block(block).render(middle, buffer);
}

#[cfg(test)]
mod tests;
