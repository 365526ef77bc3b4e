//! Results as the Test Anything Protocol, version 13.

use hmmgpu_guest_protocol::runner::{TestEnd, TestResult};

use super::result::Run;

/// The line that comes first.
pub const VERSION: &str = "TAP version 13";

/// How many tests there are: before the first of them, or after the last one.
pub fn plan(tests: usize) -> String {
    format!("1..{tests}")
}

/// The line before each of several loops.
pub fn round(round: u32, loops: u32) -> String {
    format!("# loop {round} of {loops}")
}

/// The lines of a test; `number` from 1. What went wrong follows as diagnostics.
pub fn test(number: usize, end: &TestEnd) -> Vec<String> {
    let verdict = match end.result {
        TestResult::Pass | TestResult::Skip => "ok",
        TestResult::Fail => "not ok",
    };
    let seconds = format!("{:.2} s", end.seconds);
    let remark = match end.result {
        TestResult::Skip => format!("SKIP {} ({seconds})", end.reason),
        TestResult::Pass | TestResult::Fail => seconds,
    };
    let mut lines = vec![format!("{verdict} {number} {} # {remark}", end.name)];
    let mut diagnostics = |line: &str| lines.push(format!("#   {}", line.trim_start_matches("# ")));
    if end.result == TestResult::Fail && !end.reason.is_empty() {
        diagnostics(&end.reason);
    }
    for line in &end.output {
        diagnostics(line);
    }
    if !end.kernel_log.is_empty() {
        diagnostics(if end.kernel_warned {
            "the kernel warned meanwhile:"
        } else {
            "the kernel said meanwhile:"
        });
        for line in &end.kernel_log {
            diagnostics(&format!("| {line}"));
        }
    }
    lines
}

/// More about a test that failed.
pub fn more(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let diagnostics = |line: String| format!("#   {line}");
    lines.into_iter().map(diagnostics).collect()
}

/// The lines that come last.
pub fn tail(run: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(why) = &run.incomplete {
        lines.push(format!("Bail out! {why}"));
    }
    // Not sum(): of nothing it is -0.0.
    let seconds = run.tests.iter().fold(0.0, |sum, test| sum + test.seconds);
    lines.push(format!(
        "# {} passed, {} failed, {} skipped, {} kernel warnings, {seconds:.1} s",
        run.passed,
        run.failed,
        run.skipped,
        run.kernel_warnings.len()
    ));
    for line in &run.kernel_warnings {
        lines.push(format!("#   | {line}"));
    }
    if !run.checks.is_empty() {
        lines.push("# the checker of VRAM found errors of the driver:".to_owned());
    }
    for line in &run.checks {
        lines.push(format!("#   | {line}"));
    }
    if run.passed == 0 {
        lines.push("# not one test passed: the verdict is negative".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(result: TestResult) -> TestEnd {
        TestEnd {
            round: 1,
            name: "hmm.hmm_device_private.migrate".into(),
            result,
            reason: String::new(),
            seconds: 0.517,
            seed: None,
            counted: std::collections::BTreeMap::new(),
            output: vec![],
            kernel_log: vec![],
            kernel_warned: false,
        }
    }

    #[test]
    fn one_line_a_test() {
        assert_eq!(
            test(3, &end(TestResult::Pass)),
            ["ok 3 hmm.hmm_device_private.migrate # 0.52 s"]
        );
        let skipped = TestEnd {
            reason: "no gup_test".into(),
            ..end(TestResult::Skip)
        };
        assert_eq!(
            test(4, &skipped),
            ["ok 4 hmm.hmm_device_private.migrate # SKIP no gup_test (0.52 s)"]
        );
    }

    #[test]
    fn a_failure_says_what_went_wrong_as_diagnostics() {
        let failed = TestEnd {
            reason: "no verdict: signal: 11".into(),
            output: vec!["# hmm-tests.c:7:migrate:Expected 1 (1) == 0 (0)".into()],
            kernel_log: vec!["WARNING: CPU: 0".into()],
            kernel_warned: true,
            ..end(TestResult::Fail)
        };
        assert_eq!(
            test(1, &failed),
            [
                "not ok 1 hmm.hmm_device_private.migrate # 0.52 s",
                "#   no verdict: signal: 11",
                "#   hmm-tests.c:7:migrate:Expected 1 (1) == 0 (0)",
                "#   the kernel warned meanwhile:",
                "#   | WARNING: CPU: 0",
            ]
        );
    }

    #[test]
    fn the_end_tells_the_sum_and_what_is_missing() {
        assert_eq!(plan(39), "1..39");
        let run = Run {
            passed: 2,
            failed: 1,
            kernel_warnings: vec!["BUG: x".into()],
            checks: vec!["leak: y".into()],
            incomplete: Some("the VM was lost".into()),
            ..Run::default()
        };
        assert_eq!(
            tail(&run),
            [
                "Bail out! the VM was lost",
                "# 2 passed, 1 failed, 0 skipped, 1 kernel warnings, 0.0 s",
                "#   | BUG: x",
                "# the checker of VRAM found errors of the driver:",
                "#   | leak: y",
            ]
        );
        let skipped = Run {
            skipped: 1,
            ..Run::default()
        };
        assert_eq!(
            tail(&skipped),
            [
                "# 0 passed, 0 failed, 1 skipped, 0 kernel warnings, 0.0 s",
                "# not one test passed: the verdict is negative",
            ]
        );
    }
}
