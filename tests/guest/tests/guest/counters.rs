//! The driver's counters beside the host's: both sides count the same things, each on its own.

use anyhow::{Context, Result, ensure};
use hmmgpu::bench::counters::compare;
use hmmgpu_guest_protocol::bench::Counter;
use hmmgpu_telemetry::snapshot::{Outcome, Snapshot};
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
    let checks = compare(driver, host);
    let both: Vec<_> = checks
        .iter()
        .filter(|check| !check.name.starts_with("driver."))
        .collect();
    ensure!(both.len() > 50, "only {} counters: {driver:?}", both.len());
    let differing: Vec<_> = both
        .iter()
        .filter(|check| check.equal != Some(true))
        .collect();
    ensure!(
        differing.is_empty(),
        "the two sides differ, or the host has no such counter:\n{differing:#?}"
    );
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

/// Faults of the GPU that ended in one way.
pub(crate) fn faults(host: &Snapshot, outcome: Outcome) -> u64 {
    let faults = host.mmu.faults.iter();
    faults
        .filter(|faults| faults.outcome == outcome)
        .map(|faults| faults.count)
        .sum()
}
