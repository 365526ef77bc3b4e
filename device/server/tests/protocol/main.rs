//! The server as its clients see it: one file for each command, and for what goes across them.
//! Most run against a backend that records what it is asked; the last ones against the model.

mod common;

mod bounds;
mod clients;
mod control;
mod device_info;
mod dma_map;
mod dma_unmap;
mod file_descriptors;
mod irq_info;
mod logs;
mod malformed;
mod metrics;
mod region_access;
mod region_info;
mod reset;
mod serve;
mod set_irqs;
mod trace;
mod unsupported;
mod version;
mod whole_path;
