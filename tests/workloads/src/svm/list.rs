//! A linked list that does not fit into VRAM.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use super::{Common, mib, ms, needs_memory};
use crate::gpu::{Command, Gpu};
use crate::rng::Rng;
use crate::size;
use crate::sys::memory::UNIT;

/// Follow a linked list that is larger than VRAM with the GPU, and compare the sum of its payloads
/// with the CPU's.
///
/// The nodes are spread over the memory in a random order, within 2 MiB at a time: the GPU comes
/// to one part after the other, and parts that it is done with make room.
#[derive(Debug, Parser)]
#[command(
    name = "svm-list",
    after_help = "Example: hmmgpu run --vram 64M -- svm-list --passes 3"
)]
struct Args {
    /// Memory of the list [default: one and a half times VRAM].
    #[arg(long, value_parser = size::parse)]
    size: Option<usize>,
    /// Bytes from one node to the next in memory.
    #[arg(long, default_value = "256", value_parser = size::parse)]
    stride: usize,
    /// How often the list is followed.
    #[arg(long, default_value_t = 2)]
    passes: u32,
    /// Seed of the order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

/// A node; `next` is the address of another one, or zero.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Node {
    next: u64,
    payload: u64,
}

/// Runs the program.
pub(crate) fn main(args: Vec<OsString>) -> Result<ExitCode> {
    let args = Args::try_parse_from(args)?;
    let gpu = Gpu::open(&args.common.node)?;
    let vram = usize::try_from(gpu.device().query()?.vram_bytes)?;
    let bytes = args.size.unwrap_or(vram + vram / 2);
    let slot = args.stride / size_of::<Node>();
    ensure!(
        slot > 0 && args.stride % size_of::<Node>() == 0 && args.stride <= UNIT,
        "--stride: a multiple of {} up to 2M is needed",
        size_of::<Node>()
    );
    needs_memory(bytes)?;

    let mut memory = vec![Node::default(); bytes / size_of::<Node>()];
    let order = order(memory.len() / slot, UNIT / args.stride, args.seed);
    let mut payloads = Rng::new(args.seed, 1);
    let addresses: Vec<u64> = order
        .iter()
        .map(|&node| (&raw const memory[node * slot]).addr() as u64)
        .collect();
    let mut expected: u64 = 0;
    for (position, &node) in order.iter().enumerate() {
        let payload = payloads.next();
        expected = expected.wrapping_add(payload);
        memory[node * slot] = Node {
            next: addresses.get(position + 1).copied().unwrap_or(0),
            payload,
        };
    }
    let head = *addresses
        .first()
        .context("--size: not a single node fits")?;

    let nodes = order.len() as u64;
    for pass in 1..=args.passes {
        let report = gpu.run(Command::Chase {
            head,
            next: std::mem::offset_of!(Node, next) as u64,
            payload: std::mem::offset_of!(Node, payload) as u64,
            most: u64::MAX,
        })?;
        ensure!(
            report.value == expected && report.done == nodes,
            "pass {pass}: {:#x} over {} nodes instead of {expected:#x} over {nodes}",
            report.value,
            report.done
        );
        println!(
            "pass {pass}: {nodes} nodes in {} MiB ({} MiB of VRAM), the sum is right; {} on the GPU, {} faults",
            mib(bytes),
            mib(vram),
            ms(report.time),
            report.faults
        );
    }
    // The CPU still finds every node.
    let sum = order.iter().fold(0u64, |sum, &node| {
        sum.wrapping_add(memory[node * slot].payload)
    });
    ensure!(
        sum == expected,
        "the CPU adds up {sum:#x} instead of {expected:#x}"
    );
    Ok(ExitCode::SUCCESS)
}

/// All nodes once: groups of neighbours in random order, and so the nodes of each.
fn order(nodes: usize, group: usize, seed: u64) -> Vec<usize> {
    let mut rng = Rng::new(seed, 0);
    let mut groups: Vec<usize> = (0..nodes.div_ceil(group)).collect();
    shuffle(&mut groups, &mut rng);
    let mut order = Vec::with_capacity(nodes);
    for first in groups.into_iter().map(|number| number * group) {
        let begin = order.len();
        order.extend(first..(first + group).min(nodes));
        shuffle(&mut order[begin..], &mut rng);
    }
    order
}

fn shuffle(items: &mut [usize], rng: &mut Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_comes_once_and_groups_stay_together() {
        let nodes = order(1003, 100, 7);
        let mut sorted = nodes.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1003).collect::<Vec<_>>());
        assert_ne!(nodes, sorted);
        let changes = nodes
            .windows(2)
            .filter(|pair| pair[0] / 100 != pair[1] / 100);
        assert_eq!(changes.count(), 10);
    }
}
