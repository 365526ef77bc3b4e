//! `hmmgpu stress`: scenarios in guests, one after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{RecvTimeoutError, bounded};
use hmmgpu_guest_protocol::reports;
use hmmgpu_guest_protocol::runner::{HostRequest, RunnerPlan, TestEnd, TestEvent, TestResult};
use hmmgpu_guest_protocol::stress::{LIMIT, SCENARIOS, StressPlan, seed_of_round};

use super::output::Output;
use super::tester::{self, Tested, Text, began, lock};
use super::{Error, console_sink, vm_options};
use crate::cli::StressArgs;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::stress::plan::{self, Group, Time, groups};
use crate::stress::result::{Guest, SCHEMA, StressResult};
use crate::stress::{device, machine, repeat};
use crate::testing::record::Record;
use crate::testing::result::{Run, Test};
use crate::testing::tap;
use crate::vm::{Failure, FailureKind, LineSink, Order, Remote, Vm, VmError, VmEvent};

/// A guest that says nothing for so long beyond a scenario's own limit is stuck as a whole.
const SILENCE: Duration = Duration::from_secs(90);

/// How often a guest is looked at that may be silent, and one woken that may sleep.
const TICK: Duration = Duration::from_secs(1);

pub(super) fn stress(args: &StressArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    if args.list {
        return list(ui);
    }
    let mut options = vm_options(&args.machine, "stress", ui, interrupt)?;
    options.label = "stress".to_owned();
    // Before minutes of work, not after.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    let console = console_sink(&args.machine, ui)?;
    let minutes = |minutes: u32| Duration::from_secs(u64::from(minutes) * 60);
    let time = args.minutes.map(minutes);
    let groups = groups(&args.scenarios);
    let mut later: usize = groups.iter().map(|group| group.scenarios.len()).sum();
    let work = plan::work(time, later);
    let base = options.profile.clone();
    let vm = Vm::prepare(options)?;

    let mut stress = Stress {
        vm,
        driver: args.machine.driver_params.clone(),
        ui,
        console,
        text: match json {
            Some(Output::Stdout) => Text::Stderr,
            _ => Text::Stdout,
        },
        seed: args.seed.unwrap_or_else(any_seed),
        told: Arc::default(),
        run: Run::default(),
        guests: Vec::new(),
    };
    stress.print(tap::VERSION)?;
    if args.minutes.is_none() {
        let tests = groups.iter().map(|group| group.scenarios.len()).sum();
        stress.print(&tap::plan(tests))?;
    }
    stress.print(&format!("# seed {}", stress.seed))?;
    let mut failure = None;
    let begun = Instant::now();
    for group in &groups {
        let these = group.scenarios.len();
        later -= these;
        let left = time.map(|time| time.saturating_sub(begun.elapsed()));
        let all = left.map(|left| plan::share(left, these, later));
        stress.vm.options_mut().profile = machine::profile(&base, group.machine);
        failure = stress.group(group, Time { all, work })?;
        if failure.is_some() {
            break;
        }
    }
    stress.end(args.minutes.is_some())?;
    let result = StressResult {
        schema: SCHEMA,
        seed: stress.seed,
        minutes: args.minutes,
        guests: stress.guests,
        run: stress.run,
    };
    ui.clear();
    if let Some(output) = json {
        let mut document = serde_json::to_vec_pretty(&result).context("cannot write the result")?;
        document.push(b'\n');
        output.write(&document)?;
    }
    match failure {
        Some(failure) => Err(VmError::Failed(failure).into()),
        None if result.run.is_good() => Ok(exit::OK),
        None => Ok(exit::NEGATIVE),
    }
}

fn list(ui: &Ui) -> Result<u8, Error> {
    for scenario in SCENARIOS {
        ui.print(&format!(
            "{:<18} {:<16} {}",
            scenario.name,
            scenario.machine.name(),
            scenario.about
        ))?;
    }
    Ok(exit::OK)
}

/// Another one each time.
fn any_seed() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    let number = RandomState::new().hash_one(std::process::id());
    // Short enough to be typed.
    u32::try_from(number % 1_000_000).unwrap_or_default()
}

/// What the thread that reads events leaves for the one that waits for the guest.
#[derive(Debug, Default)]
struct Told {
    /// Control sockets of the devices of the guest that runs.
    devices: Vec<PathBuf>,
    /// When the guest said something last.
    heard: Option<Instant>,
    /// The guest sleeps, or is about to.
    wake: bool,
    /// What the devices said of themselves after each failure, in order.
    said: Vec<Vec<String>>,
    /// What they said when the guest was lost.
    last_words: Vec<String>,
}

struct Stress<'a> {
    vm: Vm,
    driver: String,
    ui: &'a Ui,
    console: LineSink,
    text: Text,
    seed: u32,
    told: Arc<Mutex<Told>>,
    run: Run,
    guests: Vec<Guest>,
}

impl Stress<'_> {
    /// Runs the scenarios of one machine, in a new guest after each failure. Gives why nothing more
    /// can be run, if so.
    fn group(&mut self, group: &Group, time: Time) -> Result<Option<Box<Failure>>, Error> {
        let group = &self.supported(group)?;
        if group.scenarios.is_empty() {
            return Ok(None);
        }
        let begun = Instant::now();
        let mut from = (1, 0);
        while let Some(plan) = group.plan(self.seed, from, time, begun.elapsed()) {
            let tested = match self.guest(group, plan) {
                Err(Error::Vm(VmError::Failed(failure))) if !self.run.tests.is_empty() => {
                    // This guest did not get as far as a scenario: what others did stays.
                    self.run.incomplete = Some(failure.kind.to_string());
                    return Ok(Some(failure));
                }
                tested => tested?,
            };
            let failed = tested.run.tests.last().cloned();
            let number = tested.run.tests.len();
            self.guests.push(Guest {
                machine: group.machine,
                environment: tested.environment,
                tests: number,
            });
            self.take(tested.run, tested.cut_off.as_ref())?;
            let last = failed.filter(|test| test.result == TestResult::Fail);
            match (last, tested.failure) {
                // It broke down in a scenario, which is a failure of that, or ended after one.
                (Some(test), None) => from = group.after(test.round.unwrap_or(1), &test.name),
                (Some(test), Some(_)) if tested.cut_off.is_some() => {
                    from = group.after(test.round.unwrap_or(1), &test.name);
                }
                (_, Some(failure)) => {
                    self.run.incomplete = Some(failure.kind.to_string());
                    return Ok(Some(failure));
                }
                (None, None) => break,
            }
        }
        Ok(None)
    }

    /// The group without the scenarios that this QEMU cannot run, which are told as skipped.
    fn supported(&mut self, group: &Group) -> Result<Group, Error> {
        let mut group = group.clone();
        let qemu = self.vm.qemu_version()?;
        let mut skipped = Vec::new();
        group.scenarios.retain(|name| {
            let why = machine::unsupported(name, qemu);
            skipped.extend(why.map(|why| (name.clone(), why)));
            why.is_none()
        });
        for (name, why) in skipped {
            let end = TestEnd {
                round: 1,
                name,
                result: TestResult::Skip,
                reason: why.to_owned(),
                seconds: 0.0,
                seed: None,
                counted: BTreeMap::new(),
                output: Vec::new(),
                kernel_log: Vec::new(),
                kernel_warned: false,
            };
            for line in tap::test(self.run.tests.len() + 1, &end) {
                self.print(&line)?;
            }
            self.run.add(Test::from(&end));
        }
        Ok(group)
    }

    /// Boots a guest and runs the plan until its end or its first failure.
    fn guest(&mut self, group: &Group, plan: StressPlan) -> Result<Tested, Error> {
        let remote = Remote::default();
        let record = Arc::new(Mutex::new(Record::new(plan.last)));
        *lock(&self.told) = Told::default();
        let guest = tester::Guest {
            vm: &self.vm,
            ui: self.ui,
            console: Arc::clone(&self.console),
            driver: Some(self.driver.clone()),
            files: Vec::new(),
            step: format!("Running scenarios (machine: {})", group.machine.name()),
            remote: remote.clone(),
        };
        let teller = Teller {
            before: self.run.tests.len(),
            seed: self.seed,
            text: self.text,
            ui: self.ui.clone(),
            remote: remote.clone(),
            told: Arc::clone(&self.told),
        };
        let told = Arc::clone(&self.told);
        let observe = move |event: &VmEvent<'_>| match event {
            VmEvent::ServerStarted { control, .. } => {
                lock(&told).devices.push((*control).to_owned());
            }
            VmEvent::Failing(FailureKind::Lost(_) | FailureKind::Guest(_)) => {
                let devices = lock(&told).devices.clone();
                let said = device::ask(&devices);
                lock(&told).last_words = said;
            }
            _ => {}
        };
        let (ended, end) = bounded::<()>(0);
        let told = Arc::clone(&self.told);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while end.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    let (heard, wake) = {
                        let told = lock(&told);
                        (told.heard, told.wake)
                    };
                    if wake {
                        remote.order(Order::PressPower);
                    }
                    if heard.is_some_and(|heard| heard.elapsed() > LIMIT + SILENCE) {
                        let limit = (LIMIT + SILENCE).as_secs();
                        remote.order(Order::Stop(format!("it said nothing for {limit} s")));
                    }
                }
            });
            let tell = move |event: &TestEvent, record: &Record| teller.tell(event, record);
            let tested = guest.run(&RunnerPlan::Stress(plan), &record, tell, observe);
            drop(ended);
            tested
        })
    }

    /// Adds what came of a guest to all that came before.
    fn take(&mut self, run: Run, cut_off: Option<&TestEnd>) -> Result<(), Error> {
        let (mut said, last_words) = {
            let mut told = lock(&self.told);
            let said = std::mem::take(&mut told.said);
            (said, std::mem::take(&mut told.last_words))
        };
        let mut lines = Vec::new();
        if let Some(end) = cut_off {
            lines.extend(tap::test(self.run.tests.len() + run.tests.len(), end));
            lines.extend(tap::more(after_failure(&last_words, self.seed, end)));
            // The test that the guest was lost in is the last one that failed.
            said.push(last_words);
        } else if !last_words.is_empty() {
            lines.extend(tap::more(device::told(&last_words)));
        }
        for line in lines {
            self.print(&line)?;
        }
        let mut said = said.into_iter();
        for mut test in run.tests {
            let round = test.round.unwrap_or(1);
            test.round = Some(round);
            test.seed = Some(seed_of_round(self.seed, round));
            if test.result == TestResult::Fail {
                test.devices = said.next().unwrap_or_default();
            }
            self.run.add(test);
        }
        self.run.checks.extend(run.checks);
        for line in run.kernel_warnings {
            // Whether such a line belongs to its scenario was looked at in the guest.
            if reports::is_upstreams(&line) || reports::is_out_of_memory(&line) {
                continue;
            }
            if !self.run.kernel_warnings.contains(&line) {
                self.run.kernel_warnings.push(line);
            }
        }
        Ok(())
    }

    /// The lines that come last.
    fn end(&self, plan: bool) -> Result<(), Error> {
        if plan {
            self.print(&tap::plan(self.run.tests.len()))?;
        }
        for line in tap::tail(&self.run) {
            self.print(&line)?;
        }
        Ok(())
    }

    fn print(&self, line: &str) -> Result<(), Error> {
        Ok(self.text.print(line, self.ui)?)
    }
}

/// Tells the events of one guest.
struct Teller {
    /// Tests of the guests before.
    before: usize,
    seed: u32,
    text: Text,
    ui: Ui,
    remote: Remote,
    told: Arc<Mutex<Told>>,
}

impl Teller {
    fn tell(&self, event: &TestEvent, record: &Record) -> std::io::Result<()> {
        lock(&self.told).heard = Some(Instant::now());
        let lines = match event {
            TestEvent::Began { name, .. } => began(name, record, Some(self.text), &self.ui),
            TestEvent::Ended(end) => {
                lock(&self.told).wake = false;
                let mut lines = tap::test(self.before + record.ended(), end);
                if end.result == TestResult::Fail {
                    let devices = lock(&self.told).devices.clone();
                    let said = device::ask(&devices);
                    lines.extend(tap::more(after_failure(&said, self.seed, end)));
                    lock(&self.told).said.push(said);
                }
                lines
            }
            TestEvent::Asked { request } => {
                match *request {
                    HostRequest::Unplug { gpu } => self.remote.order(Order::Unplug(gpu)),
                    HostRequest::Replug { gpu } => self.remote.order(Order::Replug(gpu)),
                    HostRequest::Wake { on } => lock(&self.told).wake = on,
                }
                return Ok(());
            }
            TestEvent::Listed { .. } | TestEvent::NoSuchTest { .. } | TestEvent::Done => {
                return Ok(());
            }
        };
        for line in lines {
            self.text.print(&line, &self.ui)?;
        }
        Ok(())
    }
}

/// What the devices have said, and how to do it again.
fn after_failure(said: &[String], seed: u32, end: &TestEnd) -> Vec<String> {
    let mut lines = device::told(said);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seed = seed_of_round(seed, end.round);
    let command = repeat::command(&arguments, &end.name, seed);
    lines.push(format!("to repeat it: {command}"));
    lines
}
