//! A guest in which programs own memory, and do with it what they are told while faults are injected.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmmgpu_telemetry::snapshot::{FaultOutcome, InjectedFault};
use hmmgpu_vm_tests::program::{Program, Running};

/// A guest boots within this time, also where programs and driver are yet to be made.
const BOOT: Duration = Duration::from_secs(900);
/// The end of a guest's script: it fails if the kernel has reported anything.
const SILENT: &str = "dmesg | grep -E \
    'WARNING|(^| )BUG[ :]|Oops|blocked for more than|stall|non-static key' && exit 9
true";
/// One step.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// A guest whose programs do one thing at a time.
pub(super) struct Guest<'a> {
    program: &'a Program,
    pub(super) folder: &'a Path,
    pub(super) running: Running,
}

impl<'a> Guest<'a> {
    /// Boots one that runs a script of the shell, until it says each of `ready`. After the script
    /// the kernel must have had nothing to say.
    pub(super) fn boot(
        program: &'a Program,
        folder: &'a Path,
        script: &str,
        ready: &[&str],
    ) -> Result<Guest<'a>> {
        let script = format!("{script}\n{SILENT}");
        let arguments = [
            "run", "--memory", "1G", "--vram", "64M", "--", "sh", "-c", &script,
        ];
        let mut running = program.start_open(&arguments, folder)?;
        for (number, line) in ready.iter().enumerate() {
            running.wait_for_line(line, if number == 0 { BOOT } else { LIMIT })?;
        }
        Ok(Guest {
            program,
            folder,
            running,
        })
    }

    /// Has a program do something; its answer has to contain `expected`.
    pub(super) fn step(&mut self, what: &str, expected: &str) -> Result<()> {
        self.running.say(format!("{what}\n").as_bytes())?;
        let answer = self
            .running
            .wait_for_line(&format!("{what}: "), LIMIT)
            .with_context(|| format!("after {what:?}"))?;
        ensure!(
            answer.contains(expected),
            "{expected:?} was expected: {answer}"
        );
        Ok(())
    }

    pub(super) fn steps(&mut self, steps: &[(&str, &str)]) -> Result<()> {
        steps
            .iter()
            .try_for_each(|(what, expected)| self.step(what, expected))
    }

    /// `hmmgpu inject`.
    pub(super) fn inject(&self, arguments: &[&str]) -> Result<String> {
        let arguments = [&["inject"], arguments].concat();
        let ended = self.program.run(&arguments, b"", self.folder, LIMIT)?;
        ended.expect_code(0)?;
        Ok(ended.stdout)
    }

    /// Arms a fault, takes some steps, which it has to hit with that outcome, and disarms it.
    pub(super) fn with(
        &mut self,
        fault: &str,
        came: FaultOutcome,
        steps: &[(&str, &str)],
    ) -> Result<()> {
        self.inject(&[fault])?;
        self.steps(steps).with_context(|| fault.to_owned())?;
        let listed = self.inject(&["--list", "--json"])?;
        let faults: Vec<InjectedFault> = serde_json::from_str(&listed)?;
        let told = faults.last().context("no fault is listed")?;
        let outcomes = told.outcomes.iter();
        ensure!(
            told.spec == fault && told.hits > 0,
            "{fault} did not hit: {told:?}"
        );
        ensure!(
            outcomes
                .map(|(outcome, _)| *outcome)
                .any(|told| told == came),
            "{fault} should have been {came:?}: {told:?}"
        );
        self.inject(&["--clear"])?;
        Ok(())
    }
}
