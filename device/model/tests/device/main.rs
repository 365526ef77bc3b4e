//! The whole device, driven by the mock driver: no guest, no transport.

mod bounds;
mod checker;
mod checksum;
mod compute;
mod dma;
mod fields;
mod handshake;
mod hostile;
mod inject;
mod interrupts;
mod link;
mod lost_memory;
mod mmu;
mod reference;
mod registers;
mod reset;
mod rig;
mod telemetry;
