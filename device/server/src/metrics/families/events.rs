//! The device: queues, link, and what happened to it.

use std::fmt::Display;

use hmmgpu_telemetry::CheckKind;
use hmmgpu_telemetry::snapshot::{EngineState, Queue, Snapshot};

use super::{Family, counter, gauge, name};
use crate::metrics::text::{Samples, seconds};

const ENGINE_STATES: [EngineState; 5] = [
    EngineState::Busy,
    EngineState::Polling,
    EngineState::Sleeping,
    EngineState::Faulted,
    EngineState::Stopped,
];

pub(super) const FAMILIES: &[Family] = &[
    gauge(
        "hmmgpu_uptime_seconds",
        "seconds",
        "Time since the device was made.",
        |to, from| {
            to.put(&[], seconds(from.time_ns.saturating_sub(from.started_ns)));
        },
    ),
    counter(
        "hmmgpu_descriptors_total",
        "",
        "Descriptors that engines saw.",
        |to, from| {
            to.put(&[], from.events.descriptors);
        },
    ),
    counter(
        "hmmgpu_descriptor_errors_total",
        "",
        "Descriptors that did not end well, by status.",
        |to, from| each_named(to, "status", &from.events.descriptor_errors),
    ),
    counter(
        "hmmgpu_check_reports_total",
        "",
        "Reports of the checker of VRAM, by what the driver did wrong.",
        |to, from| {
            for kind in CheckKind::ALL {
                let found = from.checker.counts.iter().find(|(found, _)| *found == kind);
                to.put(
                    &[("kind", &kind.name())],
                    found.map_or(0, |(_, count)| *count),
                );
            }
        },
    ),
    counter("hmmgpu_resets_total", "", "Resets by cause.", |to, from| {
        each_named(to, "cause", &from.events.resets);
    }),
    counter(
        "hmmgpu_injected_faults_total",
        "",
        "Faults that were injected, by site and action as site:action.",
        |to, from| each_named(to, "fault", &from.events.injected),
    ),
    counter("hmmgpu_fences_total", "", "Fences written.", |to, from| {
        to.put(&[], from.events.fences);
    }),
    counter(
        "hmmgpu_interrupts_total",
        "",
        "Interrupts raised.",
        |to, from| {
            to.put(&[], from.events.interrupts);
        },
    ),
    counter(
        "hmmgpu_doorbells_total",
        "",
        "Doorbells received.",
        |to, from| {
            to.put(&[], from.events.doorbells);
        },
    ),
    counter(
        "hmmgpu_engine_sleeps_total",
        "",
        "Times that engines went to sleep.",
        |to, from| {
            to.put(&[], from.events.engine_sleeps);
        },
    ),
    counter(
        "hmmgpu_unknown_register_accesses_total",
        "",
        "Reads and writes of registers that are not defined.",
        |to, from| to.put(&[], from.events.unknown_register_accesses),
    ),
    gauge("hmmgpu_dma_maps", "", "DMA maps in force.", |to, from| {
        to.put(&[], from.events.dma_maps);
    }),
    gauge(
        "hmmgpu_populating_bytes",
        "bytes",
        "Guest RAM and VRAM that the host is yet to populate ahead of their use.",
        |to, from| to.put(&[], from.events.populating_bytes),
    ),
    counter(
        "hmmgpu_dma_map_errors_total",
        "",
        "DMA maps that were refused.",
        |to, from| {
            to.put(&[], from.events.dma_map_errors);
        },
    ),
    gauge(
        "hmmgpu_queue_depth",
        "",
        "Descriptors that a queue has yet to do.",
        |to, from| {
            each_queue(to, from, |queue| queue.depth);
        },
    ),
    gauge(
        "hmmgpu_queue_entries",
        "",
        "Entries of a queue's ring.",
        |to, from| {
            each_queue(to, from, |queue| queue.entries);
        },
    ),
    counter(
        "hmmgpu_queue_busy_seconds_total",
        "seconds",
        "Time that a queue's engine was busy.",
        |to, from| each_queue(to, from, |queue| seconds(queue.busy_ns)),
    ),
    gauge(
        "hmmgpu_queue_state",
        "",
        "1 for the state that a queue is in, else 0.",
        |to, from| {
            for queue in &from.queues {
                for state in ENGINE_STATES {
                    let labels: [(&str, &dyn Display); 3] = [
                        ("kind", &name(queue.kind)),
                        ("index", &queue.index),
                        ("state", &name(state)),
                    ];
                    to.put(&labels, u8::from(state == queue.state));
                }
            }
        },
    ),
    gauge(
        "hmmgpu_link_connected",
        "",
        "1 while a vfio-user client is there.",
        |to, from| {
            to.put(&[], u8::from(from.link.connected));
        },
    ),
    counter(
        "hmmgpu_link_clients_total",
        "",
        "Clients that were there.",
        |to, from| {
            to.put(&[], from.link.clients);
        },
    ),
    gauge(
        "hmmgpu_link_bus_master",
        "",
        "1 while the device may use DMA.",
        |to, from| {
            to.put(&[], u8::from(from.link.bus_master));
        },
    ),
    gauge(
        "hmmgpu_link_msix",
        "",
        "1 while MSI-X is enabled.",
        |to, from| {
            to.put(&[], u8::from(from.link.msix));
        },
    ),
    gauge(
        "hmmgpu_link_driver",
        "",
        "1 while a driver uses the device.",
        |to, from| {
            to.put(&[], u8::from(from.link.driver));
        },
    ),
    counter(
        "hmmgpu_trace_events_total",
        "",
        "Events written to the trace.",
        |to, from| {
            if let Some(trace) = &from.trace {
                to.put(&[], trace.events);
            }
        },
    ),
    counter(
        "hmmgpu_trace_dropped_events_total",
        "",
        "Events that are missing in the trace.",
        |to, from| {
            if let Some(trace) = &from.trace {
                to.put(&[], trace.dropped);
            }
        },
    ),
];

fn each_queue<T: Display>(samples: &mut Samples<'_>, snapshot: &Snapshot, value: fn(&Queue) -> T) {
    for queue in &snapshot.queues {
        let labels: [(&str, &dyn Display); 2] =
            [("kind", &name(queue.kind)), ("index", &queue.index)];
        samples.put(&labels, value(queue));
    }
}

fn each_named(samples: &mut Samples<'_>, label: &str, counts: &[(String, u64)]) {
    for (name, count) in counts {
        samples.put(&[(label, name)], count);
    }
}
