//! The commands, and what they share.

mod alternate;
mod bench;
mod compare;
mod doctor;
mod inject;
mod kernel;
mod output;
mod report;
mod run;
mod selftest;
mod serve;
mod shell;
mod smi;
mod stress;
mod tester;
mod top;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Once, OnceLock};

use anyhow::Context;

use crate::cli::{Cli, Command, MachineArgs};
use crate::exit;
use crate::interrupt::Interrupt;
use crate::profile::{Profile, ProfileError};
use crate::progress::Ui;
use crate::views::checks;
use crate::vm::{FailureKind, Metrics, VmError, VmEvent, VmOptions, sink};
use hmmgpu_guest_protocol::Event;
use hmmgpu_telemetry::snapshot::Snapshot;

/// Runs a command and gives its exit code. Its error, if any, has been told.
pub(crate) fn run(cli: &Cli) -> u8 {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info,hmmgpu=debug,hmmgpu_images=debug,hmmgpu_server=debug",
        (false, _) => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("HMMGPU_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    if let Command::Serve(args) = &cli.command {
        return told(serve::serve(args), None);
    }
    let ui = Ui::new(cli.quiet, cli.verbose > 0);
    let interrupt = Interrupt::new();
    if let Err(error) = interrupt_on_signals(&interrupt, &ui) {
        return told(
            Err(Error::Host(error.context("cannot handle signals"))),
            Some(&ui),
        );
    }
    let result = match &cli.command {
        Command::Bench(args) => bench::bench(args, &ui, &interrupt),
        Command::Report(args) => report::report(args, &ui),
        Command::Compare(args) => compare::compare(args),
        Command::Selftest(args) => selftest::selftest(args, &ui, &interrupt),
        Command::Stress(args) => stress::stress(args, &ui, &interrupt),
        Command::Run(args) => run::run(args, &ui, &interrupt),
        Command::Shell(args) => shell::shell(args, &ui, &interrupt),
        Command::Smi(args) => smi::smi(args, &interrupt),
        Command::Top(args) => top::top(args, &interrupt),
        Command::Inject(args) => inject::inject(args, &ui, &interrupt),
        Command::Kernel(args) => kernel::kernel(args, &ui, &interrupt),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Serve(_) => return exit::HOST,
    };
    ui.clear();
    told(result, Some(&ui))
}

/// Why a command has no result.
pub(crate) enum Error {
    /// Wrong arguments that only show when they are put together.
    Usage(String),
    /// A profile.
    Profile(ProfileError),
    /// A guest.
    Vm(VmError),
    /// The host.
    Host(anyhow::Error),
}

impl From<ProfileError> for Error {
    fn from(error: ProfileError) -> Self {
        Self::Profile(error)
    }
}

impl From<VmError> for Error {
    fn from(error: VmError) -> Self {
        Self::Vm(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Host(error.into())
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Host(error)
    }
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Profile(_) => exit::USAGE,
            Self::Vm(error) => error.exit_code(),
            Self::Host(error) if is_broken_pipe(error) => exit::OK,
            Self::Host(_) => exit::HOST,
        }
    }
}

/// The reader of our output has read enough: no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Tells an error and gives the exit code.
fn told(result: Result<u8, Error>, ui: Option<&Ui>) -> u8 {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    let code = error.exit_code();
    let mut lines = Vec::new();
    match &error {
        Error::Usage(message) => lines.push(format!("hmmgpu: error: {message}")),
        Error::Profile(error) => lines.push(format!("hmmgpu: error: {error}")),
        Error::Host(error) if code != exit::OK => lines.push(format!("hmmgpu: error: {error:#}")),
        Error::Host(_) => {}
        Error::Vm(VmError::Failed(failure)) => {
            match failure.kind {
                FailureKind::BrokenPipe => return code,
                // Who pressed Ctrl-C knows it.
                FailureKind::Interrupted(_) => return code,
                _ => {}
            }
            if !failure.console.is_empty() {
                lines.push("The last lines of the guest's console:".into());
                lines.extend(failure.console.iter().map(|line| format!("  | {line}")));
            }
            if !failure.messages.is_empty() {
                lines.push("QEMU and the device servers said:".into());
                lines.extend(failure.messages.iter().map(|line| format!("  | {line}")));
            }
            let telemetry = failure.telemetry.iter().map(Option::as_ref);
            lines.extend(headed(checks::lines_of_gpus(telemetry)));
            lines.push(format!("hmmgpu: error: {}", failure.kind));
        }
        Error::Vm(error) => lines.push(format!("hmmgpu: error: {error}")),
    }
    if let Some(ui) = ui {
        ui.clear();
    }
    let mut stderr = io::stderr().lock();
    for line in lines {
        // Without standard error there is nobody to tell.
        let _ = writeln!(stderr, "{line}");
    }
    code
}

/// SIGINT, SIGTERM and SIGHUP interrupt what runs; where nothing watches for that, such as while
/// images are made, they end the program.
fn interrupt_on_signals(interrupt: &Interrupt, ui: &Ui) -> anyhow::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let interrupt = interrupt.clone();
    let ui = ui.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if !interrupt.trip(signal) {
                    ui.clear();
                    std::process::exit(exit::of_signal(signal).into());
                }
            }
        })?;
    Ok(())
}

/// The options for a machine of these arguments; `usual` is the profile where none is named.
fn vm_options(
    args: &MachineArgs,
    usual: &str,
    ui: &Ui,
    interrupt: &Interrupt,
) -> Result<VmOptions, Error> {
    let mut profile = Profile::load(args.profile.as_deref().unwrap_or(usual))?;
    profile.kernel = args.kernel.clone().or(profile.kernel);
    profile.accel = args.accel.unwrap_or(profile.accel);
    profile.memory = args.memory.unwrap_or(profile.memory);
    profile.vram = args.vram.unwrap_or(profile.vram);
    profile.check = args.check.unwrap_or(profile.check);
    profile.gpus = args.gpus.unwrap_or(profile.gpus);
    profile.cpus = args.cpus.or(profile.cpus);
    profile.inject.extend_from_slice(&args.inject);
    profile.link = args.link.clone().or(profile.link);
    let mut options = VmOptions::new(profile);
    options.kernel_args.clone_from(&args.kernel_args);
    options.timeout = args.timeout;
    options.interrupt = interrupt.clone();
    options.images.progress = Arc::new(ui.clone());
    options.metrics = args.outputs.metrics.map(|at| metrics(at, ui)).transpose()?;
    options.trace.clone_from(&args.outputs.trace);
    options.sandbox = !args.no_sandbox;
    tell_of_the_sandbox(options.sandbox);
    if let Some(trace) = &options.trace {
        // Before minutes of work, not after.
        let made = (0..options.profile.gpus).try_for_each(|gpu| {
            let path = hmmgpu_server::trace_path(trace, gpu);
            ui.note(&format!("trace of GPU {gpu}: {}", path.display()));
            std::fs::File::create(&path)
                .map(drop)
                .with_context(|| format!("cannot write {}", path.display()))
        });
        made?;
    }
    Ok(options)
}

/// Says what a device server keeps that it does not need, if anything; once.
fn tell_of_the_sandbox(wanted: bool) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        let lost = if wanted {
            hmmgpu_sandbox::missing()
        } else {
            let lost = "--no-sandbox: the device server is not confined, so that a mistake in it \
                        gives a guest all files of this user, and any system call";
            vec![lost.to_owned()]
        };
        if !lost.is_empty() {
            tracing::warn!("{}", lost.join("; "));
        }
    });
}

/// The endpoint for metrics of this process, which has one however many machines it starts.
fn metrics(address: SocketAddr, ui: &Ui) -> Result<Arc<Metrics>, Error> {
    static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();
    if let Some(metrics) = METRICS.get() {
        return Ok(Arc::clone(metrics));
    }
    let metrics = Metrics::start(address)
        .with_context(|| format!("cannot serve metrics at {address}: choose another port"))?;
    ui.note(&format!("metrics at http://{}/metrics", metrics.address()));
    Ok(Arc::clone(METRICS.get_or_init(|| Arc::new(metrics))))
}

/// Where the guest's console goes: to the UI, and into the file that was asked for.
fn console_sink(args: &MachineArgs, ui: &Ui) -> Result<crate::vm::LineSink, Error> {
    let mut file = match &args.console_log {
        None => None,
        Some(path) => Some(std::fs::File::create(path).map_err(|error| {
            anyhow::Error::from(error).context(format!("cannot write {}", path.display()))
        })?),
    };
    let ui = ui.clone();
    Ok(Arc::new(std::sync::Mutex::new(move |line: &str| {
        let written = file.as_mut().map(|file| writeln!(file, "{line}"));
        if let Some(Err(error)) = written {
            tracing::warn!("the console log is not written any more: {error}");
            file = None;
        }
        ui.console_line(line);
    })))
}

/// Standard output as a sink.
fn stdout_sink() -> crate::vm::Sink {
    sink(io::stdout())
}

/// A file to copy into the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFile {
    /// Path on the host.
    pub host: PathBuf,
    /// Absolute path in the guest.
    pub guest: String,
}

/// Where files without a path of their own go.
const GUEST_FOLDER: &str = "/usr/local/bin";

impl FromStr for GuestFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, guest) = match text.rsplit_once(':') {
            // A colon belongs to the host's path when no absolute path follows.
            Some((host, guest)) if guest.starts_with('/') => (host, Some(guest.to_owned())),
            _ => (text, None),
        };
        let host = PathBuf::from(host);
        std::fs::metadata(&host)
            .map_err(|error| format!("cannot read {}: {error}", host.display()))?;
        let name = host.file_name().and_then(|name| name.to_str());
        let guest = match (guest, name) {
            (Some(guest), Some(name)) if guest.ends_with('/') => format!("{guest}{name}"),
            (Some(guest), _) => guest,
            (None, Some(name)) => format!("{GUEST_FOLDER}/{name}"),
            (None, None) => {
                return Err(format!(
                    "{}: give its path in the guest: HOST:GUEST",
                    host.display()
                ));
            }
        };
        if guest.split('/').any(|part| part == "..") {
            return Err(format!(
                "'{guest}' has '..' in it; give a plain absolute path"
            ));
        }
        Ok(Self { host, guest })
    }
}

/// As [`crate::vm::Vm::run`] takes them.
fn guest_files(files: &[GuestFile]) -> Vec<(PathBuf, String)> {
    files
        .iter()
        .map(|file| (file.host.clone(), file.guest.clone()))
        .collect()
}

/// Tells a step of a run.
fn tell_step(event: &VmEvent<'_>, ui: &Ui) {
    match event {
        VmEvent::Trying { accel, why } => {
            tracing::info!("{accel}: {why}");
            ui.step(&format!("Booting a guest ({accel})"));
            ui.show_console(true);
        }
        VmEvent::FellBack { from, to, reason } => {
            ui.note(&format!(
                "{from} does not work on this host ({reason}); using {to}"
            ));
        }
        VmEvent::SlowHost { gpu, set, reached } => ui.warn(&format!(
            "GPU {gpu}: the host is slower than the link: {:.1} of {:.1} GB/s were reached",
            reached / 1e9,
            set / 1e9
        )),
        VmEvent::Guest(Event::Booted { kernel, uptime, .. }) => {
            tracing::info!("Linux {kernel} reached user space in {uptime:.1} s");
        }
        VmEvent::ServerStarted { .. }
        | VmEvent::QemuStarted { .. }
        | VmEvent::Failing(_)
        | VmEvent::Guest(_) => {}
    }
}

/// Tells what the checkers of VRAM found.
fn tell_checks(telemetry: &[Snapshot], ui: &Ui) {
    let found = checks::lines_of_gpus(telemetry.iter().map(Some));
    for line in headed(found) {
        ui.warn(&line);
    }
}

/// Reports of the checkers of VRAM, below what they are; nothing where there are none.
fn headed(found: Vec<String>) -> Vec<String> {
    if found.is_empty() {
        return found;
    }
    let heading = "the checker of VRAM found errors of the driver:".to_owned();
    let lines = found.into_iter().map(|line| format!("  | {line}"));
    std::iter::once(heading).chain(lines).collect()
}

/// Tells warnings of the guest's kernel.
fn tell_kernel_warnings(warnings: &[String], ui: &Ui) {
    if warnings.is_empty() {
        return;
    }
    ui.warn(&format!(
        "the guest's kernel gave {} warnings:",
        warnings.len()
    ));
    for line in warnings {
        ui.warn(&format!("  | {}", crate::text::printable(line.as_bytes())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_where_they_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("work:load");
        std::fs::write(&path, "x").expect("writes");
        let shown = path.display();
        let guest = |text: String| text.parse::<GuestFile>().map(|file| file.guest);
        assert_eq!(
            guest(format!("{shown}")),
            Ok("/usr/local/bin/work:load".into())
        );
        assert_eq!(guest(format!("{shown}:/a/b")), Ok("/a/b".into()));
        assert_eq!(guest(format!("{shown}:/a/")), Ok("/a/work:load".into()));
        assert!(
            guest(format!("{shown}:/a/../b"))
                .expect_err("refused")
                .contains("'..'")
        );
        assert!(
            guest("/nonexistent".into())
                .expect_err("refused")
                .contains("/nonexistent")
        );
    }

    #[test]
    fn exit_codes_of_errors() {
        use crate::vm::{Environment, Failure};
        let failed = |kind| {
            Error::from(VmError::Failed(Box::new(Failure {
                kind,
                console: vec![],
                messages: vec![],
                telemetry: vec![],
                environment: Environment::default(),
            })))
            .exit_code()
        };
        assert_eq!(failed(FailureKind::CouldNotRun(String::new())), 121);
        assert_eq!(failed(FailureKind::Lost(String::new())), 122);
        assert_eq!(
            failed(FailureKind::TimedOut(std::time::Duration::ZERO)),
            123
        );
        assert_eq!(failed(FailureKind::Guest(String::new())), 124);
        assert_eq!(failed(FailureKind::Interrupted(2)), 130);
        assert_eq!(failed(FailureKind::Interrupted(15)), 143);
        assert_eq!(failed(FailureKind::BrokenPipe), 0);
        assert_eq!(Error::Usage(String::new()).exit_code(), 2);
        assert_eq!(Error::from(io::Error::other("x")).exit_code(), 125);
        assert_eq!(
            Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(),
            0
        );
    }
}
