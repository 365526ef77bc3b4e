//! A made-up GPU with known figures.

use hmmgpu_telemetry::control::{Hello, PROTOCOL};
use hmmgpu_telemetry::snapshot::{
    Access, Compute, Direction, EngineState, Events, Fallbacks, Faults, FolioState, Latency, Link,
    Mmu, Outcome, Phases, Process, Queue, QueueKind, SCHEMA, Snapshot, Spans, Transfers, Trigger,
    Vram, VramFolios, VramRun,
};
use hmmgpu_telemetry::{CheckMode, Checks};

const MS: u64 = 1_000_000;

/// What its server says of itself.
pub(crate) fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL.into(),
        revision: "v0.0.0-made-up".into(),
        pid: 4711,
        label: "bench".into(),
        socket: "/run/gpu.sock".into(),
    }
}

/// It ten seconds after its start: since the snapshot [`before`], 200 ms ago, 100 folios of order
/// 9 went to the device, 5120 pages came home, and the copy engine was busy for 80 ms. Migrations
/// of order 9 had single pages in them, too, so that more was copied in them than order 9.
pub(crate) fn now() -> Snapshot {
    let mut snapshot = before();
    snapshot.time_ns += 200 * MS;
    snapshot.transfers[0] = transfers(9, Direction::SysToDev, 1000, 150 * MS);
    snapshot.transfers[1] = transfers(0, Direction::DevToSys, 51_200, 70 * MS);
    snapshot.spans[0] = spans(9, Direction::SysToDev, [200 * MS, 160 * MS], 512_000);
    snapshot.spans[0].latency.buckets = vec![(2 * MS, 90), (4 * MS, 10)];
    snapshot.spans[1] = spans(0, Direction::DevToSys, [700 * MS, 63 * MS], 51_200);
    snapshot.spans[1].latency.buckets = vec![(40_000, 98), (500_000, 2)];
    snapshot.spans[1].count += 46;
    snapshot.queues[0].busy_ns += 80 * MS;
    snapshot.mmu.faults[0].count += 69;
    snapshot
}

/// See [`now`].
pub(crate) fn before() -> Snapshot {
    Snapshot {
        schema: SCHEMA.into(),
        time_ns: 100_000 * MS + 9800 * MS,
        started_ns: 100_000 * MS,
        generation: 1,
        vram: vram(),
        checker: Checks {
            mode: CheckMode::Folio,
            ..Checks::default()
        },
        transfers: vec![
            transfers(9, Direction::SysToDev, 900, 135 * MS),
            transfers(0, Direction::DevToSys, 46_080, 63 * MS),
        ],
        spans: vec![
            spans(9, Direction::SysToDev, [180 * MS, 144 * MS], 460_800),
            spans(0, Direction::DevToSys, [630 * MS, 56 * MS], 46_080),
        ],
        fallbacks: vec![
            fallbacks(Trigger::Prefetch, "no_vram", 7),
            fallbacks(Trigger::GpuFault, "no_vram", 12_048),
            fallbacks(Trigger::GpuFault, "shared", 3),
        ],
        processes: vec![
            process(212, "svm-mix", 514 << 20),
            process(213, "svm-list", 2 << 20),
        ],
        events: Events {
            splits: vec![(9, 22_222)],
            descriptor_errors: vec![("STATUS_BAD_ADDRESS".into(), 1)],
            resets: vec![
                ("register".into(), 1),
                ("flr".into(), 0),
                ("vfio_user".into(), 1),
                ("disconnect".into(), 4),
            ],
            ..Events::default()
        },
        queues: vec![
            queue(QueueKind::Copy, 0, EngineState::Busy, 12),
            queue(QueueKind::Invalidation, 0, EngineState::Sleeping, 0),
            queue(QueueKind::Fault, 0, EngineState::Sleeping, 0),
            queue(QueueKind::Compute, 3, EngineState::Faulted, 1),
            queue(QueueKind::Compute, 4, EngineState::Busy, 1023),
            queue(QueueKind::Compute, 5, EngineState::Stopped, 0),
        ],
        link: Link {
            connected: true,
            clients: 1,
            bus_master: true,
            msix: true,
            driver: true,
        },
        trace: None,
        windows: vec![],
        windows_dropped: 0,
        mmu: mmu(),
        compute: Compute::default(),
        injected: Vec::new(),
        link_model: None,
    }
}

fn vram() -> Vram {
    let run = |blocks, order, used_pages, split| VramRun {
        blocks,
        order,
        used_pages,
        split,
    };
    Vram {
        bytes: 4 << 30,
        used_bytes: 516 << 20,
        peak_bytes: 1 << 30,
        largest_free_bytes: 3 << 30,
        fragmentation: 0.02,
        folios: vec![
            VramFolios {
                order: 0,
                state: FolioState::Split,
                folios: 1024,
                bytes: 4 << 20,
            },
            VramFolios {
                order: 9,
                state: FolioState::Whole,
                folios: 256,
                bytes: 512 << 20,
            },
        ],
        map: vec![
            run(256, Some(9), 512, false),
            run(4, Some(0), 256, true),
            run(1788, None, 0, false),
        ],
        inconsistent_notes: 0,
    }
}

fn mmu() -> Mmu {
    Mmu {
        faults: vec![
            Faults {
                access: Access::Write,
                reason: "FAULT_NOT_PRESENT".into(),
                outcome: Outcome::Replayed,
                count: 30_216,
            },
            Faults {
                access: Access::Read,
                reason: "FAULT_NOT_PRESENT".into(),
                outcome: Outcome::Cancelled,
                count: 511,
            },
        ],
        replay: Latency {
            count: 30_285,
            p50_ns: 2_690_000,
            p99_ns: 72_900_000,
            ..Latency::default()
        },
        ..Mmu::default()
    }
}

fn transfers(order: u8, direction: Direction, folios: u64, engine_ns: u64) -> Transfers {
    Transfers {
        order,
        direction,
        trigger: Trigger::Prefetch,
        folios,
        bytes: folios << (12 + order),
        filled_folios: 0,
        filled_bytes: 0,
        engine_ns,
        errors: 0,
        latency: Latency::default(),
        queue_wait: Latency::default(),
    }
}

fn spans(order: u8, direction: Direction, [busy_ns, engine_ns]: [u64; 2], pages: u64) -> Spans {
    let (trigger, count) = if direction == Direction::DevToSys {
        (Trigger::CpuFault, 12_299)
    } else {
        (Trigger::Prefetch, 7)
    };
    Spans {
        order,
        direction,
        trigger,
        count,
        pages_asked: pages,
        pages_moved: pages,
        busy_ns,
        engine_ns,
        latency: Latency::default(),
        phases: Phases::default(),
    }
}

fn fallbacks(trigger: Trigger, reason: &str, folios: u64) -> Fallbacks {
    Fallbacks {
        order: 9,
        direction: Direction::SysToDev,
        trigger,
        reason: reason.into(),
        folios,
    }
}

fn process(pid: u32, name: &str, vram_bytes: u64) -> Process {
    Process {
        pid,
        name: name.into(),
        vram_bytes,
        spans: 37,
        gpu_fault_spans: 30,
        cpu_fault_spans: 7,
        sys_to_dev_bytes: 2000 << 20,
        dev_to_sys_bytes: 200 << 20,
        last_ns: 0,
    }
}

fn queue(kind: QueueKind, index: u32, state: EngineState, depth: u32) -> Queue {
    Queue {
        kind,
        index,
        state,
        entries: 1024,
        depth,
        busy_ns: 0,
    }
}
