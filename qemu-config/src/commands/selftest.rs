//! `hmmgpu selftest`: upstream's own tests in a guest with two GPUs.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use hmmgpu_guest_protocol::selftest::{RUNNER, SelftestEvent, SelftestPlan, TestEnd};
use hmmgpu_guest_protocol::{Event, Job};
use hmmgpu_images::{ImageError, KernelSource};

use super::output::Output;
use super::{Error, console_sink, tell_kernel_warnings, tell_step, vm_options};
use crate::cli::{OtherDriver, SelftestArgs};
use crate::exit;
use crate::interrupt::Interrupt;
use crate::lines::{LineTail, Lines};
use crate::progress::Ui;
use crate::selftest::record::{Ending, Record};
use crate::selftest::result::{Against, Run, SCHEMA, SelftestResult};
use crate::selftest::{compare, tap};
use crate::text::printable;
use crate::vm::{Environment, Failure, FailureKind, Vm, VmError, VmEvent, VmIo, job, sink};

/// GPUs that upstream's tests open.
const GPUS: u32 = 2;
/// Their nodes, which this parameter of the driver makes.
const DEVICES: [&str; 2] = ["/dev/hmm_dmirror0", "/dev/hmm_dmirror1"];
const DRIVER_PARAMETER: &str = "dmirror=1";
/// Variants of the tests that are for device-private memory.
const VARIANTS: [&str; 2] = ["hmm_device_private", "hmm2_device_private"];
/// Where the guest has the program and the other driver's module.
const PROGRAM: &str = "/usr/local/bin/hmm-tests";
const MODULE: &str = "/usr/local/lib/test_hmm.ko";
/// Name of the other driver.
const TEST_HMM: &str = "test_hmm";
/// Longest event of the runner that is read.
const MAX_EVENT: usize = 1 << 20;

pub(super) fn selftest(args: &SelftestArgs, ui: &Ui, interrupt: &Interrupt) -> Result<u8, Error> {
    let mut options = vm_options(&args.machine, "two-gpus", ui, interrupt)?;
    options.label = "selftest".to_owned();
    if options.profile.gpus < GPUS {
        return Err(Error::Usage(format!(
            "upstream's tests need {GPUS} GPUs and this machine has {}: add --gpus {GPUS}",
            options.profile.gpus
        )));
    }
    let source = args.kernel_source.as_deref().map(KernelSource::at);
    let source = source.transpose().map_err(VmError::from)?;
    // Before minutes of work, not after.
    let json = args.json.as_deref().map(Output::open).transpose()?;
    let console = console_sink(&args.machine, ui)?;

    let vm = Vm::prepare(options)?;
    let made = make(&vm, source, args.against)?;
    if !made.source.fits(vm.kernel()) {
        ui.warn(&format!(
            "the tests are of Linux {} and the guest runs {}: some may fail for that",
            made.source.version,
            vm.kernel().release
        ));
    }
    let tester = Tester {
        vm: &vm,
        args,
        ui,
        console,
        program: &made.program,
    };

    let mut driver = DRIVER_PARAMETER.to_owned();
    if !args.machine.driver_params.is_empty() {
        driver = format!("{driver} {}", args.machine.driver_params);
    }
    // Where the JSON needs standard output, the text goes to standard error.
    let text = if matches!(json, Some(Output::Stdout)) {
        Text::Stderr
    } else {
        Text::Stdout
    };
    let ours = tester.run(Some(&driver), None, Some(text))?;
    let mut result = SelftestResult {
        schema: SCHEMA,
        environment: ours.environment,
        tests_version: made.source.version.clone(),
        loops: args.loops,
        run: ours.run,
        against: None,
    };
    let mut failure = ours.failure;
    if let (Some(module), None) = (&made.module, &failure) {
        let theirs = tester.run(None, Some(module), None)?;
        tell_kernel_warnings(&theirs.run.kernel_warnings, ui);
        for line in compare::table(&result.run, TEST_HMM, &theirs.run) {
            text.print(&line, ui)?;
        }
        result.against = Some(Against {
            driver: TEST_HMM,
            environment: theirs.environment,
            run: theirs.run,
        });
        failure = theirs.failure;
    }
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

/// What is made for the guests.
struct Made {
    source: KernelSource,
    program: PathBuf,
    /// The other driver, if it was asked for.
    module: Option<PathBuf>,
}

fn make(
    vm: &Vm,
    source: Option<KernelSource>,
    against: Option<OtherDriver>,
) -> Result<Made, VmError> {
    vm.make(|images, root, kernel| -> Result<Made, ImageError> {
        let source = match source {
            Some(source) => source,
            None => images.kernel_source(root, kernel)?,
        };
        let program = images.hmm_tests(root, &source)?;
        let module = match against {
            Some(OtherDriver::TestHmm) => Some(images.test_hmm(kernel, &source)?),
            None => None,
        };
        Ok(Made {
            source,
            program,
            module,
        })
    })
}

/// Where results are printed as they come.
#[derive(Clone, Copy)]
enum Text {
    Stdout,
    Stderr,
}

impl Text {
    fn print(self, line: &str, ui: &Ui) -> io::Result<()> {
        match self {
            Self::Stdout => ui.print(line),
            Self::Stderr => {
                ui.warn(line);
                Ok(())
            }
        }
    }
}

/// Runs the tests in guests of one kind.
struct Tester<'a> {
    vm: &'a Vm,
    args: &'a SelftestArgs,
    ui: &'a Ui,
    console: crate::vm::LineSink,
    program: &'a PathBuf,
}

/// What came of one guest.
struct Tested {
    run: Run,
    /// The test that the guest broke down in; it is in `run` too.
    cut_off: Option<TestEnd>,
    environment: Environment,
    /// The guest ended before its runner did.
    failure: Option<Box<Failure>>,
}

impl Tester<'_> {
    /// With hmmgpu's driver and its parameters, or with the module of another one; `text`: print
    /// TAP there.
    fn run(
        &self,
        driver: Option<&str>,
        module: Option<&PathBuf>,
        text: Option<Text>,
    ) -> Result<Tested, Error> {
        let plan = SelftestPlan {
            program: PROGRAM.to_owned(),
            module: module.map(|_| MODULE.to_owned()),
            devices: DEVICES.map(str::to_owned).to_vec(),
            variants: VARIANTS.map(str::to_owned).to_vec(),
            only: self.args.only.clone(),
            skip: self.args.skip.clone(),
            loops: self.args.loops,
        };
        let plan = serde_json::to_string(&plan).context("cannot write the plan")?;
        let job = Job {
            driver: driver.map(str::to_owned),
            ..job([RUNNER, &plan], "")
        };
        let mut files = vec![(self.program.clone(), PROGRAM.to_owned())];
        files.extend(module.map(|module| (module.clone(), MODULE.to_owned())));

        let record = Arc::new(Mutex::new(Record::new(self.args.loops)));
        let reader = Arc::clone(&record);
        let ui = self.ui.clone();
        let output = sink(Lines::new(MAX_EVENT, move |line: &[u8]| {
            let Ok(event) = serde_json::from_slice(line) else {
                ui.warn(&format!("{RUNNER} said '{}'", printable(line)));
                return Ok(());
            };
            let mut record = lock(&reader);
            record.take(&event);
            tell(&event, &record, text, &ui)
        }));
        let messages = Arc::new(Mutex::new(LineTail::new()));
        let on = module.map_or("hmmgpu", |_| TEST_HMM);
        let mut observer = |event: &VmEvent<'_>| {
            tell_step(event, self.ui);
            if let VmEvent::Guest(Event::Started) = event {
                self.ui.show_console(false);
                self.ui.step(&format!("Running upstream's tests on {on}"));
            }
        };
        let ended = self.vm.run(
            &job,
            &files,
            VmIo {
                stdout: Some(output),
                stderr: Some(messages.clone()),
                console: Some(self.console.clone()),
                observer: Some(&mut observer),
                ..VmIo::default()
            },
        );
        self.ui.clear();
        let record = lock(&record);
        let said = lock(&messages).lines();
        let tested = match ended {
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
                let ending = Ending::Runner(words);
                Tested {
                    run: record.run(outcome.kernel_warnings, ending),
                    cut_off: None,
                    environment: outcome.environment,
                    failure: None,
                }
            }
            // What was found out before stays.
            Err(VmError::Failed(failure)) if !record.is_empty() => {
                let why = failure.kind.to_string();
                let ending = match failure.kind {
                    FailureKind::Lost(_) | FailureKind::Guest(_) => Ending::Lost(&why),
                    _ => Ending::Stopped(&why),
                };
                Tested {
                    run: record.run(Vec::new(), ending),
                    cut_off: record.cut_off(ending),
                    environment: failure.environment.clone(),
                    failure: Some(failure),
                }
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(text) = text {
            let mut lines = Vec::new();
            if let Some(end) = &tested.cut_off {
                lines.extend(tap::test(record.ended() + 1, end));
            }
            lines.extend(tap::tail(&tested.run));
            for line in lines {
                text.print(&line, self.ui)?;
            }
        }
        Ok(tested)
    }
}

/// Tells an event of the runner.
fn tell(event: &SelftestEvent, record: &Record, text: Option<Text>, ui: &Ui) -> io::Result<()> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (done, planned) = (count(record.ended()), count(record.planned()));
    let lines = match event {
        // That there is nothing to run is told as an error.
        SelftestEvent::Listed { .. } if record.selects_nothing() => return Ok(()),
        SelftestEvent::Listed { .. } => tap::head(record.planned()),
        SelftestEvent::Began { name, .. } => {
            match text {
                Some(_) => ui.live_steps(done, planned, name),
                None => ui.steps(done, planned, name),
            }
            let new = record.new_round();
            new.map(|(round, loops)| tap::round(round, loops))
                .into_iter()
                .collect()
        }
        SelftestEvent::Ended(end) => tap::test(record.ended(), end),
        SelftestEvent::NoSuchTest { .. } | SelftestEvent::Done => return Ok(()),
    };
    for line in lines {
        if let Some(text) = text {
            text.print(&printable(line.as_bytes()), ui)?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
