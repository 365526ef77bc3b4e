//! The driver's counters beside the host's: both sides count the same things, each on its own.

use anyhow::{Context, Result, bail, ensure};
use hmmgpu_guest_protocol::bench::Counter;
use hmmgpu_telemetry::snapshot::{Direction, Outcome, Snapshot, Spans, Transfers, Trigger};
use hmmgpu_vm_tests::session::Session;
use serde_json::Value;

/// The driver's counters that the program `hmmgpu-stats --settle` printed in a step.
pub(crate) fn of_driver(session: &Session, step: &str) -> Result<Vec<Counter>> {
    let output = session.succeeded(step)?;
    let mut said: Value =
        serde_json::from_str(output.trim()).context("the statistics are no JSON")?;
    serde_json::from_value(said["counters"].take()).context("the counters are not as agreed")
}

/// Checks that the host has the same values for all that it counts as well. Nothing may have
/// used the device after the driver's were taken.
pub(crate) fn agree(driver: &[Counter], host: &Snapshot) -> Result<()> {
    let mut differing = Vec::new();
    let mut compared = 0;
    for counter in driver {
        if counter.name.starts_with("driver.") {
            continue;
        }
        let seen = on_host(host, &counter.name, counter.order)
            .with_context(|| format!("the host has no {} {:?}", counter.name, counter.order))?;
        compared += 1;
        if seen != counter.value {
            differing.push(format!("{counter:?}, host {seen}"));
        }
    }
    ensure!(compared > 50, "only {compared} counters: {driver:?}");
    if !differing.is_empty() {
        bail!("the two sides differ:\n{}", differing.join("\n"));
    }
    Ok(())
}

/// A counter of the driver, of the order given.
pub(crate) fn value(driver: &[Counter], name: &str, order: Option<u8>) -> Result<u64> {
    driver
        .iter()
        .find(|counter| counter.name == name && counter.order == order)
        .map(|counter| counter.value)
        .with_context(|| format!("the driver has no {name} {order:?}"))
}

fn direction(name: &str) -> Option<Direction> {
    match name {
        "sys_to_dev" => Some(Direction::SysToDev),
        "dev_to_sys" => Some(Direction::DevToSys),
        _ => None,
    }
}

fn trigger(name: &str) -> Option<Trigger> {
    match name {
        "prefetch" => Some(Trigger::Prefetch),
        "gpu_fault" => Some(Trigger::GpuFault),
        "cpu_fault" => Some(Trigger::CpuFault),
        "evict" => Some(Trigger::Evict),
        _ => None,
    }
}

/// The host's value of a counter, by its name; `None` if the host has none of that name.
fn on_host(host: &Snapshot, name: &str, order: Option<u8>) -> Option<u64> {
    let path: Vec<&str> = name.split('.').collect();
    let value = match (path.as_slice(), order) {
        (["transfers", direction, what], Some(order)) => transfers(host, direction, what, order)?,
        (["vram", "folios"], Some(order)) => {
            let folios = host.vram.folios.iter();
            let of_order = folios.filter(|folios| folios.order == order);
            of_order.map(|folios| folios.folios).sum()
        }
        (["events", "splits"], Some(order)) => {
            let splits = host.events.splits.iter();
            let of_order = splits.filter(|(large, _)| *large == order);
            of_order.map(|(_, folios)| folios).sum()
        }
        (_, Some(_)) => return None,
        (["spans", "phases", phase], None) => phases(host, phase)?,
        (["spans", direction, trigger, what], None) => spans(host, direction, trigger, what)?,
        (["fallbacks", reason], None) => {
            let fallbacks = host.fallbacks.iter();
            let of_reason = fallbacks.filter(|fallbacks| fallbacks.reason == *reason);
            of_reason.map(|fallbacks| fallbacks.folios).sum()
        }
        (["vram", "bytes"], None) => host.vram.bytes,
        (["vram", "used_bytes"], None) => host.vram.used_bytes,
        (["events", "descriptors"], None) => host.events.descriptors,
        (["events", "fences"], None) => host.events.fences,
        (["events", "doorbells"], None) => host.events.doorbells,
        (["events", "resets", cause], None) => {
            let mut resets = host.events.resets.iter();
            let of_cause = resets.find(|(name, _)| name == cause);
            of_cause.map_or(0, |(_, resets)| *resets)
        }
        (["mmu", "invalidations"], None) => host.mmu.invalidations,
        (["mmu", "faults", "replayed"], None) => faults(host, Outcome::Replayed),
        (["mmu", "faults", "cancelled"], None) => faults(host, Outcome::Cancelled),
        (["compute", "jobs"], None) => host.compute.jobs.iter().map(|jobs| jobs.count).sum(),
        (["compute", "contexts"], None) => host.compute.contexts,
        _ => return None,
    };
    Some(value)
}

fn transfers(host: &Snapshot, way: &str, what: &str, order: u8) -> Option<u64> {
    let value: fn(&Transfers) -> u64 = match what {
        "folios" => |transfers| transfers.folios,
        "filled_folios" => |transfers| transfers.filled_folios,
        _ => return None,
    };
    let way = direction(way)?;
    let matching = host
        .transfers
        .iter()
        .filter(|transfers| transfers.direction == way && transfers.order == order);
    Some(matching.map(value).sum())
}

fn spans(host: &Snapshot, way: &str, cause: &str, what: &str) -> Option<u64> {
    let value: fn(&Spans) -> u64 = match what {
        "count" => |spans| spans.count,
        "pages_asked" => |spans| spans.pages_asked,
        "pages_moved" => |spans| spans.pages_moved,
        _ => return None,
    };
    let (way, cause) = (direction(way)?, trigger(cause)?);
    let matching = host
        .spans
        .iter()
        .filter(|spans| spans.direction == way && spans.trigger == cause);
    Some(matching.map(value).sum())
}

fn phases(host: &Snapshot, phase: &str) -> Option<u64> {
    let value: fn(&Spans) -> u64 = match phase {
        "collect_ns" => |spans| spans.phases.collect_ns,
        "alloc_ns" => |spans| spans.phases.alloc_ns,
        "copy_ns" => |spans| spans.phases.copy_ns,
        "commit_ns" => |spans| spans.phases.commit_ns,
        "finish_ns" => |spans| spans.phases.finish_ns,
        _ => return None,
    };
    Some(host.spans.iter().map(value).sum())
}

/// Faults of the GPU that ended in one way.
pub(crate) fn faults(host: &Snapshot, outcome: Outcome) -> u64 {
    let faults = host.mmu.faults.iter();
    faults
        .filter(|faults| faults.outcome == outcome)
        .map(|faults| faults.count)
        .sum()
}
