//! The driver goes away and comes back while another process has memory on the device.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rustix::system::{delete_module, finit_module};

use crate::device::{self, Device};

/// Unload and load the driver while another process holds pages on the device.
///
/// Another process moves memory to the device and closes it. The driver is unloaded: all of the
/// memory has to come home, and the process verifies it while there is no driver. Then the
/// driver is loaded again, and the same is done anew.
#[derive(Debug, Parser)]
#[command(name = "hmmgpu-reload")]
struct Args {
    /// How often.
    #[arg(long, default_value_t = 3)]
    times: u32,
    /// Let processes that hold pages end while the driver is being unloaded.
    #[arg(long)]
    exits: bool,
    #[command(flatten)]
    module: Module,
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// The driver as it is loaded.
#[derive(Debug, clap::Args)]
pub(crate) struct Module {
    /// The driver's module file.
    #[arg(long, default_value = "/hmmgpu/hmmgpu.ko")]
    module: PathBuf,
    /// Parameters of the driver.
    #[arg(long, default_value = "")]
    parameters: String,
}

/// Name of the module.
const MODULE: &str = "hmmgpu";
/// Between the moments at which a process is ended.
const STEP: Duration = Duration::from_millis(2);
/// How many of them there are; unloading takes about as long.
const SPAN_STEPS: u32 = 15;
/// Bound of every wait.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    ensure!(
        args.module.module.exists(),
        "{} does not exist: name the module with --module",
        args.module.module.display()
    );
    if args.exits {
        for time in 1..=args.times {
            exits(&args, time).with_context(|| format!("time {time}"))?;
            println!("time {time}: processes ended meanwhile, the driver is back");
        }
        return all_free(&args.device).map(|()| ExitCode::SUCCESS);
    }
    for time in 1..=args.times {
        let mut holder = Holder::start(&args.device, true)?;
        unload().with_context(|| format!("time {time}: cannot unload the driver"))?;
        ensure!(
            !args.device.exists(),
            "{} is still there without a driver",
            args.device.display()
        );
        holder
            .verify()
            .with_context(|| format!("time {time}: after the driver was unloaded"))?;
        args.module.load(&args.device)?;
        println!("time {time}: all data came home, the driver is back");
    }

    // An open device keeps the driver: unloading is refused at once, and nothing is lost.
    let mut holder = Holder::start(&args.device, false)?;
    if unload().is_ok() {
        bail!("the driver was unloaded although a process has the device open");
    }
    holder
        .verify()
        .context("after unloading was refused because the device is open")?;
    all_free(&args.device)?;
    println!("an open device keeps the driver");
    Ok(ExitCode::SUCCESS)
}

/// Of two processes that hold pages one ends at some moment of the unloading; the other one's data
/// has to come home.
fn exits(args: &Args, time: u32) -> Result<()> {
    let mut stays = Holder::start(&args.device, true)?;
    let mut ends = Holder::start(&args.device, true)?;
    let ready = Barrier::new(2);
    let unloaded = std::thread::scope(|scope| {
        scope.spawn(|| {
            ready.wait();
            // Another moment each time, from before the unloading to late in it.
            std::thread::sleep(STEP * ((time - 1) % SPAN_STEPS));
            // It ends on its own, some time after this.
            ends.child.kill()
        });
        ready.wait();
        unload()
    });
    unloaded.context("cannot unload the driver")?;
    let status = ends.child.wait()?;
    ensure!(!status.success(), "a process that was killed: {status}");
    stays
        .verify()
        .context("of the process that has not ended")?;
    args.module.load(&args.device)
}

fn all_free(device: &Path) -> Result<()> {
    let query = Device::open(device)?.query()?;
    ensure!(
        query.vram_free_bytes == query.vram_bytes,
        "{} of {} bytes of VRAM are free though nobody uses it",
        query.vram_free_bytes,
        query.vram_bytes
    );
    Ok(())
}

/// Unloads the driver, if nobody has its devices open.
pub(crate) fn unload() -> Result<()> {
    let name = CString::new(MODULE)?;
    // O_NONBLOCK: a module in use is an error, not a wait.
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    Ok(delete_module(&name, flags)?)
}

impl Module {
    /// Loads the driver, and waits for this node of it.
    pub(crate) fn load(&self, device: &Path) -> Result<()> {
        let file = File::open(&self.module)
            .with_context(|| format!("cannot open {}", self.module.display()))?;
        let parameters = CString::new(self.parameters.as_str())?;
        finit_module(&file, &parameters, 0).context("cannot load the driver")?;
        let deadline = Instant::now() + LIMIT;
        while !device.exists() {
            ensure!(
                Instant::now() < deadline,
                "{} did not appear after the driver was loaded",
                device.display()
            );
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// The process that holds pages.
struct Holder {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Holder {
    fn start(device: &Path, close: bool) -> Result<Holder> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("hmmgpu-hold-pages")
            .arg("--device")
            .arg(device)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if close {
            command.arg("--close");
        }
        let mut child = command.spawn().context("cannot start hmmgpu-hold-pages")?;
        let output = child
            .stdout
            .take()
            .context("no output of hmmgpu-hold-pages")?;
        let mut holder = Holder {
            child,
            output: BufReader::new(output),
        };
        holder.expect("holding ")?;
        Ok(holder)
    }

    fn verify(&mut self) -> Result<()> {
        if let Some(mut stdin) = self.child.stdin.take() {
            stdin
                .write_all(b"\n")
                .context("hmmgpu-hold-pages has gone")?;
        }
        self.expect("verified ")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "hmmgpu-hold-pages: {status}");
        Ok(())
    }

    fn expect(&mut self, start: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(
            line.starts_with(start),
            "hmmgpu-hold-pages said {line:?} instead of {start:?}"
        );
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Only when it did not end by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
