//! What came of tests, as JSON.

use std::collections::BTreeMap;

use hmmgpu_guest_protocol::runner::{TestEnd, TestResult};
use serde::Serialize;

/// All loops of all tests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Run {
    /// Tests that passed, each loop counted.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that cannot be run there.
    pub skipped: u32,
    /// Each test of each loop, in the order that they ran in.
    pub tests: Vec<Test>,
    /// Lines of the guest kernel's log that are warnings, bugs or stalls.
    pub kernel_warnings: Vec<String>,
    /// What the checkers of VRAM found.
    pub checks: Vec<String>,
    /// Why the run ended before all tests had run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

impl Run {
    /// Adds a test.
    pub fn add(&mut self, test: Test) {
        match test.result {
            TestResult::Pass => self.passed += 1,
            TestResult::Fail => self.failed += 1,
            TestResult::Skip => self.skipped += 1,
        }
        self.tests.push(test);
    }

    /// Something passed, nothing failed, neither kernel nor checker had anything to say, and nothing
    /// is missing.
    pub fn is_good(&self) -> bool {
        self.passed > 0
            && self.failed == 0
            && self.kernel_warnings.is_empty()
            && self.checks.is_empty()
            && self.incomplete.is_none()
    }
}

/// One test in one loop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Test {
    /// Its full name, such as `fixture.variant.test` or `fork-storm`.
    pub name: String,
    /// The verdict.
    pub result: TestResult,
    /// Time by the guest's clock.
    pub seconds: f64,
    /// Loop, from 1, where there are several.
    #[serde(rename = "loop", skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// Why it was skipped, or why there is no verdict of its own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The first and the last lines that it printed, if it failed; where its guest was lost, those
    /// that QEMU and the device servers did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// What the kernel said meanwhile, if it failed or the kernel warned; where its guest was lost,
    /// the last lines of the console.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel_log: Vec<String>,
    /// The seed that repeats it, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// What it has counted, where it does.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub counted: BTreeMap<String, u64>,
    /// What the devices say of themselves, if it failed and has told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
}

impl From<&TestEnd> for Test {
    fn from(end: &TestEnd) -> Self {
        Self {
            name: end.name.clone(),
            result: end.result,
            seconds: (end.seconds * 1000.0).round() / 1000.0,
            round: Some(end.round),
            reason: end.reason.clone(),
            output: end.output.clone(),
            kernel_log: end.kernel_log.clone(),
            seed: end.seed,
            counted: end.counted.clone(),
            devices: Vec::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn test(name: &str, result: TestResult) -> Test {
        Test::from(&crate::testing::record::tests::test_end(
            1, name, result, 0.5,
        ))
    }

    #[test]
    fn tests_are_counted_as_they_are_added() {
        let mut run = Run::default();
        for result in [TestResult::Pass, TestResult::Fail, TestResult::Skip] {
            run.add(test("x", result));
        }
        assert_eq!((run.passed, run.failed, run.skipped), (1, 1, 1));
        assert_eq!(run.tests.len(), 3);
    }

    #[test]
    fn a_run_is_good_only_without_any_doubt() {
        let good = Run {
            passed: 1,
            skipped: 1,
            ..Run::default()
        };
        assert!(good.is_good());
        let mut failed = good.clone();
        failed.add(test("x", TestResult::Fail));
        assert!(!failed.is_good());
        let all_skipped = Run {
            passed: 0,
            skipped: 2,
            ..good.clone()
        };
        assert!(!all_skipped.is_good());
        let warned = Run {
            kernel_warnings: vec!["BUG:".into()],
            ..good.clone()
        };
        assert!(!warned.is_good());
        let checked = Run {
            checks: vec!["leak".into()],
            ..good.clone()
        };
        assert!(!checked.is_good());
        let incomplete = Run {
            incomplete: Some("lost".into()),
            ..good
        };
        assert!(!incomplete.is_good());
    }
}
