//! Address spaces and jobs.

use std::fmt::Display;

use super::{Family, counter, gauge, histogram, name};
use crate::metrics::text::seconds;

pub(super) const FAMILIES: &[Family] = &[
    counter(
        "hmmgpu_translations_total",
        "",
        "Addresses that were translated.",
        |to, from| {
            to.put(&[], from.mmu.translations);
        },
    ),
    counter(
        "hmmgpu_tlb_hits_total",
        "",
        "Translations that the TLB had.",
        |to, from| {
            to.put(&[], from.mmu.tlb_hits);
        },
    ),
    counter(
        "hmmgpu_page_table_walks_total",
        "",
        "Walks of page tables.",
        |to, from| {
            to.put(&[], from.mmu.walks);
        },
    ),
    counter(
        "hmmgpu_invalidations_total",
        "",
        "Invalidations carried out.",
        |to, from| {
            to.put(&[], from.mmu.invalidations);
        },
    ),
    counter(
        "hmmgpu_faults_total",
        "",
        "Faults of jobs by access, reason and outcome.",
        |to, from| {
            for row in &from.mmu.faults {
                let labels: [(&str, &dyn Display); 3] = [
                    ("access", &name(row.access)),
                    ("reason", &row.reason),
                    ("outcome", &name(row.outcome)),
                ];
                to.put(&labels, row.count);
            }
        },
    ),
    histogram(
        "hmmgpu_fault_replay_seconds",
        "Time from a fault until its job went on, or was cancelled.",
        |to, from| to.histogram(&[], &from.mmu.replay),
    ),
    counter(
        "hmmgpu_fault_queue_full_total",
        "",
        "Faults that found no room in the fault queue.",
        |to, from| to.put(&[], from.mmu.fault_queue_full),
    ),
    counter(
        "hmmgpu_jobs_total",
        "",
        "Jobs that ended, by kernel and status.",
        |to, from| {
            for row in &from.compute.jobs {
                to.put(
                    &[("kernel", &name(row.kernel)), ("status", &row.status)],
                    row.count,
                );
            }
        },
    ),
    counter(
        "hmmgpu_job_elements_total",
        "",
        "Elements that jobs did.",
        |to, from| {
            for row in &from.compute.jobs {
                to.put(
                    &[("kernel", &name(row.kernel)), ("status", &row.status)],
                    row.elements,
                );
            }
        },
    ),
    counter(
        "hmmgpu_job_engine_seconds_total",
        "seconds",
        "Time that engines worked on jobs.",
        |to, from| {
            for row in &from.compute.jobs {
                let labels: [(&str, &dyn Display); 2] =
                    [("kernel", &name(row.kernel)), ("status", &row.status)];
                to.put(&labels, seconds(row.engine_ns));
            }
        },
    ),
    gauge(
        "hmmgpu_contexts",
        "",
        "Contexts that are enabled.",
        |to, from| {
            to.put(&[], from.compute.contexts);
        },
    ),
];
