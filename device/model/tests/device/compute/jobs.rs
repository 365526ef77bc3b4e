//! Jobs on memory that is scattered over pages of both sizes and both apertures.

use std::sync::atomic::{AtomicBool, Ordering};

use hmmgpu_contract::compute::{
    JOB_DST_DMA, JOB_INTERRUPT, JOB_SRC_DMA, REDUCE_MAX, REDUCE_MIN, REDUCE_SUM,
};
use hmmgpu_contract::regs::{INT_COMPUTE, Reg};
use hmmgpu_model::mock::InterruptCounter;
use hmmgpu_model::mock::descriptors::Side;
use hmmgpu_model::mock::jobs::{
    atomic_add, chase, checksum, compare, copy, fill, flagged, gather, reduce, saxpy, scatter,
};
use hmmgpu_telemetry::snapshot::Kernel;
use std::time::Duration;

use super::world::{
    ALL, BASE, JOB_VECTOR, Process, Queues, Random, World, assert_done, checksum_of, world,
};
use crate::rig::{MIB, PAGE, pattern};

/// Virtual memory of 8 MiB: pages of 4 KiB of both apertures in any order, then 2 MiB of RAM in
/// one page, then 2 MiB of VRAM in one page, then small pages again.
struct Scattered {
    world: World,
    queues: Queues,
    process: Process,
    /// Where each page lies.
    places: Vec<Side>,
    /// RAM of as many bytes, for the test itself.
    window: u64,
}

const SPAN: u64 = 8 * MIB;
/// Where the page of 2 MiB of VRAM lies.
const LARGE_VRAM: u64 = 8 * MIB;

fn scattered() -> Scattered {
    let (world, queues) = world(64 * MIB, 6);
    let mut process = world.process(5);
    let mut random = Random(0x1234_5678);
    let small = 2 * 512_u64;
    let system = world.take(small / 2 * PAGE);
    let mut pages: Vec<Side> = (0..small / 2)
        .flat_map(|page| [Side::System(system + page * PAGE), Side::Vram(page * PAGE)])
        .collect();
    random.shuffle(&mut pages);
    let large = [
        Side::System(world.take_large(2 * MIB)),
        Side::Vram(LARGE_VRAM),
    ];
    for (to, block) in large.into_iter().zip(1..) {
        process.map_large(BASE + block * 2 * MIB, to, ALL);
        let at = usize::try_from(block * 512).unwrap();
        let parts = (0..512).map(|page| match to {
            Side::System(address) => Side::System(address + page * PAGE),
            Side::Vram(offset) => Side::Vram(offset + page * PAGE),
        });
        pages.splice(at..at, parts);
    }
    for (to, page) in pages.iter().zip(0..) {
        if !(512..3 * 512).contains(&page) {
            process.map(BASE + page * PAGE, *to, ALL);
        }
    }
    let window = world.take(SPAN);
    Scattered {
        world,
        queues,
        process,
        places: pages,
        window,
    }
}

impl Scattered {
    /// Writes all of it; VRAM by jobs that copy from DMA addresses.
    fn write(&mut self, data: &[u8]) {
        self.world.ram.write(self.window, data);
        for (page, to) in (0..).zip(&self.places) {
            let offset = page * PAGE;
            match to {
                Side::System(address) => {
                    let at = usize::try_from(offset).unwrap();
                    self.world.ram.write(*address, &data[at..at + 4096]);
                }
                Side::Vram(_) => {
                    let job = copy(BASE + offset, self.window + offset, PAGE);
                    let record = self.process.driver.run(&flagged(job, JOB_SRC_DMA));
                    assert_done(&record.unwrap(), PAGE, 0);
                }
            }
        }
    }

    /// Reads all of it, past the page table.
    fn read(&mut self) -> Vec<u8> {
        let low = Side::System(self.window);
        let high = Side::System(self.window + 2 * MIB);
        self.queues.copy(low, Side::Vram(0), 2 * MIB);
        self.queues.copy(high, Side::Vram(LARGE_VRAM), 2 * MIB);
        let page = |to: &Side| match *to {
            Side::System(address) => self.world.ram.read(address, 4096),
            Side::Vram(offset) if offset < 2 * MIB => {
                self.world.ram.read(self.window + offset, 4096)
            }
            Side::Vram(offset) => {
                let offset = offset - LARGE_VRAM + 2 * MIB;
                self.world.ram.read(self.window + offset, 4096)
            }
        };
        self.places.iter().flat_map(page).collect()
    }
}

fn words(data: &[u8]) -> impl Iterator<Item = u64> + '_ {
    data.chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
}

#[test]
fn jobs_that_read_span_pages_and_apertures() {
    let mut all = scattered();
    let data = pattern(3, usize::try_from(SPAN).unwrap());
    all.write(&data);
    assert!(all.read() == data);
    let driver = &mut all.process.driver;
    let count = SPAN / 8;
    let record = driver.run(&checksum(BASE, count)).unwrap();
    assert_done(&record, count, checksum_of(&data));
    assert!(record.begin_ns > 0 && record.begin_ns <= record.end_ns);
    let sum = words(&data).fold(0, u64::wrapping_add);
    for (reduction, value) in [
        (REDUCE_SUM, sum),
        (REDUCE_MIN, words(&data).min().unwrap()),
        (REDUCE_MAX, words(&data).max().unwrap()),
    ] {
        let record = driver.run(&reduce(BASE, count, reduction)).unwrap();
        assert_done(&record, count, value);
    }
    let snapshot = all.world.device.snapshot();
    let mmu = &snapshot.mmu;
    assert!(mmu.walks >= 1026, "each page at least once: {mmu:?}");
    assert_eq!(mmu.translations, mmu.tlb_hits + mmu.walks);
    assert!(mmu.tlb_hits > 0 && mmu.faults.is_empty());
    let rows = &snapshot.compute.jobs;
    let row = rows.iter().find(|row| row.kernel == Kernel::Checksum);
    let row = row.unwrap();
    assert_eq!((row.status.as_str(), row.count), ("STATUS_OK", 1));
    assert!(row.elements == count && row.engine_ns > 0);
    assert_eq!(snapshot.compute.contexts, 1);
}

#[test]
fn jobs_that_write_span_pages_and_apertures() {
    let mut all = scattered();
    let mut data = pattern(4, usize::try_from(SPAN).unwrap());
    all.write(&data);
    let half = usize::try_from(SPAN / 2).unwrap();
    let len = half - 3 * 4096;
    let count = len as u64;

    let (from, to) = (4096 + 13, half + 8192 + 5);
    let job = copy(BASE + to as u64, BASE + from as u64, count);
    assert_done(&all.process.driver.run(&job).unwrap(), count, 0);
    data.copy_within(from..from + len, to);
    assert!(all.read() == data, "copy");
    let job = compare(BASE + to as u64, BASE + from as u64, count);
    assert_done(&all.process.driver.run(&job).unwrap(), count, count);
    let different = compare(BASE + to as u64, BASE + from as u64 + 1, count);
    let record = all.process.driver.run(&different).unwrap();
    let first = (0..len).find(|i| data[to + i] != data[from + 1 + i]);
    let first = first.unwrap() as u64;
    assert_done(&record, first + 1, first);

    let job = fill(BASE + 77, count, 0x0102_0304_0506_0708);
    assert_done(&all.process.driver.run(&job).unwrap(), count, 0);
    for (byte, i) in data[77..77 + len].iter_mut().zip(0..) {
        *byte = 8 - u8::try_from(i % 8).unwrap();
    }
    assert!(all.read() == data, "fill");

    let floats = |data: &[u8], at: usize, i: usize| {
        f32::from_le_bytes(data[at + 4 * i..][..4].try_into().unwrap())
    };
    let numbers =
        (0..SPAN / 4).flat_map(|i| f32::from(u8::try_from(i % 97).unwrap()).to_le_bytes());
    let mut data: Vec<u8> = numbers.collect();
    all.write(&data);
    let job = saxpy(BASE + to as u64 - 1, BASE + 4, count / 4, 2.5);
    assert_done(&all.process.driver.run(&job).unwrap(), count / 4, 0);
    for i in 0..len / 4 {
        let product = 2.5 * floats(&data, 4, i);
        let result = product + floats(&data, to - 1, i);
        data[to - 1 + 4 * i..][..4].copy_from_slice(&result.to_le_bytes());
    }
    assert!(all.read() == data, "saxpy");
}

#[test]
fn jobs_that_jump_about() {
    const COUNT: u64 = 20_000;
    let mut all = scattered();
    let mut data = pattern(5, usize::try_from(SPAN).unwrap());
    let mut random = Random(99);
    let (aux, dst, src) = (4096 + 4, MIB + 8, 4 * MIB + 16);
    let at = |address: u64| usize::try_from(address).unwrap();
    let reach = (SPAN - src) / 8;
    let mut indices = Vec::new();
    for i in 0..COUNT {
        let index = u32::try_from(random.below(reach)).unwrap();
        data[at(aux + 4 * i)..][..4].copy_from_slice(&index.to_le_bytes());
        indices.push(u64::from(index));
    }
    all.write(&data);
    let job = gather(BASE + dst, BASE + src, BASE + aux, COUNT);
    assert_done(&all.process.driver.run(&job).unwrap(), COUNT, 0);
    for (index, i) in indices.iter().zip(0..) {
        data.copy_within(
            at(src + 8 * index)..at(src + 8 * index + 8),
            at(dst + 8 * i),
        );
    }
    assert!(all.read() == data, "gather");

    // Back to where they came from, in another order of the two ranges.
    let job = scatter(BASE + src, BASE + dst + 64, BASE + aux, COUNT - 8);
    assert_done(&all.process.driver.run(&job).unwrap(), COUNT - 8, 0);
    for (index, i) in indices[..indices.len() - 8].iter().zip(0..) {
        let from = at(dst + 64 + 8 * i);
        data.copy_within(from..from + 8, at(src + 8 * index));
    }
    assert!(all.read() == data, "scatter");

    let mut nodes: Vec<u64> = (1..SPAN / 256).map(|node| BASE + 256 * node).collect();
    random.shuffle(&mut nodes);
    let mut sum = 0_u64;
    for (i, node) in nodes.iter().enumerate() {
        let next = nodes.get(i + 1).copied().unwrap_or(0);
        data[at(node - BASE + 8)..][..8].copy_from_slice(&next.to_le_bytes());
        let payload = &data[at(node - BASE + 64)..][..8];
        sum = sum.wrapping_add(u64::from_le_bytes(payload.try_into().unwrap()));
    }
    all.write(&data);
    let job = chase(nodes[0], 64, 8, u64::MAX);
    let record = all.process.driver.run(&job).unwrap();
    assert_done(&record, nodes.len() as u64, sum);
    // A pointer into a node, and an offset back.
    let job = chase(nodes[0], 64_u64.wrapping_sub(128), 8, 0);
    assert_done(&all.process.driver.run(&job).unwrap(), 0, 0);
}

#[test]
fn copies_to_and_from_dma_addresses() {
    let mut all = scattered();
    let data = pattern(6, usize::try_from(SPAN).unwrap());
    all.write(&data);
    let plain = all.world.take(SPAN);
    let driver = &mut all.process.driver;
    let out = flagged(copy(plain + 3, BASE + 100, SPAN - 200), JOB_DST_DMA);
    assert_done(&driver.run(&out).unwrap(), SPAN - 200, 0);
    let len = usize::try_from(SPAN - 200).unwrap();
    assert!(all.world.ram.read(plain + 3, len) == data[100..100 + len]);
    let both = JOB_SRC_DMA | JOB_DST_DMA;
    let twice = flagged(copy(plain + 4096, plain, 4096), both);
    assert_done(&driver.run(&twice).unwrap(), 4096, 0);
    assert!(all.world.ram.read(plain + 4096, 4096) == all.world.ram.read(plain, 4096));
}

#[test]
fn atomic_additions_are_atomic_for_cpus_and_for_other_contexts() {
    const COUNT: u64 = 300_000;
    let (world, _queues) = world(16 * MIB, 6);
    let page = world.take(PAGE);
    let mut processes = [world.process(0), world.process(200)];
    for process in &mut processes {
        process.map(BASE, Side::System(page), ALL);
    }
    let running = AtomicBool::new(true);
    let by_cpu: u64 = std::thread::scope(|scope| {
        let cpus: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut added = 0;
                    while running.load(Ordering::Relaxed) {
                        world.ram.fetch_add(page + 8, 1);
                        added += 1;
                    }
                    added
                })
            })
            .collect();
        let job = atomic_add(BASE + 8, COUNT, 1);
        let sequences: Vec<_> = processes
            .iter_mut()
            .map(|process| process.driver.submit(&job).unwrap())
            .collect();
        let records: Vec<_> = processes
            .iter()
            .zip(sequences)
            .map(|(process, sequence)| process.driver.wait(sequence))
            .collect();
        running.store(false, Ordering::Relaxed);
        for record in records {
            assert_eq!(record.unwrap().done, COUNT);
        }
        cpus.into_iter().map(|cpu| cpu.join().unwrap()).sum()
    });
    let found: u64 = world.ram.load(page + 8, Ordering::Acquire);
    assert_eq!(found, 2 * COUNT + by_cpu);
}

#[test]
fn a_job_that_asks_for_it_raises_the_vector_of_its_context() {
    let (world, queues) = world(16 * MIB, 6);
    let mut process = world.process(7);
    let counter = InterruptCounter::new();
    world.device.set_interrupt(JOB_VECTOR, counter.sink());
    process.driver.run(&fill(BASE, 0, 0)).unwrap();
    assert_eq!(queues.copy.read(Reg::INT_CAUSE.0) & INT_COMPUTE, 0);
    for raised in 1..=3 {
        let job = flagged(fill(BASE, 0, 0), JOB_INTERRUPT);
        process.driver.run(&job).unwrap();
        assert!(counter.wait(raised, Duration::from_secs(30)));
        assert_ne!(queues.copy.read(Reg::INT_CAUSE.0) & INT_COMPUTE, 0);
    }
}

#[test]
fn a_context_sleeps_and_wakes() {
    let (world, _queues) = world(16 * MIB, 6);
    let mut process = world.process(0);
    let page = world.take(PAGE);
    process.map(BASE, Side::System(page), ALL);
    for round in 1..=200 {
        if round % 2 == 0 {
            process
                .driver
                .until("need_kick", |driver| driver.need_kick())
                .unwrap();
        }
        let record = process.driver.run(&atomic_add(BASE, 1, 1)).unwrap();
        assert_done(&record, 1, round - 1);
    }
    assert!(world.device.snapshot().events.engine_sleeps >= 99);
}
