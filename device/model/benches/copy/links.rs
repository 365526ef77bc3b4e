//! Modelled links beside the rates that were set.

use hmmgpu_bench_support::{Options, Pair, Row, Table, Target};
use hmmgpu_model::LinkSpec;

use crate::rig::{Plan, Rig, Way};
use crate::{DATA, HUGE, scattered};

/// Links, from what any host can follow to what hardly one can.
const LINKS: [&str; 6] = [
    "500M",
    "1G",
    "pcie3-x4",
    "pcie4-x4",
    "pcie4-x8",
    "pcie4-x16",
];
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

pub(crate) fn links(table: &mut Table, options: &Options) -> anyhow::Result<()> {
    for link in LINKS {
        for (what, way, order) in [
            ("2MiB to VRAM", Way::ToVram, HUGE),
            ("2MiB home", Way::Home, HUGE),
            ("4KiB to VRAM", Way::ToVram, 0),
            ("4KiB home", Way::Home, 0),
        ] {
            let name = format!("link {link} {what}");
            if !options.wants(&name) {
                continue;
            }
            let spec: LinkSpec = link.parse()?;
            let parts = joined(&scattered(way, order));
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
