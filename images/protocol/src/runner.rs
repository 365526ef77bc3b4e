//! The runner of tests in the guest: what it is asked for, and its answers, one JSON object a line on
//! its standard output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::selftest::SelftestPlan;
use crate::stress::StressPlan;

/// The runner's name in the guest.
pub const RUNNER: &str = "hmmgpu-test-runner";

/// What the runner is to do; its only argument, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunnerPlan {
    /// Upstream's tests.
    Selftest(SelftestPlan),
    /// Scenarios of stress.
    Stress(StressPlan),
}

/// What the runner says, in this order: `Listed` or `NoSuchTest`, for each test `Began`, perhaps
/// `Asked`, and `Ended`, and `Done`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TestEvent {
    /// What will be run, in this order, in each loop.
    Listed {
        /// Full names, for example `hmm.hmm_device_private.open_close` or `fork-storm`.
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
    /// The test that runs wants something of the host. There is no answer: the test sees that it is
    /// done.
    Asked {
        /// What it wants.
        request: HostRequest,
    },
    /// A test has ended.
    Ended(TestEnd),
    /// The end; without it the output is incomplete.
    Done,
}

/// What only the host can do to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostRequest {
    /// Asks the guest to let go of a GPU, and takes it away then.
    Unplug {
        /// Its number, in their order on the bus.
        gpu: u32,
    },
    /// Attaches a GPU that was taken away.
    Replug {
        /// Its number.
        gpu: u32,
    },
    /// Presses the power button every second, which wakes a machine that is suspended to idle and
    /// does nothing to any other; or no longer. The end of a test ends it, too.
    Wake {
        /// Whether it is to be pressed.
        on: bool,
    },
}

/// What a test's line of output begins with that says what it wants of the host; the
/// [`HostRequest`] follows as JSON.
pub const ASKS: &str = "# asks the host: ";
/// What a test's line of output begins with that gives what it has counted; an object of numbers
/// follows as JSON.
pub const COUNTED: &str = "# counted: ";

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
    /// The seed that repeats it, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// What it has counted, where it does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counted: BTreeMap<String, u64>,
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
