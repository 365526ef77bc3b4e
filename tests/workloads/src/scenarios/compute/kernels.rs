//! What each kernel computes, over ranges that begin and end anywhere.

use anyhow::{Context, Result, ensure};
use hmmgpu_contract::compute::{REDUCE_MAX, REDUCE_MIN, REDUCE_SUM};

use crate::gpu::Command;
use crate::reference;
use crate::scenarios::setup::Setup;
use crate::sys::memory::{Memory, PAGE, UNIT, UNIT_PAGES, WORDS};

/// Everything in memory.
fn contents(memory: &Memory) -> Vec<u8> {
    (0..memory.pages())
        .flat_map(|page| memory.bytes(page))
        .copied()
        .collect()
}

fn all_words(memory: &Memory) -> Vec<u64> {
    (0..memory.pages())
        .flat_map(|page| memory.words(page))
        .copied()
        .collect()
}

/// Offsets and lengths in bytes: inside a page, over pages, over 2 MiB.
const RANGES: [(usize, usize); 5] = [
    (0, 1),
    (5, 4000),
    (4091, 17),
    (PAGE - 3, 40 * PAGE + 9),
    (UNIT - 7 * PAGE - 1, UNIT),
];

pub(super) fn bytes(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let filled = setup.filled(order, 6)?;
        let memory = &filled.memory;
        let at = |offset: usize| (memory.address() + offset) as u64;
        let mut shadow = contents(memory);
        for (number, (offset, len)) in RANGES.into_iter().enumerate() {
            let pattern = 0x0807_0605_0403_0201_u64.rotate_left(u32::try_from(number)? * 4);
            gpu.run(Command::Fill {
                dst: at(offset),
                pattern,
                bytes: len as u64,
            })?;
            for (index, byte) in shadow[offset..offset + len].iter_mut().enumerate() {
                *byte = pattern.to_le_bytes()[index % 8];
            }
            // To where it does not overlap, at another distance from the page's beginning.
            let to = 3 * UNIT + offset * 3 % PAGE + 1;
            let copy = gpu.run(Command::Copy {
                dst: at(to),
                src: at(offset),
                bytes: len as u64,
            })?;
            ensure!(copy.done == len as u64, "{copy:?}");
            shadow.copy_within(offset..offset + len, to);
            let compare = Command::Compare {
                left: at(to),
                right: at(offset),
                bytes: len as u64,
            };
            ensure!(
                gpu.run(compare)?.value == len as u64,
                "order {order}: the copy of {len} bytes at {offset} is said to differ"
            );
            // The last byte, and the first, each other than before.
            for index in [len - 1, 0].into_iter().take(len.min(2)) {
                let flip = Command::Fill {
                    dst: at(to + index),
                    pattern: u64::from(!shadow[to + index]),
                    bytes: 1,
                };
                gpu.run(flip)?;
                shadow[to + index] = !shadow[to + index];
                let found = gpu.run(compare)?.value;
                ensure!(
                    found == index as u64,
                    "order {order}: byte {index} differs, and {found} is said to"
                );
            }
        }
        let wrong = contents(memory)
            .iter()
            .zip(&shadow)
            .filter(|(a, b)| a != b)
            .count();
        ensure!(wrong == 0, "order {order}: {wrong} bytes are wrong");
    }
    Ok(())
}

pub(super) fn words(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let filled = setup.filled(order, 2)?;
        let all = all_words(&filled.memory);
        let address = filled.memory.address();
        for (first, count) in [(0, 1), (7, 511), (WORDS - 1, 3 * WORDS), (3, all.len() - 3)] {
            let words = &all[first..first + count];
            let src = (address + first * 8) as u64;
            let count = count as u64;
            let checksum = gpu.run(Command::Checksum { src, words: count })?;
            ensure!(
                checksum.value == reference::checksum(words.iter().copied())
                    && checksum.done == count,
                "order {order}: checksum of {count} words from {first}: {checksum:?}"
            );
            let sum = words
                .iter()
                .fold(0, |sum: u64, word| sum.wrapping_add(*word));
            let smallest = words.iter().copied().min().context("no words")?;
            let largest = words.iter().copied().max().context("no words")?;
            for (how, expected) in [
                (REDUCE_SUM, sum),
                (REDUCE_MIN, smallest),
                (REDUCE_MAX, largest),
            ] {
                let reduce = Command::Reduce {
                    src,
                    words: count,
                    how,
                };
                let found = gpu.run(reduce)?.value;
                ensure!(found == expected, "order {order}: {reduce:?}: {found:#x}");
            }
        }
    }
    Ok(())
}

pub(super) fn floats(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    // Vectors from the allocator, wherever it has put them.
    for (count, a) in [(1, 2.0), (1023, -0.1), (700_001, 1e-3)] {
        #[allow(clippy::cast_precision_loss)] // below 2^24
        let x: Vec<f32> = (0..count).map(|index| index as f32 / 3.0).collect();
        let before: Vec<f32> = x.iter().map(|x| 1.0 / (x + 0.7)).collect();
        let mut y = before.clone();
        gpu.saxpy(a, &x, &mut y)?;
        for (index, &found) in y.iter().enumerate() {
            let expected = reference::saxpy(a, x[index], before[index]);
            ensure!(
                found.to_bits() == expected.to_bits(),
                "of {count} elements, element {index} is {found} instead of {expected}"
            );
        }
    }
    Ok(())
}

pub(super) fn indices(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let filled = setup.filled(order, 2)?;
        let source = all_words(&filled.memory);
        // A permutation of all words: an odd factor is one modulo a power of two.
        let count = u32::try_from(source.len())?;
        ensure!(count.is_power_of_two(), "{count} words");
        let indices: Vec<u32> = (0..count)
            .map(|index| index.wrapping_mul(77_773) & (count - 1))
            .collect();
        let mut target = setup.filled(order, 2)?;
        target.seed += 9;
        target.fill(target.all());
        let command = Command::Gather {
            dst: target.memory.address() as u64,
            src: filled.memory.address() as u64,
            indices: indices.as_ptr() as u64,
            count: u64::from(count),
        };
        gpu.run(command)?;
        let gathered = all_words(&target.memory);
        for (index, &from) in indices.iter().enumerate() {
            ensure!(
                gathered[index] == source[usize::try_from(from)?],
                "order {order}: word {index} is not that of index {from}"
            );
        }
        // And back, which undoes it.
        target.seed += 9;
        target.fill(0..UNIT_PAGES);
        let words = all_words(&target.memory);
        gpu.run(Command::Scatter {
            dst: filled.memory.address() as u64,
            src: target.memory.address() as u64,
            indices: indices.as_ptr() as u64,
            count: u64::from(count),
        })?;
        let scattered = all_words(&filled.memory);
        for (index, &to) in indices.iter().enumerate() {
            ensure!(
                scattered[usize::try_from(to)?] == words[index],
                "order {order}: word {index} is not at index {to}"
            );
        }
    }
    Ok(())
}

pub(super) fn lists(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    let mut filled = setup.filled(9, 2)?;
    // A node on each page, in a scattered order; word 100 is the next one, word 3 the payload.
    let pages = filled.memory.pages();
    let (next, payload) = (100, 3);
    let order: Vec<usize> = (0..pages).map(|index| index * 389 % pages).collect();
    let mut sums = vec![0u64];
    for (position, &page) in order.iter().enumerate() {
        let follower = order
            .get(position + 1)
            .map_or(0, |&page| filled.memory.page_address(page) as u64);
        let words = filled.memory.words_mut(page);
        words[next] = follower;
        sums.push(sums[position].wrapping_add(words[payload]));
    }
    for most in [0, 1, 300, pages, pages + 1] {
        let report = gpu.run(Command::Chase {
            head: filled.memory.page_address(order[0]) as u64,
            next: (next * 8) as u64,
            payload: (payload * 8) as u64,
            most: most as u64,
        })?;
        let nodes = most.min(pages);
        ensure!(
            report.value == sums[nodes] && report.done == nodes as u64,
            "of at most {most} nodes: {report:?}"
        );
    }
    // A list that ends nowhere.
    let last = order[pages - 1];
    filled.memory.words_mut(last)[next] = 0x10;
    let report = gpu.attempt(Command::Chase {
        head: filled.memory.page_address(order[0]) as u64,
        next: (next * 8) as u64,
        payload: (payload * 8) as u64,
        most: u64::MAX,
    })?;
    ensure!(
        report.error == Some(rustix::io::Errno::FAULT) && report.done == pages as u64,
        "{report:?}"
    );
    Ok(())
}

pub(super) fn additions(setup: &Setup) -> Result<()> {
    let gpu = setup.gpu()?;
    for order in [0, 9] {
        let filled = setup.filled(order, 1)?;
        let word = filled.memory.atomic(300, 17);
        let before = word.load(std::sync::atomic::Ordering::Relaxed);
        let (value, times) = (0x1234_5678_9abc_def1_u64, 1000);
        let report = gpu.run(Command::AtomicAdd {
            word: word.as_ptr() as u64,
            value,
            times,
        })?;
        let found = word.load(std::sync::atomic::Ordering::Relaxed);
        let expected = before.wrapping_add(value.wrapping_mul(times));
        ensure!(
            found == expected && report.value == expected.wrapping_sub(value),
            "order {order}: {found:#x} instead of {expected:#x}, {report:x?}"
        );
        word.store(before, std::sync::atomic::Ordering::Relaxed);
        filled.verify(filled.all())?;
    }
    Ok(())
}
