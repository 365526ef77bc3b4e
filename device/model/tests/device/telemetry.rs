//! The snapshot equals what the driver submitted.

use hmmgpu_contract::desc::{
    DIR_DEV_TO_SYS, DIR_SYS_TO_DEV, FALLBACK_NO_VRAM, FALLBACK_SHARED, NOTE_ALLOC, NOTE_FREE,
    NOTE_SPLIT, TRIGGER_CPU_FAULT, TRIGGER_EVICT, TRIGGER_GPU_FAULT,
};
use hmmgpu_model::mock::descriptors::{
    Side, copy, fallback, fence, fill, mark, note, of_process, phases, process, span_begin,
    span_end, triggered,
};
use hmmgpu_model::mock::until;
use hmmgpu_telemetry::snapshot::{
    Direction, EngineState, FolioState, QueueKind, SCHEMA, Snapshot, Transfers, Trigger,
};

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::rig::{MIB, Mock, PAGE, assert_clean, mock};

fn row(rows: &[Transfers], order: u8, direction: Direction, trigger: Trigger) -> &Transfers {
    rows.iter()
        .find(|row| (row.order, row.direction, row.trigger) == (order, direction, trigger))
        .unwrap_or_else(|| panic!("no row {order} {direction:?} {trigger:?}: {rows:?}"))
}

#[test]
fn transfers_by_order_direction_and_trigger() {
    let mut driver = mock(16 * MIB);
    let data = driver.data().next_multiple_of(2 * MIB);
    let descs = [
        copy(9, 2, Side::Vram(0), Side::System(data)),
        copy(0, 3, Side::Vram(8 * MIB), Side::System(data)),
        copy(0, 1, Side::Vram(9 * MIB), Side::System(data)),
        triggered(
            copy(9, 1, Side::System(data), Side::Vram(0)),
            TRIGGER_CPU_FAULT,
        ),
        triggered(copy(4, 1, Side::Vram(0), Side::Vram(MIB)), TRIGGER_EVICT),
        copy(1, 1, Side::System(data), Side::System(data + MIB)),
        fill(9, 1, Side::Vram(4 * MIB), 0),
        fill(0, 7, Side::System(data), 0),
    ];
    assert_clean(&driver.run(&descs).unwrap());
    let bad = copy(9, 1, Side::Vram(0), Side::System(0));
    assert_eq!(driver.run(&[bad]).unwrap().errors, 1);
    let snapshot = driver.function().snapshot();
    assert_eq!(snapshot.schema, SCHEMA);
    assert_eq!(snapshot.events.descriptors, 11);
    assert_eq!(snapshot.events.fences, 2);
    let rows = &snapshot.transfers;
    assert_eq!(rows.len(), 6);

    let large = row(rows, 9, Direction::SysToDev, Trigger::Prefetch);
    assert_eq!((large.folios, large.bytes), (2, 4 * MIB));
    assert_eq!((large.filled_folios, large.filled_bytes), (1, 2 * MIB));
    assert_eq!((large.errors, large.latency.count), (1, 2));
    assert!(large.engine_ns > 0);
    let latency = &large.latency;
    let steps = [
        latency.min_ns,
        latency.p50_ns,
        latency.p90_ns,
        latency.p99_ns,
        latency.p999_ns,
        latency.max_ns,
    ];
    assert!(steps.is_sorted(), "{steps:?}");
    let in_buckets: u64 = latency.buckets.iter().map(|(_, samples)| samples).sum();
    assert_eq!(in_buckets, latency.count);

    let small = row(rows, 0, Direction::SysToDev, Trigger::Prefetch);
    assert_eq!(
        (small.folios, small.bytes, small.latency.count),
        (4, 4 * PAGE, 2)
    );
    let home = row(rows, 9, Direction::DevToSys, Trigger::CpuFault);
    assert_eq!((home.folios, home.bytes), (1, 2 * MIB));
    let inside = row(rows, 4, Direction::DevToDev, Trigger::Evict);
    assert_eq!((inside.folios, inside.bytes), (1, 16 * PAGE));
    let outside = row(rows, 1, Direction::SysToSys, Trigger::Prefetch);
    assert_eq!((outside.folios, outside.bytes), (1, 2 * PAGE));
    let filled = row(rows, 0, Direction::SysToSys, Trigger::Prefetch);
    assert_eq!(
        (filled.folios, filled.filled_folios, filled.filled_bytes),
        (0, 7, 7 * PAGE)
    );
}

/// Short descriptors are timed together, which must not mix what is not alike.
#[test]
fn what_is_timed_together_is_counted_one_by_one() {
    let mut driver = mock(16 * MIB);
    let data = driver.data();
    let page = |n: u64| copy(0, 1, Side::Vram(n * PAGE), Side::System(data + n * PAGE));
    let mut descs: Vec<_> = (0..40).map(page).collect();
    // Nowhere in system memory; and a kind of its own.
    descs[21] = copy(0, 1, Side::Vram(0), Side::System(1 << 40));
    descs[30] = triggered(page(30), TRIGGER_EVICT);
    descs[35] = fill(0, 3, Side::Vram(0), 7);
    assert_eq!(driver.run(&descs).unwrap().errors, 1);
    let snapshot = driver.function().snapshot();
    let rows = &snapshot.transfers;
    assert_eq!(rows.len(), 2);
    let fetched = row(rows, 0, Direction::SysToDev, Trigger::Prefetch);
    assert_eq!((fetched.folios, fetched.filled_folios), (37, 3));
    assert_eq!((fetched.errors, fetched.latency.count), (1, 38));
    assert_eq!(fetched.queue_wait.count, 38);
    assert!(fetched.latency.sum_ns <= fetched.engine_ns);
    let evicted = row(rows, 0, Direction::SysToDev, Trigger::Evict);
    assert_eq!((evicted.folios, evicted.latency.count), (1, 1));
    let errors = [("STATUS_DMA_UNMAPPED".to_owned(), 1)];
    assert_eq!(snapshot.events.descriptor_errors, errors);
}

#[test]
fn fences_are_counted_when_they_are_written() {
    let mut driver = mock(MIB);
    let (nowhere, misaligned) = (0x1000, driver.record_address() + 8);
    let failing = [fence(nowhere, 1, false), fence(misaligned, 2, true)];
    assert_eq!(driver.run(&failing).unwrap().errors, 2);
    assert_eq!(driver.function().snapshot().events.fences, 1);
    assert_clean(&driver.run(&[]).unwrap());
    assert_eq!(driver.function().snapshot().events.fences, 2);
}

#[test]
fn engine_time_is_without_the_time_in_which_the_bus_may_not_be_mastered() {
    const BYTES: u64 = 128 * MIB;
    let mut driver = mock(BYTES + 4 * MIB);
    let data = driver.data().next_multiple_of(2 * MIB);
    let fill = |pattern| fill(15, 1, Side::System(data), pattern);
    let total = |driver: &Mock| {
        let snapshot = driver.function().snapshot();
        row(
            &snapshot.transfers,
            15,
            Direction::SysToSys,
            Trigger::Prefetch,
        )
        .engine_ns
    };
    assert_clean(&driver.run(&[fill(u64::MAX)]).unwrap());
    let before = total(&driver);
    assert_clean(&driver.run(&[fill(0)]).unwrap());
    let undisturbed = Duration::from_nanos(total(&driver) - before);
    let off = (20 * undisturbed).max(Duration::from_millis(200));
    // A fill may be over before the bus is taken away; then the next attempt counts.
    let mut attempt = 0_u64;
    until("the bus taken away in the middle of a fill", || {
        attempt += 1;
        let before = total(&driver);
        driver.submit(&[fill(attempt)]).unwrap();
        let sequence = driver.fence(false).unwrap();
        driver
            .until("first bytes", |driver| {
                driver.ram().load::<u64>(data, Ordering::Acquire) == attempt
            })
            .unwrap();
        driver.set_bus_master(false);
        let last = data + BYTES - PAGE;
        let cut = driver.ram().load::<u64>(last, Ordering::Acquire) != attempt;
        if cut {
            // Not to wait for anything: it is the time itself that must not be counted.
            std::thread::sleep(off);
        }
        driver.set_bus_master(true);
        assert_clean(&driver.wait(sequence).unwrap());
        let engine = Duration::from_nanos(total(&driver) - before);
        if cut {
            assert!(
                engine < off,
                "{engine:?} of engine time, {off:?} of them off"
            );
        }
        cut
    })
    .unwrap();
}

#[test]
fn windows_hold_what_is_between_their_marks() {
    let mut driver = mock(4 * MIB);
    let data = driver.data();
    let page = copy(0, 1, Side::Vram(0), Side::System(data));
    let descs = [
        page,
        mark(11),
        page,
        page,
        span_begin(5, 2),
        span_end(5, 0, 2, DIR_SYS_TO_DEV, 0),
        mark(22),
        note(NOTE_ALLOC, 9, 1, 0, 0),
        note(NOTE_SPLIT, 9, 1, 0, 0),
        mark(0),
        page,
        mark(33),
        fill(0, 1, Side::Vram(0), 0),
    ];
    assert_clean(&driver.run(&descs).unwrap());
    let snapshot = driver.function().snapshot();
    let names: Vec<u64> = snapshot.windows.iter().map(|window| window.mark).collect();
    assert_eq!(names, [11, 22, 33]);
    let [first, second, third] = snapshot.windows.try_into().unwrap();
    assert_eq!(first.transfers.len(), 1);
    assert_eq!(
        (first.transfers[0].folios, first.transfers[0].latency.count),
        (2, 2)
    );
    assert_eq!((first.spans[0].count, first.spans[0].pages_moved), (1, 2));
    assert_eq!(first.end_ns, Some(second.begin_ns));
    assert!(second.transfers.is_empty() && second.spans.is_empty());
    assert_eq!(second.splits, [(9, 1)]);
    assert!(second.end_ns.is_some());
    assert_eq!(third.end_ns, None);
    assert_eq!(third.transfers[0].filled_folios, 1);
    assert_eq!(snapshot.transfers[0].folios, 4);
    assert_eq!(snapshot.windows_dropped, 0);
}

#[test]
fn spans_join_begin_and_end_and_count_overlap_once() {
    let mut driver = mock(4 * MIB);
    let data = driver.data();
    let work = copy(0, 8, Side::Vram(0), Side::System(data));
    let descs = [
        span_begin(1, 512),
        work,
        span_begin(2, 100),
        work,
        span_end(1, 9, 500, DIR_DEV_TO_SYS, TRIGGER_CPU_FAULT),
        work,
        span_end(2, 9, 100, DIR_DEV_TO_SYS, TRIGGER_CPU_FAULT),
        span_end(3, 9, 1, DIR_DEV_TO_SYS, TRIGGER_CPU_FAULT),
        span_begin(4, 1),
        span_begin(4, 2),
        span_end(4, 0, 2, DIR_SYS_TO_DEV, 0),
    ];
    assert_clean(&driver.run(&descs).unwrap());
    let snapshot = driver.function().snapshot();
    assert_eq!(snapshot.events.unmatched_spans, 2);
    assert_eq!(snapshot.spans.len(), 2);
    let large = snapshot.spans.iter().find(|row| row.order == 9).unwrap();
    assert_eq!(
        (large.direction, large.trigger),
        (Direction::DevToSys, Trigger::CpuFault)
    );
    assert_eq!(
        (large.count, large.pages_asked, large.pages_moved),
        (2, 612, 600)
    );
    assert_eq!(large.latency.count, 2);
    let longest = large.latency.max_ns;
    assert!(large.busy_ns >= longest, "{} {longest}", large.busy_ns);
    assert!(large.busy_ns < large.latency.min_ns + longest);
    let small = snapshot.spans.iter().find(|row| row.order == 0).unwrap();
    assert_eq!(
        (small.pages_asked, small.busy_ns),
        (2, small.latency.max_ns)
    );
}

#[test]
fn vram_by_order_follows_the_notes() {
    let mut driver = mock(MIB);
    let descs = [
        note(NOTE_ALLOC, 9, 4, 0, 0),
        note(NOTE_ALLOC, 0, 10, 8 * MIB, 0),
        note(NOTE_SPLIT, 9, 1, 2 * MIB, 0),
        note(NOTE_FREE, 0, 500, 2 * MIB, 0),
        note(NOTE_FREE, 9, 1, 0, 0),
        note(NOTE_FREE, 9, 1, 0, 0),
    ];
    assert_clean(&driver.run(&descs).unwrap());
    let vram = driver.function().snapshot().vram;
    let folios: Vec<_> = vram
        .folios
        .iter()
        .map(|row| (row.order, row.state, row.folios))
        .collect();
    let (whole, split) = (FolioState::Whole, FolioState::Split);
    assert_eq!(folios, [(0, whole, 10), (0, split, 12), (9, whole, 2)]);
    assert_eq!(vram.used_bytes, 4 * MIB + 22 * PAGE);
    assert_eq!(vram.peak_bytes, 8 * MIB + 10 * PAGE);
    assert_eq!(vram.inconsistent_notes, 1);
}

#[test]
fn processes_phases_and_fallbacks_are_what_the_driver_notes() {
    let mut driver = mock(MIB);
    let descs = [
        mark(1),
        process(7, "seven"),
        process(9, "ni\x1bne"),
        of_process(note(NOTE_ALLOC, 9, 2, 0, 0), 7),
        of_process(span_begin(1, 600), 7),
        of_process(span_begin(2, 10), 9),
        phases(1, [1, 2, 3, 4, u32::MAX]),
        fallback(9, 3, DIR_SYS_TO_DEV, TRIGGER_GPU_FAULT, FALLBACK_NO_VRAM),
        fallback(9, 1, DIR_SYS_TO_DEV, TRIGGER_GPU_FAULT, FALLBACK_SHARED),
        span_end(1, 9, 512, DIR_SYS_TO_DEV, TRIGGER_GPU_FAULT),
        note(NOTE_SPLIT, 9, 1, 0, 0),
        note(NOTE_FREE, 0, 12, 0, 0),
        mark(2),
        fallback(9, 2, DIR_SYS_TO_DEV, TRIGGER_GPU_FAULT, FALLBACK_NO_VRAM),
        span_end(2, 0, 10, DIR_DEV_TO_SYS, TRIGGER_CPU_FAULT),
    ];
    assert_clean(&driver.run(&descs).unwrap());
    let snapshot = driver.function().snapshot();
    let [seven, nine] = snapshot.processes.try_into().unwrap();
    assert_eq!((seven.pid, seven.name.as_str()), (7, "seven"));
    assert_eq!(seven.vram_bytes, 1012 * PAGE);
    assert_eq!((seven.spans, seven.gpu_fault_spans), (1, 1));
    assert_eq!(
        (seven.sys_to_dev_bytes, seven.dev_to_sys_bytes),
        (512 * PAGE, 0)
    );
    assert_eq!((nine.pid, nine.name.as_str()), (9, "ni\u{fffd}ne"));
    assert_eq!((nine.cpu_fault_spans, nine.vram_bytes), (1, 0));
    assert_eq!(nine.dev_to_sys_bytes, 10 * PAGE);
    assert!(nine.last_ns >= seven.last_ns && seven.last_ns > 0);

    let told = |order| {
        let rows = &snapshot.spans;
        rows.iter().find(|row| row.order == order).unwrap().phases
    };
    let large = told(9);
    assert_eq!(
        (large.spans, large.collect_ns, large.alloc_ns),
        (1, 64, 128)
    );
    assert_eq!((large.copy_ns, large.commit_ns), (192, 256));
    assert_eq!(large.finish_ns, 64 * u64::from(u32::MAX));
    assert_eq!(told(0).spans, 0);

    let count = |rows: &[hmmgpu_telemetry::snapshot::Fallbacks]| -> Vec<_> {
        let row = |row: &hmmgpu_telemetry::snapshot::Fallbacks| (row.reason.clone(), row.folios);
        rows.iter().map(row).collect()
    };
    let (no_vram, shared) = ("no_vram".to_owned(), "shared".to_owned());
    assert_eq!(
        count(&snapshot.fallbacks),
        [(no_vram.clone(), 5), (shared.clone(), 1)]
    );
    let [first, second] = snapshot.windows.try_into().unwrap();
    assert_eq!(count(&first.fallbacks), [(no_vram.clone(), 3), (shared, 1)]);
    assert_eq!(count(&second.fallbacks), [(no_vram, 2)]);
    assert_eq!(first.spans[0].phases, large);
}

#[test]
fn descriptors_wait_for_those_before_them() {
    let mut driver = mock(4 * MIB);
    let page = copy(0, 1, Side::Vram(0), Side::System(driver.data()));
    assert_clean(&driver.run(&[page; 60]).unwrap());
    let row = &driver.function().snapshot().transfers[0];
    let wait = &row.queue_wait;
    assert_eq!(wait.count, 60);
    // What was published at once waits for all before it; the engine may have seen it later.
    assert!(wait.max_ns >= row.latency.min_ns, "{wait:?}");
}

#[test]
fn queues_and_link_are_as_they_are() {
    let driver = mock(MIB);
    let device = driver.function();
    let state = || device.snapshot().queues[0].state;
    driver
        .until("sleep", |_| state() == EngineState::Sleeping)
        .unwrap();
    device.client_connected(true);
    let snapshot = device.snapshot_without_windows();
    let [queue] = snapshot.queues.try_into().unwrap();
    assert_eq!((queue.kind, queue.index), (QueueKind::Copy, 0));
    assert_eq!((queue.entries, queue.depth), (64, 0));
    let link = snapshot.link;
    assert!(link.connected && link.bus_master && link.driver && !link.msix);
    assert_eq!(link.clients, 1);

    // Entries that the engine may not fetch stay in the ring.
    let mut driver = driver;
    driver.set_bus_master(false);
    driver.submit(&[mark(1), mark(2), mark(3)]).unwrap();
    let device = driver.function().clone();
    assert_eq!(device.snapshot().queues[0].depth, 0, "it is not looked at");
    driver.set_bus_master(true);
    let sequence = driver.fence(false).unwrap();
    assert_clean(&driver.wait(sequence).unwrap());
    assert!(device.snapshot().queues[0].busy_ns > 0);

    // A producer that makes no sense stops the queue.
    let nonsense = driver.producer().wrapping_add(1000);
    driver.publish(nonsense);
    driver
        .until("stop", |driver| {
            driver.function().snapshot().queues[0].state == EngineState::Stopped
        })
        .unwrap();
    driver.stop();
    device.client_connected(false);
    let snapshot = device.snapshot();
    assert!(snapshot.queues.is_empty());
    assert!(!snapshot.link.driver && !snapshot.link.connected);
    assert_eq!(snapshot.link.clients, 1);
}

#[test]
fn a_mark_storm_keeps_the_last_windows() {
    let mut driver = mock(4 * MIB);
    let marks: Vec<_> = (1..=5000).map(mark).collect();
    assert_clean(&driver.run(&marks).unwrap());
    let snapshot = driver.function().snapshot();
    assert_eq!(snapshot.windows.len(), hmmgpu_telemetry::MAX_WINDOWS);
    assert_eq!(
        snapshot.windows_dropped,
        5000 - snapshot.windows.len() as u64
    );
    assert_eq!(snapshot.windows.last().unwrap().mark, 5000);
}

#[test]
fn a_snapshot_survives_json() {
    let mut driver = mock(4 * MIB);
    let data = driver.data();
    let descs = [
        mark(1),
        copy(0, 1, Side::Vram(0), Side::System(data)),
        span_begin(1, 1),
        span_end(1, 0, 1, 0, 0),
        fill(42, 1, Side::Vram(0), 0),
    ];
    driver.run(&descs).unwrap();
    let snapshot = driver.function().snapshot();
    let text = serde_json::to_string(&snapshot).unwrap();
    let back: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(back, snapshot);
    assert!(text.contains("\"sys_to_dev\"") && text.contains(SCHEMA));
}
