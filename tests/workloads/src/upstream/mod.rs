//! Reproducers of the kernel's own mistakes: one program each, described in
//! `tests/scenarios/upstream/`. A program succeeds if it has shown the mistake.

pub(crate) mod collect_twice;
mod kernel_log;
pub(crate) mod ksm_collect;
pub(crate) mod remove_migration_pmd;
pub(crate) mod soft_dirty;
pub(crate) mod zap_huge_pmd_folio;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::device::Device;
use crate::sys::memory::{Memory, PAGE, UNIT};
use crate::thp::Controls;

/// The GPU, and 2 MiB of memory that gets folios of this order alone, while the controls are held.
fn begin(node: &Path, order: u8) -> Result<(Device, Controls, Memory)> {
    let device = Device::open(node)?;
    let controls = Controls::take()?;
    controls.only(order)?;
    let memory = Memory::anonymous(UNIT).context("cannot map memory")?;
    Ok((device, controls, memory))
}

/// Sends all of this memory to the device: without it there, nothing is shown.
fn send_all(device: &Device, memory: &Memory) -> Result<()> {
    let moved = device
        .to_device(memory, 0..memory.pages())
        .complete("to the device")?
        .moved;
    let bytes = (memory.pages() * PAGE) as u64;
    ensure!(
        moved == bytes,
        "{moved} of {bytes} bytes moved: nothing was shown"
    );
    Ok(())
}
