//! Every kernel against the straightforward way to do the same, with faults on the way.

use hmmgpu_contract::mmu::{FaultAccess, FaultReason};
use proptest::collection::vec;
use proptest::prelude::*;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::*;
use crate::command::Fault;
use crate::dma::Access;
use crate::mmu::MmuFault;
use hmmgpu_contract::desc::Status;

const PAGE: u64 = 4096;
const PAGES: usize = 64;
const SIZE: usize = PAGES * 4096;
/// Where the virtual addresses begin.
const BASE: u64 = 0x7000_0000_0000;

/// Pages in any order behind the virtual addresses, each of which faults some times before it can
/// be accessed, and again some times before it can be written.
struct Paged<'m> {
    region: &'m MmapRegion,
    /// Places of the pages.
    places: Vec<usize>,
    faults: Vec<(u8, u8)>,
    taken: u64,
}

impl Paged<'_> {
    fn allowed(&mut self, page: usize, access: FaultAccess) -> bool {
        let (any, write) = &mut self.faults[page];
        let left = match access {
            _ if *any > 0 => any,
            FaultAccess::FAULT_READ => return true,
            _ => write,
        };
        let allowed = *left == 0;
        *left = left.saturating_sub(1);
        allowed
    }
}

impl<'m> Memory<'m> for Paged<'m> {
    fn slice(
        &mut self,
        address: u64,
        len: usize,
        access: FaultAccess,
    ) -> Result<VolatileSlice<'m>, Halt> {
        let offset = usize::try_from(address - BASE).unwrap();
        let (page, within) = (offset / 4096, offset % 4096);
        if !self.allowed(page, access) {
            self.taken += 1;
            return Err(Halt::Fault(MmuFault {
                address,
                access,
                reason: FaultReason::FAULT_NOT_PRESENT,
                level: 0,
            }));
        }
        let len = len.min(4096 - within);
        let slice = self
            .region
            .get_slice(self.places[page] * 4096 + within, len);
        Ok(slice.unwrap())
    }

    fn dma(&mut self, address: u64, len: usize, _: Access) -> Result<VolatileSlice<'m>, Halt> {
        let offset = usize::try_from(address).unwrap();
        if offset >= SIZE {
            return Err(Halt::Dma(Fault::at(Status::STATUS_DMA_UNMAPPED, address)));
        }
        let slice = self.region.get_slice(offset, len.min(SIZE - offset));
        Ok(slice.unwrap())
    }
}

/// How memory behaves in one case.
#[derive(Clone, Debug)]
struct World {
    places: Vec<usize>,
    faults: Vec<(u8, u8)>,
    seed: u64,
}

fn world() -> impl Strategy<Value = World> {
    let places = Just((0..PAGES).collect::<Vec<_>>()).prop_shuffle();
    let faults = vec(prop_oneof![Just((0, 0)), (0_u8..3, 0_u8..3)], PAGES);
    (places, faults, any::<u64>()).prop_map(|(places, faults, seed)| World {
        places,
        faults,
        seed,
    })
}

fn noise(seed: u64) -> impl Iterator<Item = u64> {
    (0_u64..).map(move |i| {
        (i ^ seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

/// Memory as the job sees it, in one piece.
struct Flat(Vec<u8>);

impl Flat {
    fn new(seed: u64) -> Self {
        Self(noise(seed).flat_map(u64::to_le_bytes).take(SIZE).collect())
    }

    fn at(address: u64) -> usize {
        usize::try_from(address - BASE).unwrap()
    }

    fn byte(&mut self, address: u64) -> &mut u8 {
        &mut self.0[Self::at(address)]
    }

    fn get<const N: usize>(&self, address: u64) -> [u8; N] {
        let at = Self::at(address);
        self.0[at..at + N].try_into().unwrap()
    }

    fn word(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.get(address))
    }

    fn float(&self, address: u64) -> f32 {
        f32::from_le_bytes(self.get(address))
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = Self::at(address);
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Runs a kernel on paged memory that begins as `flat`, and replays every fault. Returns its
/// progress at the end, the memory, and the number of steps.
fn run(world: &World, flat: &Flat, mut kernel: Kernel) -> (Progress, Vec<u8>, u64) {
    let region = MmapRegion::<()>::new(SIZE).unwrap();
    let all = region.as_volatile_slice();
    for (page, place) in world.places.iter().enumerate() {
        let to = all.subslice(place * 4096, 4096).unwrap();
        to.copy_from(&flat.0[page * 4096..][..4096]);
    }
    let mut memory = Paged {
        region: &region,
        places: world.places.clone(),
        faults: world.faults.clone(),
        taken: 0,
    };
    let mut scratch = Scratch::new();
    let mut progress = kernel.begin();
    let mut steps = 0;
    loop {
        let before = (progress, memory.taken);
        match kernel.step(&mut progress, &mut memory, &mut scratch) {
            Ok(Step::Finished) => break,
            Ok(Step::More) => assert!(progress.done > before.0.done, "a step without progress"),
            Err(Halt::Fault(fault)) => {
                assert_eq!(memory.taken, before.1 + 1, "{fault:?}");
                assert!(progress.done >= before.0.done);
            }
            Err(stop) => panic!("{stop:?}"),
        }
        steps += 1;
    }
    let mut found = vec![0; SIZE];
    for (page, place) in world.places.iter().enumerate() {
        let from = all.subslice(place * 4096, 4096).unwrap();
        from.copy_to(&mut found[page * 4096..][..4096]);
    }
    (progress, found, steps)
}

/// Runs a kernel and compares with what is expected.
#[track_caller]
fn check(world: &World, before: &Flat, kernel: Kernel, after: &Flat, done: u64, value: u64) {
    let (progress, found, _) = run(world, before, kernel);
    assert_eq!(progress, Progress { done, value });
    assert!(found == after.0, "memory differs");
}

const HALF: u64 = SIZE as u64 / 2;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn fill(world in world(), at in 0..HALF, count in 0..HALF, pattern in any::<u64>()) {
        let before = Flat::new(world.seed);
        let mut after = Flat::new(world.seed);
        let dst = BASE + at;
        for i in 0..count {
            *after.byte(dst + i) = pattern.to_le_bytes()[usize::try_from(i % 8).unwrap()];
        }
        let kernel = Kernel::Fill(Fill { dst, count, pattern });
        check(&world, &before, kernel, &after, count, 0);
    }

    #[test]
    fn copy(world in world(), from in 0..3 * PAGE, to in 0..3 * PAGE, count in 0..HALF - 3 * PAGE) {
        let before = Flat::new(world.seed);
        let mut after = Flat::new(world.seed);
        let (src, dst) = (BASE + from, BASE + HALF + to);
        for i in 0..count {
            *after.byte(dst + i) = before.get::<1>(src + i)[0];
        }
        let (dst, src) = (Side::Virtual(dst), Side::Virtual(src));
        check(&world, &before, Kernel::Copy(Copy { dst, src, count }), &after, count, 0);
    }

    #[test]
    fn compare(
        world in world(),
        from in 0..3 * PAGE,
        to in 0..3 * PAGE,
        count in 1..HALF - 3 * PAGE,
        difference in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
    ) {
        let mut memory = Flat::new(world.seed);
        let (src, dst) = (BASE + from, BASE + HALF + to);
        for i in 0..count {
            *memory.byte(dst + i) = memory.get::<1>(src + i)[0];
        }
        let (mut done, mut value) = (count, count);
        if let Some(at) = difference.map(|at| at % count) {
            *memory.byte(dst + at) ^= 0x80;
            (done, value) = (at + 1, at);
        }
        let kernel = Kernel::Compare(Compare { dst, src, count });
        check(&world, &memory, kernel, &memory, done, value);
    }

    #[test]
    fn words(world in world(), at in 0..HALF / 8, count in 0..HALF / 8) {
        let memory = Flat::new(world.seed);
        let src = BASE + 8 * at;
        let words: Vec<u64> = (0..count).map(|i| memory.word(src + 8 * i)).collect();
        let checksum = words.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, word| {
            (h ^ word).wrapping_mul(0x100_0000_01b3)
        });
        let kernel = Kernel::Checksum(Checksum { src, count });
        check(&world, &memory, kernel, &memory, count, checksum);
        let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
        let minimum = words.iter().min().copied().unwrap_or(u64::MAX);
        let maximum = words.iter().max().copied().unwrap_or(0);
        for (reduction, value) in [
            (Reduction::Sum, sum),
            (Reduction::Minimum, minimum),
            (Reduction::Maximum, maximum),
        ] {
            let kernel = Kernel::Reduce(Reduce { src, count, reduction });
            check(&world, &memory, kernel, &memory, count, value);
        }
    }

    #[test]
    fn saxpy(
        world in world(),
        from in 0..PAGE / 4,
        // Ranges that overlap, too: elements of the source that are results of earlier ones.
        to in prop_oneof![0..PAGE / 4, HALF / 4..HALF / 4 + PAGE / 4],
        count in 0..HALF / 4 - PAGE,
        a in -4.0_f32..4.0,
    ) {
        let mut before = Flat::new(world.seed);
        for i in 0..SIZE as u64 / 4 {
            let value = f32::from(u8::try_from(i % 251).unwrap());
            before.put(BASE + 4 * i, &value.to_le_bytes());
        }
        let mut after = Flat(before.0.clone());
        let (src, dst) = (BASE + 4 * from, BASE + 4 * to);
        for i in 0..count {
            let product = a * after.float(src + 4 * i);
            let result = product + after.float(dst + 4 * i);
            after.put(dst + 4 * i, &result.to_le_bytes());
        }
        let kernel = Kernel::Saxpy(Saxpy { dst, src, count, a });
        check(&world, &before, kernel, &after, count, 0);
    }

    #[test]
    fn gather_and_scatter(
        world in world(),
        indices in vec(0_u32..4096, 0..3000),
        skew in 0..64_u64,
    ) {
        let mut before = Flat::new(world.seed);
        let aux = BASE + 4 * skew;
        for (index, i) in indices.iter().zip(0..) {
            before.put(aux + 4 * i, &index.to_le_bytes());
        }
        let count = indices.len() as u64;
        let (dst, src) = (BASE + 16 * PAGE + 8 * skew, BASE + 40 * PAGE + 8 * skew);

        let mut after = Flat(before.0.clone());
        for (index, i) in indices.iter().zip(0..) {
            let word: [u8; 8] = before.get(src + 8 * u64::from(*index));
            after.put(dst + 8 * i, &word);
        }
        let kernel = Kernel::Gather(Gather { dst, src, indices: aux, count });
        check(&world, &before, kernel, &after, count, 0);

        let mut after = Flat(before.0.clone());
        for (index, i) in indices.iter().zip(0..) {
            let word: [u8; 8] = before.get(src + 8 * i);
            after.put(dst + 8 * u64::from(*index), &word);
        }
        let kernel = Kernel::Scatter(Scatter { dst, src, indices: aux, count });
        check(&world, &before, kernel, &after, count, 0);
    }

    #[test]
    fn chase(
        world in world(),
        order in Just((0..SIZE as u64 / 64).collect::<Vec<_>>()).prop_shuffle(),
        nodes in 0_usize..4096,
        limit in 0_u64..8192,
        payload in 0_u64..4,
        next in 4_u64..8,
    ) {
        let mut memory = Flat::new(world.seed);
        let list: Vec<u64> = order[..nodes].iter().map(|node| BASE + 64 * node).collect();
        for (i, node) in list.iter().enumerate() {
            let following = list.get(i + 1).copied().unwrap_or(0);
            memory.put(node + 8 * next, &following.to_le_bytes());
        }
        let walked = list.iter().take(usize::try_from(limit).unwrap());
        let (mut done, mut value) = (0, 0_u64);
        for node in walked {
            done += 1;
            value = value.wrapping_add(memory.word(node + 8 * payload));
        }
        let pointer = list.first().copied().unwrap_or(0);
        let (payload, next) = (8 * payload, 8 * next);
        let kernel = Kernel::Chase(Chase { pointer, payload, next, count: limit });
        check(&world, &memory, kernel, &memory, done, value);
    }

    #[test]
    fn atomic_add(world in world(), at in 0..HALF / 8, count in 0_u64..5000, addend in any::<u64>()) {
        let before = Flat::new(world.seed);
        let mut after = Flat::new(world.seed);
        let dst = BASE + 8 * at;
        let mut value = 0;
        for _ in 0..count {
            value = after.word(dst);
            after.put(dst, &value.wrapping_add(addend).to_le_bytes());
        }
        let kernel = Kernel::AtomicAdd(AtomicAdd { dst, count, addend });
        check(&world, &before, kernel, &after, count, value);
    }

    #[test]
    fn copies_to_and_from_dma_addresses(
        world in world(),
        dma in 0..HALF / 2,
        virtual_address in 0..HALF / 2,
        count in 0..HALF / 2,
    ) {
        // The places are not those of the pages, so all of what is behind DMA addresses is looked
        // at through the pages in order.
        let straight = World { places: (0..PAGES).collect(), ..world };
        let before = Flat::new(straight.seed);
        for out in [true, false] {
            let mut after = Flat::new(straight.seed);
            let address = HALF + dma;
            let (from, to) = if out {
                (virtual_address, address)
            } else {
                (address, virtual_address)
            };
            for i in 0..count {
                *after.byte(BASE + to + i) = before.get::<1>(BASE + from + i)[0];
            }
            let (dst, src) = if out {
                (Side::Dma(address), Side::Virtual(BASE + virtual_address))
            } else {
                (Side::Virtual(BASE + virtual_address), Side::Dma(address))
            };
            let kernel = Kernel::Copy(Copy { dst, src, count });
            check(&straight, &before, kernel, &after, count, 0);
        }
    }
}

fn well() -> World {
    World {
        places: (0..PAGES).collect(),
        faults: vec![(0, 0); PAGES],
        seed: 1,
    }
}

#[test]
fn long_jobs_take_many_steps() {
    let flat = Flat::new(1);
    let count = 5 * ELEMENT_STEP + 1;
    let kernel = Kernel::AtomicAdd(AtomicAdd {
        dst: BASE,
        count,
        addend: 1,
    });
    assert_eq!(run(&well(), &flat, kernel).2, 5);
}

#[test]
fn what_is_not_aligned_ends_a_chase_where_it_is() {
    let mut flat = Flat::new(1);
    flat.put(BASE, &(BASE + 4091).to_le_bytes());
    let region = MmapRegion::<()>::new(SIZE).unwrap();
    region.as_volatile_slice().copy_from(&flat.0);
    let world = well();
    let mut memory = Paged {
        region: &region,
        places: world.places,
        faults: world.faults,
        taken: 0,
    };
    let mut kernel = Kernel::Chase(Chase {
        pointer: BASE,
        payload: 8,
        next: 0,
        count: 10,
    });
    let mut progress = kernel.begin();
    let stop = kernel.step(&mut progress, &mut memory, &mut Scratch::new());
    assert_eq!(stop, Err(Halt::Misaligned));
    assert_eq!((progress.done, progress.value), (1, flat.word(BASE + 8)));
}

#[test]
fn dma_that_is_not_mapped_ends_a_copy_where_it_is() {
    let region = MmapRegion::<()>::new(SIZE).unwrap();
    let world = well();
    let mut memory = Paged {
        region: &region,
        places: world.places,
        faults: world.faults,
        taken: 0,
    };
    let mut kernel = Kernel::Copy(Copy {
        dst: Side::Virtual(BASE),
        src: Side::Dma(SIZE as u64 - 100),
        count: 200,
    });
    let mut progress = kernel.begin();
    let stop = kernel.step(&mut progress, &mut memory, &mut Scratch::new());
    let fault = Fault::at(Status::STATUS_DMA_UNMAPPED, SIZE as u64);
    assert_eq!(stop, Err(Halt::Dma(fault)));
    assert_eq!(progress.done, 100);
}
