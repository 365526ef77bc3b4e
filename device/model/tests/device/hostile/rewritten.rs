//! Descriptors that are rewritten while the device reads them: each is fetched once, so what was
//! checked is what is done.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use hmmgpu_contract::compute::{JOB_DST_DMA, Job};
use hmmgpu_contract::desc::Desc;
use hmmgpu_contract::regs::{QUEUE_STATUS_RUNNING, QueueReg};
use hmmgpu_model::Device;
use hmmgpu_model::mock::descriptors::{Side, copy, fence, fill};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig, jobs, until};

use crate::compute::world::{BASE, world};
use crate::rig::{MIB, PAGE, RAM_BASE, device, ram};
use hmmgpu_model::mock::beside;

/// Memory that the device may only read. Where a copy's is, it begins where that ends.
const BEHIND: u64 = RAM_BASE + MIB;
const ELSEWHERE: u64 = 0x40_0000_0000;
/// Rings that are carried out while they are rewritten, at least.
const ROUNDS: u32 = 500;
const RING_LOG2: u32 = 6;
const JOBS: u32 = 3000;

fn read_only(device: &Device, base: u64) -> GuestRam {
    let memory = GuestRam::new(base, 1 << 20).expect("guest RAM");
    memory.write(base, &[0x5a; 1 << 20]);
    let mapping = memory.mapping(0, MIB, false).expect("mapping");
    device.dma_map(mapping).expect("DMA map");
    memory
}

#[track_caller]
fn assert_untouched(memory: &GuestRam) {
    let found = memory.read(memory.base(), usize::try_from(memory.size()).expect("size"));
    assert!(found.iter().all(|byte| *byte == 0x5a));
}

/// Descriptors that were refused because of where they wanted to write.
fn refused(device: &Device) -> u64 {
    let errors = device.snapshot().events.descriptor_errors;
    let of_permission = |(status, _): &&(String, u64)| status == "STATUS_DMA_PERMISSION";
    errors.iter().find(of_permission).map_or(0, |error| error.1)
}

#[test]
fn a_descriptor_is_carried_out_as_it_was_checked() {
    let device = device();
    let forbidden = read_only(&device, BEHIND);
    let config = QueueConfig {
        ring_log2: RING_LOG2,
        ..QueueConfig::default()
    };
    let mut driver = Driver::new(device.clone(), ram(MIB), config).expect("queue");
    let (data, record) = (Side::System(driver.data()), driver.record_address());
    let last = Side::System(BEHIND - PAGE);
    let not = Side::System(BEHIND);
    // One that is allowed, and one that is not; any mixture of both may be read.
    let pairs = [
        [fill(0, 1, data, 1), fill(0, 1, not, 2)],
        [
            copy(0, 1, data, Side::Vram(0)),
            copy(0, 1, not, Side::Vram(PAGE)),
        ],
        // It begins in memory that may be written, and ends where it may not.
        [
            copy(0, 1, last, Side::Vram(0)),
            copy(0, 2, last, Side::Vram(0)),
        ],
        // A single bit makes an address of an offset in VRAM.
        [fill(4, 1, Side::Vram(0), 3), fill(4, 1, not, 4)],
        [fence(record + 64, 1, false), fence(BEHIND, 2, false)],
    ];
    let ring = driver.header() + PAGE - RAM_BASE;
    let mapping = driver.ram().mapping(0, MIB, true).expect("mapping");
    let (memory, _) = mapping.backing.expect("a file");
    let write = |slot: u64, desc: &Desc| {
        // Word by word, so that it can be read half written.
        for (word, at) in desc.to_le_bytes().chunks_exact(8).zip((0..).step_by(8)) {
            let at = ring + slot * Desc::SIZE as u64 + at;
            memory.write_all_at(word, at).expect("guest RAM");
        }
    };
    let slots = 0..1_u64 << RING_LOG2;
    for pair in &pairs {
        slots.clone().for_each(|slot| write(slot, &pair[0]));
        let rewrite = || {
            for slot in slots.clone() {
                pair.iter().rev().for_each(|desc| write(slot, desc));
            }
        };
        let before = refused(&device);
        let rounds = |driver: &mut Driver<_>| {
            for _ in 0..ROUNDS {
                let producer = driver.producer().wrapping_add(1 << RING_LOG2);
                driver.publish(producer);
                let done = |driver: &Driver<_>| driver.consumer() == producer;
                driver
                    .until("the ring", done)
                    .expect("an engine that goes on");
            }
        };
        beside(&[&rewrite], || {
            // A machine may be too busy to rewrite anything during the first rings.
            until("one that is not allowed", || {
                rounds(&mut driver);
                refused(&device) > before
            })
            .expect("descriptors that were rewritten in time");
        });
        let status = driver.read_queue(QueueReg::QUEUE_STATUS);
        assert_eq!(status, QUEUE_STATUS_RUNNING, "{pair:?}");
        assert_untouched(&forbidden);
    }
    driver.run(&[]).expect("a fence");
    assert_eq!(driver.run(&[]).expect("a fence").errors, 0);
}

#[test]
fn a_job_is_carried_out_as_it_was_checked() {
    let (world, _queues) = world(16 * MIB, 2);
    let forbidden = read_only(&world.device, ELSEWHERE);
    let page = world.take(PAGE);
    let mut process = world.process(0);
    process.map_range(BASE, Side::System(page), PAGE);
    let context = &mut process.driver;
    // The jobs' records are on the page behind their ring.
    let (records, ring) = (context.record_address(0), context.record_address(0) - PAGE);
    let allowed = Job {
        record: records,
        sequence: 1,
        ..jobs::flagged(jobs::copy(page + 2048, BASE, 64), JOB_DST_DMA)
    };
    let pairs = [
        Job {
            record: ELSEWHERE,
            ..allowed
        },
        Job {
            dst: ELSEWHERE,
            ..allowed
        },
        // Without the flag it is a virtual address, which is not mapped: a job that does not wait.
        Job {
            dst: ELSEWHERE,
            flags: hmmgpu_contract::compute::JOB_NO_REPLAY,
            ..allowed
        },
    ]
    .map(|other| [allowed, other]);
    for pair in &pairs {
        let rewrite = || {
            for slot in 0..16 {
                for job in pair {
                    let at = ring + slot * Job::SIZE as u64;
                    for (word, offset) in job.to_le_bytes().chunks_exact(8).zip((0..).step_by(8)) {
                        let word = u64::from_ne_bytes(word.try_into().expect("8 bytes"));
                        world.ram.store(at + offset, word, Ordering::Relaxed);
                    }
                }
            }
        };
        beside(&[&rewrite], || {
            for _ in 0..JOBS {
                context.submit_as_is(&pair[0]).expect("room in the ring");
            }
            until("the ring", || context.consumer() == context.producer()).expect("goes on");
        });
        assert_untouched(&forbidden);
    }
    let done = context
        .run(&jobs::fill(BASE, 8, 1))
        .expect("the end of a job");
    assert_eq!((done.status, done.done), (0, 8));
}
