//! What `--query` can ask for.

use hmmgpu_telemetry::snapshot::Direction;
use serde_json::{Value, json};

use super::{Sample, link_state};
use crate::views::figures::{Moved, ratio};

/// What a field is made of.
pub(super) struct Context<'a> {
    /// Number of the GPU.
    pub(super) index: usize,
    /// Its control socket.
    pub(super) control: &'a str,
    /// What the time is.
    pub(super) timestamp: &'a str,
    /// What it says.
    pub(super) sample: &'a Sample,
}

type Read = fn(&Context<'_>) -> Value;

/// Name, unit, meaning, and how it is read.
struct Plain(&'static str, &'static str, &'static str, Read);

const MIB: &str = "MiB";
const PERCENT: &str = "%";
const GB_PER_S: &str = "GB/s";
const MICROSECONDS: &str = "us";

#[rustfmt::skip]
const PLAIN: &[Plain] = &[
    Plain("timestamp", "", "when it was asked, UTC", |c| json!(c.timestamp)),
    Plain("index", "", "number of the GPU, from 0", |c| json!(c.index)),
    Plain("label", "", "what its server is for", |c| json!(c.sample.hello.label)),
    Plain("pid", "", "process id of its server", |c| json!(c.sample.hello.pid)),
    Plain("revision", "", "revision of its server", |c| json!(c.sample.hello.revision)),
    Plain("control", "", "its control socket", |c| json!(c.control)),
    Plain("socket", "", "its vfio-user socket", |c| json!(c.sample.hello.socket)),
    Plain("link", "", "no VM, no driver yet, or driver runs", |c| json!(link_state(&c.sample.snapshot))),
    Plain("generation", "", "resets since its server started", |c| json!(c.sample.snapshot.generation)),
    Plain("uptime", "s", "since its server started", |c| {
        let snapshot = &c.sample.snapshot;
        json!(snapshot.time_ns.saturating_sub(snapshot.started_ns) / 1_000_000_000)
    }),
    Plain("interval", "s", "time that utilization and throughput are over", |c| {
        json!(ratio(c.sample.figures.interval_ns, 1_000_000_000))
    }),
    Plain("vram.total", MIB, "size of VRAM", |c| mib(c.sample.snapshot.vram.bytes)),
    Plain("vram.used", MIB, "VRAM in use", |c| mib(c.sample.snapshot.vram.used_bytes)),
    Plain("vram.free", MIB, "VRAM not in use", |c| {
        let vram = &c.sample.snapshot.vram;
        mib(vram.bytes.saturating_sub(vram.used_bytes))
    }),
    Plain("vram.peak", MIB, "most VRAM in use at any time", |c| mib(c.sample.snapshot.vram.peak_bytes)),
    Plain("vram.largest_free", MIB, "largest free range", |c| mib(c.sample.snapshot.vram.largest_free_bytes)),
    Plain("vram.fragmentation", PERCENT, "share of what is free that is in no free 2 MiB block", |c| {
        json!(c.sample.snapshot.vram.fragmentation * 100.0)
    }),
    Plain("utilization.copy", PERCENT, "time that copy engines were busy, in the interval", |c| {
        percent(c.sample.figures.copy_busy)
    }),
    Plain("utilization.compute", PERCENT, "time that compute engines were busy, in the interval", |c| {
        percent(c.sample.figures.compute_busy)
    }),
    Plain("throughput.sys_to_dev", GB_PER_S, "to the device, in the interval", |c| {
        json!(c.sample.figures.rate(Direction::SysToDev, None) / 1e9)
    }),
    Plain("throughput.dev_to_sys", GB_PER_S, "home from the device, in the interval", |c| {
        json!(c.sample.figures.rate(Direction::DevToSys, None) / 1e9)
    }),
    Plain("faults.gpu", "", "faults of the GPU", |c| json!(c.sample.figures.events.gpu_faults)),
    Plain("faults.cpu", "", "migrations that a CPU's fault triggered", |c| json!(c.sample.figures.events.cpu_faults)),
    Plain("faults.replayed", "", "faults of the GPU that the driver resolved", |c| json!(c.sample.figures.events.replays)),
    Plain("faults.replay_p50", MICROSECONDS, "median time from a fault to its replay", |c| {
        let replay = &c.sample.snapshot.mmu.replay;
        microseconds((replay.count > 0).then_some(replay.p50_ns))
    }),
    Plain("faults.replay_p99", MICROSECONDS, "the same, 99th percentile", |c| {
        let replay = &c.sample.snapshot.mmu.replay;
        microseconds((replay.count > 0).then_some(replay.p99_ns))
    }),
    Plain("fallbacks", "", "large folios that did not move whole", |c| json!(c.sample.figures.events.fallbacks)),
    Plain("splits", "", "large folios in VRAM that were split", |c| json!(c.sample.figures.events.splits)),
    Plain("errors", "", "descriptors that failed", |c| json!(c.sample.figures.events.errors)),
    Plain("checks", "", "reports of the checker of VRAM", |c| json!(c.sample.figures.events.checks)),
    Plain("resets", "", "resets, but for those of a VM that left", |c| json!(c.sample.figures.events.resets)),
    Plain("unknown_registers", "", "accesses to registers that are not defined", |c| {
        json!(c.sample.figures.events.unknown_registers)
    }),
    Plain("processes", "", "processes whose memory moved", |c| json!(c.sample.snapshot.processes.len())),
];

/// What can be asked for each order and direction: name, unit, meaning, and how it is read.
struct OfWay(
    &'static str,
    &'static str,
    &'static str,
    fn(&Moved) -> Value,
);

#[rustfmt::skip]
const OF_WAY: &[OfWay] = &[
    OfWay("folios", "", "folios that moved", |m| json!(m.folios)),
    OfWay("bytes", MIB, "bytes that moved", |m| mib(m.bytes)),
    OfWay("migration", GB_PER_S, "bytes over the time that migrations took", |m| gigabytes(m.migration_rate())),
    OfWay("engine", GB_PER_S, "bytes over the time that engines were busy", |m| gigabytes(m.engine_rate())),
    OfWay("copy_share", PERCENT, "share of the migrations' time that engines were busy", |m| percent(m.copy_share())),
    OfWay("p50", MICROSECONDS, "median time of a migration", |m| microseconds(m.times.percentile(50))),
    OfWay("p99", MICROSECONDS, "99th percentile of the same", |m| microseconds(m.times.percentile(99))),
];

const DIRECTIONS: &[(&str, Direction)] = &[
    ("sys_to_dev", Direction::SysToDev),
    ("dev_to_sys", Direction::DevToSys),
    ("dev_to_dev", Direction::DevToDev),
    ("sys_to_sys", Direction::SysToSys),
];

/// Largest order that a field can name.
const MAX_ORDER: u8 = 63;

/// A field that exists.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// As it was asked for.
    pub(super) name: String,
    /// Unit of its value; empty where it has none.
    pub(super) unit: &'static str,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Plain(Read),
    OfWay(Option<u8>, Direction, fn(&Moved) -> Value),
}

impl Field {
    /// The field of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        let plain = PLAIN
            .iter()
            .find(|plain| plain.0 == name)
            .map(|plain| (plain.1, Source::Plain(plain.3)));
        let (unit, source) = plain.or_else(|| of_way(name))?;
        Some(Self {
            name: name.to_owned(),
            unit,
            source,
        })
    }

    /// Its value: a text, a number in its unit, or null where it is not known.
    pub(super) fn value(&self, context: &Context<'_>) -> Value {
        match self.source {
            Source::Plain(read) => read(context),
            Source::OfWay(order, direction, read) => {
                read(&context.sample.figures.total(direction, order))
            }
        }
    }
}

/// `DIRECTION.WHAT` or `DIRECTION.oORDER.WHAT`.
fn of_way(name: &str) -> Option<(&'static str, Source)> {
    let (direction, rest) = name.split_once('.')?;
    let (_, direction) = DIRECTIONS.iter().find(|(known, _)| *known == direction)?;
    let (order, what) = match rest.split_once('.') {
        None => (None, rest),
        Some((order, what)) => {
            let order: u8 = order.strip_prefix('o')?.parse().ok()?;
            (
                Some(order).filter(|order| *order <= MAX_ORDER)?.into(),
                what,
            )
        }
    };
    let OfWay(_, unit, _, read) = OF_WAY.iter().find(|known| known.0 == what)?;
    Some((unit, Source::OfWay(order, *direction, *read)))
}

/// All fields with unit and meaning, for people.
pub fn help() -> String {
    use std::fmt::Write;
    let mut text = String::from("Fields for --query, with the unit of their values:\n\n");
    let mut line = |name: &str, unit: &str, meaning: &str| {
        let _ = writeln!(text, "  {name:<22} {unit:<5} {meaning}");
    };
    for Plain(name, unit, meaning, _) in PLAIN {
        line(name, unit, meaning);
    }
    text.push_str(
        "\nSince its server started, by direction (sys_to_dev, dev_to_sys, dev_to_dev, sys_to_sys),\n\
         and by folio order: DIRECTION.WHAT is of all orders, DIRECTION.oORDER.WHAT of one, such as\n\
         sys_to_dev.bytes and dev_to_sys.o9.p99. WHAT is:\n\n",
    );
    let mut line = |name: &str, unit: &str, meaning: &str| {
        let _ = writeln!(text, "  {name:<22} {unit:<5} {meaning}");
    };
    for OfWay(name, unit, meaning, _) in OF_WAY {
        line(name, unit, meaning);
    }
    text
}

fn mib(bytes: u64) -> Value {
    json!(ratio(bytes, 1 << 20))
}

fn percent(share: Option<f64>) -> Value {
    json!(share.map(|share| share * 100.0))
}

fn gigabytes(per_second: Option<f64>) -> Value {
    json!(per_second.map(|rate| rate / 1e9))
}

fn microseconds(ns: Option<u64>) -> Value {
    json!(ns.map(|ns| ratio(ns, 1000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_nothing_else_is() {
        for plain in PLAIN {
            assert!(Field::find(plain.0).is_some(), "{}", plain.0);
        }
        for name in [
            "sys_to_dev.bytes",
            "dev_to_sys.o9.p99",
            "dev_to_dev.o0.folios",
        ] {
            assert!(Field::find(name).is_some(), "{name}");
        }
        for name in [
            "",
            "vram",
            "vram.",
            "sys_to_dev",
            "sys_to_dev.",
            "sys_to_dev.9.bytes",
            "sys_to_dev.o.bytes",
            "sys_to_dev.o64.bytes",
            "sys_to_dev.o9.",
            "up.o9.bytes",
        ] {
            assert!(Field::find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_page_for_users_lists_every_field() {
        let page = include_str!("../../../../docs/smi-and-top.md");
        for (name, unit, meaning) in PLAIN
            .iter()
            .map(|plain| (plain.0, plain.1, plain.2))
            .chain(OF_WAY.iter().map(|way| (way.0, way.1, way.2)))
        {
            let row = format!("| `{name}` | {unit} | {meaning} |");
            assert!(page.contains(&row), "docs/smi-and-top.md lacks: {row}");
        }
    }
}
