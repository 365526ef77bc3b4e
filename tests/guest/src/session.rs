//! A guest that runs several programs one after another: a boot takes longer than most checks.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hmmgpu::profile::Profile;
use hmmgpu::size::{MIB, Size};
use hmmgpu::vm::{Outcome, Vm, VmError, VmOptions, job};
use hmmgpu_telemetry::CheckMode;

/// A program to be run in the guest.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Name, for the results; letters and digits.
    pub name: &'static str,
    /// Command line for the guest's shell.
    pub command: &'static str,
    /// Seconds after which it is killed.
    pub limit: u32,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepResult {
    /// Exit status.
    pub status: i32,
    /// Standard output and error.
    pub output: String,
}

/// What came of a guest.
#[derive(Debug)]
pub struct Session {
    /// The run as a whole.
    pub outcome: Outcome,
    /// Its steps.
    pub steps: BTreeMap<String, StepResult>,
}

/// What a guest is made of.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Memory.
    pub memory: Size,
    /// GPUs.
    pub gpus: u32,
    /// VRAM of each.
    pub vram: Size,
    /// Whether the kernel zeroes memory, as it does by itself.
    pub zeroing: bool,
    /// How closely the driver's use of VRAM is checked.
    pub check: CheckMode,
    /// Whether the driver makes mistakes when it is told to.
    pub mutations: bool,
    /// Faults on purpose in each GPU, as `--inject` takes them.
    pub inject: &'static [&'static str],
}

impl Machine {
    /// Little memory, and the least VRAM that a device can have, so that it is easily full.
    pub const SMALL: Machine = Machine {
        memory: Size(1024 * MIB),
        gpus: 1,
        vram: Size(64 * MIB),
        zeroing: true,
        check: CheckMode::Folio,
        mutations: false,
        inject: &[],
    };
}

impl Session {
    /// Boots a guest and runs the steps.
    pub fn run(program: &Path, machine: &Machine, steps: &[Step]) -> Result<Session> {
        let mut profile = Profile::load("default").context("the default profile is wrong")?;
        profile.memory = machine.memory;
        profile.gpus = machine.gpus;
        profile.vram = machine.vram;
        profile.zeroing = machine.zeroing;
        profile.check = machine.check;
        profile.inject = machine
            .inject
            .iter()
            .map(|fault| fault.parse())
            .collect::<Result<_, _>>()
            .context("a fault on purpose")?;
        let limit: u32 = steps.iter().map(|step| step.limit).sum();
        let mut options = VmOptions::new(profile);
        options.timeout = Some(Duration::from_secs(u64::from(limit) + 300));
        options.server_program = Some(program.to_owned());
        if machine.mutations {
            options.images.driver_variables = vec!["HMMGPU_MUTATIONS=1".to_owned()];
        }
        let vm = Vm::prepare(options).context("a guest cannot be made ready on this host")?;
        let script = script(steps);
        let captured = match vm.capture(&job(["sh", "-c", script.as_str()], ""), &[]) {
            Ok(captured) => captured,
            Err(VmError::Failed(failure)) => bail!(
                "the guest failed: {}\n--- console\n{}\n--- messages\n{}",
                failure.kind,
                failure.console.join("\n"),
                failure.messages.join("\n")
            ),
            Err(error) => return Err(error).context("the guest failed"),
        };
        let output = String::from_utf8_lossy(&captured.stdout);
        let results = parse(&output);
        for step in steps {
            ensure!(
                results.contains_key(step.name),
                "step {} did not end; output:\n{output}\n--- stderr\n{}",
                step.name,
                String::from_utf8_lossy(&captured.stderr)
            );
        }
        Ok(Session {
            outcome: captured.outcome,
            steps: results,
        })
    }

    /// The output of a step, which has to have succeeded.
    pub fn succeeded(&self, name: &str) -> Result<&str> {
        let step = self.steps.get(name).context("no such step")?;
        ensure!(
            step.status == 0,
            "{name} ended with status {}:\n{}",
            step.status,
            step.output
        );
        Ok(&step.output)
    }
}

const BEGIN: &str = "@@begin ";
const END: &str = "@@end ";

fn script(steps: &[Step]) -> String {
    let mut script = String::new();
    for step in steps {
        // What happens when goes to the kernel's log, so that a warning there can be placed.
        script += &format!(
            "echo '{BEGIN}{name}'; echo 'hmmgpu-vm-tests: {name}' >/dev/kmsg; \
             timeout -s KILL {limit} {command} 2>&1; status=$?; echo; echo \"{END}{name} $status\"\n",
            name = step.name,
            limit = step.limit,
            command = step.command,
        );
    }
    script
}

fn parse(output: &str) -> BTreeMap<String, StepResult> {
    let mut results = BTreeMap::new();
    let mut current: Option<(String, String)> = None;
    for line in output.lines() {
        if let Some(name) = line.strip_prefix(BEGIN) {
            current = Some((name.to_owned(), String::new()));
        } else if let Some(end) = line.strip_prefix(END) {
            let ended = end
                .split_once(' ')
                .and_then(|(name, status)| Some((name, status.parse().ok()?)));
            match (ended, current.take()) {
                (Some((name, status)), Some((began, output))) if name == began => {
                    results.insert(began, StepResult { status, output });
                }
                _ => {}
            }
        } else if let Some((_, text)) = &mut current {
            text.push_str(line);
            text.push('\n');
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_script_tells_its_steps_apart() {
        let steps = [
            Step {
                name: "one",
                command: "printf 'a line without an end'",
                limit: 10,
            },
            Step {
                name: "two",
                command: "sh -c 'echo wrong >&2; exit 3'",
                limit: 10,
            },
        ];
        let script = script(&steps).replace("/dev/kmsg", "/dev/null");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let results = parse(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(results["one"].status, 0);
        assert_eq!(results["one"].output, "a line without an end\n");
        assert_eq!(results["two"].status, 3);
        assert!(results["two"].output.starts_with("wrong\n"));
    }

    #[test]
    fn a_step_that_did_not_end_has_no_result() {
        let results = parse("@@begin one\nx\n@@begin two\ny\n\n@@end two 0\n");
        assert!(!results.contains_key("one"));
        assert_eq!(results["two"].status, 0);
    }
}
