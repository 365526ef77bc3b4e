//! The result as JSON.

use hmmgpu_guest_protocol::selftest::TestResult;
use serde::Serialize;

use crate::vm::Environment;

/// Version of the JSON document.
pub const SCHEMA: &str = "hmmgpu.selftest/1";

/// All that a selftest has found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelftestResult {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// What hmmgpu's run ran on.
    pub environment: Environment,
    /// Version of the kernel source that the tests are from, for example `7.3.4`.
    pub tests_version: String,
    /// How often each test was run.
    pub loops: u32,
    /// The run on hmmgpu.
    #[serde(flatten)]
    pub run: Run,
    /// The same tests on another driver, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// A run on another driver.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Against {
    /// The driver.
    pub driver: &'static str,
    /// What it ran on.
    pub environment: Environment,
    /// The run.
    #[serde(flatten)]
    pub run: Run,
}

/// All loops of all tests on one driver.
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
    /// Why the run ended before all tests had run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

impl Run {
    /// Something passed, nothing failed, the kernel did not warn, and nothing is missing.
    pub fn is_good(&self) -> bool {
        self.passed > 0
            && self.failed == 0
            && self.kernel_warnings.is_empty()
            && self.incomplete.is_none()
    }
}

/// One test in one loop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Test {
    /// Upstream's full name, `fixture.variant.test`.
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
    /// The first and the last lines that it printed, if it failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// What the kernel said meanwhile, if it failed or the kernel warned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel_log: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            passed: 1,
            failed: 1,
            tests: vec![
                Test {
                    name: "hmm.hmm_device_private.migrate".into(),
                    result: TestResult::Pass,
                    seconds: 0.5,
                    round: None,
                    reason: String::new(),
                    output: vec![],
                    kernel_log: vec![],
                },
                Test {
                    name: "hmm.hmm_device_private.compound".into(),
                    result: TestResult::Fail,
                    seconds: 1.0,
                    round: Some(2),
                    reason: String::new(),
                    output: vec!["# why".into()],
                    kernel_log: vec![],
                },
            ],
            ..Run::default()
        }
    }

    #[test]
    fn the_documents_keys() {
        let result = SelftestResult {
            schema: SCHEMA,
            environment: Environment::default(),
            tests_version: "7.3.4".into(),
            loops: 1,
            run: run(),
            against: Some(Against {
                driver: "test_hmm",
                environment: Environment::default(),
                run: Run::default(),
            }),
        };
        let json = serde_json::to_value(&result).expect("writes");
        assert_eq!(json["schema"], "hmmgpu.selftest/1");
        assert!(json["environment"]["kernel"].is_string());
        assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &1.into()));
        assert_eq!(json["skipped"], 0);
        assert_eq!(
            json["tests"][0],
            serde_json::json!({
                "name": "hmm.hmm_device_private.migrate", "result": "pass", "seconds": 0.5
            })
        );
        assert_eq!(json["tests"][1]["loop"], 2);
        assert_eq!(json["tests"][1]["result"], "fail");
        assert_eq!(json["against"]["driver"], "test_hmm");
        assert_eq!(json["against"]["passed"], 0);
        assert!(json.get("incomplete").is_none());
    }

    #[test]
    fn a_run_is_good_only_without_any_doubt() {
        let good = Run {
            passed: 1,
            skipped: 1,
            ..Run::default()
        };
        assert!(good.is_good());
        assert!(!run().is_good());
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
        let incomplete = Run {
            incomplete: Some("lost".into()),
            ..good
        };
        assert!(!incomplete.is_good());
    }
}
