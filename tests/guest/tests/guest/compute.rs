//! Computing on shared virtual memory. One guest has two GPUs and runs the example programs, one
//! after another; the other is small and runs jobs and everything else at random.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hmmgpu::size::{MIB, Size};
use hmmgpu_telemetry::snapshot::{Direction, Kernel, Outcome, Trigger};
use hmmgpu_vm_tests::program::Program;
use hmmgpu_vm_tests::session::{Machine, Session, Step};
use libtest_mimic::Trial;

use crate::counters::{self, faults};
use crate::guest::{Guest, summary};
use crate::trial;

/// VRAM is a quarter of what the checksum's memory is.
const TWO_GPUS: Machine = Machine {
    memory: Size(2048 * MIB),
    gpus: 2,
    vram: Size(256 * MIB),
    ..Machine::SMALL
};

const PROGRAMS: &[Step] = &[
    Step {
        name: "vectors",
        command: "svm-vector-add",
        limit: 120,
    },
    Step {
        name: "counter",
        command: "svm-atomic-counter",
        limit: 120,
    },
    Step {
        name: "list",
        command: "svm-list",
        limit: 180,
    },
    Step {
        name: "fork",
        command: "svm-fork",
        limit: 120,
    },
    Step {
        name: "checksum",
        command: "svm-checksum --size 1G",
        limit: 240,
    },
    Step {
        name: "inplace",
        command: "svm-checksum --size 256M --order 2 --in-place",
        limit: 120,
    },
    Step {
        name: "twogpus",
        command: "svm-two-gpus",
        limit: 120,
    },
    Step {
        name: "stats",
        command: "hmmgpu-stats --settle",
        limit: 30,
    },
    Step {
        name: "stats1",
        command: "hmmgpu-stats --settle --device /dev/hmmgpu1",
        limit: 30,
    },
];

const MIX: &[Step] = &[Step {
    name: "svmmix",
    command: "svm-mix --minutes 1.25 --processes 4",
    limit: 240,
}];

pub(crate) fn trials(program: &Arc<Program>) -> Vec<Trial> {
    let programs = Guest::new(program, TWO_GPUS, PROGRAMS);
    let mix = Guest::new(program, Machine::SMALL, MIX);
    let mut trials = Vec::new();
    for (part, guest) in [("svm", &programs), ("svm_mix", &mix)] {
        trials.extend(guest.general(part));
    }
    /// A test: its name and what it does.
    type Check = (&'static str, fn(&Session) -> Result<()>);
    let checks: [Check; 9] = [
        ("svm::vectors_from_the_allocator", |session| {
            said(session, "vectors", "all right")
        }),
        ("svm::counters_are_exact", |session| {
            said(session, "counter", "migrating")?;
            said(session, "counter", "in place")
        }),
        ("svm::a_list_larger_than_vram", |session| {
            said(session, "list", "the sum is right")
        }),
        ("svm::fork_in_the_middle_of_a_job", |session| {
            said(session, "fork", "forked in the middle")
        }),
        ("svm::one_job_over_memory_of_every_kind", |session| {
            said(session, "checksum", "1024 MiB through 256 MiB of VRAM")
        }),
        ("svm::the_same_in_place", |session| {
            said(session, "inplace", "right")
        }),
        ("svm::memory_passes_between_two_gpus", |session| {
            said(session, "twogpus", "order 9: 16 MiB passed 4 times")?;
            said(session, "twogpus", "order 0: 16 MiB passed 4 times")?;
            said(session, "twogpus", "both at once")
        }),
        ("svm::host_and_driver_agree", host_and_driver_agree),
        ("svm::the_host_tells_why_memory_moved", why_memory_moved),
    ];
    for (name, check) in checks {
        let guest = programs.clone();
        trials.push(trial(name, move || check(guest.session()?)));
    }
    trials.push(trial("svm_mix::every_result_is_right", move || {
        every_result_is_right(mix.session()?)
    }));
    trials
}

/// The step has succeeded, and its output contains this.
fn said(session: &Session, step: &str, text: &str) -> Result<()> {
    let output = session.succeeded(step)?;
    ensure!(output.contains(text), "no {text:?} in {output:?}");
    Ok(())
}

/// Both sides count the same things, each on its own.
fn host_and_driver_agree(session: &Session) -> Result<()> {
    for (host, step) in session.outcome.telemetry.iter().zip(["stats", "stats1"]) {
        counters::agree(&counters::of_driver(session, step)?, host).context(step)?;
        ensure!(
            faults(host, Outcome::Dropped) == 0 && faults(host, Outcome::Ended) == 0,
            "{:?}",
            host.mmu.faults
        );
    }
    Ok(())
}

/// The programs of this guest request nothing: memory moves because somebody faults, or makes
/// room.
fn why_memory_moved(session: &Session) -> Result<()> {
    for (number, host) in session.outcome.telemetry.iter().enumerate() {
        let moved = |direction, trigger, order| -> u64 {
            let transfers = host.transfers.iter().filter(|transfers| {
                transfers.direction == direction
                    && transfers.trigger == trigger
                    && transfers.order == order
            });
            transfers.map(|transfers| transfers.folios).sum()
        };
        for order in [0, 9] {
            let there = moved(Direction::SysToDev, Trigger::GpuFault, order);
            ensure!(there > 0, "GPU {number}: no fault moved order {order}");
            let home = moved(Direction::DevToSys, Trigger::CpuFault, order);
            ensure!(
                home > 0 || order == 0,
                "GPU {number}: order {order} never came home"
            );
        }
        let asked = moved(Direction::SysToDev, Trigger::Prefetch, 9);
        ensure!(asked == 0, "GPU {number}: {asked} folios moved by request");
        ensure!(
            number == 1 || moved(Direction::DevToSys, Trigger::Evict, 9) > 0,
            "nothing made room"
        );
        for kernel in [Kernel::Checksum, Kernel::Fill] {
            let jobs = &host.compute.jobs;
            let done = jobs
                .iter()
                .find(|jobs| jobs.kernel == kernel && jobs.status == "STATUS_OK");
            ensure!(
                done.is_some_and(|jobs| jobs.elements > 0 && jobs.engine_ns > 0),
                "GPU {number}: {jobs:?}"
            );
        }
        let mmu = &host.mmu;
        ensure!(
            mmu.walks > 0
                && mmu.tlb_hits > 0
                && mmu.translations >= mmu.tlb_hits
                && mmu.invalidations > 0
                && mmu.replay.count
                    == faults(host, Outcome::Replayed) + faults(host, Outcome::Cancelled),
            "GPU {number}: {mmu:?}"
        );
    }
    Ok(())
}

fn every_result_is_right(session: &Session) -> Result<()> {
    let summary = summary(session, "svmmix")?;
    let number = |key: &str| summary[key].as_u64().unwrap_or(0);
    ensure!(summary["ok"] == true, "{summary}");
    ensure!(
        number("memory_bytes") > number("vram_bytes"),
        "memory fits into VRAM: {summary}"
    );
    for (group, names) in [
        (
            "operations",
            &[
                "fork",
                "munmap",
                "mprotect",
                "mremap",
                "gpu_count",
                "gpu_prefetch",
            ][..],
        ),
        (
            "jobs",
            &[
                "fill done",
                "copy done",
                "checksum done",
                "fill refused",
                "checksum refused",
            ][..],
        ),
    ] {
        for name in names {
            let count = summary[group][name].as_u64();
            ensure!(count.is_some_and(|count| count > 0), "no {name}: {summary}");
        }
    }
    ensure!(number("job_faults") > 0, "no job faulted: {summary}");
    Ok(())
}
