//! `zap_huge_pmd_folio()` drops a reference that a migration entry does not have.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use super::send_all;
use crate::device::{self, Device};
use crate::sys::memory::{Advice, Memory, UNIT};
use crate::thp::Controls;

/// Drops 2 MiB while a touch of another thread brings them home from the device.
#[derive(Debug, Parser)]
#[command(
    name = "upstream-zap-huge-pmd-folio",
    after_help = "Example: hmmgpu run --kernel debug --inject copy.dev_to_sys:delay=400ms@every:1 -- \
        upstream-zap-huge-pmd-folio\n\n\
        A debug kernel breaks down, as is expected of it, and the run with it (exit code 122). \
        Exits with 1 when the kernel goes on: it has no DEBUG_VM, or it is mended, or copies are \
        not delayed."
)]
struct Args {
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// How often it is tried.
const ROUNDS: u32 = 6;
/// A fault that has begun has collected what it brings home after this time, and still copies: see
/// the example.
const COLLECTED: Duration = Duration::from_millis(100);
/// A touch causes a fault within this time.
const SOON: Duration = Duration::from_secs(30);

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let device = Device::open(&args.device)?;
    let controls = Controls::take()?;
    controls.only(9)?;
    for round in 1..=ROUNDS {
        drop_meanwhile(&device).with_context(|| format!("round {round}"))?;
        println!("round {round}: the kernel goes on");
    }
    println!("not shown: {ROUNDS} times memory was dropped on its way home");
    Ok(ExitCode::FAILURE)
}

fn drop_meanwhile(device: &Device) -> Result<()> {
    let mut memory = Memory::anonymous(UNIT).context("cannot map memory")?;
    let pages = memory.pages();
    memory.words_of_mut(0..pages).fill(1);
    send_all(device, &memory)?;
    let faults = device.stats()?.cpu_faults;
    // The kernel touches a page as a thread would, by its address alone.
    let address = memory.address() as u64;
    let own = File::open("/proc/self/mem").context("cannot open /proc/self/mem")?;
    std::thread::scope(|scope| {
        let touch = scope.spawn(|| own.read_exact_at(&mut [0; 8], address));
        let deadline = Instant::now() + SOON;
        while device.stats()?.cpu_faults == faults {
            ensure!(Instant::now() < deadline, "the touch caused no fault");
            std::thread::yield_now();
        }
        std::thread::sleep(COLLECTED);
        let dropped = memory.advise(0..pages, Advice::DontNeed);
        let touched = touch.join();
        dropped.context("MADV_DONTNEED failed")?;
        touched
            .map_err(|_| anyhow::anyhow!("the thread that touches panicked"))?
            .context("the touch failed")
    })
}
