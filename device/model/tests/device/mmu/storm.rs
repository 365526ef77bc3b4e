//! Everything at once: jobs that fault, invalidations, contexts that come and go, maps that come
//! and go, and resets. It is about locks: whoever waits for what, all come to an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hmmgpu_contract::regs::{QUEUE_STATUS_RUNNING, QueueReg, RESET_CTRL_RESET, Reg, STATE_READY};
use hmmgpu_model::mock::GuestRam;
use hmmgpu_model::mock::descriptors::{Side, cancel, fill as fill_pages, invalidate, replay};
use hmmgpu_model::mock::jobs::fill;

use crate::compute::world::{ALL, BASE, Process, Queues, assert_done, world};
use crate::rig::{MIB, Mock, PAGE};

/// How long it all may take, where it usually takes seconds.
const LIMIT: Duration = Duration::from_secs(60);
const RESETS: u32 = 20;
const ELSEWHERE: u64 = 0x50_0000_0000;

/// Runs until told to end.
type Part = Box<dyn FnMut() + Send>;

/// Submits descriptors and a fence, and waits for it while the queue runs.
fn drive(queue: &mut Mock, descs: &[hmmgpu_contract::desc::Desc]) {
    let running = |queue: &Mock| queue.read_queue(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_RUNNING;
    if !running(queue) {
        // A reset may come at any time: then the next round tries again.
        let _ = queue.start();
        return;
    }
    // One entry is enough room for each, as the ring is empty.
    if queue.submit(descs).is_ok()
        && let Ok(sequence) = queue.fence(false)
    {
        queue
            .until("fence, or end of the queue", |queue| {
                queue.record().sequence >= sequence || !running(queue)
            })
            .unwrap();
    }
}

/// One life of a context: a job that faults on its second page, sometimes not waited for.
fn live(process: &mut Process, round: &mut u64) {
    *round += 1;
    if process.driver.start().is_err() {
        return;
    }
    let Ok(sequence) = process.driver.submit(&fill(BASE, 2 * PAGE, *round)) else {
        return;
    };
    if round.is_multiple_of(3) {
        process.driver.stop();
        return;
    }
    process
        .driver
        .until("end of the job, or of the context", |driver| {
            driver.record(sequence).is_some()
                || driver.read(QueueReg::QUEUE_STATUS) != QUEUE_STATUS_RUNNING
        })
        .unwrap();
    process.driver.stop();
}

#[test]
fn all_that_waits_for_each_other_comes_to_an_end() {
    let (world, queues) = world(16 * MIB, 2);
    let Queues {
        mut copy,
        mut invalidation,
        mut faults,
    } = queues;
    let device = world.device.clone();
    let page = world.take(PAGE);
    let mut parts: Vec<Part> = Vec::new();
    for context in 0..3 {
        let mut process = world.process(context);
        process.map(BASE, Side::System(page), ALL);
        let mut round = u64::from(context);
        parts.push(Box::new(move || live(&mut process, &mut round)));
    }
    parts.push(Box::new(move || {
        let mut descs = vec![invalidate(0, 0, 1 << 47), invalidate(1, BASE, PAGE)];
        if faults.read(QueueReg::QUEUE_STATUS) != QUEUE_STATUS_RUNNING {
            faults.stop();
            faults.start();
        }
        for _ in 0..4 {
            if let Some(fault) = faults.take() {
                // A replay faults again, until it is cancelled.
                descs.push(if fault.sequence.is_multiple_of(2) {
                    cancel(fault.context, fault.sequence, 0)
                } else {
                    replay(fault.context, fault.sequence)
                });
            }
        }
        drive(&mut invalidation, &descs);
    }));
    parts.push(Box::new(move || {
        drive(&mut copy, &[fill_pages(9, 4, Side::Vram(0), 1)]);
    }));
    parts.push(Box::new({
        let device = device.clone();
        move || {
            let ram = GuestRam::new(ELSEWHERE, 1 << 20).expect("guest RAM");
            let mapping = ram.mapping(0, MIB, true).expect("mapping");
            device.dma_map(mapping).expect("DMA map");
            device.dma_unmap(ELSEWHERE, MIB).expect("DMA unmap");
        }
    }));

    let over = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    for mut part in parts {
        let (over, sender) = (over.clone(), sender.clone());
        thread::spawn(move || {
            let mut rounds = 0_u64;
            while !over.load(Ordering::SeqCst) {
                part();
                rounds += 1;
            }
            // Fails only when the test has failed already.
            let _ = sender.send(rounds);
        });
    }
    drop(sender);
    let register = |reg: Reg| {
        let mut word = [0; 4];
        device.bar_read(0, u64::from(reg.0), &mut word);
        u32::from_le_bytes(word)
    };
    let deadline = Instant::now() + LIMIT;
    for reset in 1..=RESETS {
        let jobs = || -> u64 {
            let snapshot = device.snapshot();
            snapshot.compute.jobs.iter().map(|row| row.count).sum()
        };
        // Some work in each generation, then its end.
        let begin = jobs();
        while register(Reg::STATE) != STATE_READY || jobs() < begin + 20 {
            assert!(Instant::now() < deadline, "no work in generation {reset}");
            thread::yield_now();
        }
        device.bar_write(
            0,
            u64::from(Reg::RESET_CTRL.0),
            &RESET_CTRL_RESET.to_le_bytes(),
        );
        assert_eq!(register(Reg::GENERATION), reset);
    }
    over.store(true, Ordering::SeqCst);
    let mut ended = 0;
    while let Ok(rounds) = receiver.recv_timeout(LIMIT) {
        assert!(rounds > 0);
        ended += 1;
    }
    assert_eq!(ended, 6, "a part of it does not end");

    // And the device works.
    let mut process = world.process(7);
    process.map(BASE, Side::System(page), ALL);
    process
        .driver
        .until("ready state", |_| register(Reg::STATE) == STATE_READY)
        .unwrap();
    process.driver.stop();
    process.driver.start().unwrap();
    assert_done(&process.driver.run(&fill(BASE, 8, 1)).unwrap(), 8, 0);
}
