//! `hmmgpu stress`: quick scenarios.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_vm_tests::leftovers;
use hmmgpu_vm_tests::program::Program;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{run_for_json, short_folder, trial};

/// Time for a boot and some scenarios on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let add = |name: &str, test: fn(&Program) -> Result<()>| {
        let program = program.clone();
        trial(format!("stress::{name}"), move || test(&program))
    };
    vec![
        add("scenarios_pass_and_tell", scenarios_pass_and_tell),
        add(
            "unplug_is_skipped_where_qemu_aborts",
            unplug_is_skipped_where_qemu_aborts,
        ),
        add("a_lost_guest_is_told_of", a_lost_guest_is_told_of),
    ]
}

/// Each passes, with its trouble in flight, and the JSON says so.
fn scenarios_pass_and_tell(program: &Program) -> Result<()> {
    let arguments = [
        "stress",
        "--scenario",
        "madvise-drop",
        "--scenario",
        "kill",
        "--scenario",
        "cold-pageout",
        "--scenario",
        "suspend",
        "--seed",
        "5",
    ];
    let (finished, result) = run_for_json(program, &arguments, 0, LIMIT)?;
    ensure!(result["schema"] == "hmmgpu.stress/1" && result["seed"] == 5);
    ensure!(result["passed"] == 4 && result["failed"] == 0, "{result}");
    ensure!(result["guests"].as_array().map(Vec::len) == Some(1));
    let tests = result["tests"].as_array().context("no tests")?;
    for (test, name, trouble) in [
        (&tests[0], "madvise-drop", "dontneed_in_flight"),
        (&tests[1], "kill", "kill_in_flight"),
        // Its swap is a module of the kernel's, with what that needs.
        (&tests[2], "cold-pageout", "swapped_out_in_flight"),
        // Last, so that what is told of it has come through ports that were connected again.
        (&tests[3], "suspend", "suspend_pages_on_device"),
    ] {
        ensure!(test["name"] == name && test["seed"] == 5, "{test}");
        for figure in [trouble, "to_device_pages", "to_system_pages"] {
            let count = test["counted"][figure].as_u64();
            ensure!(count > Some(0), "{name}: {figure} is {count:?}");
        }
    }
    for line in ["1..4", "# seed 5"] {
        ensure!(finished.stdout.lines().any(|l| l == line), "no '{line}'");
    }
    Ok(())
}

/// A guest whose kernel panics in a scenario: what it said last is told with that, and what the device
/// did.
fn a_lost_guest_is_told_of(program: &Program) -> Result<()> {
    let arguments = [
        "stress",
        "--scenario",
        "out-of-memory",
        "--seed",
        "9",
        // It is about what this kernel panics at.
        "--kernel-arg",
        "sysctl.vm.panic_on_oom=2",
        "--vram",
        "128M",
    ];
    let negative = hmmgpu::exit::NEGATIVE.into();
    let (finished, result) = run_for_json(program, &arguments, negative, LIMIT)?;
    ensure!(result["passed"] == 0 && result["failed"] == 1, "{result}");
    let lost = &result["tests"][0];
    let reason = lost["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("Kernel panic"), "{reason}");
    let has = |key: &str, word: &str| {
        let lines = lost[key].as_array().into_iter().flatten();
        let mut lines = lines.filter_map(Value::as_str);
        ensure!(lines.any(|line| line.contains(word)), "no '{word}': {lost}");
        Ok(())
    };
    has("kernel_log", "panic_on_oom is enabled")?;
    has("kernel_log", "Call Trace")?;
    // How it is, and what it did last.
    has("devices", "checker of VRAM: folio")?;
    has("devices", "copy 0 ")?;
    for line in [
        "#   | ",
        "#   the device says:",
        "#   to repeat it: hmmgpu stress --scenario out-of-memory --seed 9",
    ] {
        let mut lines = finished.stdout.lines();
        ensure!(
            lines.any(|told| told.starts_with(line)),
            "no '{line}': {}",
            finished.stdout
        );
    }
    for word in ["panic_on_oom is enabled", "checker of VRAM: folio"] {
        ensure!(finished.stdout.contains(word), "no '{word}'");
    }
    Ok(())
}

/// What tests/scenarios/upstream/vfio-user-unplug.md says happens with this QEMU if, and only if, the
/// scenario is skipped.
fn unplug_is_skipped_where_qemu_aborts(program: &Program) -> Result<()> {
    let runtime = short_folder()?;
    let arguments = ["stress", "--scenario", "unplug"];
    let stress = program.run(&arguments, b"", runtime.path(), LIMIT)?;
    let skipped = stress.stdout.contains("# SKIP QEMU up to");

    let profile = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../scenarios/upstream/pluggable.toml"
    );
    let off = "echo 0 | tee /sys/bus/pci/slots/*/power; echo survived";
    let arguments = ["run", "--profile", profile, "--", "sh", "-c", off];
    let finished = program.run(&arguments, b"", runtime.path(), LIMIT)?;
    if skipped {
        finished.expect_code(122)?;
        let assertion = "memory_region_del_subregion: Assertion";
        ensure!(finished.stderr.contains(assertion), "{}", finished.stderr);
    } else {
        finished.expect_code(0)?;
        ensure!(finished.stdout.contains("survived"), "{}", finished.stdout);
        stress.expect_code(0)?;
    }
    leftovers::nothing_in(runtime.path())
}
