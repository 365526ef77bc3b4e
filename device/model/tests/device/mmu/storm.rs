//! Everything at once: jobs that fault, invalidations, contexts that come and go, maps that come
//! and go, and resets. It is about locks: whoever waits for what, all come to an end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use hmmgpu_contract::desc::Desc;
use hmmgpu_contract::regs::{QUEUE_STATUS_RUNNING, QueueReg, RESET_CTRL_RESET, Reg, STATE_READY};
use hmmgpu_model::mock::descriptors::{Side, cancel, fill as fill_pages, invalidate, replay};
use hmmgpu_model::mock::jobs::fill;
use hmmgpu_model::mock::{GuestRam, until};

use crate::compute::world::{ALL, BASE, Process, Queues, assert_done, world};
use crate::rig::{MIB, Mock, PAGE};

/// How long a generation may last, where it usually lasts for a fraction of a second, and an end.
const LIMIT: Duration = Duration::from_secs(60);
const RESETS: u32 = 20;
const ELSEWHERE: u64 = 0x50_0000_0000;

/// Held for writing by a reset: setting something up takes many registers, and a driver knows of a
/// reset of its own.
static SETTING_UP: RwLock<()> = RwLock::new(());

/// Runs until told to end.
type Part = Box<dyn FnMut() + Send>;

/// Threads, each of which runs a part again and again.
struct Running {
    over: Arc<AtomicBool>,
    parts: usize,
    ended: mpsc::Receiver<u64>,
}

impl Running {
    fn start(parts: Vec<Part>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (sender, ended) = mpsc::channel();
        let count = parts.len();
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
        Self {
            over,
            parts: count,
            ended,
        }
    }

    /// Waits for the end of all of them.
    fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        for _ in 0..self.parts {
            let rounds = self.ended.recv_timeout(LIMIT);
            assert!(rounds.expect("a part that does not end") > 0);
        }
    }
}

fn running(queue: &Mock) -> bool {
    queue.read_queue(QueueReg::QUEUE_STATUS) == QUEUE_STATUS_RUNNING
}

/// Starts a queue that a reset has ended.
fn revive(queue: &mut Mock) {
    let _set_up = SETTING_UP.read().unwrap();
    if !running(queue) {
        queue.start().unwrap();
    }
}

/// Submits descriptors and a fence, and waits for it while the queue runs.
fn drive(queue: &mut Mock, descs: &[Desc]) {
    queue.submit(descs).unwrap();
    let sequence = queue.fence(false).unwrap();
    queue
        .until("fence, or end of the queue", |queue| {
            queue.record().sequence >= sequence || !running(queue)
        })
        .unwrap();
}

/// One life of a context: a job that faults on its second page, sometimes not waited for.
fn live(process: &mut Process, round: &mut u64) {
    *round += 1;
    {
        let _set_up = SETTING_UP.read().unwrap();
        if process.driver.start().is_err() {
            // It resets.
            thread::yield_now();
            return;
        }
    }
    let job = fill(BASE, 2 * PAGE, *round);
    let sequence = process.driver.submit(&job).unwrap();
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
    let mut lives: Vec<Part> = Vec::new();
    for context in 0..3 {
        let mut process = world.process(context);
        process.map(BASE, Side::System(page), ALL);
        let mut round = u64::from(context);
        lives.push(Box::new(move || live(&mut process, &mut round)));
    }
    let mut servers: Vec<Part> = Vec::new();
    servers.push(Box::new(move || {
        revive(&mut invalidation);
        let mut descs = vec![invalidate(0, 0, 1 << 47), invalidate(1, BASE, PAGE)];
        if faults.read(QueueReg::QUEUE_STATUS) != QUEUE_STATUS_RUNNING {
            let _set_up = SETTING_UP.read().unwrap();
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
    servers.push(Box::new(move || {
        revive(&mut copy);
        drive(&mut copy, &[fill_pages(9, 4, Side::Vram(0), 1)]);
    }));
    servers.push(Box::new({
        let device = device.clone();
        move || {
            let ram = GuestRam::new(ELSEWHERE, 1 << 20).expect("guest RAM");
            let mapping = ram.mapping(0, MIB, true).expect("mapping");
            device.dma_map(mapping).expect("DMA map");
            device.dma_unmap(ELSEWHERE, MIB).expect("DMA unmap");
        }
    }));

    let lives = Running::start(lives);
    let servers = Running::start(servers);
    let register = |reg: Reg| {
        let mut word = [0; 4];
        device.bar_read(0, u64::from(reg.0), &mut word);
        u32::from_le_bytes(word)
    };
    for reset in 1..=RESETS {
        let deadline = Instant::now() + LIMIT;
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
        let _set_up = SETTING_UP.write().unwrap();
        device.bar_write(
            0,
            u64::from(Reg::RESET_CTRL.0),
            &RESET_CTRL_RESET.to_le_bytes(),
        );
        assert_eq!(register(Reg::GENERATION), reset);
    }
    // Who serves faults ends last.
    lives.end();
    servers.end();

    // And the device works.
    until("ready state", || register(Reg::STATE) == STATE_READY).unwrap();
    let mut process = world.process(7);
    process.map(BASE, Side::System(page), ALL);
    assert_done(&process.driver.run(&fill(BASE, 8, 1)).unwrap(), 8, 0);
}
