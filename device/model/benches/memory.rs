//! What a device with 64 GiB of VRAM takes of the host's memory besides what VRAM and guest RAM hold.
//!
//! The whole process is looked at: all that is resident of its mappings but VRAM and guest RAM. After
//! typical use, which is 2 GiB of VRAM in folios of 2 MiB and 512 MiB in single pages, and after the
//! worst that a driver can do to telemetry's map of VRAM: something in every part of it.

use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::Context;
use hmmgpu_bench_support::{Options, Row, Table, Target};
use hmmgpu_contract::desc::{Desc, NOTE_ALLOC, NOTE_FREE};
use hmmgpu_contract::{PAGE_SIZE, VRAM_BLOCK_BYTES};
use hmmgpu_model::mock::descriptors::{note, of_process, process, span_begin, span_end};
use hmmgpu_model::mock::{Driver, GuestRam, QueueConfig};
use hmmgpu_model::{Config, Device};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const VRAM: u64 = 64 * GIB;
const HUGE: u8 = 9;
const ROUNDS: usize = 5;
const TARGET: Target = Target::AtMost(64.0);

/// A note about one process's memory.
fn alloc(order: u8, count: u32, offset: u64) -> Desc {
    of_process(note(NOTE_ALLOC, order, count, offset, 0), 1000)
}

/// Migrations of 2 MiB, whole below and in single pages above.
fn typical() -> Vec<Desc> {
    let mut descs = vec![process(1000, "a program")];
    let block = |number: u64| number * VRAM_BLOCK_BYTES;
    for number in 0..2 * GIB / VRAM_BLOCK_BYTES {
        descs.push(span_begin(number, 512));
        descs.push(alloc(HUGE, 1, block(number)));
        descs.push(span_end(number, HUGE, 512, 0, 0));
    }
    for number in 0..512 * MIB / VRAM_BLOCK_BYTES {
        let place = 4 * GIB + block(number);
        descs.push(span_begin(number, 512));
        descs.push(alloc(0, 512, place));
        descs.push(note(NOTE_FREE, 0, 100, place, 0));
        descs.push(span_end(number, 0, 512, 0, 0));
    }
    descs
}

/// A page in each 4 MiB of VRAM.
fn worst() -> Vec<Desc> {
    let places = (0..VRAM / (4 * MIB)).map(|number| number * 4 * MIB + PAGE_SIZE);
    places.map(|place| alloc(0, 1, place)).collect()
}

/// Whether a mapping, by its line in smaps, holds an address.
fn holds(line: &str, address: *const u8) -> bool {
    let parse = |text: &str| usize::from_str_radix(text, 16).ok();
    line.split(' ')
        .next()
        .and_then(|range| range.split_once('-'))
        .and_then(|(begin, end)| Some(parse(begin)?..parse(end)?))
        .is_some_and(|range| range.contains(&address.addr()))
}

/// MiB that are resident in this process, but not of its VRAM, nor of guest RAM, which is in memfds.
#[allow(clippy::cast_precision_loss)] // Some thousand MiB.
fn resident(device: &Device) -> anyhow::Result<f64> {
    let maps = std::fs::read_to_string("/proc/self/smaps").context("/proc/self/smaps")?;
    let (mut kib, mut counts) = (0_u64, true);
    for line in maps.lines() {
        if let Some(rest) = line.strip_prefix("Rss:") {
            let size = rest.split_whitespace().next().context("no size")?;
            kib += if counts { size.parse()? } else { 0 };
        } else if line
            .split(' ')
            .next()
            .is_some_and(|range| range.contains('-'))
        {
            counts = !line.contains("/memfd:") && !holds(line, device.vram().ptr_guard().as_ptr());
        }
    }
    Ok(kib as f64 / 1024.0)
}

/// What is resident after a driver has sent these.
fn after(descs: Vec<Desc>) -> anyhow::Result<f64> {
    let device = Arc::new(Device::new(Config {
        vram_bytes: VRAM,
        ..Config::default()
    })?);
    let ram = GuestRam::new(1 << 32, usize::try_from(4 * MIB)?)?;
    let queue = QueueConfig {
        ring_log2: 14,
        ..QueueConfig::default()
    };
    let mut driver = Driver::new(device.clone(), ram, queue)?;
    let record = driver.run(&descs)?;
    drop(descs);
    anyhow::ensure!(record.errors == 0, "the device refuses notes: {record:?}");
    let snapshot = driver.function().snapshot();
    anyhow::ensure!(
        snapshot.vram.used_bytes > 0 && snapshot.vram.inconsistent_notes == 0,
        "the notes were not counted"
    );
    resident(&device)
}

/// Whoever measures one thing alone is told its name by this variable.
const ALONE: &str = "HMMGPU_MEMORY_ALONE";

/// Measured in a process of its own, as a server is one: what a device before it gave back to the
/// allocator, not to the host, would count, too.
fn alone(name: &str) -> anyhow::Result<f64> {
    let out = Command::new(std::env::current_exe()?)
        .env(ALONE, name)
        .stderr(Stdio::inherit())
        .output()?;
    anyhow::ensure!(out.status.success(), "{name}: {}", out.status);
    Ok(String::from_utf8(out.stdout)?.trim().parse()?)
}

fn main() -> anyhow::Result<ExitCode> {
    let measured = [
        ("memory after typical use", typical as fn() -> Vec<Desc>),
        ("memory at worst", worst),
    ];
    if let Ok(wanted) = std::env::var(ALONE) {
        let found = measured.iter().find(|(name, _)| *name == wanted);
        let (_, descs) =
            found.with_context(|| format!("{ALONE}={wanted}: nothing of that name"))?;
        println!("{}", after(descs())?);
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::from_arguments();
    let title =
        "Memory of the process, VRAM of 64 GiB and guest RAM not counted; medians and quartiles";
    let mut table = Table::new(title, &options)?;
    for (name, _) in measured {
        if options.wants(name) {
            let rounds = 0..options.rounds(ROUNDS);
            let figures: Result<Vec<_>, _> = rounds.map(|_| alone(name)).collect();
            table.add(Row::of_figures(name, "MiB", TARGET, &figures?))?;
        }
    }
    Ok(table.finish())
}
