//! Processes of the guest, as far as the driver names them.

use hmmgpu_telemetry::snapshot::{Process, Snapshot};

use super::{Family, counter, gauge};
use crate::metrics::text::Samples;

/// Most processes that have series of their own: those with VRAM, then the ones seen last. Stops
/// a guest that makes processes without end from filling Prometheus.
const MAX_PROCESSES: usize = 64;

pub(super) const FAMILIES: &[Family] = &[
    gauge(
        "hmmgpu_process_vram_bytes",
        "bytes",
        "VRAM in use for a process.",
        |to, from| {
            each_process(to, from, |process| process.vram_bytes);
        },
    ),
    counter(
        "hmmgpu_process_spans_total",
        "",
        "Migrations of a process.",
        |to, from| {
            each_process(to, from, |process| process.spans);
        },
    ),
    counter(
        "hmmgpu_process_gpu_fault_spans_total",
        "",
        "Migrations of a process that a fault of the GPU triggered.",
        |to, from| each_process(to, from, |process| process.gpu_fault_spans),
    ),
    counter(
        "hmmgpu_process_cpu_fault_spans_total",
        "",
        "Migrations of a process that a fault of a CPU triggered.",
        |to, from| each_process(to, from, |process| process.cpu_fault_spans),
    ),
    counter(
        "hmmgpu_process_to_device_bytes_total",
        "bytes",
        "Bytes of a process that moved to VRAM.",
        |to, from| each_process(to, from, |process| process.sys_to_dev_bytes),
    ),
    counter(
        "hmmgpu_process_to_system_bytes_total",
        "bytes",
        "Bytes of a process that moved to system memory.",
        |to, from| each_process(to, from, |process| process.dev_to_sys_bytes),
    ),
];

fn each_process(samples: &mut Samples<'_>, snapshot: &Snapshot, value: fn(&Process) -> u64) {
    for process in snapshot.processes.iter().take(MAX_PROCESSES) {
        samples.put(
            &[("pid", &process.pid), ("name", &process.name)],
            value(process),
        );
    }
}
