//! `hmmgpu selftest`: upstream's own tests.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_vm_tests::program::Program;
use libtest_mimic::Trial;

use crate::{run_for_json, trial};

/// Time for all tests on a slow and busy host, after the kernel's source has come over the network.
const LIMIT: Duration = Duration::from_secs(900);

/// Device-private tests of hmm-tests, without the one that only measures, and the one that kernels
/// without CONFIG_GUP_TEST skip.
const TESTS: u64 = 37;

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let program = program.clone();
    vec![trial("selftest::upstreams_tests_pass", move || {
        upstreams_tests_pass(&program)
    })]
}

fn upstreams_tests_pass(program: &Program) -> Result<()> {
    let arguments = ["selftest", "--skip", "benchmark_thp_migration"];
    let (finished, result) = run_for_json(program, &arguments, 0, LIMIT)?;
    ensure!(
        result["schema"] == "hmmgpu.selftest/1",
        "{}",
        result["schema"]
    );
    let count = |key: &str| result[key].as_u64().unwrap_or(0);
    ensure!(
        count("failed") == 0 && count("passed") >= TESTS,
        "{} passed, {} failed, {} skipped",
        count("passed"),
        count("failed"),
        count("skipped")
    );
    let tests = result["tests"].as_array().context("no tests")?;
    let all = count("passed") + count("failed") + count("skipped");
    ensure!(tests.len() as u64 == all, "{} tests of {all}", tests.len());
    for part in [
        "migrate_anon_huge",
        "userfaultfd_read",
        "exclusive",
        "double_map",
    ] {
        let passed = tests.iter().any(|test| {
            let name = test["name"].as_str().unwrap_or_default();
            name.contains(part) && test["result"] == "pass"
        });
        ensure!(passed, "no {part} among the tests that passed");
    }
    // TAP has the same verdicts.
    let ok = finished
        .stdout
        .lines()
        .filter(|line| line.starts_with("ok "));
    ensure!(
        ok.count() as u64 == count("passed") + count("skipped"),
        "TAP:\n{}",
        finished.stdout
    );
    Ok(())
}
