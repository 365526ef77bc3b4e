//! Several processes.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

use super::setup::{Filled, Setup};
use crate::pagemap;
use crate::sys::fork::{Child, Ended, fork};
use crate::sys::memory::{PAGE, UNIT_PAGES};

/// Forks; the child fails with a message when `check` does.
pub(super) fn child(check: impl FnOnce() -> Result<()>) -> Result<Child> {
    fork(|| match check() {
        Ok(()) => 0,
        Err(error) => {
            println!("# in the child: {error:#}");
            1
        }
    })
    .context("cannot fork")
}

pub(super) fn succeeded(child: Child) -> Result<()> {
    match child.wait()? {
        Ended::Code(0) => Ok(()),
        how => bail!("the child ended with {how:?}"),
    }
}

pub(super) fn forked_child_writes_its_copy(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        setup.send(&filled, filled.all())?;
        let writer = child(|| {
            filled.seed += 1;
            filled.fill(filled.unit(0));
            filled.verify(filled.unit(0))?;
            filled.seed -= 1;
            filled.verify(filled.unit(1))
        })?;
        succeeded(writer).with_context(|| format!("order {order}"))?;
        filled.verify(filled.all())?;
        // And the other way round: the parent writes, the child keeps what was.
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_DEVICE")?;
        let (reader, writer) = rustix::pipe::pipe()?;
        let (mut reader, writer) = (File::from(reader), File::from(writer));
        let keeper = {
            let filled = &filled;
            let mut reader = reader.try_clone()?;
            let writer = writer.try_clone()?;
            child(move || {
                drop(writer);
                // Until the parent has written.
                reader.read_exact(&mut [0])?;
                filled.verify(filled.all())
            })?
        };
        filled.seed += 1;
        filled.fill(filled.all());
        (&writer).write_all(&[1])?;
        succeeded(keeper).with_context(|| format!("order {order}, the parent wrote"))?;
        filled.verify(filled.all())?;
        drop(writer);
        let _ = reader.read(&mut [0]);
    }
    Ok(())
}

pub(super) fn forked_child_faults_pages_home(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let filled = setup.filled(order, 2)?;
        setup.send(&filled, filled.all())?;
        // The faults happen in another address space than the one that migrated.
        let reader = child(|| filled.verify(filled.all()))?;
        succeeded(reader).with_context(|| format!("order {order}"))?;
        filled.verify(filled.all())?;
    }
    Ok(())
}

pub(super) fn inherited_device_means_the_opener(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        let inheritor = child(|| {
            // Its own copy, so that there is no folio that is shared.
            filled.seed += 1;
            filled.fill(filled.all());
            let outcome = setup.device.to_device(&filled.memory, filled.all());
            let outcome = outcome.complete("MIGRATE_TO_DEVICE")?;
            ensure!(outcome.moved > 0, "{outcome:?}");
            let away = pagemap::away(&filled.memory, filled.all())?;
            ensure!(away == 0, "{away} pages of the child are on the device");
            filled.verify(filled.all())
        })?;
        succeeded(inheritor).with_context(|| format!("order {order}"))?;
        let away = pagemap::away(&filled.memory, filled.all())?;
        ensure!(
            away > UNIT_PAGES,
            "order {order}: only {away} pages of the process that opened the device are there"
        );
        filled.verify(filled.all())?;
    }
    Ok(())
}

/// A child that migrates to and fro is killed at some call.
pub(super) fn killed_in_the_middle(setup: &Setup) -> Result<()> {
    for (turn, order) in [0, 9, 0, 9, 0, 9].into_iter().enumerate() {
        let filled = setup.filled(order, 4)?;
        let (reader, writer) = rustix::pipe::pipe()?;
        let (mut reader, mut writer) = (File::from(reader), File::from(writer));
        let victim = child(|| to_and_fro(&setup.reopened()?, &filled, &mut writer))?;
        drop(writer);
        // It says so before every call; the kill lands in one of the first.
        let mut said = vec![0; 1 + turn];
        reader
            .read_exact(&mut said)
            .context("the child ended by itself")?;
        victim.kill()?;
        match victim.wait()? {
            Ended::Signal(_) => {}
            how => bail!("the child ended with {how:?}"),
        }
        filled.verify(filled.all())?;
        drop(filled);
        setup
            .vram_is_free()
            .with_context(|| format!("order {order}, after the child was killed"))?;
    }
    Ok(())
}

fn to_and_fro(setup: &Setup, filled: &Filled, progress: &mut File) -> Result<()> {
    loop {
        progress.write_all(&[1])?;
        let outcome = setup.device.to_device(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_DEVICE")?;
        progress.write_all(&[1])?;
        let outcome = setup.device.to_system(&filled.memory, filled.all());
        outcome.complete("MIGRATE_TO_SYSTEM")?;
    }
}

pub(super) fn exit_frees_vram(setup: &Setup) -> Result<()> {
    for order in [0, 9] {
        let mut filled = setup.filled(order, 2)?;
        let leaver = child(|| {
            let setup = setup.reopened()?;
            filled.seed += 1;
            filled.fill(filled.all());
            setup.send(&filled, filled.all())?;
            // Half of a folio has come home by the end.
            if order == 9 {
                setup.fetch(&filled.memory, 0..100, 100 * PAGE)?;
            }
            let away = pagemap::away(&filled.memory, filled.all())?;
            ensure!(
                away >= 2 * UNIT_PAGES - 100,
                "{away} pages are on the device"
            );
            Ok(())
        })?;
        succeeded(leaver)?;
        setup
            .vram_is_free()
            .with_context(|| format!("order {order}, after the exit"))?;
    }
    Ok(())
}
