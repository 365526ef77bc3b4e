//! The result as JSON.

use serde::Serialize;

use crate::testing::result::Run;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::result::tests::test;
    use hmmgpu_guest_protocol::runner::TestResult;

    fn run() -> Run {
        let mut run = Run::default();
        let mut passed = test("hmm.hmm_device_private.migrate", TestResult::Pass);
        passed.round = None;
        run.add(passed);
        let mut failed = test("hmm.hmm_device_private.compound", TestResult::Fail);
        failed.round = Some(2);
        failed.output = vec!["# why".into()];
        run.add(failed);
        run
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
}
