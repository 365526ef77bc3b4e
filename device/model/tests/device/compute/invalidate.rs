//! Invalidations against jobs that run: when one is done, nothing is accessed by what it took away.

use std::sync::atomic::Ordering;

use hmmgpu_model::mock::descriptors::Side;
use hmmgpu_model::mock::jobs::{atomic_add, copy, fill};

use super::world::{ALL, BASE, Process, Queues, Random, World, assert_done, page_of, world};
use crate::rig::{MIB, PAGE};

/// Looks at what the device must not touch, for each round.
const LOOKS: u32 = 200;

fn word(world: &World, address: u64) -> u64 {
    world.ram.load(address, Ordering::Acquire)
}

/// A process whose jobs follow each other.
struct Adder {
    process: Process,
    sequence: u64,
    jobs: u64,
    /// Faults that were replayed, and those that records tell of.
    faults: [u64; 2],
}

#[test]
fn additions_go_to_the_page_that_is_mapped_and_to_no_other() {
    const COUNT: u64 = 300_000;
    const ROUNDS: u32 = 200;
    const MARK: u64 = 0x5555_0000_0000_0000;
    let (world, mut queues) = world(16 * MIB, 6);
    let pages = [world.take(PAGE), world.take(PAGE)];
    let job = atomic_add(BASE, COUNT, 1);
    // Two of them on the same page, so that both engines work.
    let mut adders = [0, 1].map(|context| {
        let mut process = world.process(context);
        process.map(BASE, Side::System(pages[0]), ALL);
        let sequence = process.driver.submit(&job).unwrap();
        Adder {
            process,
            sequence,
            jobs: 1,
            faults: [0; 2],
        }
    });
    let mut now = 0;
    let mut rounds = 0;
    let mut total = 0_u64;
    let watch = adders[0].process.driver.clone();
    watch
        .until("end of the jobs", |_| {
            for (adder, context) in adders.iter_mut().zip(0..) {
                adder.process.unmap(BASE);
                queues.invalidate(context, BASE, PAGE);
            }
            // The page has another owner now.
            let page = pages[now];
            total = total.wrapping_add(word(&world, page));
            world.ram.store(page, MARK, Ordering::Release);
            for _ in 0..LOOKS {
                assert_eq!(word(&world, page), MARK, "round {rounds}");
            }
            now = 1 - now;
            world.ram.store(pages[now], 0_u64, Ordering::Release);
            for adder in &mut adders {
                adder.process.map(BASE, Side::System(pages[now]), ALL);
            }
            while let Some(fault) = queues.faults.take() {
                adders[fault.context as usize].faults[0] += 1;
                queues.replay(&fault);
            }
            rounds += 1;
            let mut ended = true;
            for adder in &mut adders {
                match adder.process.driver.record(adder.sequence) {
                    None => ended = false,
                    // Until there were enough rounds, there is always a job.
                    Some(record) if rounds < ROUNDS => {
                        assert_eq!(record.done, COUNT);
                        adder.faults[1] += u64::from(record.faults);
                        adder.sequence = adder.process.driver.submit(&job).unwrap();
                        adder.jobs += 1;
                        ended = false;
                    }
                    Some(_) => {}
                }
            }
            ended
        })
        .unwrap();
    total = total.wrapping_add(word(&world, pages[now]));
    let jobs: u64 = adders.iter().map(|adder| adder.jobs).sum();
    assert_eq!(total, jobs * COUNT);
    for adder in &adders {
        let record = adder.process.driver.wait(adder.sequence).unwrap();
        assert_eq!(record.done, COUNT);
        let told = adder.faults[1] + u64::from(record.faults);
        assert_eq!(told, adder.faults[0]);
    }
    let invalidations = world.device.snapshot().mmu.invalidations;
    assert!(invalidations >= 2 * u64::from(ROUNDS));
}

/// Serves faults of one context by mapping each page where `places` says.
fn serve(world_faults: &mut Queues, mut map: impl FnMut(u64)) {
    while let Some(fault) = world_faults.faults.take() {
        map(page_of(fault.address));
        world_faults.replay(&fault);
    }
}

#[test]
fn bytes_go_to_the_pages_that_are_mapped_and_to_no_others() {
    const PAGES: u64 = 32;
    let (world, mut queues) = world(32 * MIB, 6);
    let mut random = Random(0xabcdef);
    let mut process = world.process(6);
    let source = BASE + 0x1000_0000;
    let source_ram = world.take(PAGES * PAGE);
    world.ram.write(source_ram, &vec![0x11; 4096 * 32]);
    process.map_range(source, Side::System(source_ram), PAGES * PAGE);
    let mut places: Vec<u64> = (0..PAGES).map(|_| world.take(PAGE)).collect();
    let mut spare = world.take(PAGE);
    for round in 0..400_u64 {
        let bytes = PAGES * PAGE;
        let job = if round % 2 == 0 {
            fill(BASE, bytes, 0x1111_1111_1111_1111)
        } else {
            copy(BASE, source, bytes)
        };
        let sequence = process.driver.submit(&job).unwrap();
        let driver = process.driver.clone();
        driver
            .until("end of the job", |driver| {
                // A page moves while the job runs: its old place belongs to somebody else.
                let page = random.below(PAGES);
                let index = usize::try_from(page).unwrap();
                process.unmap(BASE + page * PAGE);
                queues.invalidate(6, BASE + page * PAGE, PAGE);
                let old = places[index];
                let content = world.ram.read(old, 4096);
                world.ram.write(old, &[0xee; 4096]);
                world.ram.write(spare, &content);
                assert!(world.ram.read(old, 4096).iter().all(|byte| *byte == 0xee));
                places[index] = spare;
                serve(&mut queues, |at| {
                    let index = usize::try_from((at - BASE) / PAGE).unwrap();
                    process.map(at, Side::System(places[index]), ALL);
                });
                assert!(world.ram.read(old, 4096).iter().all(|byte| *byte == 0xee));
                spare = old;
                driver.record(sequence).is_some()
            })
            .unwrap();
        let record = process.driver.wait(sequence).unwrap();
        assert_done(&record, bytes, 0);
        for place in &places {
            let content = world.ram.read(*place, 4096);
            assert!(content.iter().all(|byte| *byte == 0x11), "round {round}");
            world.ram.write(*place, &[0; 4096]);
        }
    }
}
