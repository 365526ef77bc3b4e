//! The result as JSON.

use hmmgpu_guest_protocol::stress::Machine;
use serde::Serialize;

use crate::testing::result::Run;
use crate::vm::Environment;

/// Version of the JSON document.
pub const SCHEMA: &str = "hmmgpu.stress/1";

/// All that a run of stress has found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StressResult {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The seed of the first round; those of the next ones follow it by one each.
    pub seed: u32,
    /// Time that was asked for, in minutes; none: each scenario once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<u32>,
    /// What the scenarios ran on; one for each guest, in their order.
    pub guests: Vec<Guest>,
    /// The scenarios, round after round on each machine.
    #[serde(flatten)]
    pub run: Run,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// What its scenarios needed.
    pub machine: Machine,
    /// What it ran on.
    pub environment: Environment,
    /// Scenarios that ran in it, each round counted.
    pub tests: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::result::tests::test;
    use hmmgpu_guest_protocol::runner::TestResult;

    #[test]
    fn the_documents_keys() {
        let mut run = Run::default();
        let mut passed = test("kill", TestResult::Pass);
        passed.seed = Some(8);
        passed.counted.insert("kill_in_flight".into(), 3);
        run.add(passed);
        let result = StressResult {
            schema: SCHEMA,
            seed: 7,
            minutes: None,
            guests: vec![Guest {
                machine: Machine::TwoNodes,
                environment: Environment::default(),
                tests: 1,
            }],
            run,
        };
        let json = serde_json::to_value(&result).expect("writes");
        assert_eq!(
            (&json["schema"], &json["seed"]),
            (&"hmmgpu.stress/1".into(), &7.into())
        );
        assert_eq!(json["guests"][0]["machine"], "two-nodes");
        assert_eq!(
            json["tests"][0],
            serde_json::json!({
                "name": "kill", "result": "pass", "seconds": 0.5, "loop": 1, "seed": 8,
                "counted": { "kill_in_flight": 3 }
            })
        );
        assert!(json.get("minutes").is_none());
    }
}
