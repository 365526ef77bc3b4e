//! What `hmmgpu selftest` asks of the test runner in the guest, and its answers, one JSON object
//! a line on its standard output.

use serde::{Deserialize, Serialize};

/// The runner's name in the guest.
pub const RUNNER: &str = "hmmgpu-selftest-guest";

/// What the runner is to do; its only argument, as JSON.
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

/// What the runner says, in this order: `Listed` or `NoSuchTest`, for each test `Began` and
/// `Ended`, and `Done`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SelftestEvent {
    /// What will be run, in this order, in each loop.
    Listed {
        /// Full names, for example `hmm.hmm_device_private.open_close`.
        tests: Vec<String>,
    },
    /// A pattern that fits none of the tests; nothing is run.
    NoSuchTest {
        /// The pattern.
        pattern: String,
        /// Full names of all tests of these variants.
        tests: Vec<String>,
    },
    /// A test begins.
    Began {
        /// Loop, from 1.
        #[serde(rename = "loop")]
        round: u32,
        /// Full name.
        name: String,
    },
    /// A test has ended.
    Ended(TestEnd),
    /// The end; without it the output is incomplete.
    Done,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestEnd {
    /// Loop, from 1.
    #[serde(rename = "loop")]
    pub round: u32,
    /// Full name.
    pub name: String,
    /// The verdict.
    pub result: TestResult,
    /// Why it was skipped, or why there is no verdict of its own.
    #[serde(default)]
    pub reason: String,
    /// Time by the guest's clock.
    pub seconds: f64,
    /// The first and the last lines that it printed, if it failed.
    #[serde(default)]
    pub output: Vec<String>,
    /// What the kernel said meanwhile, if the test failed or the kernel warned: the first lines.
    #[serde(default)]
    pub kernel_log: Vec<String>,
    /// The kernel warned while it ran.
    #[serde(default)]
    pub kernel_warned: bool,
}

/// A test's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestResult {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// It cannot be run here.
    Skip,
}
