//! `remove_migration_pmd()` takes the soft-dirty bit of a huge device-private entry for a
//! permission to write.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use super::kernel_log::KernelLog;
use super::{begin, send_all};
use crate::device;
use crate::pattern;
use crate::sys::fork::{Ended, fork};
use crate::sys::memory::Memory;

/// Moves 2 MiB that a fork shares to the device, and looks whether the kernel warns.
#[derive(Debug, Parser)]
#[command(
    name = "upstream-remove-migration-pmd",
    after_help = "Example: hmmgpu run --kernel debug -- upstream-remove-migration-pmd\n\n\
        Exits with 0 when the kernel warned, as is expected of it, and the data were right; with 1 \
        when it did not warn (it says so once after each boot, and only with DEBUG_VM and \
        MEM_SOFT_DIRTY, or it is mended)."
)]
struct Args {
    /// Device node.
    #[arg(long, default_value = device::NODE)]
    device: PathBuf,
}

/// What the kernel says: where its warning is.
const SIGN: &str = "remove_migration_pmd";

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let (device, _controls, mut memory) = begin(&args.device, 9)?;
    let pages = memory.pages();
    for page in 0..pages {
        memory.words_mut(page).fill(pattern::mix(page as u64));
    }
    let mut log = KernelLog::open()?;
    let (mut parent_end, mut child_end) = UnixStream::pair()?;
    // Shared by a fork, the folio is nobody's alone: its entries may not be written to.
    let child = fork(|| {
        let told = child_end.read_exact(&mut [0]);
        i32::from(told.is_err() || check(&memory).is_err())
    })
    .context("cannot fork")?;
    send_all(&device, &memory)?;
    let lines = log.lines()?;
    check(&memory)?;
    parent_end.write_all(&[1]).context("the child has gone")?;
    match child.wait()? {
        Ended::Code(0) => {}
        how => bail!("the child ended with {how:?}"),
    }
    match lines.iter().find(|line| line.contains(SIGN)) {
        Some(line) => {
            println!("shown: {line}");
            println!("the data are right in parent and child");
            Ok(ExitCode::SUCCESS)
        }
        None => {
            println!("not shown: the kernel did not warn of {SIGN}()");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn check(memory: &Memory) -> Result<()> {
    for page in 0..memory.pages() {
        let expected = pattern::mix(page as u64);
        ensure!(
            memory.words(page).iter().all(|&word| word == expected),
            "page {page} holds something else than was written"
        );
    }
    Ok(())
}
