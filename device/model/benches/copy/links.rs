//! Modelled links beside the rates that were set.

use hmmgpu_bench_support::{Options, Pair, Row, Table, Target};
use hmmgpu_model::LinkSpec;

use crate::rig::{Plan, Rig, Way};
use crate::{DATA, HUGE, TURN, scattered};

/// Links, from what any host can follow to what none can.
const LINKS: [&str; 8] = [
    "500M",
    "1G",
    "pcie3-x4",
    "pcie4-x4",
    "pcie4-x8",
    "pcie4-x16",
    // A twentieth of the next.
    "18750M/14850M,1us",
    "c2c",
];
/// Order of a folio of 128 KiB: with its copy it is far below what the cache of a core holds.
const CACHED: u8 = 5;
const ROUNDS: usize = 3;
const TURNS: usize = 8;
/// Parts of a turn that one turn copies one after the other.
const PARTS: usize = 4;

/// GB/s of one round, beside those that were set.
fn round(link: &LinkSpec, parts: &[Plan], way: Way) -> anyhow::Result<Vec<Pair>> {
    let mut rig = Rig::new(DATA as u64)?;
    rig.fill(way, DATA)?;
    let rates = link.rates().map(|rates| match way {
        Way::ToVram => rates.to_device,
        Way::Home => rates.to_system,
    });
    #[allow(clippy::cast_precision_loss)] // Exact enough to look at.
    let set = rates.unwrap_or(0) as f64 / 1e9;
    let mut parts = parts.iter().cycle();
    let mut figures = Vec::with_capacity(TURNS);
    for turn in 0..=TURNS {
        // The first turn finds memory that nobody has used.
        if turn == 1 {
            rig.set_link(link);
        }
        if let Some(part) = parts.next() {
            let measured = rig.engine(part, &[])?;
            rig.verify_all(part)?;
            if turn > 0 {
                figures.push([measured, set]);
            }
        }
    }
    Ok(figures)
}

/// The same folio over and over, which stays in the caches: memory does not limit the host there.
fn in_cache(way: Way) -> Vec<Plan> {
    let order = CACHED;
    let copies = PARTS * TURN / (4096 << order);
    let pieces = vec![(0, 0); copies];
    vec![Plan { way, order, pieces }]
}

/// Small parts become larger ones.
fn joined(parts: &[Plan]) -> Vec<Plan> {
    let join = |parts: &[Plan]| {
        let mut whole = parts[0].clone();
        for part in &parts[1..] {
            whole.pieces.extend_from_slice(&part.pieces);
        }
        whole
    };
    parts.chunks(PARTS).map(join).collect()
}

/// Makes the parts of a turn.
type Parts = fn(Way) -> Vec<Plan>;

/// What is copied over each link: its name, the way, and the parts of a turn.
fn rows() -> impl Iterator<Item = (String, Way, Parts)> {
    let kinds: [(&str, Parts); 3] = [
        ("2MiB", |way| joined(&scattered(way, HUGE))),
        ("4KiB", |way| joined(&scattered(way, 0))),
        ("128KiB in the cache", in_cache),
    ];
    kinds.into_iter().flat_map(|(what, parts)| {
        [("to VRAM", Way::ToVram), ("home", Way::Home)]
            .map(|(to, way)| (format!("{what} {to}"), way, parts))
    })
}

pub(crate) fn links(table: &mut Table, options: &Options) -> anyhow::Result<()> {
    for link in LINKS {
        for (what, way, parts) in rows() {
            let name = format!("link {link} {what}");
            if !options.wants(&name) {
                continue;
            }
            let spec: LinkSpec = link.parse()?;
            let parts = parts(way);
            let mut pairs = Vec::new();
            for _ in 0..options.rounds(ROUNDS) {
                pairs.extend(round(&spec, &parts, way)?);
            }
            let target = Target::Between(0.95, 1.05);
            table.add(Row::of_pairs(
                &name,
                "the rate that is set",
                "GB/s",
                target,
                &pairs,
            ))?;
        }
    }
    Ok(())
}
