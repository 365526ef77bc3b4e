//! What moved: transfers, migrations, and what did not move whole.

use std::fmt::Display;

use hmmgpu_telemetry::snapshot::{Snapshot, Spans, Transfers};

use super::{Family, counter, histogram, name};
use crate::metrics::text::{Label, Samples, seconds};

pub(super) const FAMILIES: &[Family] = &[
    counter(
        "hmmgpu_transfer_folios_total",
        "folios",
        "Folios that engines copied or filled.",
        |to, from| {
            each_transfer(to, from, |to, labels, row| {
                to.put(&[labels, &[("kind", &"copy")]].concat(), row.folios);
                to.put(&[labels, &[("kind", &"fill")]].concat(), row.filled_folios);
            });
        },
    ),
    counter(
        "hmmgpu_transfer_bytes_total",
        "bytes",
        "Bytes that engines copied or filled.",
        |to, from| {
            each_transfer(to, from, |to, labels, row| {
                to.put(&[labels, &[("kind", &"copy")]].concat(), row.bytes);
                to.put(&[labels, &[("kind", &"fill")]].concat(), row.filled_bytes);
            });
        },
    ),
    counter(
        "hmmgpu_transfer_engine_seconds_total",
        "seconds",
        "Time that engines were busy with transfers.",
        |to, from| {
            each_transfer(to, from, |to, labels, row| {
                to.put(labels, seconds(row.engine_ns));
            });
        },
    ),
    counter(
        "hmmgpu_transfer_errors_total",
        "",
        "Descriptors of transfers that failed.",
        |to, from| each_transfer(to, from, |to, labels, row| to.put(labels, row.errors)),
    ),
    histogram(
        "hmmgpu_transfer_duration_seconds",
        "Engine time of each descriptor.",
        |to, from| {
            each_transfer(to, from, |to, labels, row| {
                to.histogram(labels, &row.latency)
            })
        },
    ),
    histogram(
        "hmmgpu_transfer_queue_wait_seconds",
        "Time that each descriptor waited in the ring.",
        |to, from| {
            each_transfer(to, from, |to, labels, row| {
                to.histogram(labels, &row.queue_wait)
            });
        },
    ),
    counter(
        "hmmgpu_spans_total",
        "",
        "Migrations that ended.",
        |to, from| {
            each_span(to, from, |to, labels, row| to.put(labels, row.count));
        },
    ),
    counter(
        "hmmgpu_span_asked_pages_total",
        "pages",
        "Pages that migrations were to move.",
        |to, from| each_span(to, from, |to, labels, row| to.put(labels, row.pages_asked)),
    ),
    counter(
        "hmmgpu_span_moved_pages_total",
        "pages",
        "Pages that migrations moved.",
        |to, from| each_span(to, from, |to, labels, row| to.put(labels, row.pages_moved)),
    ),
    counter(
        "hmmgpu_span_busy_seconds_total",
        "seconds",
        "Time in which at least one migration of the kind was under way.",
        |to, from| {
            each_span(to, from, |to, labels, row| {
                to.put(labels, seconds(row.busy_ns))
            })
        },
    ),
    counter(
        "hmmgpu_span_engine_seconds_total",
        "seconds",
        "Time in it that engines were busy with what such migrations copy.",
        |to, from| {
            each_span(to, from, |to, labels, row| {
                to.put(labels, seconds(row.engine_ns))
            })
        },
    ),
    histogram(
        "hmmgpu_span_duration_seconds",
        "Time of each migration.",
        |to, from| {
            each_span(to, from, |to, labels, row| {
                to.histogram(labels, &row.latency)
            });
        },
    ),
    counter(
        "hmmgpu_span_phase_seconds_total",
        "seconds",
        "Time of migrations in each phase, by the driver's clock.",
        |to, from| {
            each_span(to, from, |to, labels, row| {
                let phases = &row.phases;
                for (phase, ns) in [
                    ("collect", phases.collect_ns),
                    ("alloc", phases.alloc_ns),
                    ("copy", phases.copy_ns),
                    ("commit", phases.commit_ns),
                    ("finish", phases.finish_ns),
                ] {
                    to.put(&[labels, &[("phase", &phase)]].concat(), seconds(ns));
                }
            });
        },
    ),
    counter(
        "hmmgpu_span_unmatched_total",
        "",
        "Spans without a beginning or an end.",
        |to, from| {
            to.put(&[], from.events.unmatched_spans);
        },
    ),
    counter(
        "hmmgpu_span_lost_total",
        "",
        "Spans that a reset or a bound ended.",
        |to, from| {
            to.put(&[], from.events.lost_spans);
        },
    ),
    counter(
        "hmmgpu_fallback_folios_total",
        "folios",
        "Large folios that did not move whole.",
        |to, from| {
            for row in &from.fallbacks {
                let labels: [(&str, &dyn Display); 4] = [
                    ("order", &row.order),
                    ("direction", &name(row.direction)),
                    ("trigger", &name(row.trigger)),
                    ("reason", &row.reason),
                ];
                to.put(&labels, row.folios);
            }
        },
    ),
    counter(
        "hmmgpu_split_folios_total",
        "folios",
        "Large folios in VRAM that were split, by their order before.",
        |to, from| {
            for (order, folios) in &from.events.splits {
                to.put(&[("order", order)], folios);
            }
        },
    ),
];

fn each_transfer(
    samples: &mut Samples<'_>,
    snapshot: &Snapshot,
    put: fn(&mut Samples<'_>, &[Label<'_>], &Transfers),
) {
    for row in &snapshot.transfers {
        let (direction, trigger) = (name(row.direction), name(row.trigger));
        let labels: [(&str, &dyn Display); 3] = [
            ("order", &row.order),
            ("direction", &direction),
            ("trigger", &trigger),
        ];
        put(samples, &labels, row);
    }
}

fn each_span(
    samples: &mut Samples<'_>,
    snapshot: &Snapshot,
    put: fn(&mut Samples<'_>, &[Label<'_>], &Spans),
) {
    for row in &snapshot.spans {
        let (direction, trigger) = (name(row.direction), name(row.trigger));
        let labels: [(&str, &dyn Display); 3] = [
            ("order", &row.order),
            ("direction", &direction),
            ("trigger", &trigger),
        ];
        put(samples, &labels, row);
    }
}
