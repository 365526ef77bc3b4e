//! Two drivers side by side, as lines that TAP takes for comments.

use hmmgpu_guest_protocol::runner::TestResult;

use crate::testing::result::{Run, Test};

/// A table of all tests: the verdict on each driver, and the median of the seconds.
pub fn table(ours: &Run, name: &str, theirs: &Run) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for test in ours.tests.iter().chain(&theirs.tests) {
        if !names.contains(&test.name.as_str()) {
            names.push(&test.name);
        }
    }
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut lines = vec![format!(
        "# {:width$}  {:>12} {:>8}  {:>12} {:>8}",
        "test", "hmmgpu", "s", name, "s"
    )];
    for name in names {
        let (our_verdict, our_seconds) = sum(ours, name);
        let (their_verdict, their_seconds) = sum(theirs, name);
        lines.push(format!(
            "# {name:width$}  {our_verdict:>12} {our_seconds:>8}  {their_verdict:>12} {their_seconds:>8}"
        ));
    }
    lines
}

/// The verdict over all loops, and the median of their seconds.
fn sum(run: &Run, name: &str) -> (String, String) {
    let of_it: Vec<&Test> = run.tests.iter().filter(|test| test.name == name).collect();
    let count = |result| of_it.iter().filter(|test| test.result == result).count();
    let verdict = match (
        of_it.len(),
        count(TestResult::Fail),
        count(TestResult::Skip),
    ) {
        (0, _, _) => return ("-".into(), "-".into()),
        (1, 1, _) => "fail".into(),
        (all, failed @ 1.., _) => format!("{failed}/{all} fail"),
        (all, _, skipped) if all == skipped => "skip".into(),
        _ => "pass".into(),
    };
    let mut seconds: Vec<f64> = of_it.iter().map(|test| test.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    (verdict, format!("{:.2}", seconds[seconds.len() / 2]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::record::{Ending, Record, tests::end};
    use hmmgpu_guest_protocol::runner::TestEvent;

    fn run(loops: u32, ends: &[(&str, TestResult, f64)]) -> Run {
        let mut record = Record::new(Some(loops));
        record.take(&TestEvent::Listed {
            tests: vec!["x".into(); ends.len()],
        });
        for (name, result, seconds) in ends {
            record.take(&end(1, name, *result, *seconds));
        }
        record.run(vec![], Ending::Runner(""))
    }

    #[test]
    fn verdicts_and_medians_stand_side_by_side() {
        use TestResult::{Fail, Pass, Skip};
        let ours = run(
            1,
            &[
                ("h.p.a", Pass, 3.0),
                ("h.p.a", Pass, 1.0),
                ("h.p.a", Fail, 2.0),
                ("h.p.gup", Skip, 0.01),
            ],
        );
        let theirs = run(1, &[("h.p.a", Pass, 0.5), ("h.p.more", Fail, 4.0)]);
        assert_eq!(
            table(&ours, "test_hmm", &theirs),
            [
                "# test            hmmgpu        s      test_hmm        s",
                "# h.p.a         1/3 fail     2.00          pass     0.50",
                "# h.p.gup           skip     0.01             -        -",
                "# h.p.more             -        -          fail     4.00",
            ]
        );
    }
}
