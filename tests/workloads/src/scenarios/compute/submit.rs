//! What the driver refuses, and what it remembers.

use anyhow::{Result, ensure};
use hmmgpu_uapi::{Advise, Prefetch, Submit};
use rustix::io::Errno;

use super::{checksum, fill};
use crate::gpu::{Command, Job};
use crate::scenarios::setup::Setup;
use crate::sys::memory::{PAGE, UNIT, UNIT_PAGES};

/// One good request of each kernel, on memory at an address.
fn good(address: u64) -> [Submit; 10] {
    let (dst, src, indices) = (address, address + PAGE as u64, address + 2 * PAGE as u64);
    [
        Command::Fill {
            dst,
            pattern: 0,
            bytes: 64,
        },
        Command::Copy {
            dst,
            src,
            bytes: 64,
        },
        Command::Compare {
            left: dst,
            right: src,
            bytes: 64,
        },
        Command::Checksum { src, words: 8 },
        Command::Reduce {
            src,
            words: 8,
            how: 0,
        },
        Command::Saxpy {
            a: 1.0,
            x: src,
            y: dst,
            count: 8,
        },
        Command::Gather {
            dst,
            src,
            indices,
            count: 8,
        },
        Command::Scatter {
            dst,
            src,
            indices,
            count: 8,
        },
        Command::Chase {
            head: src,
            next: 0,
            payload: 8,
            most: 1,
        },
        Command::AtomicAdd {
            word: dst,
            value: 0,
            times: 1,
        },
    ]
    .map(Command::request)
}

pub(super) fn jobs_are_checked(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let mut filled = setup.filled(0, 1)?;
    filled.memory.words_of_mut(0..3).fill(0);
    let requests = good(filled.memory.address() as u64);
    for request in requests {
        let job = Job(gpu.device().submit(request)?);
        gpu.wait(job)?.complete()?;
    }
    let refused = |what: &str, request: Submit| {
        let result = gpu.device().submit(request);
        ensure!(
            result == Err(Errno::INVAL),
            "{what}: {result:?} instead of EINVAL for {request:x?}"
        );
        Ok(())
    };
    for request in requests {
        for kernel in [0, 11, 255, 256, u32::MAX] {
            refused("a kernel that does not exist", Submit { kernel, ..request })?;
        }
        for flags in [1, 1 << 31] {
            refused("a flag", Submit { flags, ..request })?;
        }
        // Fields that a kernel does not use are zero, by what its good request uses.
        let zero = |field: u64| field == 0;
        let uses_arg = matches!(request.kernel, 1 | 5 | 6 | 9 | 10);
        let uses_aux = matches!(request.kernel, 7..=9);
        if zero(request.dst) {
            refused("dst", Submit { dst: 8, ..request })?;
        }
        if zero(request.src) {
            refused("src", Submit { src: 8, ..request })?;
        }
        if !uses_aux {
            refused("aux", Submit { aux: 8, ..request })?;
        }
        if !uses_arg {
            refused("arg", Submit { arg: 1, ..request })?;
        }
        // Ranges end below 2^64: those of a list and of one word always do.
        if !matches!(request.kernel, 9 | 10) {
            refused(
                "a count that overflows",
                Submit {
                    count: u64::MAX,
                    ..request
                },
            )?;
        }
    }
    filled.verify(3..UNIT_PAGES)
}

pub(super) fn jobs_that_break_a_rule_end(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let mut filled = setup.filled(0, 1)?;
    filled.memory.words_of_mut(0..4).fill(0);
    let [_, copy, _, sum, reduce, saxpy, gather, scatter, _, add] =
        good(filled.memory.address() as u64);
    let requests = [
        (
            "CHECKSUM",
            Submit {
                src: sum.src + 4,
                ..sum
            },
        ),
        (
            "REDUCE",
            Submit {
                src: reduce.src + 1,
                ..reduce
            },
        ),
        ("REDUCE of another kind", Submit { arg: 3, ..reduce }),
        (
            "SAXPY, x",
            Submit {
                src: saxpy.src + 2,
                ..saxpy
            },
        ),
        (
            "SAXPY, y",
            Submit {
                dst: saxpy.dst + 1,
                ..saxpy
            },
        ),
        (
            "GATHER",
            Submit {
                dst: gather.dst + 4,
                ..gather
            },
        ),
        (
            "GATHER, indices",
            Submit {
                aux: gather.aux + 2,
                ..gather
            },
        ),
        (
            "SCATTER",
            Submit {
                src: scatter.src + 4,
                ..scatter
            },
        ),
        (
            "ATOMIC_ADD",
            Submit {
                dst: add.dst + 4,
                ..add
            },
        ),
        (
            "COPY that overlaps",
            Submit {
                src: copy.dst + 8,
                ..copy
            },
        ),
    ];
    for (what, request) in requests {
        match gpu.device().submit(request) {
            Ok(job) => {
                let report = gpu.wait(Job(job))?;
                ensure!(
                    report.error == Some(Errno::INVAL),
                    "{what}: {report:x?} instead of EINVAL"
                );
            }
            // Refused at once is as good.
            Err(Errno::INVAL) => {}
            Err(error) => anyhow::bail!("{what}: {error}"),
        }
    }
    Ok(())
}

pub(super) fn results_are_kept_for_a_while(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let filled = setup.filled(0, 1)?;
    let sum = checksum(&filled.memory, 0..1);
    let first = gpu.submit(sum)?;
    let report = gpu.wait(first)?.complete()?;
    for bad in [0, first.0 + 1, first.0 + 1000, u64::MAX] {
        let result = gpu.wait_for(Job(bad), 0);
        ensure!(result == Err(Errno::NOENT), "job {bad}: {result:?}");
    }
    for _ in 0..63 {
        gpu.run(fill(&filled.memory, 1..2, 1))?;
    }
    let kept = gpu.wait_for(first, 0);
    ensure!(kept == Ok(report), "after 63 more jobs: {kept:?}");
    for _ in 0..2 {
        gpu.run(fill(&filled.memory, 1..2, 1))?;
    }
    let gone = gpu.wait_for(first, 0);
    ensure!(gone == Err(Errno::NOENT), "after 65 more jobs: {gone:?}");
    // Another descriptor's jobs are its own.
    let other = setup.gpu()?;
    let job = gpu.submit(sum)?;
    let stranger = other.wait_for(Job(job.0 + 500), 0);
    ensure!(stranger == Err(Errno::NOENT), "{stranger:?}");
    gpu.wait(job)?.complete()?;
    Ok(())
}

pub(super) fn advice_is_checked(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let filled = setup.filled(0, 1)?;
    let addr = filled.memory.address() as u64;
    let size = UNIT as u64;
    let good = Advise {
        addr,
        size,
        ..Advise::default()
    };
    for policy in 0..4 {
        gpu.device().advise(Advise { policy, ..good })?;
    }
    gpu.device().advise(good)?;
    let bad = [
        ("a policy", Advise { policy: 4, ..good }),
        ("a flag", Advise { flags: 1, ..good }),
        (
            "an unaligned address",
            Advise {
                addr: addr + 1,
                ..good
            },
        ),
        ("an unaligned size", Advise { size: 100, ..good }),
        ("no size", Advise { size: 0, ..good }),
        (
            "a range that overflows",
            Advise {
                size: u64::MAX - 4095,
                ..good
            },
        ),
    ];
    for (what, request) in bad {
        let result = gpu.device().advise(request);
        ensure!(result == Err(Errno::INVAL), "ADVISE, {what}: {result:?}");
    }
    let good = Prefetch {
        addr,
        size,
        ..Prefetch::default()
    };
    let bad = [
        ("a flag", Prefetch { flags: 2, ..good }),
        (
            "an unaligned address",
            Prefetch {
                addr: addr + 8,
                ..good
            },
        ),
        (
            "an unaligned size",
            Prefetch {
                size: size + 8,
                ..good
            },
        ),
        ("no size", Prefetch { size: 0, ..good }),
        (
            "a range that overflows",
            Prefetch {
                size: u64::MAX - 4095,
                ..good
            },
        ),
    ];
    for (what, request) in bad {
        let (_, result) = gpu.device().prefetch(request);
        ensure!(result == Err(Errno::INVAL), "PREFETCH, {what}: {result:?}");
    }
    filled.verify(filled.all())
}
