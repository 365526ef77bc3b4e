//! What the driver tells: why large folios did not move whole, its counters, whose memory is in
//! VRAM.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use hmmgpu_contract::desc::{FALLBACK_PARTIAL, FALLBACK_SHARED, FALLBACK_SPLIT_FAILED};

use super::fork::{child, succeeded};
use super::setup::Setup;
use crate::sys::memory::{PAGE, UNIT};
use crate::sys::pin;
use crate::{counters, pagemap};

/// The driver's directory in debugfs.
const DEBUGFS: &str = "/sys/kernel/debug/hmmgpu";

/// Runs an action in which large folios do not move whole, for this reason.
fn falls_back(setup: &Setup, reason: u16, action: impl FnOnce() -> Result<()>) -> Result<()> {
    let counted = setup.counted(action)?;
    let folios = counted.grew(|stats| stats.fallbacks[usize::from(reason)]);
    ensure!(folios > 0, "no fallback for reason {reason}: {counted:?}");
    Ok(())
}

pub(super) fn fallbacks_have_reasons(setup: &Setup) -> Result<()> {
    let filled = setup.filled(9, 1)?;
    falls_back(setup, FALLBACK_PARTIAL, || setup.send(&filled, 0..256))
        .context("half of a folio to the device")?;

    let filled = setup.filled(9, 1)?;
    setup.send(&filled, filled.all())?;
    falls_back(setup, FALLBACK_PARTIAL, || {
        setup.fetch(&filled.memory, 100..200, 100 * PAGE).map(drop)
    })
    .context("part of a folio home")?;

    let filled = setup.filled(9, 1)?;
    setup.send(&filled, filled.all())?;
    let (reader, writer) = rustix::pipe::pipe()?;
    let mut reader = File::from(reader);
    let sharer = {
        let filled = &filled;
        child(move || {
            // Until the parent has brought it home.
            reader.read_exact(&mut [0])?;
            filled.verify(filled.all())
        })?
    };
    falls_back(setup, FALLBACK_SHARED, || {
        setup.fetch(&filled.memory, filled.all(), UNIT).map(drop)
    })
    .context("a folio that a fork shares, home")?;
    File::from(writer).write_all(&[1])?;
    succeeded(sharer)?;
    filled.verify(filled.all())?;

    let filled = setup.filled(9, 1)?;
    let (_reader, writer) = rustix::pipe::pipe()?;
    pin::lend(&filled.memory, 33, writer.as_fd()).context("vmsplice failed")?;
    falls_back(setup, FALLBACK_SPLIT_FAILED, || {
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_DEVICE").map(drop)
    })
    .context("a folio with a pinned page to the device")?;
    filled.verify(filled.all())
}

/// A counter's name and order.
type Key = (String, Option<u8>);

/// All that a directory of the driver in debugfs says: a file is a counter, and one that is kept
/// by order has a line for each.
fn in_debugfs(directory: &Path) -> Result<BTreeMap<Key, u64>> {
    let mut counters = BTreeMap::new();
    let files =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for file in files {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
        for line in text.lines() {
            let (order, value) = match line.split_once(' ') {
                Some((order, value)) => (Some(order.parse()?), value),
                None => (None, line),
            };
            let value = value.parse().with_context(|| format!("{name}: {line:?}"))?;
            counters.insert((name.clone().into_owned(), order), value);
        }
    }
    Ok(counters)
}

pub(super) fn debugfs_has_the_same_counters(setup: &Setup) -> Result<()> {
    let node = setup.node().file_name().context("the node has no name")?;
    let directory = Path::new(DEBUGFS).join(node);
    // Something to count.
    let filled = setup.filled(9, 1)?;
    setup.send(&filled, filled.all())?;
    let named = || -> Result<BTreeMap<Key, u64>> {
        let counters = counters::named(&setup.device.query()?, &setup.device.stats()?);
        let keyed = counters
            .into_iter()
            .map(|counter| ((counter.name, counter.order), counter.value));
        Ok(keyed.collect())
    };
    // Work in the background may still end between two looks.
    for _ in 0..100 {
        let (before, shown, after) = (named()?, in_debugfs(&directory)?, named()?);
        if before == after {
            ensure!(
                shown == after,
                "debugfs has {shown:?}, the statistics are {after:?}"
            );
            return Ok(());
        }
    }
    anyhow::bail!("the counters are never at rest");
}

pub(super) fn fdinfo_tells_of_vram(setup: &Setup) -> Result<()> {
    let read = |key: &str| -> Result<String> {
        let fdinfo = setup.device.fdinfo()?;
        let value = fdinfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
        let value = value.with_context(|| format!("no {key}: {fdinfo}"))?;
        Ok(value.to_owned())
    };
    ensure!(read("drm-driver")? == "hmmgpu");
    ensure!(read("drm-client-id")?.parse::<u64>().is_ok());
    ensure!(read("drm-pdev")?.contains(':'));
    ensure!(read("drm-engine-compute")?.ends_with(" ns"));
    ensure!(read("drm-engine-capacity-compute")?.parse::<u32>()? > 0);
    ensure!(read("drm-resident-vram")? == "0 KiB");
    let filled = setup.filled(9, 2)?;
    setup.send(&filled, filled.all())?;
    // One unit stays whole, of the other a part comes home.
    setup.fetch(&filled.memory, 100..200, 100 * PAGE)?;
    let away = pagemap::away(&filled.memory, filled.all())?;
    let expected = format!("{} KiB", away * PAGE / 1024);
    for key in ["drm-resident-vram", "drm-total-vram"] {
        let value = read(key)?;
        ensure!(value == expected, "{key}: {value}, expected {expected}");
    }
    drop(filled);
    ensure!(read("drm-resident-vram")? == "0 KiB");
    Ok(())
}
