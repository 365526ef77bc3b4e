//! One measurement: a guest boots, its program carries out the plan, and what it said is joined
//! with what the device counted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hmmgpu_guest_protocol::bench::{BenchEvent, BenchPlan};
use hmmgpu_guest_protocol::{Event, ExitStatus};
use hmmgpu_telemetry::snapshot::Snapshot;

use super::counters::{CounterCheck, compare, differences};
use super::gate::Gate;
use super::result::{BenchError, BenchResult, BootTimes, SCHEMA};
use super::rows::rows;
use super::warning::Warning;
use super::watch::{Bell, Seen, Watch};
use crate::lines::{LineTail, Lines};
use crate::text::printable;
use crate::vm::{Environment, Failure, LineSink, Outcome, Vm, VmError, VmEvent, VmIo, job, sink};

/// The guest's program.
const PROGRAM: &str = "hmmgpu-bench-guest";
/// Longest line of the guest's program that is read.
const MAX_EVENT: usize = 1 << 20;
/// Most events that are kept: far beyond every plan.
const MAX_EVENTS: usize = 100_000;

/// How far a measurement is: steps done, steps in all, and what is being done.
pub type Steps<'a> = dyn Fn(u32, u32, &str) + Send + Sync + 'a;

/// What a measurement tells while it runs.
pub struct Listener<'a> {
    /// Called for each step, on a thread of its own.
    pub steps: Arc<Steps<'static>>,
    /// Each line of the guest's console.
    pub console: Option<LineSink>,
    /// Each step of the run.
    pub observer: &'a mut dyn FnMut(&VmEvent<'_>),
}

impl std::fmt::Debug for Listener<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

/// What came of a measurement.
#[derive(Debug)]
pub struct Measured {
    /// All that was measured, also when it ended early.
    pub result: BenchResult,
    /// Why the VM ended before the guest's program, if it did.
    pub failure: Option<Box<Failure>>,
    /// The last lines that the guest's program wrote to standard error.
    pub messages: Vec<String>,
}

/// Carries out `plan` in a new guest of `vm`, which gets these files (path here, path there), with
/// the driver loaded with these parameters. A VM that was lost before anything was measured is an error.
pub fn measure(
    vm: &Vm,
    plan: &BenchPlan,
    driver_params: &str,
    files: &[(PathBuf, String)],
    listener: Listener<'_>,
) -> Result<Measured, VmError> {
    let argument = serde_json::to_string(plan)
        .map_err(|error| VmError::Options(format!("cannot write the plan: {error}")))?;
    let bell = Bell::default();
    let (gate, stdin) = Gate::new()
        .map_err(|error| VmError::Options(format!("cannot open a pipe for the guest: {error}")))?;
    let steps = Arc::clone(&listener.steps);
    let said = Arc::new(Mutex::new(Said::new(
        listener.steps,
        bell.clone(),
        gate.clone(),
    )));
    let reader = Arc::clone(&said);
    let stdout = sink(Lines::new(MAX_EVENT, move |line: &[u8]| {
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.take(line);
        Ok(())
    }));
    let messages = Arc::new(Mutex::new(LineTail::new()));
    let mut watch: Option<Watch> = None;
    let mut observer = |event: &VmEvent<'_>| {
        if let VmEvent::ServerStarted {
            control, gpu: 0, ..
        } = event
        {
            // A server that was started before belonged to an accelerator that does not work.
            if let Some(old) = watch.take() {
                old.finish();
            }
            let steps = Arc::clone(&steps);
            let left = move |bytes: u64| {
                let what = format!("the host populates memory, {} MiB to go", bytes >> 20);
                steps(0, 0, &what);
            };
            watch = Watch::start(control.to_path_buf(), bell.clone(), &gate, left);
        }
        (listener.observer)(event);
    };
    let ended = vm.run(
        &job([PROGRAM, &argument], driver_params),
        files,
        VmIo {
            stdin,
            stdout: Some(stdout),
            stderr: Some(messages.clone()),
            console: listener.console,
            observer: Some(&mut observer),
            ..VmIo::default()
        },
    );
    let seen = watch.map(Watch::finish).unwrap_or_default();
    let messages = messages
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .lines();
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);

    let ended = match ended {
        Ok(outcome) => Ended::of(outcome, said.done, messages.last()),
        // What was measured before stays.
        Err(VmError::Failed(failure)) if !said.events.is_empty() => Ended::early(failure),
        Err(error) => return Err(error),
    };
    let mut warnings = ended.warnings;
    if let Some(line) = said.nonsense.take() {
        warnings.push(Warning::Incomplete {
            reason: format!("{PROGRAM} said '{line}'"),
        });
    }
    let (rows, doubts) = rows(&said.events, ended.telemetry.as_ref());
    warnings.extend(doubts);
    let counters = check_counters(&said.events, &seen, ended.telemetry.as_ref(), &mut warnings);
    let mut errors = differences(&counters);
    if let Some(snapshot) = &ended.telemetry {
        errors.extend(BenchError::of_checks(&snapshot.checker));
    }
    Ok(Measured {
        result: BenchResult {
            schema: SCHEMA.to_owned(),
            environment: ended.environment,
            plan: plan.clone(),
            boot: boot_times(ended.init_s, &said.events),
            rows,
            errors,
            warnings,
            counters,
            telemetry: ended.telemetry.map(|snapshot| Snapshot {
                windows: Vec::new(),
                ..snapshot
            }),
            vram_history: seen.history,
        },
        failure: ended.failure,
        messages,
    })
}

fn boot_times(init_s: Option<f64>, events: &[BenchEvent]) -> Option<BootTimes> {
    let first_migration_s = events.iter().find_map(|event| match event {
        BenchEvent::FirstMigration { uptime } => Some(*uptime),
        _ => None,
    })?;
    Some(BootTimes {
        init_s: init_s?,
        first_migration_s,
    })
}

/// The driver's counters beside the host's of the same quiet moment, or of the end: after the
/// guest's program nothing moves.
fn check_counters(
    events: &[BenchEvent],
    seen: &Seen,
    last: Option<&Snapshot>,
    warnings: &mut Vec<Warning>,
) -> Vec<CounterCheck> {
    let told = events.iter().rev().find_map(|event| match event {
        BenchEvent::Counters { counters } => Some(counters),
        _ => None,
    });
    match (told, seen.quiet.as_ref().or(last)) {
        (Some(told), Some(host)) => compare(told, host),
        (told, _) => {
            let who = if told.is_none() { "driver" } else { "device" };
            warnings.push(Warning::CountersUnknown {
                who: who.to_owned(),
            });
            Vec::new()
        }
    }
}

/// How a run ended.
struct Ended {
    environment: Environment,
    /// Seconds from the start of the kernel to that of user space.
    init_s: Option<f64>,
    telemetry: Option<Snapshot>,
    warnings: Vec<Warning>,
    failure: Option<Box<Failure>>,
}

impl Ended {
    /// The program ended; `done`: it said that it was through.
    fn of(outcome: Outcome, done: bool, last_message: Option<&String>) -> Self {
        let mut warnings = Vec::new();
        if !outcome.kernel_warnings.is_empty() {
            warnings.push(Warning::KernelWarnings {
                lines: outcome.kernel_warnings,
            });
        }
        if outcome.status != ExitStatus::Code(0) || !done {
            let how = match outcome.status {
                ExitStatus::Code(code) => format!("exited with status {code}"),
                ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
            };
            let said = last_message.map(|line| format!(": {line}"));
            warnings.push(Warning::Incomplete {
                reason: format!("{PROGRAM} {how}{}", said.unwrap_or_default()),
            });
        }
        let init_s = outcome.events.iter().find_map(|event| match event {
            Event::Booted { uptime, .. } => Some(*uptime),
            _ => None,
        });
        Self {
            environment: outcome.environment,
            init_s,
            telemetry: outcome.telemetry.into_iter().next(),
            warnings,
            failure: None,
        }
    }

    /// The VM ended before the program did.
    fn early(failure: Box<Failure>) -> Self {
        Self {
            environment: failure.environment.clone(),
            init_s: None,
            telemetry: failure.telemetry.first().cloned().flatten(),
            warnings: vec![Warning::Incomplete {
                reason: failure.kind.to_string(),
            }],
            failure: Some(failure),
        }
    }
}

/// What the guest's program says, one event a line, as it comes.
struct Said {
    steps: Arc<Steps<'static>>,
    bell: Bell,
    gate: Gate,
    events: Vec<BenchEvent>,
    done: bool,
    /// The first line that is no event.
    nonsense: Option<String>,
}

impl Said {
    fn new(steps: Arc<Steps<'static>>, bell: Bell, gate: Gate) -> Self {
        Self {
            steps,
            bell,
            gate,
            events: Vec::new(),
            done: false,
            nonsense: None,
        }
    }

    fn take(&mut self, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match serde_json::from_slice(line) {
            Ok(BenchEvent::Progress { done, total, what }) => {
                (self.steps)(done, total, &printable(what.as_bytes()));
            }
            Ok(BenchEvent::Done) => self.done = true,
            Ok(event) if self.events.len() < MAX_EVENTS => {
                match event {
                    BenchEvent::Counters { .. } => self.bell.ring(),
                    BenchEvent::FirstMigration { .. } => self.gate.reached(),
                    _ => {}
                }
                self.events.push(event);
            }
            Ok(_) => {}
            Err(_) if self.nonsense.is_none() => {
                self.nonsense = Some(printable(&line[..line.len().min(200)]));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_from_nonsense() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&told);
        let steps = Arc::new(move |done, total, what: &str| {
            kept.lock().unwrap().push((done, total, what.to_owned()));
        });
        let (gate, _) = Gate::new().unwrap();
        let mut said = Said::new(steps, Bell::default(), gate);
        for line in [
            r#"{"event":"progress","done":1,"total":2,"what":"x"}"#,
            "",
            r#"{"event":"skipped","source_order":3,"reason":"none"}"#,
            "nonsense",
            "more nonsense",
            r#"{"event":"done"}"#,
        ] {
            said.take(line.as_bytes());
        }
        assert_eq!(said.events.len(), 1);
        assert!(said.done);
        assert_eq!(said.nonsense.as_deref(), Some("nonsense"));
        assert_eq!(*told.lock().unwrap(), [(1, 2, "x".to_owned())]);
    }
}
