//! A guest: the device servers, QEMU and the guest's init, started, watched and cleaned up.
//!
//! [`Vm::prepare`] makes everything that takes long (tool root, kernel, driver, initramfs), once;
//! [`Vm::run`] boots a guest for one [`Job`] and gives what came of it. Whatever happens, no
//! process, socket or file of a run is left when it returns; and when this process is killed,
//! its children die with it and the next run removes its folder.

mod attempt;
mod metrics;
mod ports;
mod remote;
pub mod runtime_dir;
mod supervise;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmmgpu_guest_protocol::{Event, ExitStatus, Job, PROTOCOL_VERSION};
use hmmgpu_images::{ImageError, Images, ImagesOptions, Kernel, ToolRoot};
use hmmgpu_telemetry::CheckMode;
use hmmgpu_telemetry::snapshot::Snapshot;
use serde::{Deserialize, Serialize};

use crate::accel::{self, Accel, Finding, HostKey, Memory};
use crate::interrupt::Interrupt;
use crate::profile::Profile;

pub use metrics::Metrics;
pub use remote::{Order, Remote};

/// What a guest is made of and how long it may take.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// The machine. Change its fields for other sizes.
    pub profile: Profile,
    /// Words for the guest kernel's command line, after the profile's.
    pub kernel_args: Vec<String>,
    /// What the devices are called where their telemetry is shown: the command.
    pub label: String,
    /// Tells of the devices, if it is there.
    pub metrics: Option<Arc<Metrics>>,
    /// Where the first device's trace goes, if anywhere; those of others go beside it, see
    /// [`hmmgpu_server::trace_path`].
    pub trace: Option<PathBuf>,
    /// Confine the device servers.
    pub sandbox: bool,
    /// Time from the start of the machine to the end of the command.
    pub timeout: Option<Duration>,
    /// Time to reach user space; another accelerator is tried after it.
    pub boot_timeout: BootTimeout,
    /// A program whose `serve` subcommand is the device server; see [`find_server_program`].
    pub server_program: Option<PathBuf>,
    /// Where tool root, kernel and initramfs come from.
    pub images: ImagesOptions,
    /// Stops a run.
    pub interrupt: Interrupt,
}

/// Time to reach user space, for each accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootTimeout {
    /// With KVM.
    pub kvm: Duration,
    /// With TCG, on a host that may be busy.
    pub tcg: Duration,
}

impl Default for BootTimeout {
    fn default() -> Self {
        Self {
            kvm: Duration::from_secs(60),
            tcg: Duration::from_secs(240),
        }
    }
}

impl VmOptions {
    /// A machine of this profile, with everything else at its default.
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            kernel_args: Vec::new(),
            label: "run".to_owned(),
            metrics: None,
            trace: None,
            sandbox: true,
            timeout: None,
            boot_timeout: BootTimeout::default(),
            server_program: None,
            images: ImagesOptions::default(),
            interrupt: Interrupt::new(),
        }
    }
}

/// Where output of the guest goes; shared, because a second attempt with another accelerator
/// uses the same.
pub type Sink = Arc<Mutex<dyn Write + Send>>;

/// A sink for this writer.
pub fn sink(writer: impl Write + Send + 'static) -> Sink {
    Arc::new(Mutex::new(writer))
}

/// Called for each line of the guest's console.
pub type LineSink = Arc<Mutex<dyn FnMut(&str) + Send>>;

/// What the command in the guest reads.
#[derive(Debug, Default)]
pub enum Stdin {
    /// Nothing: end of file at once.
    #[default]
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// Whatever comes from this file, pipe or terminal.
    File(OwnedFd),
}

/// What a run is connected to.
#[derive(Default)]
pub struct VmIo<'a> {
    /// The command's standard input.
    pub stdin: Stdin,
    /// The command's standard output; `None`: dropped. A broken pipe ends the run.
    pub stdout: Option<Sink>,
    /// The command's standard error; `None`: dropped.
    pub stderr: Option<Sink>,
    /// For an interactive job: what is typed; its output goes to `stdout`.
    pub terminal: Option<OwnedFd>,
    /// Each line of the kernel's console.
    pub console: Option<LineSink>,
    /// Reaches into the run from other threads.
    pub remote: Option<Remote>,
    /// Each step of the run, on the calling thread.
    pub observer: Option<&'a mut dyn FnMut(&VmEvent<'_>)>,
}

impl std::fmt::Debug for VmIo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmIo")
            .field("stdin", &self.stdin)
            .finish_non_exhaustive()
    }
}

/// A step of a run.
#[derive(Clone, Debug)]
pub enum VmEvent<'a> {
    /// A guest is about to start.
    Trying {
        /// With this accelerator.
        accel: Accel,
        /// For this reason.
        why: &'a str,
    },
    /// No guest reached user space; another accelerator is next.
    FellBack {
        /// What did not work.
        from: Accel,
        /// What is next.
        to: Accel,
        /// What was seen.
        reason: &'a str,
    },
    /// A device server listens; there is one for each GPU.
    ServerStarted {
        /// Its process.
        pid: u32,
        /// The number of its GPU, in their order on the bus.
        gpu: u32,
        /// Its control socket.
        control: &'a Path,
    },
    /// The machine runs.
    QemuStarted {
        /// The process of the sandbox around QEMU; QEMU ends with it.
        pid: u32,
        /// QEMU's arguments.
        arguments: &'a [String],
    },
    /// A modelled link is faster than the host copies: its rate was not reached.
    SlowHost {
        /// The number of its GPU.
        gpu: u32,
        /// Bytes a second that were asked for.
        set: f64,
        /// Bytes a second that were reached.
        reached: f64,
    },
    /// The guest's init says something.
    Guest(&'a Event),
    /// It ends without a result, and nothing is stopped yet: device servers that run can still be
    /// asked.
    Failing(&'a FailureKind),
}

/// What a guest ran on; part of every result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// `uname -r` in the guest.
    pub kernel: String,
    /// The guest kernel's command line.
    pub cmdline: String,
    /// QEMU's version.
    pub qemu: String,
    /// Accelerator.
    pub accel: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Revision of hmmgpu.
    pub revision: String,
    /// VRAM of each device, in bytes. None, here and below: an older hmmgpu did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_bytes: Option<u64>,
    /// How closely the use of VRAM was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckMode>,
    /// The link that was modelled, as for `--link`; `off`: as fast as the host copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The faults that were armed in each device from the beginning, as for `--inject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<Vec<String>>,
}

/// QEMU in the tool root.
const QEMU: &str = "qemu-system-x86_64";

/// Revision of this program: `git describe` of its source, else its version.
pub const REVISION: &str = env!("HMMGPU_REVISION");

/// A run whose command ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How the command ended.
    pub status: ExitStatus,
    /// Warnings, bugs and stalls in the guest kernel's log.
    pub kernel_warnings: Vec<String>,
    /// `/proc/sys/kernel/tainted` at the end.
    pub tainted: u64,
    /// All that each GPU has counted, in their order on the bus.
    pub telemetry: Vec<Snapshot>,
    /// Everything that init said.
    pub events: Vec<Event>,
    /// What it ran on.
    pub environment: Environment,
    /// The last lines of the kernel's console.
    pub console: Vec<String>,
}

/// A run that ended otherwise.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub kind: FailureKind,
    /// The last lines of the kernel's console.
    pub console: Vec<String>,
    /// The last lines that QEMU and the device servers wrote to standard error.
    pub messages: Vec<String>,
    /// All that each GPU has counted, where its server could still say.
    pub telemetry: Vec<Option<Snapshot>>,
    /// What it ran on, as far as known.
    pub environment: Environment,
}

impl Failure {
    /// Without anything to show.
    pub(crate) fn of(kind: FailureKind) -> Self {
        Self {
            kind,
            console: Vec::new(),
            messages: Vec::new(),
            telemetry: Vec::new(),
            environment: Environment::default(),
        }
    }
}

/// Why a run ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No guest reached user space.
    CouldNotRun(String),
    /// User space runs, but init could not do the job.
    Guest(String),
    /// QEMU, the device server or the guest's kernel went away.
    Lost(String),
    /// The time limit has passed.
    TimedOut(Duration),
    /// Somebody interrupted it; the number of the signal.
    Interrupted(i32),
    /// The reader of standard output went away: no error.
    BrokenPipe,
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CouldNotRun(why) => write!(f, "the VM could not run: {why}"),
            Self::Guest(why) => write!(f, "the guest cannot do the job: {why}"),
            Self::Lost(why) => write!(f, "the VM was lost: {why}"),
            Self::TimedOut(limit) => {
                write!(
                    f,
                    "the time limit of {} s has passed (--timeout)",
                    limit.as_secs()
                )
            }
            Self::Interrupted(signal) => write!(f, "interrupted by signal {signal}"),
            Self::BrokenPipe => f.write_str("nobody reads the output any more"),
        }
    }
}

/// No result.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// Tool root, kernel or initramfs cannot be had.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The options contradict each other or this host.
    #[error("{0}")]
    Options(String),
    /// The run failed.
    #[error("{}", .0.kind)]
    Failed(Box<Failure>),
}

impl VmError {
    /// The exit code for it.
    pub fn exit_code(&self) -> u8 {
        use crate::exit;
        match self {
            Self::Image(error) if error.is_usage() => exit::USAGE,
            Self::Image(_) => exit::MISSING,
            Self::Host { .. } => exit::HOST,
            Self::Options(_) => exit::USAGE,
            Self::Failed(failure) => match failure.kind {
                FailureKind::CouldNotRun(_) => exit::COULD_NOT_RUN,
                FailureKind::Guest(_) => exit::GUEST_FAILED,
                FailureKind::Lost(_) => exit::LOST,
                FailureKind::TimedOut(_) => exit::TIMED_OUT,
                FailureKind::Interrupted(signal) => exit::of_signal(signal),
                FailureKind::BrokenPipe => exit::OK,
            },
        }
    }
}

/// Error of the host, with what was tried.
pub(crate) fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> VmError {
    let what = what.into();
    move |source| VmError::Host { what, source }
}

/// The version in what QEMU says of itself, such as `QEMU emulator version 11.1.3 (Debian …)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let words = said.split_once("version ")?.1;
    let mut numbers = words.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().ok()?))
}

/// A job for this command, with the driver loaded with these parameters.
pub fn job(argv: impl IntoIterator<Item = impl Into<String>>, driver: &str) -> Job {
    Job {
        version: PROTOCOL_VERSION,
        argv: argv.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        interactive: false,
        terminal: None,
        driver: Some(driver.to_owned()),
    }
}

/// The program whose `serve` subcommand is the device server: this one when it is `hmmgpu`, else
/// `hmmgpu` beside it or in the folder above (where cargo puts it for tests).
///
/// A program with a `main` of its own can be its own server: it calls
/// [`crate::cli::serve_if_asked`] first and gives its own path in [`VmOptions::server_program`].
pub fn find_server_program() -> Result<PathBuf, VmError> {
    let here = std::env::current_exe().map_err(host("cannot find this program's own file"))?;
    if here.file_name().is_some_and(|name| name == "hmmgpu") {
        return Ok(here);
    }
    let folders = here.ancestors().skip(1).take(2);
    folders
        .map(|folder| folder.join("hmmgpu"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            VmError::Options(format!(
                "there is no hmmgpu program near {}, and it is the device server; build it with: cargo build -p hmmgpu",
                here.display()
            ))
        })
}

/// Everything that a guest needs, ready.
#[derive(Debug)]
pub struct Vm {
    options: VmOptions,
    server_program: PathBuf,
    images: Images,
    root: ToolRoot,
    kernel: Kernel,
    base_initramfs: PathBuf,
    memory: Memory,
}

/// Standard output and error of a command, with the outcome.
#[derive(Clone, Debug)]
pub struct Captured {
    /// How it went.
    pub outcome: Outcome,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Vm {
    /// Makes or finds tool root, kernel, driver and initramfs. The first time this takes minutes.
    pub fn prepare(options: VmOptions) -> Result<Self, VmError> {
        let server_program = match &options.server_program {
            Some(program) => program.clone(),
            None => find_server_program()?,
        };
        let images = Images::new(options.images.clone())?;
        let spec = options.profile.kernel.as_ref();
        spec.map_or(Ok(()), |spec| images.check_own_kernel(spec))?;
        let (root, kernel, base_initramfs) =
            interruptible(&options.images, &options.interrupt, || {
                let root = images.tool_root()?;
                let kernel = images.kernel(&root, spec)?;
                let base_initramfs = images.initramfs(&root, &kernel)?;
                Ok((root, kernel, base_initramfs))
            })?;
        let memory = Memory::new(images.cache_folder());
        Ok(Self {
            options,
            server_program,
            images,
            root,
            kernel,
            base_initramfs,
            memory,
        })
    }

    /// Major and minor version of the tool root's QEMU.
    pub fn qemu_version(&self) -> Result<(u32, u32), VmError> {
        let what = "cannot ask QEMU for its version";
        let output = self.root.command(QEMU, &[]).arg("--version").output();
        let output = output.map_err(host(what))?;
        let said = String::from_utf8_lossy(&output.stdout);
        version(&said).ok_or_else(|| VmError::Host {
            what: what.to_owned(),
            source: std::io::Error::other(format!("it said '{}'", said.trim())),
        })
    }

    /// Says what is wrong with the kernel of these options, as far as that can be told before
    /// anything is made.
    pub fn check_kernel(options: &VmOptions) -> Result<(), VmError> {
        let Some(spec) = &options.profile.kernel else {
            return Ok(());
        };
        let images = Images::new(options.images.clone())?;
        interruptible(&options.images, &options.interrupt, || {
            images.check_kernel(spec)
        })
    }

    /// Makes something more for guests of this root and kernel.
    pub fn make<T>(
        &self,
        make: impl FnOnce(&Images, &ToolRoot, &Kernel) -> Result<T, ImageError>,
    ) -> Result<T, VmError> {
        interruptible(&self.options.images, &self.options.interrupt, || {
            make(&self.images, &self.root, &self.kernel)
        })
    }

    /// The options, to be changed between runs. Those for the images have no effect any more.
    pub fn options_mut(&mut self) -> &mut VmOptions {
        &mut self.options
    }

    /// The kernel that guests run.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Boots a guest, with `files` (path on the host, path in the guest) in it, and runs the job.
    ///
    /// A command that fails is an [`Outcome`]; everything that keeps it from ending is an error.
    /// Children die when the calling thread ends.
    pub fn run(
        &self,
        job: &Job,
        files: &[(PathBuf, String)],
        mut io: VmIo<'_>,
    ) -> Result<Outcome, VmError> {
        let host_key = HostKey::here();
        let choice = self.options.profile.accel;
        let attempts = accel::attempts(
            choice,
            &accel::kvm_opens(),
            self.memory.recall(&host_key).as_ref(),
        );
        let mut kvm_failure: Option<String> = None;
        let mut why = attempts.why;
        for (index, accel) in attempts.order.iter().copied().enumerate() {
            io.tell(&VmEvent::Trying { accel, why: &why });
            let result = attempt::Attempt::new(self, accel).run(job, files, &mut io);
            let booted = match &result {
                Ok(_) => true,
                Err(VmError::Failed(failure)) => !failure.environment.kernel.is_empty(),
                Err(_) => false,
            };
            if booted {
                self.learn(accel, &host_key, kvm_failure);
                return result;
            }
            let next = attempts.order.get(index + 1).copied();
            match (&result, next) {
                (Err(VmError::Failed(failure)), Some(to)) => {
                    let FailureKind::CouldNotRun(reason) = &failure.kind else {
                        return result;
                    };
                    for line in &failure.messages {
                        tracing::debug!("{accel}: {line}");
                    }
                    io.tell(&VmEvent::FellBack {
                        from: accel,
                        to,
                        reason,
                    });
                    why = format!("{accel} did not work: {reason}");
                    kvm_failure = Some(reason.clone());
                }
                _ => return result,
            }
        }
        unreachable!("there is at least one attempt, and the last one returns")
    }

    /// Runs a command without input and collects its output.
    pub fn capture(&self, job: &Job, files: &[(PathBuf, String)]) -> Result<Captured, VmError> {
        let stdout = Arc::new(Mutex::new(Vec::new()));
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let io = VmIo {
            stdout: Some(stdout.clone()),
            stderr: Some(stderr.clone()),
            ..VmIo::default()
        };
        let outcome = self.run(job, files, io)?;
        let take = |sink: &Mutex<Vec<u8>>| {
            std::mem::take(
                &mut *sink
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
            )
        };
        Ok(Captured {
            outcome,
            stdout: take(&stdout),
            stderr: take(&stderr),
        })
    }

    /// Remembers what a guest that reached user space has proved: that KVM works, or, after it
    /// failed, that it was KVM and not the guest.
    fn learn(&self, accel: Accel, host_key: &HostKey, kvm_failure: Option<String>) {
        let finding = match (accel, kvm_failure) {
            (Accel::Kvm, _) => Finding {
                host: host_key.clone(),
                kvm_works: true,
                reason: String::new(),
            },
            (Accel::Tcg, Some(reason)) => Finding {
                host: host_key.clone(),
                kvm_works: false,
                reason,
            },
            (Accel::Tcg, None) => return,
        };
        if self.memory.recall(host_key).as_ref() == Some(&finding) {
            return;
        }
        if let Err(error) = self.memory.remember(&finding) {
            tracing::warn!("cannot remember whether KVM works: {error}");
        }
    }
}

/// Makes something that takes long, with images of these options, until the interrupt.
pub(crate) fn interruptible<T>(
    images: &ImagesOptions,
    interrupt: &Interrupt,
    make: impl FnOnce() -> Result<T, ImageError>,
) -> Result<T, VmError> {
    let cancel = Arc::clone(&images.cancel);
    let watch = interrupt.watch(move |_| cancel.store(true, Ordering::SeqCst));
    if interrupt.signal().is_some() {
        images.cancel.store(true, Ordering::SeqCst);
    }
    let made = make();
    drop(watch);
    match (made, interrupt.signal()) {
        (Err(ImageError::Interrupted { .. }), Some(signal)) => {
            let kind = FailureKind::Interrupted(signal);
            Err(VmError::Failed(Box::new(Failure::of(kind))))
        }
        (made, _) => Ok(made?),
    }
}

impl VmIo<'_> {
    fn tell(&mut self, event: &VmEvent<'_>) {
        if let Some(observer) = &mut self.observer {
            observer(event);
        }
    }
}

/// Reads the telemetry that a server has written.
fn read_snapshot(path: &Path) -> Result<Snapshot, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn qemu_tells_its_version() {
        let said = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)\nCopyright";
        assert_eq!(super::version(said), Some((11, 1)));
        assert_eq!(
            super::version("QEMU emulator version 12.0\n"),
            Some((12, 0))
        );
        assert_eq!(super::version("something else"), None);
    }
}
