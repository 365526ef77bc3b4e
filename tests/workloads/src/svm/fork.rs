//! Fork while the GPU writes.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use super::{Common, mib, needs_memory};
use crate::gpu::{Command, Gpu, Job};
use crate::sys::fork::{Ended, fork};
use crate::sys::memory::{Memory, UNIT};
use crate::{pattern, reference, size};

/// Fork in the middle of a job. The parent's memory gets all that the GPU writes; the child's is
/// as the parent's was at the fork, and stays so, whatever the GPU goes on to do.
#[derive(Debug, Parser)]
#[command(
    name = "svm-fork",
    after_help = "Example: hmmgpu run -- svm-fork --size 128M"
)]
struct Args {
    /// Memory that the GPU writes, a multiple of 2 MiB.
    #[arg(long, default_value = "32M", value_parser = size::parse)]
    size: usize,
    #[command(flatten)]
    common: Common,
}

/// Jobs are made longer so often until the fork lands in the middle of one.
const TRIES: u32 = 8;

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    ensure!(
        args.size >= UNIT && args.size % UNIT == 0,
        "--size: a multiple of 2M is needed"
    );
    needs_memory(2 * args.size)?;
    let gpu = Gpu::open(&args.common.node)?;
    let mut passes = 2;
    for _ in 0..TRIES {
        if fork_in_a_job(&gpu, &args, passes)? {
            return Ok(ExitCode::SUCCESS);
        }
        passes *= 2;
    }
    bail!(
        "{passes} passes over {} MiB were done before the fork: use a larger --size",
        mib(args.size)
    )
}

/// What pass number `pass` writes.
fn value(pass: u64) -> u64 {
    pattern::mix(pass + 1)
}

/// Returns whether the job had begun before the fork and ended after it; if not, nothing was
/// shown, though everything was right.
fn fork_in_a_job(gpu: &Gpu, args: &Args, passes: u64) -> Result<bool> {
    let mut memory = Memory::anonymous(args.size).context("cannot map memory")?;
    let pages = memory.pages();
    memory.words_of_mut(0..pages).fill(value(0));
    let (mut parent_end, child_end) = std::os::unix::net::UnixStream::pair()?;

    let jobs: Vec<Job> = (1..=passes)
        .map(|pass| {
            gpu.submit(Command::Fill {
                dst: memory.address() as u64,
                pattern: value(pass),
                bytes: args.size as u64,
            })
        })
        .collect::<Result<_>>()?;
    let last = *jobs.last().context("no job")?;
    // Not before the GPU has written something.
    while memory.touch(0) == value(0) && gpu.pending(last)? {
        std::hint::spin_loop();
    }
    let child = fork(|| match child(args, &mut memory, passes, child_end) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("svm-fork: in the child: {error:#}");
            1
        }
    })
    .context("cannot fork")?;
    let in_the_middle = gpu.pending(last)?;

    for job in jobs {
        gpu.wait(job)?.complete()?;
    }
    for page in 0..pages {
        let found = memory
            .words(page)
            .iter()
            .find(|&&word| word != value(passes));
        ensure!(
            found.is_none(),
            "page {page} of the parent holds {found:x?}"
        );
    }
    // The GPU is done: now the child may look whether anything has reached its memory.
    parent_end.write_all(&[1]).context("the child has gone")?;
    let mut text = String::new();
    parent_end.read_to_string(&mut text)?;
    match child.wait()? {
        Ended::Code(0) => {}
        how => bail!("the child ended with {how:?}"),
    }
    for page in 0..pages {
        let found = memory
            .words(page)
            .iter()
            .find(|&&word| word != value(passes));
        ensure!(
            found.is_none(),
            "page {page} of the parent holds {found:x?} after the child wrote its own"
        );
    }
    if in_the_middle {
        println!(
            "forked in the middle of {passes} jobs on {} MiB: the parent has all that the GPU wrote, the child {text}",
            mib(args.size)
        );
    }
    Ok(in_the_middle)
}

/// The child's side: its memory is that of one moment, and its own.
fn child(
    args: &Args,
    memory: &mut Memory,
    passes: u64,
    mut parent: std::os::unix::net::UnixStream,
) -> Result<()> {
    let before = boundary(memory, passes)?;
    parent.read_exact(&mut [0]).context("the parent has gone")?;
    let after = boundary(memory, passes)?;
    ensure!(
        before == after,
        "the GPU wrote to the child: first {before:?}, then {after:?} (pass, words)"
    );
    // The child's own GPU works on the child's memory.
    let gpu = Gpu::open(&args.common.node)?;
    let words = memory.len() / 8;
    let (pass, new) = before;
    let expected = reference::checksum(
        (0..words).map(|index| value(if index < new { pass } else { pass - 1 })),
    );
    let report = gpu.run(Command::Checksum {
        src: memory.address() as u64,
        words: words as u64,
    })?;
    ensure!(
        report.value == expected,
        "the GPU reads {:#x} from the child instead of {expected:#x}",
        report.value
    );
    gpu.run(Command::Fill {
        dst: memory.address() as u64,
        pattern: !0,
        bytes: memory.len() as u64,
    })?;
    for page in 0..memory.pages() {
        ensure!(
            memory.words(page).iter().all(|&word| word == !0),
            "page {page} of the child is not what its GPU wrote"
        );
    }
    write!(parent, "was {} MiB into pass {pass}", mib(new * 8))?;
    Ok(())
}

/// The pass that was under way, and how many words it had written: all before are of this pass,
/// all after of the one before. (A pass that is complete counts as that pass.)
fn boundary(memory: &Memory, passes: u64) -> Result<(u64, usize)> {
    let first = memory.words(0)[0];
    let pass = (1..=passes)
        .find(|&pass| value(pass) == first)
        .with_context(|| format!("the child begins with {first:#x}, which no pass wrote"))?;
    let mut new = 0;
    let mut ended = false;
    for page in 0..memory.pages() {
        for &word in memory.words(page) {
            if !ended && word == value(pass) {
                new += 1;
            } else {
                ended = true;
                ensure!(
                    word == value(pass - 1),
                    "page {page} of the child holds {word:#x}: neither of pass {pass}, which \
                     reached word {new}, nor of the pass before"
                );
            }
        }
    }
    Ok((pass, new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::{UNIT_PAGES, WORDS};

    #[test]
    fn memory_of_one_moment_is_told_from_a_mixture() {
        let mut memory = Memory::anonymous(UNIT).unwrap();
        memory.words_of_mut(0..UNIT_PAGES).fill(value(2));
        memory.words_of_mut(0..3).fill(value(3));
        memory.words_mut(3)[0] = value(3);
        assert_eq!(boundary(&memory, 4).unwrap(), (3, 3 * WORDS + 1));
        memory.words_mut(9)[7] = value(3);
        assert!(boundary(&memory, 4).is_err());
        memory.words_mut(9)[7] = value(1);
        assert!(boundary(&memory, 4).is_err());
        memory.words_mut(0)[0] = 5;
        assert!(boundary(&memory, 4).is_err());
    }
}
