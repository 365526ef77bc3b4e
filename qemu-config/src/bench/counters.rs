//! The driver's own counters beside the host's.

use serde::{Deserialize, Serialize};

/// A counter as the driver has it and as the host has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterCheck {
    /// Its name, as in debugfs.
    pub name: String,
    /// Folio order, of those that are kept by order.
    pub order: Option<u8>,
    /// By the driver.
    pub driver: u64,
    /// By the host, if it can know.
    pub host: Option<u64>,
    /// Whether they are the same; nothing where the host cannot know.
    pub equal: Option<bool>,
}
