//! Collects what the runner says.

use std::collections::BTreeMap;
use std::time::Instant;

use hmmgpu_guest_protocol::runner::{TestEnd, TestEvent, TestResult};

use super::result::{Run, Test};

/// Tests of one guest that are kept where it is not known how many there will be.
const MAX_TESTS: usize = 100_000;

/// How a guest of a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending<'a> {
    /// After its runner, whose last words these are.
    Runner(&'a str),
    /// It was stopped from outside, for this reason: the test that ran has no verdict.
    Stopped(&'a str),
    /// It broke down: the test that ran has failed.
    Lost(Lost<'a>),
}

/// What is left of a guest that broke down. What the test has printed is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost<'a> {
    /// Why.
    pub why: &'a str,
    /// The last lines of its console.
    pub console: &'a [String],
    /// The last lines that QEMU and the device servers wrote to standard error.
    pub messages: &'a [String],
}

/// What one guest has said so far.
#[derive(Debug, Default)]
pub struct Record {
    listed: bool,
    tests: Vec<String>,
    loops: Option<u32>,
    current: Option<(u32, String, Instant)>,
    ended: Vec<TestEnd>,
    done: bool,
    unknown: Option<(String, Vec<String>)>,
}

impl Record {
    /// Of a run of this many loops; none: as many as the time allows.
    pub fn new(loops: Option<u32>) -> Self {
        Self {
            loops,
            ..Self::default()
        }
    }

    /// Takes an event in. A guest that says more than it was asked for is not listened to.
    pub fn take(&mut self, event: &TestEvent) {
        match event {
            TestEvent::Listed { tests } => {
                self.listed = true;
                self.tests.clone_from(tests);
            }
            TestEvent::NoSuchTest { pattern, tests } => {
                self.unknown = Some((pattern.clone(), tests.clone()));
            }
            TestEvent::Began { round, name } => {
                self.current = Some((*round, name.clone(), Instant::now()));
            }
            TestEvent::Ended(end) => {
                self.current = None;
                if self.ended.len() < self.planned().unwrap_or(MAX_TESTS) {
                    self.ended.push(end.clone());
                }
            }
            TestEvent::Asked { .. } => {}
            TestEvent::Done => self.done = true,
        }
    }

    /// Tests that will be run, each loop counted, if that is known.
    pub fn planned(&self) -> Option<usize> {
        Some(self.tests.len() * self.loops? as usize)
    }

    /// The test that runs: its loop and name.
    pub fn current(&self) -> Option<(u32, &str)> {
        let (round, name, _) = self.current.as_ref()?;
        Some((*round, name))
    }

    /// The test that ended last.
    pub fn last(&self) -> Option<&TestEnd> {
        self.ended.last()
    }

    /// Tests that have ended.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }

    /// The loop that begins with the test that has just begun, where there are several.
    pub fn new_round(&self) -> Option<(u32, u32)> {
        let first = !self.tests.is_empty() && self.ended.len().is_multiple_of(self.tests.len());
        let loops = self.loops.filter(|loops| *loops > 1)?;
        let (round, _, _) = self.current.as_ref().filter(|_| first)?;
        Some((*round, loops))
    }

    /// A pattern that fits no test, and the names of all tests.
    pub fn unknown(&self) -> Option<&(String, Vec<String>)> {
        self.unknown.as_ref()
    }

    /// Whether anything was said at all.
    pub fn is_empty(&self) -> bool {
        !self.listed && self.unknown.is_none()
    }

    /// Whether no test is left to run, of those that there are.
    pub fn selects_nothing(&self) -> bool {
        self.listed && self.tests.is_empty()
    }

    /// The test that the guest broke down in, as a failure.
    pub fn cut_off(&self, ending: Ending<'_>) -> Option<TestEnd> {
        let Ending::Lost(lost) = ending else {
            return None;
        };
        let (round, name, begun) = self.current.as_ref()?;
        Some(TestEnd {
            round: *round,
            name: name.clone(),
            result: TestResult::Fail,
            reason: lost.why.to_owned(),
            seconds: begun.elapsed().as_secs_f64(),
            seed: None,
            counted: BTreeMap::new(),
            output: lost.messages.to_vec(),
            kernel_log: lost.console.to_vec(),
            kernel_warned: false,
        })
    }

    /// What came of it.
    pub fn run(&self, kernel_warnings: Vec<String>, ending: Ending<'_>) -> Run {
        let incomplete = match ending {
            Ending::Runner(_) if self.done => None,
            Ending::Runner(words) => Some(format!("the runner ended early: {words}")),
            Ending::Stopped(why) | Ending::Lost(Lost { why, .. }) => Some(why.to_owned()),
        };
        let mut run = Run {
            kernel_warnings,
            incomplete,
            ..Run::default()
        };
        for end in self.ended.iter().chain(&self.cut_off(ending)) {
            if end.kernel_warned && run.kernel_warnings.is_empty() {
                // A guest that was lost could not list its warnings any more.
                run.kernel_warnings.extend(end.kernel_log.first().cloned());
            }
            let mut test = Test::from(end);
            if self.loops == Some(1) {
                test.round = None;
            }
            run.add(test);
        }
        run
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tap;
    use super::*;

    pub(crate) fn test_end(round: u32, name: &str, result: TestResult, seconds: f64) -> TestEnd {
        TestEnd {
            round,
            name: name.into(),
            result,
            reason: String::new(),
            seconds,
            seed: None,
            counted: BTreeMap::new(),
            output: vec![],
            kernel_log: vec![],
            kernel_warned: false,
        }
    }

    pub(crate) fn end(round: u32, name: &str, result: TestResult, seconds: f64) -> TestEvent {
        TestEvent::Ended(test_end(round, name, result, seconds))
    }

    fn began(round: u32, name: &str) -> TestEvent {
        TestEvent::Began {
            round,
            name: name.into(),
        }
    }

    fn record(loops: u32, events: &[TestEvent]) -> Record {
        let mut record = Record::new(Some(loops));
        record.take(&TestEvent::Listed {
            tests: vec!["a.p.x".into(), "a.p.y".into()],
        });
        for event in events {
            record.take(event);
        }
        record
    }

    #[test]
    fn results_are_counted_over_all_loops() {
        let record = record(
            2,
            &[
                end(1, "a.p.x", TestResult::Pass, 0.1234),
                end(1, "a.p.y", TestResult::Skip, 0.0),
                end(2, "a.p.x", TestResult::Fail, 1.0),
                end(2, "a.p.y", TestResult::Skip, 0.0),
                TestEvent::Done,
            ],
        );
        assert_eq!((record.planned(), record.ended()), (Some(4), 4));
        let run = record.run(vec![], Ending::Runner(""));
        assert_eq!((run.passed, run.failed, run.skipped), (1, 1, 2));
        assert_eq!(run.incomplete, None);
        assert_eq!(
            run.tests.iter().map(|test| test.round).collect::<Vec<_>>(),
            [Some(1), Some(1), Some(2), Some(2)]
        );
        assert!((run.tests[0].seconds - 0.123).abs() < 1e-9);
    }

    #[test]
    fn several_loops_are_announced() {
        let mut record = record(2, &[began(1, "a.p.x")]);
        assert_eq!(record.new_round(), Some((1, 2)));
        record.take(&end(1, "a.p.x", TestResult::Pass, 0.1));
        record.take(&began(1, "a.p.y"));
        assert_eq!(record.new_round(), None);
        record.take(&end(1, "a.p.y", TestResult::Pass, 0.1));
        record.take(&began(2, "a.p.x"));
        assert_eq!(record.new_round(), Some((2, 2)));
        assert_eq!(
            super::tests::record(1, &[began(1, "a.p.x")]).new_round(),
            None
        );
    }

    #[test]
    fn a_guest_that_was_lost_fails_the_test_that_ran() {
        let events = [
            began(1, "a.p.x"),
            end(1, "a.p.x", TestResult::Pass, 0.1),
            began(1, "a.p.y"),
        ];
        let console = ["BUG: x".to_owned(), "Kernel panic".to_owned()];
        let messages = ["qemu: an assertion".to_owned()];
        let lost = Ending::Lost(Lost {
            why: "the VM was lost",
            console: &console,
            messages: &messages,
        });
        let record = record(1, &events);
        let run = record.run(vec![], lost);
        assert_eq!((run.passed, run.failed), (1, 1));
        assert_eq!(run.tests[1].name, "a.p.y");
        assert_eq!(run.tests[1].reason, "the VM was lost");
        assert_eq!(run.tests[1].kernel_log, console);
        assert_eq!(run.tests[1].output, messages);
        let told = tap::test(2, &record.cut_off(lost).expect("a test ran")).join("\n");
        for line in ["the VM was lost", "| Kernel panic", "qemu: an assertion"] {
            assert!(told.contains(line), "{told}");
        }
        assert_eq!(run.tests[1].round, None, "there is only one loop");
        assert_eq!(run.incomplete.as_deref(), Some("the VM was lost"));
    }

    #[test]
    fn a_guest_that_was_stopped_fails_no_test() {
        let events = [end(1, "a.p.x", TestResult::Pass, 0.1), began(1, "a.p.y")];
        let run = record(1, &events).run(vec![], Ending::Stopped("interrupted"));
        assert_eq!((run.passed, run.failed, run.tests.len()), (1, 0, 1));
        assert_eq!(run.incomplete.as_deref(), Some("interrupted"));
    }

    #[test]
    fn a_list_of_no_tests_is_not_silence() {
        let mut record = Record::new(Some(1));
        assert!(record.is_empty());
        assert!(!record.selects_nothing());
        record.take(&TestEvent::Listed { tests: vec![] });
        assert!(!record.is_empty());
        assert!(record.selects_nothing());
        assert!(!super::tests::record(1, &[]).selects_nothing());
    }

    #[test]
    fn without_its_end_a_run_is_incomplete() {
        let events = [end(1, "a.p.x", TestResult::Pass, 0.1)];
        let run = record(1, &events).run(vec![], Ending::Runner("no pipe"));
        assert!(run.incomplete.is_some_and(|why| why.contains("no pipe")));
        assert_eq!(run.failed, 0);
    }

    #[test]
    fn without_an_end_all_is_kept_with_its_loop() {
        let mut record = Record::new(None);
        record.take(&TestEvent::Listed {
            tests: vec!["kill".into()],
        });
        for round in 1..=9 {
            record.take(&end(round, "kill", TestResult::Pass, 0.1));
        }
        record.take(&began(10, "kill"));
        assert_eq!((record.planned(), record.new_round()), (None, None));
        assert_eq!(record.current(), Some((10, "kill")));
        let run = record.run(vec![], Ending::Stopped("x"));
        assert_eq!(run.tests[8].round, Some(9));
    }

    #[test]
    fn more_than_was_planned_is_not_kept() {
        let events = vec![end(1, "a.p.x", TestResult::Pass, 0.1); 100];
        assert_eq!(record(1, &events).ended(), 2);
    }
}
