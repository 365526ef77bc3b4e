//! The device.

use hmmgpu_telemetry::snapshot::{SCHEMA, Snapshot};

use crate::dma::{DmaError, DmaMapping};
use crate::interrupt::{Interrupt, Vectors};
use crate::reset::ResetCause;

/// What a device is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// VRAM size in bytes: 64 MiB to 64 GiB, a multiple of 2 MiB.
    pub vram_bytes: u64,
    /// Number of copy queues: 1 to 16.
    pub copy_queues: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { vram_bytes: 1 << 30, copy_queues: 1 }
    }
}

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The VRAM size is out of bounds.
    #[error("VRAM of {0} bytes is not possible: give 64 MiB to 64 GiB, a multiple of 2 MiB")]
    VramSize(u64),
    /// The number of queues is out of bounds.
    #[error("{0} copy queues are not possible: give 1 to 16")]
    CopyQueues(u32),
    /// The host refused memory or a thread.
    #[error("the host refused {what}: {source}")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// The device.
#[derive(Debug)]
pub struct Device {
    vectors: Vectors,
}

#[allow(unused_variables, clippy::unused_self)]
impl Device {
    /// Makes a device.
    pub fn new(config: Config) -> Result<Device, ConfigError> {
        Ok(Self { vectors: Vectors::new() })
    }
    /// Size of config space in bytes.
    pub fn config_size(&self) -> usize { 4096 }
    /// Reads config space.
    pub fn config_read(&self, offset: u64, data: &mut [u8]) { data.fill(0xff) }
    /// Writes config space.
    pub fn config_write(&self, offset: u64, data: &[u8]) {}
    /// Size of a BAR in bytes; 0: there is none of that number.
    pub fn bar_size(&self, bar: u32) -> u64 { 0 }
    /// Reads a BAR.
    pub fn bar_read(&self, bar: u32, offset: u64, data: &mut [u8]) { data.fill(0xff) }
    /// Writes a BAR.
    pub fn bar_write(&self, bar: u32, offset: u64, data: &[u8]) {}
    /// Adds a range to the DMA map.
    pub fn dma_map(&self, map: DmaMapping) -> Result<(), DmaError> {
        Err(DmaError::TooMany { limit: 0 })
    }
    /// Takes a range out of the DMA map.
    pub fn dma_unmap(&self, address: u64, size: u64) -> Result<(), DmaError> {
        Err(DmaError::NotMapped { address, size })
    }
    /// Empties the DMA map.
    pub fn dma_unmap_all(&self) {}
    /// Sets where a vector goes.
    pub fn set_interrupt(&self, vector: u32, sink: Option<Box<dyn Interrupt>>) {
        self.vectors.set(vector, sink);
    }
    /// Resets.
    pub fn reset(&self, cause: ResetCause) {}
    /// All that was counted.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            schema: SCHEMA.to_owned(),
            time_ns: 0,
            generation: 0,
            vram: Default::default(),
            transfers: Vec::new(),
            spans: Vec::new(),
            events: Default::default(),
            windows: Vec::new(),
            windows_dropped: 0,
        }
    }
}
