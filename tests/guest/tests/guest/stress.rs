//! `hmmgpu stress`: quick scenarios.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::Program;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{short_folder, trial};

/// Time for a boot and three scenarios on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let program = program.clone();
    vec![trial("stress::scenarios_pass_and_tell", move || {
        scenarios_pass_and_tell(&program)
    })]
}

/// Each passes, with its trouble in flight, and the JSON says so.
fn scenarios_pass_and_tell(program: &Program) -> Result<()> {
    let runtime = short_folder()?;
    let results = tempfile::tempdir()?;
    let json = results.path().join("result.json");
    let json = json.to_str().context("the path is no text")?;
    let arguments = [
        "stress",
        "--scenario",
        "madvise-drop",
        "--scenario",
        "kill",
        "--scenario",
        "cold-pageout",
        "--seed",
        "5",
        "--json",
        json,
    ];
    let finished = program.run(&arguments, b"", runtime.path(), LIMIT)?;
    finished.expect_code(0)?;
    leftovers::nothing_in(runtime.path())?;
    let text = std::fs::read_to_string(json).context("no result")?;
    let result: Value = serde_json::from_str(&text).context("the result is no JSON")?;
    ensure!(result["schema"] == "hmmgpu.stress/1" && result["seed"] == 5);
    ensure!(result["passed"] == 3 && result["failed"] == 0, "{text}");
    ensure!(result["guests"].as_array().map(Vec::len) == Some(1));
    let tests = result["tests"].as_array().context("no tests")?;
    for (test, name, trouble) in [
        (&tests[0], "madvise-drop", "dontneed_in_flight"),
        (&tests[1], "kill", "kill_in_flight"),
        // Its swap is a module of the kernel's, with what that needs.
        (&tests[2], "cold-pageout", "swapped_out_in_flight"),
    ] {
        ensure!(test["name"] == name && test["seed"] == 5, "{test}");
        for figure in [trouble, "to_device_pages", "to_system_pages"] {
            let count = test["counted"][figure].as_u64();
            ensure!(count > Some(0), "{name}: {figure} is {count:?}");
        }
    }
    for line in ["1..3", "# seed 5"] {
        ensure!(finished.stdout.lines().any(|l| l == line), "no '{line}'");
    }
    Ok(())
}
