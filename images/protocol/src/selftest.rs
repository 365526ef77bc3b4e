//! What `hmmgpu selftest` asks of the runner in the guest.

use serde::{Deserialize, Serialize};

/// Upstream's tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelftestPlan {
    /// A program that is built with upstream's `kselftest_harness.h`.
    pub program: String,
    /// A kernel module to load first, by its path.
    pub module: Option<String>,
    /// Device nodes that have to be there.
    pub devices: Vec<String>,
    /// Variants of fixtures to run, for example `hmm_device_private`.
    pub variants: Vec<String>,
    /// Patterns of tests to run; none: all.
    pub only: Vec<String>,
    /// Patterns of tests to leave out.
    pub skip: Vec<String>,
    /// How often all of it is run.
    pub loops: u32,
}
