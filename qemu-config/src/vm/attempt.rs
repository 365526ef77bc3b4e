//! One attempt to run a job with one accelerator: from an empty folder to nothing left.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, never, unbounded};
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus as ProcessStatus};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use hmmgpu_guest_protocol::{Event, ExitStatus, Job};
use hmmgpu_images::{Bind, Images};
use hmmgpu_telemetry::snapshot::Snapshot;

use super::ports::{CONNECT_TIME, Port, feed, feed_bytes, pump};
use super::remote::Order;
use super::runtime_dir::RuntimeDir;
use super::supervise::{Process, describe, was_ended};
use super::{
    Environment, Failure, FailureKind, LineSink, Outcome, QEMU, REVISION, Stdin, Vm, VmError,
    VmEvent, VmIo, host, read_snapshot,
};
use crate::accel::Accel;
use crate::qemu::command_line::{Machine, Sockets, gpu_device, gpu_id, kernel_args, needed_by};
use crate::qemu::qmp::{Notice, Qmp, QmpError};
use crate::qemu::ticks::host_khz;
use crate::text::{Tail, for_each_line, printable};

/// Where QEMU sees the folder of the run, and the kernel.
const INSIDE: &str = "/tmp/vm";
const KERNEL_INSIDE: &str = "/tmp/vmlinuz";
/// In the folder of each GPU.
const DEVICE_SOCKET: &str = "socket";
const TELEMETRY: &str = "telemetry.json";
/// Lines of the console that are kept: a report of the kernel's, and the panic after it.
const CONSOLE_LINES: usize = 120;
/// Time for the device server to listen.
const SERVER_START_TIME: Duration = Duration::from_secs(30);
/// Time for the device server to write its telemetry.
const SERVER_STOP_TIME: Duration = Duration::from_secs(30);
/// Time for the guest to power off after its job.
const POWER_OFF_TIME: Duration = Duration::from_secs(30);
/// Time between QEMU's end and the end of its sockets, or the reverse.
const SETTLE_TIME: Duration = Duration::from_secs(10);
/// Time between a device server's end and that of a QEMU that cannot start without it.
const SERVER_END_TIME: Duration = Duration::from_millis(500);
/// How often a guest that has not booted is looked at.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// Events of one guest, at most, and the longest one: an init that sends more is broken.
const MAX_EVENTS: usize = 1000;
const MAX_EVENT_BYTES: u64 = 1 << 20;

/// What the threads of a run tell the one that decides.
enum Message {
    Qmp(Notice),
    Guest(Event),
    /// No more events; with the reason if it is not simply the end.
    GuestEnd(Option<String>),
    QemuExited(ProcessStatus),
    ServerExited(ProcessStatus),
    Interrupted(i32),
    SinkFailed(io::Error),
}

/// Why an attempt ends before its command has.
enum Stop {
    Kind(FailureKind),
    Host(VmError),
}

impl From<FailureKind> for Stop {
    fn from(kind: FailureKind) -> Self {
        Self::Kind(kind)
    }
}

impl From<VmError> for Stop {
    fn from(error: VmError) -> Self {
        Self::Host(error)
    }
}

impl From<io::Error> for Stop {
    fn from(source: io::Error) -> Self {
        Self::Host(VmError::Host {
            what: "cannot connect to QEMU".into(),
            source,
        })
    }
}

fn could_not_run(why: impl Into<String>) -> Stop {
    Stop::Kind(FailureKind::CouldNotRun(why.into()))
}

fn lost(why: impl Into<String>) -> Stop {
    Stop::Kind(FailureKind::Lost(why.into()))
}

/// The last event of a job that was done.
struct Exited {
    status: ExitStatus,
    kernel_warnings: Vec<String>,
    tainted: u64,
}

pub(super) struct Attempt<'a> {
    vm: &'a Vm,
    accel: Accel,
    sender: Sender<Message>,
    messages: Receiver<Message>,
    /// What other threads want of the machine.
    orders: Receiver<Order>,
    /// Every thread that writes output holds the sender until it is done.
    done: Option<Sender<Infallible>>,
    outputs: Receiver<Infallible>,
    /// One for each GPU, in their order on the bus.
    servers: Vec<Process>,
    qemu: Option<Process>,
    qmp: Option<Qmp>,
    environment: Environment,
    events: Vec<Event>,
    console: Tail,
    exited: Option<Exited>,
    qemu_exited: Option<ProcessStatus>,
    events_ended: bool,
    /// The command's input, and where it goes, until the guest has booted.
    pending_stdin: Option<(OwnedFd, UnixStream)>,
}

/// Connections that wait for their use.
struct Connected {
    events: UnixStream,
    stdout: UnixStream,
    stderr: UnixStream,
    stdin: UnixStream,
    console: UnixStream,
    terminal: Option<UnixStream>,
}

/// A link that was not as fast as it was to be is told of, once for each way.
#[allow(clippy::cast_precision_loss)] // Good for a rate.
fn tell_slow_host(gpu: u32, snapshot: &Snapshot, io: &mut VmIo<'_>) {
    let Some(link) = &snapshot.link_model else {
        return;
    };
    for lane in [&link.to_device, &link.to_system] {
        if let Some(reached) = lane.short() {
            let set = lane.bytes_per_second as f64;
            io.tell(&VmEvent::SlowHost { gpu, set, reached });
        }
    }
}

impl<'a> Attempt<'a> {
    pub(super) fn new(vm: &'a Vm, accel: Accel) -> Self {
        let (sender, messages) = unbounded();
        let (done, outputs) = unbounded();
        let profile = &vm.options.profile;
        let link = profile.link.as_ref();
        let environment = Environment {
            accel: accel.to_string(),
            cpus: profile.cpus(),
            revision: REVISION.to_owned(),
            vram_bytes: Some(profile.vram.0),
            check: Some(profile.check),
            link: Some(link.map_or_else(|| "off".to_owned(), ToString::to_string)),
            inject: Some(profile.inject.iter().map(ToString::to_string).collect()),
            ..Environment::default()
        };
        Self {
            vm,
            accel,
            sender,
            messages,
            orders: never(),
            done: Some(done),
            outputs,
            servers: Vec::new(),
            qemu: None,
            qmp: None,
            environment,
            events: Vec::new(),
            console: Tail::new(CONSOLE_LINES),
            exited: None,
            qemu_exited: None,
            events_ended: false,
            pending_stdin: None,
        }
    }

    pub(super) fn run(
        mut self,
        job: &Job,
        files: &[(PathBuf, String)],
        io: &mut VmIo<'_>,
    ) -> Result<Outcome, VmError> {
        let sender = self.sender.clone();
        let interrupt = self.vm.options.interrupt.clone();
        let _watch = interrupt.watch(move |signal| {
            let _ = sender.send(Message::Interrupted(signal));
        });
        if let Some(remote) = &io.remote {
            let (sender, orders) = unbounded();
            remote.listen(Some(sender));
            self.orders = orders;
        }
        let folder = RuntimeDir::new().map_err(host(
            "cannot make a folder for sockets in $XDG_RUNTIME_DIR or /tmp",
        ))?;
        let result = self.drive(folder.path(), job, files, io);
        if let Some((input, _)) = self.pending_stdin.take() {
            // Nobody has read from it: the next attempt can.
            io.stdin = Stdin::File(input);
        }
        if let Some(remote) = &io.remote {
            remote.listen(None);
        }
        if let Err(Stop::Kind(kind)) = &result {
            io.tell(&VmEvent::Failing(kind));
        }
        let outcome = self.finish(folder.path(), result)?;
        for (gpu, snapshot) in (0..).zip(&outcome.telemetry) {
            tell_slow_host(gpu, snapshot, io);
        }
        Ok(outcome)
    }

    /// From nothing to the end of QEMU, or to whatever comes before.
    fn drive(
        &mut self,
        folder: &Path,
        job: &Job,
        files: &[(PathBuf, String)],
        io: &mut VmIo<'_>,
    ) -> Result<(), Stop> {
        if let Some(signal) = self.vm.options.interrupt.signal() {
            return Err(FailureKind::Interrupted(signal).into());
        }
        let initrd = folder.join("initrd");
        Images::write_initrd(&self.vm.base_initramfs, job, files, &initrd)
            .map_err(VmError::from)?;
        for gpu in 0..self.vm.options.profile.gpus {
            let pid = self.start_server(folder, gpu)?;
            let control = hmmgpu_server::default_control_path(pid);
            io.tell(&VmEvent::ServerStarted {
                pid,
                gpu,
                control: &control,
            });
            if let Some(metrics) = &self.vm.options.metrics {
                metrics.add(gpu, control);
            }
        }
        let connected = self.start_qemu(folder, job, io)?;
        self.connect(connected, io)?;
        // All is connected and read: nothing that the guest says from now on is lost.
        let started = Instant::now();
        if let Some(qmp) = &mut self.qmp {
            qmp.execute("cont", None)
                .map_err(|error| could_not_run(error.to_string()))?;
        }
        self.watch(started, io)
    }

    /// Starts the server of a GPU and gives its process.
    fn start_server(&mut self, folder: &Path, gpu: u32) -> Result<u32, Stop> {
        let program = &self.vm.server_program;
        let files = device_folder(folder, gpu);
        std::fs::create_dir(&files).map_err(host(format!("cannot make {}", files.display())))?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--supervised");
        command.arg("--socket").arg(files.join(DEVICE_SOCKET));
        command.arg("--telemetry").arg(files.join(TELEMETRY));
        command.arg("--label").arg(self.label(gpu));
        if let Some(trace) = &self.vm.options.trace {
            command
                .arg("--trace")
                .arg(hmmgpu_server::trace_path(trace, gpu));
        }
        if !self.vm.options.sandbox {
            command.arg("--no-sandbox");
        }
        command
            .arg("--vram")
            .arg(self.vm.options.profile.vram.to_string());
        for fault in &self.vm.options.profile.inject {
            command.arg("--inject").arg(fault.to_string());
        }
        command
            .arg("--check")
            .arg(self.vm.options.profile.check.to_string());
        if let Some(link) = &self.vm.options.profile.link {
            command.arg("--link").arg(link.to_string());
        }
        let sender = self.sender.clone();
        let mut server = Process::spawn("device server", command, move |status| {
            let _ = sender.send(Message::ServerExited(status));
        })
        .map_err(host(format!(
            "cannot start the device server {}",
            program.display()
        )))?;
        let stdout = server.take_stdout();
        let pid = server.pid();
        self.servers.push(server);

        // It says so when clients can connect; the end of its output is the end of it.
        let (ready_sender, ready) = unbounded();
        std::thread::Builder::new()
            .name("device server stdout".into())
            .spawn(move || {
                if let Some(stdout) = stdout {
                    for_each_line(stdout, |line| {
                        let _ = ready_sender.send(line);
                    });
                }
            })
            .map_err(host("cannot start a thread"))?;
        match ready.recv_timeout(SERVER_START_TIME) {
            Ok(line) if line == crate::cli::READY_LINE => Ok(pid),
            Ok(line) => Err(Stop::Host(VmError::Options(format!(
                "{} is not the device server: it said '{line}'",
                program.display()
            )))),
            Err(RecvTimeoutError::Timeout) => Err(lost(format!(
                "the device server did not start in {} s",
                SERVER_START_TIME.as_secs()
            ))),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self
                    .servers
                    .last()
                    .and_then(|server| server.wait(SETTLE_TIME));
                Err(lost(match status {
                    Some(status) => format!("the device server {} at its start", describe(status)),
                    None => "the device server closed its output".to_owned(),
                }))
            }
        }
    }

    /// What the server of a GPU is called where its telemetry is shown.
    fn label(&self, gpu: u32) -> String {
        let options = &self.vm.options;
        match options.profile.gpus {
            1 => options.label.clone(),
            _ => format!("{}, GPU {gpu}", options.label),
        }
    }

    fn start_qemu(
        &mut self,
        folder: &Path,
        job: &Job,
        io: &mut VmIo<'_>,
    ) -> Result<Connected, Stop> {
        let options = &self.vm.options;
        let inside = Path::new(INSIDE);
        let needed = needed_by(options.profile.kernel.as_ref());
        let added = options.profile.kernel_args.iter();
        let added = added.chain(&options.kernel_args);
        let machine = Machine {
            accel: self.accel,
            memory: options.profile.memory,
            phys_bits: options.profile.phys_bits,
            pluggable: options.profile.pluggable,
            cpus: options.profile.cpus(),
            kernel: KERNEL_INSIDE.into(),
            initrd: inside.join("initrd"),
            kernel_args: kernel_args(
                self.accel,
                options.profile.zeroing,
                host_khz,
                needed.iter().copied().chain(added.map(String::as_str)),
            ),
            device_sockets: (0..options.profile.gpus)
                .map(|gpu| device_folder(inside, gpu).join(DEVICE_SOCKET))
                .collect(),
            devices: options.profile.devices.clone(),
            sockets: Sockets::in_folder(inside, job.interactive),
        };
        let here = Sockets::in_folder(folder, job.interactive);
        let bind = |path: &Path| {
            Port::bind(path).map_err(host(format!("cannot listen on {}", path.display())))
        };
        let qmp = bind(&here.qmp)?;
        let console = bind(&here.console)?;
        let events = bind(&here.events)?;
        let stdout = bind(&here.stdout)?;
        let stderr = bind(&here.stderr)?;
        let stdin = bind(&here.stdin)?;
        let terminal = here.terminal.as_deref().map(bind).transpose()?;

        let arguments = machine.arguments();
        let binds = [
            Bind {
                host: folder.to_owned(),
                inside: inside.to_owned(),
                writable: true,
            },
            Bind {
                host: self.vm.kernel.image.clone(),
                inside: KERNEL_INSIDE.into(),
                writable: false,
            },
        ];
        let mut command = self.vm.root.command(QEMU, &binds);
        command.args(&arguments);
        let sender = self.sender.clone();
        let qemu = Process::spawn("qemu", command, move |status| {
            let _ = sender.send(Message::QemuExited(status));
        })
        .map_err(host("cannot start QEMU in the tool root by bwrap"))?;
        let pid = qemu.pid();
        self.qemu = Some(qemu);
        tracing::debug!(
            "{QEMU} {}",
            crate::qemu::command_line::shell_words(&arguments)
        );

        let deadline = Instant::now() + CONNECT_TIME;
        let mut accept = |port: &Port| {
            port.accept(deadline, || self.still_starting())
                .map_err(|stop| match stop {
                    Stop::Host(VmError::Host { source, .. })
                        if source.kind() == io::ErrorKind::TimedOut =>
                    {
                        could_not_run(format!(
                            "QEMU did not connect in {} s",
                            CONNECT_TIME.as_secs()
                        ))
                    }
                    stop => stop,
                })
        };
        let qmp = accept(&qmp)?;
        let connected = Connected {
            events: accept(&events)?,
            stdout: accept(&stdout)?,
            stderr: accept(&stderr)?,
            stdin: accept(&stdin)?,
            console: accept(&console)?,
            terminal: terminal.as_ref().map(&mut accept).transpose()?,
        };
        let sender = self.sender.clone();
        let qmp = Qmp::new(qmp, move |notice| {
            let _ = sender.send(Message::Qmp(notice));
        });
        let qmp = match qmp {
            Ok(qmp) => qmp,
            // QEMU's own words, if it has ended, say more.
            Err(QmpError::Closed) => {
                self.await_qemu()?;
                return Err(could_not_run("QEMU closed its control socket"));
            }
            Err(error) => return Err(could_not_run(error.to_string())),
        };
        self.environment.qemu.clone_from(&qmp.version);
        self.qmp = Some(qmp);
        io.tell(&VmEvent::QemuStarted {
            pid,
            arguments: &arguments,
        });
        Ok(connected)
    }

    /// Looks, without waiting, whether something has ended the attempt before it began.
    fn still_starting(&mut self) -> Result<(), Stop> {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::QemuExited(status) => {
                    self.qemu_exited = Some(status);
                    return Err(self.qemu_ended(status));
                }
                Message::ServerExited(status) => return Err(server_ended(status)),
                Message::Interrupted(signal) => return Err(FailureKind::Interrupted(signal).into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits for QEMU's end for a moment, and says what it was.
    fn await_qemu(&mut self) -> Result<(), Stop> {
        let status = self.qemu.as_ref().and_then(|qemu| qemu.wait(SETTLE_TIME));
        status.map_or(Ok(()), |status| Err(self.qemu_ended(status)))
    }

    /// Starts the threads behind the ports.
    fn connect(&mut self, connected: Connected, io: &mut VmIo<'_>) -> Result<(), Stop> {
        let Connected {
            events,
            stdout,
            stderr,
            stdin,
            console,
            terminal,
        } = connected;
        let thread = |what: &str| host(format!("cannot start a thread for the {what}"));

        let sender = self.sender.clone();
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || read_events(events, &sender))
            .map_err(thread("events"))?;

        let tail = self.console.clone();
        let told: Option<LineSink> = io.console.clone();
        let done = self.done.clone();
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || {
                let _done = done;
                for_each_line(console, |line| {
                    tracing::trace!("console: {line}");
                    if let Some(told) = &told {
                        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                        told(&line);
                    }
                    tail.push(line);
                });
            })
            .map_err(thread("console"))?;

        let output = |name, stream, sink| {
            let sender = self.sender.clone();
            let done = self.done.clone().unwrap_or_else(|| unbounded().0);
            pump(name, stream, sink, done, move |error| {
                let _ = sender.send(Message::SinkFailed(error));
            })
        };
        if let Some(terminal) = terminal {
            let typed = terminal.try_clone().map_err(thread("terminal"))?;
            output("terminal", terminal, io.stdout.clone()).map_err(thread("terminal"))?;
            if let Some(input) = io.terminal.take() {
                feed("typed", input, typed).map_err(thread("terminal"))?;
            }
        }
        output("stdout", stdout, io.stdout.clone()).map_err(thread("stdout"))?;
        output("stderr", stderr, io.stderr.clone()).map_err(thread("stderr"))?;

        // What is typed or piped stays in the socket until the guest's command reads it.
        match std::mem::take(&mut io.stdin) {
            Stdin::Empty => {
                let _ = stdin.shutdown(Shutdown::Write);
                feed_bytes("stdin", Vec::new(), stdin).map_err(thread("stdin"))?;
            }
            Stdin::Bytes(bytes) => {
                io.stdin = Stdin::Bytes(bytes.clone());
                feed_bytes("stdin", bytes, stdin).map_err(thread("stdin"))?;
            }
            Stdin::File(input) => {
                // A guest that never boots must not swallow input that the next attempt needs.
                self.pending_stdin = Some((input, stdin));
            }
        }
        Ok(())
    }

    /// Follows the run until QEMU has ended and all its events are read.
    fn watch(&mut self, started: Instant, io: &mut VmIo<'_>) -> Result<(), Stop> {
        let options = &self.vm.options;
        let boot_limit = match self.accel {
            Accel::Kvm => options.boot_timeout.kvm,
            Accel::Tcg => options.boot_timeout.tcg,
        };
        let timeout = options.timeout;
        // Set as soon as the end is near: what is still missing has until then to come.
        let mut settle: Option<Instant> = None;
        let mut looked = Instant::now();
        loop {
            if self.qemu_exited.is_some() && self.events_ended {
                break;
            }
            let now = Instant::now();
            if let Some(settle) = settle {
                if now >= settle {
                    break;
                }
            } else if timeout.is_some_and(|limit| now >= started + limit) {
                return Err(FailureKind::TimedOut(timeout.unwrap_or_default()).into());
            } else if !self.booted() {
                if now >= started + boot_limit {
                    return Err(could_not_run(format!(
                        "no guest reached user space in {} s",
                        boot_limit.as_secs()
                    )));
                }
                if now >= looked + LOOK_TIME {
                    looked = now;
                    self.look_at_status()?;
                }
            }
            let mut wait = LOOK_TIME;
            for deadline in [settle, timeout.map(|limit| started + limit)]
                .into_iter()
                .flatten()
            {
                wait = wait.min(deadline.saturating_duration_since(now));
            }
            let message = crossbeam_channel::select! {
                recv(self.messages) -> message => message,
                recv(self.orders) -> order => {
                    match order {
                        Ok(order) => self.obey(order)?,
                        // Nobody can give any more.
                        Err(_) => self.orders = never(),
                    }
                    continue;
                }
                default(wait) => continue,
            };
            let Ok(message) = message else {
                continue;
            };
            match message {
                Message::Qmp(Notice::Event(name, data)) => self.qemu_says(&name, &data)?,
                Message::Qmp(Notice::Closed) => {
                    settle.get_or_insert(Instant::now() + SETTLE_TIME);
                }
                Message::Guest(event) => {
                    let ended = matches!(event, Event::Exited { .. });
                    self.guest_says(event, io)?;
                    if ended {
                        settle = Some(Instant::now() + POWER_OFF_TIME);
                    }
                }
                Message::GuestEnd(None) => self.events_ended = true,
                Message::GuestEnd(Some(why)) => return Err(lost(why)),
                Message::QemuExited(status) => {
                    self.qemu_exited = Some(status);
                    settle = Some(Instant::now() + SETTLE_TIME);
                }
                Message::ServerExited(status) => return Err(server_ended(status)),
                Message::Interrupted(signal) => {
                    return Err(FailureKind::Interrupted(signal).into());
                }
                Message::SinkFailed(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(FailureKind::BrokenPipe.into());
                }
                Message::SinkFailed(source) => {
                    let what = "cannot write the output".to_owned();
                    return Err(VmError::Host { what, source }.into());
                }
            }
        }
        if self.exited.is_some() {
            return Ok(());
        }
        Err(match self.qemu_exited {
            Some(status) => self.qemu_ended(status),
            None => lost("QEMU does not answer any more"),
        })
    }

    /// Does what another thread wants of the machine.
    fn obey(&mut self, order: Order) -> Result<(), Stop> {
        let Some(qmp) = &mut self.qmp else {
            return Ok(());
        };
        let done = match &order {
            Order::Stop(why) => return Err(lost(why.clone())),
            Order::Unplug(gpu) => {
                let id = serde_json::json!({ "id": gpu_id(*gpu) });
                qmp.execute("device_del", Some(id))
            }
            Order::Replug(gpu) => {
                let socket = device_folder(Path::new(INSIDE), *gpu).join(DEVICE_SOCKET);
                qmp.execute("device_add", Some(gpu_device(&socket, *gpu, true)))
            }
            Order::PressPower => qmp.execute("system_powerdown", None),
        };
        if let Err(error) = done {
            tracing::warn!("{order:?}: {error}");
        }
        Ok(())
    }

    fn booted(&self) -> bool {
        !self.environment.kernel.is_empty()
    }

    /// A guest that stands still before user space is one that could not run.
    fn look_at_status(&mut self) -> Result<(), Stop> {
        let Some(qmp) = &mut self.qmp else {
            return Ok(());
        };
        match qmp.status() {
            Ok(status) if matches!(status.as_str(), "running" | "prelaunch" | "shutdown") => Ok(()),
            Ok(status) => Err(self.stands_still(&status)),
            // Its end comes as a message of its own.
            Err(QmpError::Closed) => Ok(()),
            Err(error) => {
                let why = error.to_string();
                Err(if self.booted() {
                    lost(why)
                } else {
                    could_not_run(why)
                })
            }
        }
    }

    fn stands_still(&self, status: &str) -> Stop {
        let why = format!("the machine stopped in state '{status}'");
        if self.booted() {
            lost(why)
        } else {
            could_not_run(why)
        }
    }

    fn qemu_says(&mut self, event: &str, data: &serde_json::Value) -> Result<(), Stop> {
        tracing::debug!("QEMU: {event} {data}");
        match event {
            "STOP" => self.look_at_status(),
            "GUEST_PANICKED" => Err(self.stands_still("guest-panicked")),
            _ => Ok(()),
        }
    }

    fn guest_says(&mut self, event: Event, io: &mut VmIo<'_>) -> Result<(), Stop> {
        io.tell(&VmEvent::Guest(&event));
        tracing::debug!("guest: {event:?}");
        self.events.push(event.clone());
        match event {
            Event::Booted {
                kernel, cmdline, ..
            } => {
                self.environment.kernel = kernel;
                self.environment.cmdline = cmdline.trim().to_owned();
                if let Some((input, stream)) = self.pending_stdin.take() {
                    feed("stdin", input, stream)
                        .map_err(host("cannot start a thread for the stdin"))?;
                }
            }
            Event::DriverLoaded { .. } | Event::Started => {}
            Event::Exited {
                status,
                kernel_warnings,
                tainted,
            } => {
                self.exited = Some(Exited {
                    status,
                    kernel_warnings,
                    tainted,
                });
            }
            Event::Fatal { error } => return Err(FailureKind::Guest(error).into()),
        }
        Ok(())
    }

    /// QEMU has ended before the job was done.
    fn qemu_ended(&mut self, status: ProcessStatus) -> Stop {
        if let Some(qemu) = &mut self.qemu {
            qemu.finish();
        }
        let said = self
            .qemu
            .as_ref()
            .map(Process::messages)
            .unwrap_or_default()
            .into_iter()
            .rfind(|line| !line.contains("warning:"));
        let panic = self.console.lines().into_iter().find_map(|line| {
            line.find("Kernel panic")
                .map(|start| line[start..].to_owned())
        });
        let mut why = format!("QEMU {}", describe(status));
        if let Some(panic) = panic {
            why = format!("the guest's kernel broke down: {panic}");
        } else if let Some(said) = said {
            why.push_str(&format!(" and said: {said}"));
        } else if status.success() {
            why = "the guest switched itself off before its command had ended".into();
        }
        // What somebody has ended says nothing of the accelerator: no other one is to be tried.
        if !self.booted() {
            let mut servers = self.servers.iter();
            if let Some(status) = servers.find_map(|server| server.wait(SERVER_END_TIME)) {
                return server_ended(status);
            }
        }
        if self.booted() || was_ended(status) {
            lost(why)
        } else {
            could_not_run(why)
        }
    }

    /// Ends what still runs, and puts together what came of it.
    fn finish(mut self, folder: &Path, result: Result<(), Stop>) -> Result<Outcome, VmError> {
        // Without its control socket QEMU runs on, and it has nothing that is worth keeping.
        self.qmp = None;
        if let Some(qemu) = &mut self.qemu {
            qemu.kill();
        }
        let mut result = result;
        if let Err(stop) = self.await_outputs(result.is_ok()) {
            result = Err(stop);
        }
        let mut messages = self
            .qemu
            .as_ref()
            .map(Process::messages)
            .unwrap_or_default();
        if let Some(metrics) = &self.vm.options.metrics {
            metrics.clear();
        }
        let mut telemetry = Vec::new();
        for (gpu, server) in (0..).zip(&mut self.servers) {
            let status = server.stop(SERVER_STOP_TIME);
            server.finish();
            hmmgpu_server::remove_left_control_socket(server.pid());
            messages.extend(server.messages());
            let counted = read_snapshot(&device_folder(folder, gpu).join(TELEMETRY));
            if let Err(why) = &counted {
                tracing::debug!("no telemetry of GPU {gpu} ({why}); its server: {status:?}");
                if result.is_ok() {
                    result = Err(lost(format!("the device server left no telemetry: {why}")));
                }
            }
            telemetry.push(counted.ok());
        }
        let console = self.console.lines();
        match (result, self.exited) {
            (Ok(()), Some(exited)) => Ok(Outcome {
                status: exited.status,
                kernel_warnings: exited.kernel_warnings,
                tainted: exited.tainted,
                // None is missing: that would be an error by now.
                telemetry: telemetry.into_iter().flatten().collect(),
                events: self.events,
                environment: self.environment,
                console,
            }),
            (Err(Stop::Host(error)), _) => Err(error),
            (result, _) => {
                let kind = match result {
                    Err(Stop::Kind(kind)) => kind,
                    _ => FailureKind::Lost("the guest's command did not end".into()),
                };
                Err(VmError::Failed(Box::new(Failure {
                    kind,
                    console,
                    messages,
                    telemetry,
                    environment: self.environment,
                })))
            }
        }
    }

    /// Waits until all output of the guest is written. After a failure it may take a moment at
    /// most; else as long as the reader needs, or until an interrupt.
    fn await_outputs(&mut self, patient: bool) -> Result<(), Stop> {
        self.done = None;
        let deadline = Instant::now() + SETTLE_TIME;
        loop {
            match self.outputs.recv_timeout(Duration::from_millis(50)) {
                Ok(never) => match never {},
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if patient => {}
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => return Ok(()),
            }
            while let Ok(message) = self.messages.try_recv() {
                self.after_the_end(message, patient)?;
            }
        }
        while let Ok(message) = self.messages.try_recv() {
            self.after_the_end(message, patient)?;
        }
        Ok(())
    }

    fn after_the_end(&mut self, message: Message, well: bool) -> Result<(), Stop> {
        match message {
            Message::Interrupted(signal) => Err(FailureKind::Interrupted(signal).into()),
            Message::SinkFailed(error) if well && error.kind() == io::ErrorKind::BrokenPipe => {
                Err(FailureKind::BrokenPipe.into())
            }
            Message::SinkFailed(source) if well => Err(VmError::Host {
                what: "cannot write the output".into(),
                source,
            }
            .into()),
            Message::ServerExited(status) if well => Err(server_ended(status)),
            _ => Ok(()),
        }
    }
}

/// What belongs to a GPU, in a folder of its own: a server locks the folder of its socket, and the
/// run holds the lock of the run's.
fn device_folder(folder: &Path, gpu: u32) -> PathBuf {
    folder.join(format!("gpu{gpu}"))
}

fn server_ended(status: ProcessStatus) -> Stop {
    lost(format!("the device server {}", describe(status)))
}

/// Reads init's events, one JSON object a line.
fn read_events(stream: UnixStream, sender: &Sender<Message>) {
    let mut input = BufReader::new(stream);
    let mut line = Vec::new();
    let mut count = 0;
    let end = loop {
        line.clear();
        match input
            .by_ref()
            .take(MAX_EVENT_BYTES)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => break None,
            Ok(_) => {}
        }
        count += 1;
        if count > MAX_EVENTS {
            break Some(format!(
                "the guest's init sent more than {MAX_EVENTS} events"
            ));
        }
        match serde_json::from_slice(&line) {
            Ok(event) => {
                if sender.send(Message::Guest(event)).is_err() {
                    return;
                }
            }
            // The end of the VM in the middle of a line is no more than the end.
            Err(_) if line.last() != Some(&b'\n') && (line.len() as u64) < MAX_EVENT_BYTES => {
                break None;
            }
            Err(error) => {
                let said = printable(&line[..line.len().min(200)]);
                break Some(format!(
                    "the guest's init sent no valid event ({error}): {said}"
                ));
            }
        }
    };
    let _ = sender.send(Message::GuestEnd(end));
}
