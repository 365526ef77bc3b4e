//! `hmmgpu selftest`: upstream's own tests in a guest with two GPUs.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use hmmgpu_guest_protocol::runner::{RunnerPlan, TestEvent};
use hmmgpu_guest_protocol::selftest::SelftestPlan;
use hmmgpu_images::{ImageError, KernelSource};

use super::output::Output;
use super::tester::{Guest, Tested, Text, began, lock};
use super::{Error, console_sink, tell_kernel_warnings, vm_options};
use crate::cli::{OtherDriver, SelftestArgs};
use crate::exit;
use crate::interrupt::Interrupt;
use crate::progress::Ui;
use crate::selftest::compare;
use crate::selftest::result::{Against, SCHEMA, SelftestResult};
use crate::testing::record::Record;
use crate::testing::tap;
use crate::vm::{Remote, Vm, VmError};

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

/// Runs the tests in guests of one kind.
struct Tester<'a> {
    vm: &'a Vm,
    args: &'a SelftestArgs,
    ui: &'a Ui,
    console: crate::vm::LineSink,
    program: &'a PathBuf,
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
        let mut files = vec![(self.program.clone(), PROGRAM.to_owned())];
        files.extend(module.map(|module| (module.clone(), MODULE.to_owned())));
        let on = module.map_or("hmmgpu", |_| TEST_HMM);
        let guest = Guest {
            vm: self.vm,
            ui: self.ui,
            console: self.console.clone(),
            driver: driver.map(str::to_owned),
            files,
            step: format!("Running upstream's tests on {on}"),
            remote: Remote::default(),
        };
        let record = Arc::new(Mutex::new(Record::new(Some(self.args.loops))));
        let ui = self.ui.clone();
        let tell = move |event: &TestEvent, record: &Record| tell(event, record, text, &ui);
        let plan = RunnerPlan::Selftest(plan);
        let tested = guest.run(&plan, &record, tell, |_| {})?;
        if let Some(text) = text {
            let mut lines = Vec::new();
            if let Some(end) = &tested.cut_off {
                lines.extend(tap::test(lock(&record).ended() + 1, end));
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
fn tell(event: &TestEvent, record: &Record, text: Option<Text>, ui: &Ui) -> io::Result<()> {
    let lines = match event {
        // That there is nothing to run is told as an error.
        TestEvent::Listed { .. } if record.selects_nothing() => return Ok(()),
        TestEvent::Listed { .. } => {
            let planned = record.planned().unwrap_or_default();
            vec![tap::VERSION.to_owned(), tap::plan(planned)]
        }
        TestEvent::Began { name, .. } => began(name, record, text, ui),
        TestEvent::Ended(end) => tap::test(record.ended(), end),
        TestEvent::Asked { .. } | TestEvent::NoSuchTest { .. } | TestEvent::Done => return Ok(()),
    };
    for line in lines {
        if let Some(text) = text {
            text.print(&line, ui)?;
        }
    }
    Ok(())
}
