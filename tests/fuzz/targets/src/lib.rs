//! What is fuzzed: each target is a function of bytes that panics when something does not hold.
//!
//! The targets are run by libFuzzer (`tests/fuzz`, see docs/fuzzing.md), and over their seeds by
//! an ordinary test. More than the absence of panics holds: what a device may write, what it
//! must answer, and that it works afterwards; each target says what.

mod breakage;
mod control;
mod device;
mod memory;
mod page_tables;
mod pci_config;
mod profile;
mod protocol;
mod registers;
mod result;
mod snapshot;

pub use control::control;
pub use page_tables::page_tables;
pub use pci_config::pci_config;
pub use profile::profile;
pub use protocol::protocol;
pub use registers::registers;
pub use result::result;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("control", control),
    ("page_tables", page_tables),
    ("pci_config", pci_config),
    ("profile", profile),
    ("protocol", protocol),
    ("registers", registers),
    ("result", result),
];
