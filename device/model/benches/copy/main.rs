//! The copy engine beside the best loop that copies the same bytes between the same addresses, and
//! VRAM that is used for the first time beside VRAM that holds data already.
//!
//! Engine and loops take turns on the same pages. The engine's time is the device's own, from a fence
//! before the descriptors to one after them; a loop's time is that of the loop alone. Each turn copies
//! what no turn before has copied, and is checked. Which of the loops is the floor is decided for each
//! round by their medians, so that the floor is never one that is slow on this CPU.

mod floor;
mod links;
mod rig;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use hmmgpu_bench_support::{Options, Pair, Row, Table, Target, median, take_turns};
use hmmgpu_contract::desc::{NOTE_ALLOC, NOTE_FREE};
use hmmgpu_model::mock::descriptors::note;

use crate::floor::{WAYS, ways};
use crate::rig::{Plan, Rig, Way, noise};

const MIB: usize = 1 << 20;
/// Order of a folio of 2 MiB.
const HUGE: u8 = 9;
/// Far more than the caches hold.
const DATA: usize = 64 * MIB;
/// What one turn copies: less than what a scheduler gives at once, so that few turns are disturbed.
const TURN: usize = 4 * MIB;
const ROUNDS: usize = 8;
const TURNS: usize = 32;
/// All parts.
const WARM_UP: usize = 16;
/// Turns that tell which loop is the best.
const TRIES: usize = 12;
/// Ours, and all loops.
const SIDES: usize = WAYS + 1;

/// VRAM that is used for the first time, and used again.
const FIRST: usize = 256 * MIB;
const FIRST_ROUNDS: usize = 7;
/// How long a device is there before its driver: a guest takes 3 s at least to start.
const BOOT: Duration = Duration::from_secs(3);

/// Numbers below `end` in an order that no prefetcher guesses, always the same.
fn shuffled(end: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..end).zip(noise()).collect();
    numbers.sort_unstable_by_key(|(_, noise)| *noise);
    numbers.into_iter().map(|(number, _)| number).collect()
}

/// Copies of folios of an order at scattered places, in parts of a turn each.
fn scattered(way: Way, order: u8) -> Vec<Plan> {
    let piece = 4096 << order;
    let places = shuffled(DATA / piece);
    let pairs: Vec<_> = places.iter().zip(places.iter().rev()).collect();
    let part = |part: &[(&usize, &usize)]| Plan {
        way,
        order,
        pieces: part
            .iter()
            .map(|(to, from)| (*to * piece, *from * piece))
            .collect(),
    };
    pairs.chunks(TURN / piece).map(part).collect()
}

/// One round: pairs of the engine and the best loop of the round, and that loop's name.
fn round(parts: &[Plan], way: Way) -> anyhow::Result<(Vec<Pair>, &'static str)> {
    let mut rig = Rig::new(DATA as u64)?;
    rig.fill(way, DATA)?;
    // Whoever comes next finds nothing of it in the caches.
    let mut parts_on = parts.iter().cycle();
    let mut turn = |side: usize| {
        let part = parts_on.next().context("no parts")?;
        match side {
            0 => rig.engine(part, &[]),
            way => rig.floor(part, way - 1),
        }
    };
    let tried: Vec<[f64; SIDES]> = take_turns(TRIES, WARM_UP, &mut turn)?;
    let of = |side: usize| median(tried.iter().map(|turn| turn[side]));
    let best = (1..SIDES).max_by(|a, b| of(*a).total_cmp(&of(*b)));
    let best = best.context("no loop")?;
    // One to one, so that the tables of its pages are as warm for the engine as for the loop.
    let pairs = take_turns(TURNS, WARM_UP, |side| turn([0, best][side]))?;
    for part in parts {
        rig.engine(part, &[])?;
        rig.verify_all(part)?;
    }
    Ok((pairs, ways()[best - 1].0))
}

fn copies(table: &mut Table, options: &Options) -> anyhow::Result<()> {
    let rows = [
        ("copy 2MiB to VRAM", Way::ToVram, HUGE, 0.95),
        ("copy 2MiB home", Way::Home, HUGE, 0.95),
        ("copy 4KiB to VRAM", Way::ToVram, 0, 0.85),
        ("copy 4KiB home", Way::Home, 0, 0.85),
    ];
    for (name, way, order, target) in rows {
        if !options.wants(name) {
            continue;
        }
        let parts = scattered(way, order);
        let (mut pairs, mut best) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds(ROUNDS) {
            let (of_round, way) = round(&parts, way)?;
            pairs.extend(of_round);
            best.push(way);
        }
        best.sort_unstable();
        best.dedup();
        let beside = format!("best loop: {}", best.join("; "));
        let target = Target::AtLeast(target);
        table.add(Row::of_pairs(name, &beside, "GB/s", target, &pairs))?;
    }
    Ok(())
}

/// Use of VRAM from an offset on for the first time, after it was freed, and as it is then: GB/s of
/// each.
fn uses(offset: usize) -> anyhow::Result<[f64; 3]> {
    let mut rig = Rig::new((offset + FIRST) as u64)?;
    // So that guest RAM is there.
    rig.fill(Way::ToVram, FIRST)?;
    let piece = 2 * MIB;
    let places = (0..FIRST / piece).map(|number| (offset + number * piece, number * piece));
    let plan = Plan {
        way: Way::ToVram,
        order: HUGE,
        pieces: places.collect(),
    };
    let folios = u32::try_from(FIRST / piece)?;
    let alloc = note(NOTE_ALLOC, HUGE, folios, offset as u64, 0);
    let free = note(NOTE_FREE, HUGE, folios, offset as u64, 0);
    // No more than that: the device knows of no driver yet.
    std::thread::sleep(BOOT);
    let first = rig.engine(&plan, &[alloc])?;
    rig.driver().run(&[free])?;
    let again = rig.engine(&plan, &[alloc])?;
    let populated = rig.engine(&plan, &[])?;
    rig.verify_all(&plan)?;
    Ok([first, again, populated])
}

fn first_uses(table: &mut Table, options: &Options) -> anyhow::Result<()> {
    const FIRST_USE: &str = "VRAM used for the first time";
    const AGAIN: &str = "VRAM freed and used again";
    const BEYOND: &str = "VRAM beyond what is populated, used for the first time";
    let rounds = options.rounds(FIRST_ROUNDS);
    let measure = |offset| {
        (0..rounds)
            .map(|_| uses(offset))
            .collect::<Result<Vec<_>, _>>()
    };
    let add = |table: &mut Table, name, target, all: &[[f64; 3]], which: usize| {
        let pairs: Vec<Pair> = all
            .iter()
            .map(|figures| [figures[which], figures[2]])
            .collect();
        let row = Row::of_pairs(
            name,
            "the same when it is populated",
            "GB/s",
            target,
            &pairs,
        );
        table.add(row)
    };
    if options.wants(FIRST_USE) || options.wants(AGAIN) {
        let all = measure(0)?;
        add(table, FIRST_USE, Target::AtLeast(0.5), &all, 0)?;
        add(table, AGAIN, Target::AtLeast(0.5), &all, 1)?;
    }
    if options.wants(BEYOND) {
        add(table, BEYOND, Target::None, &measure(3 * FIRST)?, 0)?;
    }
    Ok(())
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::from_arguments();
    let title = "The copy engine: quotients of pairs of turns in one run; medians and quartiles";
    let mut table = Table::new(title, &options)?;
    copies(&mut table, &options)?;
    first_uses(&mut table, &options)?;
    links::links(&mut table, &options)?;
    Ok(table.finish())
}
