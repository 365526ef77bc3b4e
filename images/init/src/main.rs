//! PID 1 of the guest: mounts what programs expect, loads the driver, runs one command for the
//! host and says how it ended, and powers off.
//!
//! Whatever goes wrong, a panic of its own included, is an event for the host where the port is
//! open, a line on the console always, and a power-off in the end: a guest never just hangs.
//!
//! Under another name the same program is the runner of tests; see `runner`.
#![forbid(unsafe_code)]

mod bridge;
mod command;
mod driver;
mod kmsg;
mod mounts;
mod ports;
mod power;
mod report;
mod runner;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use hmmgpu_guest_protocol::{Event, JOB_PATH, Job, PORT_EVENTS, PROTOCOL_VERSION};

use ports::Ports;

fn main() -> ExitCode {
    if runner::is_asked_for() {
        return runner::main();
    }
    if std::process::id() != 1 {
        eprintln!("hmmgpu-init is the first process of a guest and does nothing else");
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(|panic| {
        report::fatal(&format!("init panicked: {panic}"));
        power::off();
    }));
    if let Err(error) = run() {
        report::fatal(&format!("{error:#}"));
    }
    power::off();
}

fn run() -> Result<()> {
    mounts::mount_all()?;
    driver::load_base_modules()?;
    let ports = Ports::new();
    report::open(ports.output(PORT_EVENTS)?);
    let job = read_job()?;
    report::event(&Event::Booted {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        cmdline: read("/proc/cmdline")?,
        uptime: uptime()?,
    })?;

    let warnings = kmsg::Watcher::start()?;
    if let Some(parameters) = &job.driver {
        let devices = driver::load(parameters)?;
        report::event(&Event::DriverLoaded { devices })?;
    }
    let status = command::run(&job, &ports)?;
    report::event(&Event::Exited {
        status,
        kernel_warnings: warnings.finish(),
        tainted: read("/proc/sys/kernel/tainted")?
            .parse()
            .context("taint of the kernel")?,
    })
}

fn read_job() -> Result<Job> {
    let job: Job = serde_json::from_str(&read(JOB_PATH)?).context("the job is not understood")?;
    if job.version != PROTOCOL_VERSION {
        bail!(
            "the host speaks version {} of the guest protocol and this initramfs version \
             {PROTOCOL_VERSION}: build both from the same sources",
            job.version
        );
    }
    Ok(job)
}

fn read(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

/// Seconds since the kernel started.
fn uptime() -> Result<f64> {
    let text = read("/proc/uptime")?;
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().context("/proc/uptime")
}
