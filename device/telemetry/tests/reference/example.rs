//! A document that telemetry made: 2 MiB move to the device, and one page comes home.

use std::fmt::Write as _;

use hmmgpu_contract::desc::Status;
use hmmgpu_contract::mmu::FaultReason;
use hmmgpu_telemetry::snapshot::{
    Access, Direction, EngineState, FaultAction, FaultOutcome, FaultSite, InjectedFault, Kernel,
    Link, LinkLane, LinkModel, Outcome, Queue, QueueKind, Trigger,
};
use hmmgpu_telemetry::{
    FallbackReason, Known, NoteKind, PhaseTimes, ProcessName, Record, Source, Telemetry,
    TransferKind,
};

const PID: u32 = 812;
/// When the device was made.
const STARTED_NS: u64 = 1_000_000_000;
/// Deepest indentation that has lines of its own.
const DEEPEST: usize = 6;

/// One migration as a copy queue tells of it: what its descriptor copied, and its phases.
fn migration(id: u64, order: u8, direction: Direction, trigger: Trigger, ns: u64) -> [Record; 4] {
    let begin_ns = STARTED_NS + 1_000_000 * id;
    let pages = 1 << order;
    let begin = Record::SpanBegin {
        id,
        process: PID,
        direction,
        trigger,
        pages,
        time_ns: begin_ns,
    };
    let copy = Record::Transfer {
        kind: TransferKind::Copy,
        order,
        direction,
        trigger,
        descriptors: 1,
        folios: 1,
        engine_ns: ns / 2,
        waited_ns: ns / 50,
        end_ns: begin_ns + ns * 4 / 5,
        status: Status::STATUS_OK,
    };
    let times = PhaseTimes {
        collect_ns: ns / 5,
        alloc_ns: ns / 20,
        copy_ns: ns * 11 / 20,
        commit_ns: ns / 10,
        finish_ns: ns / 10,
    };
    let end = Record::SpanEnd {
        id,
        order,
        direction,
        trigger,
        pages,
        time_ns: begin_ns + ns,
    };
    [begin, copy, Record::Phases { id, times }, end]
}

/// A note about the first folio of VRAM.
fn note(kind: NoteKind, order: u8) -> Record {
    Record::Note {
        kind,
        address: 0,
        order,
        count: 1,
        index: 0,
    }
}

fn mark(cookie: u64) -> Record {
    let time_ns = STARTED_NS + 900_000 * cookie;
    Record::Mark { cookie, time_ns }
}

fn queue(kind: QueueKind, state: EngineState, entries: u32, busy_ns: u64) -> Queue {
    Queue {
        kind,
        index: 0,
        state,
        entries,
        depth: 0,
        busy_ns,
    }
}

/// The document, with short lists and objects on one line each.
pub(crate) fn document() -> String {
    let telemetry = Telemetry::new(64 << 20, STARTED_NS);
    let record = |kind, records: &[Record]| {
        let own = |record: &&Record| !matches!(record, Record::Fault { .. });
        let descriptors = records.iter().filter(own).count() as u64;
        telemetry.record(Source { kind, index: 0 }, 0, descriptors, records);
    };
    let name = ProcessName(*b"hmm-tests\0\0\0\0\0\0\0");
    record(
        QueueKind::Copy,
        &[
            Record::Process { pid: PID, name },
            mark(1),
            note(NoteKind::Alloc { process: PID }, 9),
        ],
    );
    let there = migration(1, 9, Direction::SysToDev, Trigger::Prefetch, 400_000);
    record(QueueKind::Copy, &there);
    record(
        QueueKind::Compute,
        &[
            Record::Fault {
                context: 0,
                address: 0x7f00_0000_0000,
                access: Access::Write,
                reason: FaultReason::FAULT_NOT_PRESENT,
                outcome: Outcome::Replayed,
                waited_ns: 35_000,
                end_ns: STARTED_NS + 1_600_000,
            },
            Record::Job {
                context: 0,
                kernel: Kernel::Fill,
                status: Status::STATUS_OK,
                elements: 2 << 20,
                engine_ns: 180_000,
                begin_ns: STARTED_NS + 1_500_000,
                end_ns: STARTED_NS + 1_780_000,
            },
        ],
    );
    let (home, trigger) = (Direction::DevToSys, Trigger::CpuFault);
    let fallback = Record::Fallback {
        order: 9,
        direction: home,
        trigger,
        reason: FallbackReason::NoMemory,
        folios: 1,
    };
    record(
        QueueKind::Copy,
        &[mark(2), note(NoteKind::Split(0), 9), fallback],
    );
    record(QueueKind::Copy, &migration(2, 0, home, trigger, 20_000));
    record(QueueKind::Copy, &[note(NoteKind::Free, 0)]);
    let known = Known {
        time_ns: STARTED_NS + 2_500_000,
        dma_maps: 3,
        populating_bytes: 1 << 30,
        queues: vec![
            queue(QueueKind::Copy, EngineState::Polling, 1024, 210_000),
            queue(QueueKind::Compute, EngineState::Sleeping, 256, 180_000),
            queue(QueueKind::Fault, EngineState::Sleeping, 256, 0),
        ],
        link: Link {
            connected: true,
            clients: 1,
            bus_master: true,
            msix: true,
            driver: true,
        },
        link_model: Some(LinkModel {
            spec: "pcie4-x8".to_owned(),
            latency_ns: 1000,
            to_device: LinkLane {
                bytes_per_second: 12_500_000_000,
                bytes: 67_108_864,
                busy_ns: 5_370_000,
            },
            to_system: LinkLane {
                bytes_per_second: 12_500_000_000,
                bytes: 0,
                busy_ns: 0,
            },
        }),
        injected: vec![InjectedFault {
            spec: "copy:delay=50ms@2".to_owned(),
            site: FaultSite::Copy,
            action: FaultAction::Delay,
            armed: false,
            seen: 2,
            hits: 1,
            last_ns: STARTED_NS + 2_000_000,
            outcomes: vec![(FaultOutcome::Late, 1)],
        }],
    };
    let counters = &telemetry.counters;
    for _ in 0..3 {
        counters.doorbell();
        counters.fence();
        counters.interrupt();
        counters.engine_sleep();
    }
    counters.contexts_enabled(1);
    counters.translated(514, 511, 3);
    let text = serde_json::to_string_pretty(&telemetry.snapshot(known, true));
    shorter(&text.expect("a snapshot is JSON"))
}

/// Puts what is deep inside on one line.
fn shorter(pretty: &str) -> String {
    let mut text = String::new();
    let mut deep = false;
    for line in pretty.lines() {
        let inner = line.trim_start();
        let indent = line.len() - inner.len();
        if indent > DEEPEST || deep && indent == DEEPEST && inner.starts_with([']', '}']) {
            let space = if text.ends_with(',') { " " } else { "" };
            let _ = write!(text, "{space}{inner}");
        } else {
            let _ = write!(text, "{}{line}", if text.is_empty() { "" } else { "\n" });
        }
        deep = indent > DEEPEST;
    }
    text
}
