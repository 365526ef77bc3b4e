//! A driver in Rust, with guest RAM of its own: drives a device without a guest.
//!
//! It reaches the device by [`Function`], so that the same tests can drive a [`Device`] in this
//! process and one behind a transport.

mod beside;
mod context;
pub mod descriptors;
mod driver;
mod faults;
mod interrupts;
pub mod jobs;
mod patience;
mod ram;
pub mod tables;

use std::sync::Arc;

pub use beside::beside;
pub use context::{ContextConfig, ContextDriver};
pub use driver::{Driver, MockError, QueueConfig};
pub use faults::FaultReader;
pub use interrupts::InterruptCounter;
pub use patience::{await_some, until};
pub use ram::GuestRam;
pub use tables::PageTables;

use crate::{Config, ConfigError, Device, DmaMapping};

/// A device that populates no memory ahead of its use: for whoever makes or resets one many
/// times, and uses little of it each time.
///
/// # Errors
/// As [`Device::new`].
pub fn sparse_device(config: Config) -> Result<Device, ConfigError> {
    Device::build(config, Box::new(|| false))
}

/// What a driver, and the machine that it runs on, need of a PCI function.
pub trait Function {
    /// Reads configuration space.
    fn config_read(&self, offset: u64, data: &mut [u8]);
    /// Writes configuration space.
    fn config_write(&self, offset: u64, data: &[u8]);
    /// Reads a BAR.
    fn bar_read(&self, bar: u32, offset: u64, data: &mut [u8]);
    /// Writes a BAR.
    fn bar_write(&self, bar: u32, offset: u64, data: &[u8]);
    /// Lets the function reach memory.
    ///
    /// # Errors
    /// What the other side said.
    fn dma_map(&self, mapping: DmaMapping) -> Result<(), MockError>;
}

impl Function for Device {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        Device::config_read(self, offset, data);
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        Device::config_write(self, offset, data);
    }

    fn bar_read(&self, bar: u32, offset: u64, data: &mut [u8]) {
        Device::bar_read(self, bar, offset, data);
    }

    fn bar_write(&self, bar: u32, offset: u64, data: &[u8]) {
        Device::bar_write(self, bar, offset, data);
    }

    fn dma_map(&self, mapping: DmaMapping) -> Result<(), MockError> {
        Device::dma_map(self, mapping).map_err(|error| MockError::DmaMap(error.to_string()))
    }
}

impl<T: Function + ?Sized> Function for Arc<T> {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        (**self).config_read(offset, data);
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        (**self).config_write(offset, data);
    }

    fn bar_read(&self, bar: u32, offset: u64, data: &mut [u8]) {
        (**self).bar_read(bar, offset, data);
    }

    fn bar_write(&self, bar: u32, offset: u64, data: &[u8]) {
        (**self).bar_write(bar, offset, data);
    }

    fn dma_map(&self, mapping: DmaMapping) -> Result<(), MockError> {
        (**self).dma_map(mapping)
    }
}
