//! VRAM over the time of a bench, sampled and made small.

use hmmgpu_telemetry::snapshot::{Snapshot, VramRun};
use serde::{Deserialize, Serialize};

use super::rows::ratio;

/// Most samples of a history; while one is recorded there are up to twice as many.
pub const MAX_SAMPLES: usize = 200;
/// Most cells of a sample.
pub const MAX_CELLS: usize = 128;
/// Bytes of a block of the device's map, and pages in it.
const BLOCK_BYTES: u64 = 2 << 20;
const BLOCK_PAGES: u64 = 512;

/// What was where in VRAM, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VramHistory {
    /// Size of VRAM in bytes.
    pub vram_bytes: u64,
    /// Bytes that a cell stands for; the last one may stand for fewer.
    pub cell_bytes: u64,
    /// Ascending in time.
    pub samples: Vec<VramSample>,
}

/// VRAM at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VramSample {
    /// Seconds since the device was made.
    pub time_s: f64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes in use by folio order: `[order, bytes]`.
    pub orders: Vec<(u8, u64)>,
    /// Runs of equal cells, from offset 0 to the end.
    pub cells: Vec<VramCells>,
}

/// Cells in a row that look the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VramCells {
    /// Cells.
    pub cells: u32,
    /// Order of the largest folio in each; nothing where all is free.
    pub order: Option<u8>,
    /// Share of each that is in use, 0 to 1, in hundredths.
    pub used: f64,
    /// Whether a folio in each is what a split left.
    pub split: bool,
}

/// Makes a history of snapshots. However many there are, it stays small: when there are too many
/// samples, every second one goes, and from then on every second snapshot.
#[derive(Debug, Default)]
pub struct Recorder {
    vram_bytes: u64,
    samples: Vec<VramSample>,
    /// One in so many snapshots becomes a sample.
    stride: usize,
    /// Snapshots since the last one that did.
    skipped: usize,
}

impl Recorder {
    /// Takes a snapshot.
    pub fn add(&mut self, snapshot: &Snapshot) {
        self.vram_bytes = snapshot.vram.bytes;
        // Of the time before anything moved, one sample is enough.
        if let [only] = &self.samples[..]
            && only.used_bytes == 0
            && snapshot.vram.used_bytes == 0
        {
            self.samples.clear();
            self.skipped = self.stride;
        }
        self.skipped += 1;
        if self.skipped < self.stride {
            return;
        }
        self.skipped = 0;
        self.samples.push(sample(snapshot));
        if self.samples.len() >= 2 * MAX_SAMPLES {
            self.thin();
        }
    }

    /// Drops every second sample.
    fn thin(&mut self) {
        let mut keep = false;
        self.samples.retain(|_| {
            keep = !keep;
            keep
        });
        self.stride = self.stride.max(1) * 2;
    }

    /// The history; nothing if there was no snapshot.
    pub fn finish(mut self) -> Option<VramHistory> {
        if self.samples.len() > MAX_SAMPLES {
            self.thin();
        }
        if self.samples.is_empty() {
            return None;
        }
        let blocks_per_cell = blocks_per_cell(self.vram_bytes.div_ceil(BLOCK_BYTES));
        Some(VramHistory {
            vram_bytes: self.vram_bytes,
            cell_bytes: blocks_per_cell * BLOCK_BYTES,
            samples: self.samples,
        })
    }
}

fn blocks_per_cell(blocks: u64) -> u64 {
    blocks.div_ceil(MAX_CELLS as u64).max(1)
}

fn sample(snapshot: &Snapshot) -> VramSample {
    let mut orders: Vec<(u8, u64)> = Vec::new();
    for folios in &snapshot.vram.folios {
        match orders.iter_mut().find(|(order, _)| *order == folios.order) {
            Some((_, bytes)) => *bytes += folios.bytes,
            None => orders.push((folios.order, folios.bytes)),
        }
    }
    orders.sort_unstable();
    let age_ns = snapshot.time_ns.saturating_sub(snapshot.started_ns);
    VramSample {
        time_s: ratio(age_ns, 1_000_000_000),
        used_bytes: snapshot.vram.used_bytes,
        orders,
        cells: cells(&snapshot.vram.map),
    }
}

/// A cell while it is put together.
#[derive(Default)]
struct Cell {
    blocks: u64,
    order: Option<u8>,
    pages: u64,
    split: bool,
}

impl Cell {
    fn done(&self) -> VramCells {
        let used = ratio(self.pages, self.blocks * BLOCK_PAGES);
        VramCells {
            cells: 1,
            order: self.order,
            used: (used * 100.0).round() / 100.0,
            split: self.split,
        }
    }
}

/// At most [`MAX_CELLS`] cells, of equally many blocks each, as runs.
fn cells(map: &[VramRun]) -> Vec<VramCells> {
    let blocks = map.iter().map(|run| u64::from(run.blocks)).sum();
    let size = blocks_per_cell(blocks);
    let mut runs: Vec<VramCells> = Vec::new();
    let mut cell = Cell::default();
    for run in map {
        let mut left = u64::from(run.blocks);
        while left > 0 {
            let taken = left.min(size - cell.blocks);
            cell.blocks += taken;
            cell.order = cell.order.max(run.order);
            cell.pages += taken * u64::from(run.used_pages);
            cell.split |= run.split;
            left -= taken;
            if cell.blocks == size {
                push(&mut runs, std::mem::take(&mut cell).done());
            }
        }
    }
    if cell.blocks > 0 {
        push(&mut runs, cell.done());
    }
    runs
}

fn push(runs: &mut Vec<VramCells>, cell: VramCells) {
    match runs.last_mut() {
        Some(last) if VramCells { cells: 1, ..*last } == cell => last.cells += 1,
        _ => runs.push(cell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::snapshot;
    use hmmgpu_telemetry::snapshot::{FolioState, VramFolios};

    fn run(blocks: u32, order: Option<u8>, used_pages: u16) -> VramRun {
        VramRun {
            blocks,
            order,
            used_pages,
            split: false,
        }
    }

    /// A snapshot with so many blocks of order 9 at the beginning of 1 GiB.
    fn with(used: u32, second: u64) -> Snapshot {
        let mut made = snapshot(vec![]);
        made.started_ns = 5;
        made.time_ns = 5 + second * 1_000_000_000;
        made.vram.bytes = 1 << 30;
        made.vram.used_bytes = u64::from(used) * BLOCK_BYTES;
        made.vram.folios = vec![VramFolios {
            order: 9,
            state: FolioState::Whole,
            folios: used.into(),
            bytes: u64::from(used) * BLOCK_BYTES,
        }];
        made.vram.map = vec![run(used, Some(9), 512), run(512 - used, None, 0)];
        made
    }

    #[test]
    fn cells_put_blocks_together() {
        let shown = |map: &[VramRun]| -> Vec<(u32, Option<u8>, f64)> {
            let each = |cells: &VramCells| (cells.cells, cells.order, cells.used);
            cells(map).iter().map(each).collect()
        };
        // 512 blocks, four a cell.
        assert_eq!(
            shown(&[run(10, Some(9), 512), run(502, None, 0)]),
            [(2, Some(9), 1.0), (1, Some(9), 0.5), (125, None, 0.0)]
        );
        // Few blocks: one a cell.
        assert_eq!(shown(&[run(3, Some(0), 256)]), [(3, Some(0), 0.5)]);
        // The last cell may have fewer: 130 blocks, two a cell.
        assert_eq!(
            shown(&[run(129, None, 0), run(1, Some(9), 512)]),
            [(64, None, 0.0), (1, Some(9), 0.5)]
        );
        assert_eq!(shown(&[]), []);
    }

    #[test]
    fn a_history_is_bounded_and_spans_all_the_time() {
        for count in [1, 100, 399, 400, 401, 5000, 100_000_u64] {
            let mut recorder = Recorder::default();
            for second in 0..count {
                recorder.add(&with(1 + u32::try_from(second % 500).unwrap(), second));
                assert!(recorder.samples.len() <= 2 * MAX_SAMPLES);
            }
            let history = recorder.finish().expect("samples");
            let samples = &history.samples;
            assert!(samples.len() <= MAX_SAMPLES, "{count}: {}", samples.len());
            assert!(
                samples.len() as u64 >= count.min(100),
                "{count}: {}",
                samples.len()
            );
            assert_eq!(samples[0].time_s, 0.0);
            let last = samples[samples.len() - 1].time_s;
            assert!(last >= ratio(count, 1) * 0.97 - 4.0, "{count}: {last}");
            assert!(
                samples
                    .windows(2)
                    .all(|pair| pair[0].time_s < pair[1].time_s)
            );
        }
    }

    #[test]
    fn the_time_before_anything_moved_is_one_sample() {
        let mut recorder = Recorder::default();
        for second in 0..50 {
            recorder.add(&with(0, second));
        }
        recorder.add(&with(4, 50));
        recorder.add(&with(0, 51));
        recorder.add(&with(0, 52));
        let history = recorder.finish().expect("samples");
        let times: Vec<f64> = history.samples.iter().map(|sample| sample.time_s).collect();
        assert_eq!(times, [49.0, 50.0, 51.0, 52.0]);
        assert_eq!((history.vram_bytes, history.cell_bytes), (1 << 30, 8 << 20));
        assert_eq!(history.samples[1].orders, [(9, 8 << 20)]);
    }

    #[test]
    fn nothing_is_no_history() {
        assert_eq!(Recorder::default().finish(), None);
    }
}
