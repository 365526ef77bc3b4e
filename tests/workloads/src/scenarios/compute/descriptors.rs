//! Whose memory a descriptor means.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command as Program;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use hmmgpu_uapi::Migrate;
use rustix::io::Errno;

use super::{checksum, expected, fill, verify_word};
use crate::device::Device;
use crate::gpu::{Command, Gpu, Policy};
use crate::scenarios::fork::{child, succeeded};
use crate::scenarios::setup::Setup;
use crate::sys::fork::fork;
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES};

pub(super) fn inherited_gpu_means_the_opener(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        let parents = expected(&filled, filled.all());
        let inheritor = child(|| {
            filled.seed += 1;
            filled.fill(filled.all());
            let report = gpu.run(checksum(&filled.memory, filled.all()))?;
            ensure!(
                report.value == parents,
                "the GPU reads the child: {report:x?}"
            );
            gpu.run(fill(&filled.memory, 0..UNIT_PAGES, 0x11))?;
            filled.verify(filled.all()).context("the child's memory")
        })?;
        succeeded(inheritor).with_context(|| format!("order {order}"))?;
        verify_word(&filled.memory, 0..UNIT_PAGES, 0x11)?;
        filled.verify(UNIT_PAGES..2 * UNIT_PAGES)?;
    }
    Ok(())
}

/// Calls on a descriptor whose process has gone.
fn means_nothing(device: &Device) -> Result<()> {
    let page = 0x10_0000;
    let submit = device.submit(
        Command::Fill {
            dst: page,
            pattern: 1,
            bytes: PAGE as u64,
        }
        .request(),
    );
    ensure!(submit == Err(Errno::SRCH), "SUBMIT: {submit:?}");
    let request = Migrate {
        addr: page,
        size: PAGE as u64,
        ..Migrate::default()
    };
    for outcome in [device.to_device_raw(request), device.to_system_raw(request)] {
        ensure!(outcome.error == Some(Errno::SRCH), "migration: {outcome:?}");
    }
    let (_, prefetch) = device.prefetch(hmmgpu_uapi::Prefetch {
        addr: page,
        size: PAGE as u64,
        ..hmmgpu_uapi::Prefetch::default()
    });
    ensure!(prefetch == Err(Errno::SRCH), "PREFETCH: {prefetch:?}");
    // What is not about memory still works.
    device.query()?;
    device.stats()?;
    Ok(())
}

pub(super) fn a_gpu_of_a_process_that_is_gone(setup: &Setup) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let (mut verdict, mut said) = (File::from(reader), File::from(writer));
    let opener = child(|| {
        let gpu = setup.gpu()?;
        let filled = setup.filled(0, 1)?;
        gpu.run(checksum(&filled.memory, filled.all()))?;
        let (reader, writer) = rustix::pipe::pipe()?;
        let (mut ended, mut alive) = (File::from(reader), Some(File::from(writer)));
        let orphan = fork(|| {
            drop(alive.take());
            let mut check = || -> Result<()> {
                // Ends when the opener has: it is the only one that could write.
                ensure!(ended.read(&mut [0])? == 0, "the opener wrote");
                means_nothing(gpu.device())?;
                // Its own memory is fine, with a GPU of its own.
                let own = setup.gpu()?;
                let report = own.run(checksum(&filled.memory, filled.all()))?;
                ensure!(
                    report.value == expected(&filled, filled.all()),
                    "{report:x?}"
                );
                Ok(())
            };
            let text = match check() {
                Ok(()) => "fine".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            i32::from(said.write_all(text.as_bytes()).is_err())
        })?;
        // It outlives this process.
        std::mem::forget(orphan);
        // Not dropped one by one: the end of the process is what this is about, and the pipe must
        // not end before it.
        std::mem::forget((gpu, alive));
        Ok(())
    })?;
    drop(said);
    succeeded(opener)?;
    let mut text = String::new();
    verdict.read_to_string(&mut text)?;
    ensure!(text == "fine", "in the process that is left: {text:?}");
    Ok(())
}

pub(super) fn exec_ends_what_a_gpu_means(setup: &Setup) -> Result<()> {
    // A descriptor that is kept means the memory that exec has done away with.
    let kept = child(|| {
        let gpu = setup.gpu()?;
        let filled = setup.filled(9, 1)?;
        gpu.run(fill(&filled.memory, filled.all(), 1))?;
        let error = Program::new("/proc/self/exe")
            .arg0("hmmgpu-scenarios")
            .arg("--kept-gpu")
            .arg("--device")
            .arg(setup.node())
            .stdin(gpu.device().file().try_clone()?)
            .exec();
        Err(error).context("cannot execute this program")
    })?;
    succeeded(kept)?;
    setup.no_contexts()?;
    // One that is not kept is closed.
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let closed = child(|| {
        let gpu = setup.gpu()?;
        let filled = setup.filled(9, 1)?;
        gpu.submit(fill(&filled.memory, filled.all(), 1))?;
        // Runs until nobody can write to its input any more.
        let error = Program::new("cat").stdin(reader).exec();
        Err(error).context("cannot execute cat")
    })?;
    setup.no_contexts()?;
    setup.vram_is_free()?;
    drop(writer);
    succeeded(closed)
}

/// After exec, with what was a GPU as standard input.
pub(crate) fn kept_gpu(node: &Path) -> Result<()> {
    let file = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    means_nothing(&Device::from_file(file))?;
    let gpu = Gpu::open(node)?;
    let memory = Memory::anonymous(UNIT)?;
    gpu.run(fill(&memory, 0..UNIT_PAGES, 2))?;
    verify_word(&memory, 0..UNIT_PAGES, 2)
}

/// Processes that compute at the same time.
const PROCESSES: u64 = 4;

pub(super) fn processes_work_at_once(setup: &Setup) -> Result<()> {
    let vram = usize::try_from(setup.device.query()?.vram_bytes)?;
    let pages = vram / 3 / UNIT * UNIT_PAGES;
    setup.controls.only(9)?;
    let workers: Vec<_> = (0..PROCESSES)
        .map(|number| {
            child(move || {
                let gpu = setup.gpu()?;
                let memory = Memory::anonymous(pages * PAGE)?;
                for round in 0..6 {
                    let word = number << 32 | round;
                    gpu.run(fill(&memory, 0..pages, word))?;
                    if round % 2 == 0 {
                        verify_word(&memory, 0..pages, word)
                            .with_context(|| format!("process {number}, round {round}"))?;
                    }
                    let sum = gpu.run(Command::Reduce {
                        src: memory.address() as u64,
                        words: (memory.len() / 8) as u64,
                        how: 0,
                    })?;
                    ensure!(
                        sum.value == word.wrapping_mul((memory.len() / 8) as u64),
                        "process {number}, round {round}: {sum:x?}"
                    );
                }
                Ok(())
            })
        })
        .collect::<Result<_>>()?;
    workers.into_iter().try_for_each(succeeded)
}

pub(super) fn descriptors_of_a_process_share_memory(setup: &Setup) -> Result<()> {
    let (one, other) = (setup.gpu()?, setup.gpu()?);
    let filled = setup.filled(9, 2)?;
    for round in 0..20 {
        one.run(fill(&filled.memory, filled.all(), round))?;
        let sum = other.run(Command::Reduce {
            src: filled.memory.address() as u64,
            words: (filled.memory.len() / 8) as u64,
            how: 1,
        })?;
        ensure!(sum.value == round, "round {round}: {sum:x?}");
    }
    // Both add to one word, where it is and where it wants to be.
    for policy in [Policy::AccessInPlace, Policy::Default] {
        for gpu in [&one, &other] {
            gpu.advise(filled.memory.address(), PAGE, policy)?;
        }
        let word = filled.memory.atomic(0, 1);
        word.store(0, Ordering::Relaxed);
        let add = Command::AtomicAdd {
            word: word.as_ptr() as u64,
            value: 1,
            times: 5000,
        };
        let jobs = [(&one, one.submit(add)?), (&other, other.submit(add)?)];
        for _ in 0..1000 {
            word.fetch_add(1, Ordering::Relaxed);
        }
        for (gpu, job) in jobs {
            gpu.wait(job)?.complete()?;
        }
        let sum = word.load(Ordering::Relaxed);
        ensure!(sum == 11_000, "{policy:?}: {sum} instead of 11000");
    }
    Ok(())
}
