//! Address spaces: page tables, translations, invalidation and faults.

mod entry;

mod gate;

mod pending;
mod space;
mod tlb;
mod walk;

pub(crate) use pending::{PendingFault, Resolution};
pub(crate) use space::{AddressSpace, Memory, MmuCounts, Space};
pub(crate) use walk::MmuFault;
