//! Many contexts at once, and one that is stuck.

use hmmgpu_contract::mmu::FaultRecord;
use hmmgpu_model::mock::descriptors::{Side, fill as engine_fill};
use hmmgpu_model::mock::jobs::{atomic_add, checksum, fill};

use super::world::{ALL, BASE, Process, Random, assert_done, checksum_of, page_of, world};
use crate::rig::{MIB, PAGE, assert_clean, pattern};

const CONTEXTS: u32 = 64;

#[test]
fn many_contexts_fault_at_once_and_are_resolved_in_any_order() {
    const PAGES: u64 = 6;
    let (world, mut queues) = world(64 * MIB, 6);
    let bytes = PAGES * PAGE;
    let mut random = Random(0xfeed);
    let mut jobs: Vec<(Process, u64, u64, Vec<u8>)> = (0..CONTEXTS)
        .map(|context| {
            let mut process = world.process(context);
            let ram = world.take(bytes);
            let data = pattern(u64::from(context), usize::try_from(bytes).unwrap());
            world.ram.write(ram, &data);
            // The same addresses in all of them, and other memory behind.
            let job = checksum(BASE, bytes / 8);
            let sequence = process.driver.submit(&job).unwrap();
            (process, sequence, ram, data)
        })
        .collect();
    for page in 0..PAGES {
        let mut faults: Vec<FaultRecord> = (0..CONTEXTS).map(|_| queues.fault()).collect();
        faults.sort_by_key(|fault| fault.context);
        let contexts: Vec<_> = faults.iter().map(|fault| fault.context).collect();
        assert_eq!(contexts, (0..CONTEXTS).collect::<Vec<_>>(), "one of each");
        random.shuffle(&mut faults);
        for fault in faults {
            assert_eq!(page_of(fault.address), BASE + page * PAGE);
            let (process, _, ram, _) = &mut jobs[fault.context as usize];
            process.map(BASE + page * PAGE, Side::System(*ram + page * PAGE), ALL);
            queues.replay(&fault);
        }
    }
    for (process, sequence, _, data) in &jobs {
        let record = process.driver.wait(*sequence).unwrap();
        assert_done(&record, bytes / 8, checksum_of(data));
        assert_eq!(u64::from(record.faults), PAGES);
    }
    let snapshot = world.device.snapshot();
    assert_eq!(snapshot.mmu.replay.count, PAGES * u64::from(CONTEXTS));
    assert_eq!(snapshot.compute.contexts_peak, u64::from(CONTEXTS));
}

#[test]
fn a_stuck_context_stops_nobody() {
    let (world, mut queues) = world(32 * MIB, 6);
    // More of them than there are engines.
    let mut stuck: Vec<(Process, u64)> = (0..8)
        .map(|context| {
            let mut process = world.process(context);
            let sequence = process.driver.submit(&fill(BASE, 8, 1)).unwrap();
            (process, sequence)
        })
        .collect();
    let faults: Vec<FaultRecord> = (0..8).map(|_| queues.fault()).collect();

    let mut others: Vec<(Process, u64)> = (8..16)
        .map(|context| {
            let mut process = world.process(context);
            let page = world.take(PAGE);
            process.map(BASE, Side::System(page), ALL);
            (process, page)
        })
        .collect();
    for round in 0..50 {
        for (process, _) in &mut others {
            let record = process.driver.run(&atomic_add(BASE, 1, 1)).unwrap();
            assert_done(&record, 1, round);
        }
        let copied = queues.copy.run(&[engine_fill(0, 1, Side::Vram(0), round)]);
        assert_clean(&copied.unwrap());
        let context = u32::try_from(round % 16).unwrap();
        queues.invalidate(context, BASE, PAGE);
    }
    // Memory that they wait for may go, too, and so may they.
    let elsewhere = 0x50_0000_0000;
    let gone = hmmgpu_model::mock::GuestRam::new(elsewhere, 1 << 20).unwrap();
    let mapping = gone.mapping(0, 1 << 20, true).unwrap();
    world.device.dma_map(mapping).unwrap();
    world.device.dma_unmap(elsewhere, 1 << 20).unwrap();
    stuck[0].0.driver.stop();
    for (fault, page) in faults.iter().zip((0..).map(|_| world.take(PAGE))) {
        let (process, sequence) = &mut stuck[fault.context as usize];
        process.map(BASE, Side::System(page), ALL);
        queues.replay(fault);
        if fault.context != 0 {
            assert_done(&process.driver.wait(*sequence).unwrap(), 8, 0);
        }
    }
    assert!(stuck[0].0.driver.record(stuck[0].1).is_none());
}

#[test]
fn contexts_with_endless_jobs_take_turns_with_short_ones() {
    let (world, _queues) = world(32 * MIB, 6);
    let page = world.take(PAGE);
    let mut endless: Vec<Process> = (0..6).map(|context| world.process(context)).collect();
    for process in &mut endless {
        process.map(BASE, Side::System(page), ALL);
        process
            .driver
            .submit(&atomic_add(BASE, u64::MAX, 1))
            .unwrap();
    }
    let mut short = world.process(100);
    short.map(BASE, Side::System(page), ALL);
    for _ in 0..50 {
        assert_done(&short.driver.run(&fill(BASE + 8, 8, 3)).unwrap(), 8, 0);
    }
    for process in &endless {
        process.driver.stop();
    }
}
