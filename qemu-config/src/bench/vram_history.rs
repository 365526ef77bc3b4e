//! VRAM over the time of a bench, sampled and made small.

use serde::{Deserialize, Serialize};

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
    /// Share of each that is in use, 0 to 1.
    pub used: f64,
    /// Whether a folio in each is what a split left.
    pub split: bool,
}
