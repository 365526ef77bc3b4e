//! Contexts as registers, the invalidation queue and the fault queue.

mod contexts;
mod fault_queue;
mod interrupts;
mod invalidation_queue;
mod storm;
