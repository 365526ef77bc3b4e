//! The hardware contract of the hmmgpu virtual GPU.
//!
//! Everything that device and driver must agree on is here and nowhere else: PCI identity,
//! registers, queues, descriptors, fence records, page tables and jobs. The C header for the driver and
//! `docs/hardware.md` are generated from these definitions, and a test fails when either is stale.
//!
//! All multi-byte values are little-endian and naturally aligned. All addresses that the driver
//! gives are DMA addresses (`dma_addr_t`) or byte offsets into VRAM; only jobs of the compute
//! queues work on virtual addresses.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "emit")]
extern crate std;

#[macro_use]
mod define;
pub mod compute;
pub mod desc;
#[cfg(feature = "emit")]
pub mod emit;
pub mod mmu;
pub mod pci;
pub mod queue;
pub mod regs;

pub use define::{ConstantDef, FieldDef, StructDef, WireField};

/// Version of this contract, `major << 16 | minor`. A driver refuses another major version.
pub const CONTRACT_VERSION: u32 = 1 << 16 | 3;

/// Size of the smallest unit that the device copies or accounts: one page of 4 KiB.
pub const PAGE_SHIFT: u32 = 12;
/// Page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Orders that the format can name are `0..=MAX_ORDER` (order 18 is 1 GiB).
pub const MAX_ORDER: u8 = 18;
/// Largest number of bytes that one COPY or FILL descriptor may cover.
pub const MAX_TRANSFER_BYTES: u64 = 1 << 30;
/// Smallest VRAM that a device may have, in bytes.
pub const MIN_VRAM_BYTES: u64 = 64 << 20;
/// Largest VRAM that a device may have, in bytes.
pub const MAX_VRAM_BYTES: u64 = 64 << 30;
/// VRAM is a whole number of blocks of this size: one order-9 folio.
pub const VRAM_BLOCK_BYTES: u64 = 2 << 20;
