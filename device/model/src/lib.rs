//! The device model: PCI function, registers, VRAM, MMU, copy and compute engines. It knows no
//! VMM.
//!
//! A transport drives a [`Device`] by accesses to configuration space and BARs, by DMA maps and
//! by interrupt sinks. [`mock`] is a driver for tests, benches and fuzzers that need no guest.

mod advise;
mod background;
mod checksum;
mod clock;
mod command;
mod compute;
mod config_space;
mod copy;
mod device;
mod dma;
mod engine;
mod group;
mod guest_memory;
mod host_memory;
mod inject;
mod interrupt;
mod kick;
mod link;
mod lost;
mod memory;
mod mmu;
pub mod mock;
mod msix;
mod occasional;
mod patience;
mod poison;
mod queue;
mod registers;
mod reset;
mod ring;
mod shared;
mod status;
mod sync;
mod usage;
mod vram;

pub use device::{Config, ConfigError, Counting, Device};
pub use dma::{DmaError, DmaMapping, LostMemory, MAX_DMA_MAPS};
pub use host_memory::HostMemory;
pub use inject::{
    Action, FaultSpec, MAX_FAULTS, Part, SpecError, TooManyFaults, When, parse_fault_time,
};
pub use interrupt::Interrupt;
pub use link::{LinkError, LinkRates, LinkSpec};
pub use occasional::Occasional;
pub use reset::ResetCause;
