//! `hmmgpu compare` as a user starts it, on made-up results.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A result with a row of each order, of these many rounds; order 9 is `speed` times as fast.
fn result(rounds: usize, speed: f64) -> Value {
    let row = |order: u8, rate: f64| {
        let near = [1.0, 1.01, 0.99, 1.02, 0.98, 1.005, 0.995];
        let rates: Vec<f64> = (near.iter().cycle().take(rounds))
            .map(|near| near * rate)
            .collect();
        let stat = |samples: &[f64]| {
            let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
            let most = samples.iter().copied().fold(0.0, f64::max);
            json!({"median": least, "min": least, "max": most, "samples": samples})
        };
        json!({
            "source_order": order, "direction": "sys_to_dev", "trigger": "prefetch",
            "source_share": 1.0, "device_orders": {}, "round_bytes": 67_108_864, "bytes": 1,
            "repeats": rounds, "migration_bytes_per_s": stat(&rates),
            "engine_bytes_per_s": stat(&rates), "migration_s": stat(&rates),
            "guest_s": stat(&rates), "copy_share": 0.5, "latency_us": {"p50": 1.0, "p99": 2.0},
            "latency_buckets": [], "queue_wait_us": {"p50": 1.0, "p99": 2.0}, "phases": null,
            "splits": 0, "fallbacks": [], "verified": true
        })
    };
    json!({
        "schema": "hmmgpu.bench/2",
        "environment": {"kernel": "7.3.4", "cmdline": "", "qemu": "11.1.3", "accel": "tcg",
                        "cpus": 2, "revision": "v0.1.0"},
        "plan": {"device": "/dev/hmmgpu0", "sources": [], "repeats": rounds, "call_bytes": 2_097_152},
        "rows": [row(0, 4e8), row(9, 9e9 * speed)],
        "errors": [], "warnings": [], "counters": [], "telemetry": null, "vram_history": null
    })
}

fn write(folder: &Path, name: &str, result: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, result.to_string()).expect("writes");
    path
}

fn compare(arguments: &[&str], files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hmmgpu"))
        .arg("compare")
        .args(files)
        .args(arguments)
        .env_remove("CLICOLOR_FORCE")
        .output()
        .expect("starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn exit_codes_tell_the_verdict() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name, result: &Value| write(folder.path(), name, result);
    let a = write("a.json", &result(7, 1.0));
    let slow = write("slow.json", &result(7, 0.9));
    let short = write("short.json", &result(2, 1.0));
    let mut wrong = result(7, 1.0);
    wrong["rows"][1]["verified"] = false.into();
    let wrong = write("wrong.json", &wrong);
    for (b, arguments, code, words) in [
        (
            &a,
            &[][..],
            0,
            "Verdict: no regression beyond 5 % in 2 rows",
        ),
        (&slow, &[], 1, "order 9: REGRESSION (0.90 x, 1 row)"),
        (
            &slow,
            &["--threshold", "15%"],
            0,
            "slower, within threshold",
        ),
        (&short, &[], 0, "inconclusive: about 2 more rounds a side"),
        (&short, &["--strict"], 1, "inconclusive"),
        (&a, &["--strict"], 0, "no regression"),
        (&wrong, &[], 1, "the data was not verified"),
    ] {
        let output = compare(arguments, &[&a, b]);
        let stdout = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}");
        assert!(stdout.contains(words), "{words}\n{stdout}");
        assert!(!stdout.contains('\u{1b}'), "no colours in a pipe\n{stdout}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn files_that_are_no_results_exit_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = write(folder.path(), "a.json", &result(5, 1.0));
    let older = write(
        folder.path(),
        "older.json",
        &json!({"schema": "hmmgpu.bench/1"}),
    );
    let mut hostile = result(5, 1.0);
    hostile["rows"][0]["migration_bytes_per_s"]["samples"] = json!(vec![4e8; 100_000]);
    let hostile = write(folder.path(), "hostile.json", &hostile);
    let mut none = result(5, 1.0);
    none["rows"] = json!([]);
    let none = write(folder.path(), "none.json", &none);
    let missing = folder.path().join("missing.json");
    for (files, words) in [
        (&[a.as_path(), &missing][..], "missing.json"),
        (&[&a, &older], "another version"),
        (&[&a, &hostile], "100000 samples"),
        (&[&a, &none], "nothing was measured"),
        (&[&a], "a second one"),
    ] {
        let output = compare(&[], files);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.starts_with("hmmgpu: error: "), "{stderr}");
        assert!(stderr.contains(words), "{words}\n{stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn json_on_standard_output_is_alone_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let a = write(folder.path(), "a.json", &result(7, 1.0));
    let b = write(folder.path(), "b.json", &result(7, 0.8));
    let output = compare(&["--json", "-", "--format", "markdown"], &[&a, &b]);
    assert_eq!(output.status.code(), Some(1));
    let comparison: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(comparison["schema"], "hmmgpu.compare/1");
    assert_eq!(comparison["verdict"], "regression");
    assert_eq!(comparison["orders"][1]["verdict"], "regression");
    assert!(text(&output.stderr).contains("| 9 | to device |"));
}
