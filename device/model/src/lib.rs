//! The device model: PCI function, registers, VRAM, copy engine. It knows no VMM.

mod device;
mod dma;
mod interrupt;
mod reset;

pub use device::{Config, ConfigError, Device};
pub use dma::{DmaError, DmaMapping};
pub use interrupt::Interrupt;
pub use reset::ResetCause;
