//! Guests whose command is the runner of tests: its events are taken in as they come, and told.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use hmmgpu_guest_protocol::runner::{RUNNER, RunnerPlan, TestEnd, TestEvent};
use hmmgpu_guest_protocol::{Event, Job};

use super::{Error, tell_step};
use crate::lines::{LineTail, Lines};
use crate::progress::Ui;
use crate::testing::record::{Ending, Lost, Record};
use crate::testing::result::Run;
use crate::testing::tap;
use crate::text::printable;
use crate::views::checks;
use crate::vm::{
    Environment, Failure, FailureKind, LineSink, Remote, Vm, VmError, VmEvent, VmIo, job, sink,
};

/// Longest event of the runner that is read.
const MAX_EVENT: usize = 1 << 20;

/// Where results are printed as they come.
#[derive(Clone, Copy)]
pub(super) enum Text {
    Stdout,
    /// Where the JSON needs standard output.
    Stderr,
}

impl Text {
    /// Prints a line; what the guest has to do with it can do no harm.
    pub(super) fn print(self, line: &str, ui: &Ui) -> io::Result<()> {
        let line = printable(line.as_bytes());
        match self {
            Self::Stdout => ui.print(&line),
            Self::Stderr => {
                ui.warn(&line);
                Ok(())
            }
        }
    }
}

/// A guest with tests.
pub(super) struct Guest<'a> {
    pub(super) vm: &'a Vm,
    pub(super) ui: &'a Ui,
    pub(super) console: LineSink,
    /// The driver's parameters; none: it is not loaded.
    pub(super) driver: Option<String>,
    /// What is put into it: path on the host, path in the guest.
    pub(super) files: Vec<(PathBuf, String)>,
    /// What it does, for a person.
    pub(super) step: String,
    /// Reaches into it.
    pub(super) remote: Remote,
}

/// What came of a guest.
pub(super) struct Tested {
    pub(super) run: Run,
    /// The test that the guest broke down in; it is in `run` too.
    pub(super) cut_off: Option<TestEnd>,
    pub(super) environment: Environment,
    /// The guest ended before its runner did.
    pub(super) failure: Option<Box<Failure>>,
}

impl Guest<'_> {
    /// Runs the plan. `tell` is called with each event after the record has taken it in, `observe`
    /// with each step of the machine.
    pub(super) fn run(
        self,
        plan: &RunnerPlan,
        record: &Arc<Mutex<Record>>,
        mut tell: impl FnMut(&TestEvent, &Record) -> io::Result<()> + Send + 'static,
        mut observe: impl FnMut(&VmEvent<'_>),
    ) -> Result<Tested, Error> {
        let plan = serde_json::to_string(plan).context("cannot write the plan")?;
        let job = Job {
            driver: self.driver,
            ..job([RUNNER, &plan], "")
        };
        let reader = Arc::clone(record);
        let ui = self.ui.clone();
        let output = sink(Lines::new(MAX_EVENT, move |line: &[u8]| {
            let Ok(event) = serde_json::from_slice(line) else {
                ui.warn(&format!("{RUNNER} said '{}'", printable(line)));
                return Ok(());
            };
            let mut record = lock(&reader);
            record.take(&event);
            tell(&event, &record)
        }));
        let messages = Arc::new(Mutex::new(LineTail::new()));
        let mut observer = |event: &VmEvent<'_>| {
            tell_step(event, self.ui);
            observe(event);
            if let VmEvent::Guest(Event::Started) = event {
                self.ui.show_console(false);
                self.ui.step(&self.step);
            }
        };
        let ended = self.vm.run(
            &job,
            &self.files,
            VmIo {
                stdout: Some(output),
                stderr: Some(messages.clone()),
                console: Some(self.console),
                observer: Some(&mut observer),
                remote: Some(self.remote),
                ..VmIo::default()
            },
        );
        self.ui.clear();
        let record = lock(record);
        let said = lock(&messages).lines();
        match ended {
            Ok(outcome) => {
                if let Some((pattern, tests)) = record.unknown() {
                    return Err(Error::Usage(format!(
                        "there is no test '{pattern}'; there are:\n  {}",
                        tests.join("\n  ")
                    )));
                }
                if record.selects_nothing() {
                    return Err(Error::Usage(
                        "there is nothing to run: --skip leaves out every test that was asked for"
                            .to_owned(),
                    ));
                }
                if record.is_empty() {
                    // It could not even begin, and has said why.
                    let kind = FailureKind::Guest(said.join("\n"));
                    return Err(VmError::Failed(Box::new(Failure::of(kind))).into());
                }
                let words = said.last().map_or("it said nothing", String::as_str);
                Ok(Tested {
                    run: Run {
                        checks: checks::lines_of_gpus(outcome.telemetry.iter().map(Some)),
                        ..record.run(outcome.kernel_warnings, Ending::Runner(words))
                    },
                    cut_off: None,
                    environment: outcome.environment,
                    failure: None,
                })
            }
            // What was found out before stays.
            Err(VmError::Failed(failure)) if !record.is_empty() => {
                let why = failure.kind.to_string();
                let telemetry = failure.telemetry.iter().map(Option::as_ref);
                let ending = match failure.kind {
                    FailureKind::Lost(_) | FailureKind::Guest(_) => Ending::Lost(Lost {
                        why: &why,
                        console: &failure.console,
                        messages: &failure.messages,
                    }),
                    _ => Ending::Stopped(&why),
                };
                Ok(Tested {
                    run: Run {
                        checks: checks::lines_of_gpus(telemetry),
                        ..record.run(Vec::new(), ending)
                    },
                    cut_off: record.cut_off(ending),
                    environment: failure.environment.clone(),
                    failure: Some(failure),
                })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// How many tests there will be, and what is at, for a person; the lines of TAP that begin a loop.
pub(super) fn began(name: &str, record: &Record, text: Option<Text>, ui: &Ui) -> Vec<String> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let done = count(record.ended());
    let planned = record.planned().map_or(done + 1, count);
    match text {
        Some(_) => ui.live_steps(done, planned, name),
        None => ui.steps(done, planned, name),
    }
    let new = record.new_round();
    new.map(|(round, loops)| tap::round(round, loops))
        .into_iter()
        .collect()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
