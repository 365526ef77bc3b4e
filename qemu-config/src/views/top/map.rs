//! The VRAM map: runs of blocks as cells of a terminal.

use hmmgpu_telemetry::snapshot::VramRun;

/// Pages of a block.
const BLOCK_PAGES: u64 = 512;

/// What most of a cell's used memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nothing is used.
    Free,
    /// Single pages.
    Small,
    /// Folios of the orders between.
    Middle,
    /// Folios of 2 MiB, or more.
    Large,
    /// What splits of larger folios left.
    Split,
}

/// All kinds that are used memory.
pub(crate) const USED: [Kind; 4] = [Kind::Large, Kind::Middle, Kind::Small, Kind::Split];

/// A cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// What most of it is.
    pub(crate) kind: Kind,
    /// Whether most of it is used.
    pub(crate) full: bool,
}

impl Cell {
    /// A glyph that tells cells apart without colour.
    pub(crate) fn glyph(self) -> char {
        match (self.kind, self.full) {
            (Kind::Free, _) => '·',
            (Kind::Small, true) => '⣿',
            (Kind::Small, false) => '⣀',
            (Kind::Middle, true) => '▓',
            (Kind::Middle, false) => '▒',
            (Kind::Large, true) => '█',
            (Kind::Large, false) => '▄',
            (Kind::Split, true) => '▚',
            (Kind::Split, false) => '▖',
        }
    }
}

impl Kind {
    fn of(run: &VramRun) -> Self {
        match run.order {
            None => Self::Free,
            Some(_) if run.split => Self::Split,
            Some(0) => Self::Small,
            Some(1..=8) => Self::Middle,
            Some(_) => Self::Large,
        }
    }
}

/// The runs in at most so many cells, and the blocks in each: as few as will do.
pub(crate) fn cells(runs: &[VramRun], most: usize) -> (Vec<Cell>, u64) {
    let blocks: u64 = runs.iter().map(|run| u64::from(run.blocks)).sum();
    let most_u64 = most as u64;
    if blocks == 0 || most == 0 {
        return (Vec::new(), 1);
    }
    let each = blocks.div_ceil(most_u64);
    let mut cells = Vec::new();
    let mut tally = Tally::default();
    for run in runs {
        let mut left = u64::from(run.blocks);
        while left > 0 {
            let part = left.min(each - tally.blocks);
            tally.add(run, part);
            left -= part;
            if tally.blocks == each {
                cells.push(std::mem::take(&mut tally).cell());
            }
        }
    }
    if tally.blocks > 0 {
        cells.push(tally.cell());
    }
    (cells, each)
}

/// What is in a cell so far.
#[derive(Default)]
struct Tally {
    blocks: u64,
    /// Pages in use, as [`USED`] has the kinds.
    pages: [u64; USED.len()],
}

impl Tally {
    fn add(&mut self, run: &VramRun, blocks: u64) {
        self.blocks += blocks;
        let kind = Kind::of(run);
        if let Some(index) = USED.iter().position(|used| *used == kind) {
            let pages = u64::from(run.used_pages).clamp(1, BLOCK_PAGES);
            self.pages[index] += blocks * pages;
        }
    }

    fn cell(self) -> Cell {
        let used: u64 = self.pages.iter().sum();
        let most = USED
            .iter()
            .zip(self.pages)
            .max_by_key(|(_, pages)| *pages)
            .filter(|(_, pages)| *pages > 0);
        Cell {
            kind: most.map_or(Kind::Free, |(kind, _)| *kind),
            full: used * 2 > self.blocks * BLOCK_PAGES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(blocks: u32, order: Option<u8>, used_pages: u16, split: bool) -> VramRun {
        VramRun {
            blocks,
            order,
            used_pages,
            split,
        }
    }

    fn shown(runs: &[VramRun], most: usize) -> (String, u64) {
        let (cells, each) = cells(runs, most);
        (cells.into_iter().map(Cell::glyph).collect(), each)
    }

    #[test]
    fn a_cell_is_a_block_where_there_is_room() {
        let runs = [
            run(2, Some(9), 512, false),
            run(1, Some(0), 512, false),
            run(1, Some(0), 32, false),
            run(1, Some(4), 512, false),
            run(1, Some(4), 64, false),
            run(1, Some(0), 512, true),
            run(1, Some(9), 32, true),
            run(2, None, 0, false),
        ];
        assert_eq!(shown(&runs, 100), ("██⣿⣀▓▒▚▖··".into(), 1));
    }

    #[test]
    fn more_blocks_share_a_cell() {
        let runs = [
            run(4, Some(9), 512, false),
            run(1, Some(0), 512, false),
            run(3, None, 0, false),
            run(1, Some(9), 512, false),
            run(2, None, 0, false),
        ];
        assert_eq!(shown(&runs, 3), ("█⣀▄".into(), 4));
        assert_eq!(shown(&runs, 1), ("█".into(), 11));
    }

    #[test]
    fn absurd_maps_take_no_time() {
        let runs = vec![run(u32::MAX, Some(9), u16::MAX, false); 1000];
        let (cells, _) = cells(&runs, 300);
        assert!(cells.len() <= 300);
        assert!(super::cells(&runs, 0).0.is_empty());
        assert!(super::cells(&[], 10).0.is_empty());
    }
}
