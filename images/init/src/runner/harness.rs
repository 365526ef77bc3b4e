//! What a program that is built with upstream's `kselftest_harness.h` prints, and names of tests.

use hmmgpu_guest_protocol::runner::TestResult;

/// Full names (`fixture.variant.test`) of all tests of these variants, in the order that the
/// program would run them in, from what it prints for `-l`: for each fixture a table, with its
/// name in the first row, one column of variants and one of tests, neither depending on the other.
pub(crate) fn tests(listing: &str, variants: &[String]) -> Vec<String> {
    let mut names = Vec::new();
    let tables = listing.split("\n-----");
    for table in tables.skip(1) {
        // The rest of the line of dashes comes first.
        let rows = table.lines().skip(1).filter(|row| !row.starts_with('#'));
        let mut fixture = None;
        let mut found: Vec<&str> = Vec::new();
        let mut tests: Vec<&str> = Vec::new();
        for row in rows {
            let mut words = row.split_whitespace();
            if fixture.is_none() {
                // Only the first row is complete.
                fixture = words.next();
                found.extend(words.next());
                tests.extend(words.next());
                continue;
            }
            match (words.next(), words.next()) {
                (Some(variant), Some(test)) => {
                    found.push(variant);
                    tests.push(test);
                }
                // One word alone is a test where it is indented as far as tests are.
                (Some(word), None) if row.find(word) >= Some(TEST_COLUMN) => tests.push(word),
                (Some(word), None) => found.push(word),
                (None, _) => {}
            }
        }
        for variant in found.iter().filter(|v| variants.iter().any(|w| w == *v)) {
            for test in &tests {
                names.push(format!("{}.{variant}.{test}", fixture.unwrap_or_default()));
            }
        }
    }
    names
}

/// Where the harness begins its third column.
const TEST_COLUMN: usize = 47;

/// Whether a pattern means a test: its full name or the last part of it; `*` stands for anything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let short = name.rsplit('.').next().unwrap_or(name);
    matches_text(pattern, name) || matches_text(pattern, short)
}

fn matches_text(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last)
}

/// The verdict in a line, with the reason of a skip: `ok 1 NAME`, `not ok 1 NAME`,
/// `ok 1 NAME # SKIP REASON`.
pub(crate) fn verdict(line: &str) -> Option<(TestResult, String)> {
    if line.strip_prefix("not ok ").is_some() {
        return Some((TestResult::Fail, String::new()));
    }
    let rest = line.strip_prefix("ok ")?;
    match rest.split_once("# SKIP") {
        Some((_, reason)) => Some((TestResult::Skip, reason.trim().to_owned())),
        None => Some((TestResult::Pass, String::new())),
    }
}

/// Whether a line says what went wrong in a test, and is not the harness's own frame around it.
pub(crate) fn is_telling(line: &str) -> bool {
    const FRAME: &[&str] = &[
        "TAP version",
        "1..",
        "ok ",
        "not ok ",
        "# Starting ",
        "# Totals:",
        "# PASSED:",
        "# FAILED:",
        "# [INFO]",
    ];
    let mut words = line.trim_start_matches('#').split_whitespace();
    let frame = matches!(words.next(), None | Some("RUN" | "OK" | "FAIL"));
    !frame && !FRAME.iter().any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
# FIXTURE            VARIANT                   TEST
global                                         
--------------------------------------------------------------------------------
box                  box_small                 open
                     box_large                 close
                                               shake_it_all
--------------------------------------------------------------------------------
lid                  lid_red                   turn
                     lid_green                 
                     lid_blue                  
# [INFO] detected hugetlb page size: 2048 KiB
";

    fn names(variants: &[&str]) -> Vec<String> {
        let variants: Vec<String> = variants.iter().map(|v| (*v).to_owned()).collect();
        super::tests(LISTING, &variants)
    }

    #[test]
    fn tests_are_listed_for_the_variants_that_are_wanted() {
        assert_eq!(
            names(&["box_large", "lid_blue"]),
            [
                "box.box_large.open",
                "box.box_large.close",
                "box.box_large.shake_it_all",
                "lid.lid_blue.turn",
            ]
        );
        assert_eq!(names(&["lid_green", "nosuch"]), ["lid.lid_green.turn"]);
        assert_eq!(super::tests("nonsense", &["x".into()]), [""; 0]);
    }

    #[test]
    fn a_pattern_is_a_name_or_a_part_of_it() {
        let name = "hmm.hmm_device_private.migrate_fault";
        for pattern in [
            "migrate_fault",
            name,
            "migrate_*",
            "*_fault",
            "*",
            "m*gr*t*fault",
            "hmm.*",
        ] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["migrate", "fault", "migrate_fault*x", "*x*", "", "hmm"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
        // The two ends of a pattern may not share what they match.
        assert!(!matches("aba*aba", "ababa"));
    }

    #[test]
    fn verdicts_are_read() {
        assert_eq!(
            verdict("ok 1 box.box_small.open"),
            Some((TestResult::Pass, String::new()))
        );
        assert_eq!(
            verdict("not ok 1 box.box_small.open"),
            Some((TestResult::Fail, String::new()))
        );
        assert_eq!(
            verdict("ok 1 box.box_small.open # SKIP no box here"),
            Some((TestResult::Skip, "no box here".into()))
        );
        for line in ["#  RUN           box.open ...", "okay", "# ok 1 x", ""] {
            assert_eq!(verdict(line), None, "{line}");
        }
    }

    #[test]
    fn the_harness_frame_tells_nothing() {
        let output = "\
TAP version 13
1..1
# Starting 1 tests from 1 test cases.
#  RUN           box.box_small.open ...
# box.c:17:open:Expected 1 (1) == lid (0)
# open: Test failed
#          FAIL  box.box_small.open
not ok 1 box.box_small.open
# FAILED: 0 / 1 tests passed.
# Totals: pass:0 fail:1 xfail:0 xpass:0 skip:0 error:0
could not open the box (/dev/box)
";
        let telling: Vec<&str> = output.lines().filter(|line| is_telling(line)).collect();
        assert_eq!(
            telling,
            [
                "# box.c:17:open:Expected 1 (1) == lid (0)",
                "# open: Test failed",
                "could not open the box (/dev/box)",
            ]
        );
    }
}
