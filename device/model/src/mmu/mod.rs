//! Address spaces: page tables, translations, invalidation and faults.

mod context;
mod entry;
mod faults;
mod gate;
mod invalidation;
mod pending;
mod space;
mod tlb;
mod walk;

pub(crate) use context::Context;
pub(crate) use faults::{FaultQueue, UntoldFault};
pub(crate) use invalidation::InvalidationEngine;
pub(crate) use pending::{PendingFault, Resolution};
pub(crate) use space::{AddressSpace, Misused, MmuCounts, Space};
pub(crate) use walk::MmuFault;
