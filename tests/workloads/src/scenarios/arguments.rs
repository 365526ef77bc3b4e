//! Requests that are wrong, and ranges with nothing in them.

use anyhow::{Result, ensure};
use hmmgpu_uapi::Migrate;
use rustix::io::Errno;

use super::setup::Setup;
use crate::sys::memory::{PAGE, UNIT, UNIT_PAGES};

pub(super) fn arguments_are_checked(setup: &Setup) -> Result<()> {
    let filled = setup.filled(0, 1)?;
    let good = Migrate {
        addr: filled.memory.address() as u64,
        size: UNIT as u64,
        ..Migrate::default()
    };
    let bad = [
        (
            "an unaligned address",
            Migrate {
                addr: good.addr + 8,
                ..good
            },
        ),
        (
            "an unaligned size",
            Migrate {
                size: good.size - 8,
                ..good
            },
        ),
        ("no size", Migrate { size: 0, ..good }),
        (
            "a range that overflows",
            Migrate {
                size: u64::MAX - 4095,
                ..good
            },
        ),
        (
            "a range beyond all addresses",
            Migrate {
                addr: u64::MAX - 4095,
                size: 4096,
                ..good
            },
        ),
        ("a flag", Migrate { flags: 1, ..good }),
        (
            "all flags",
            Migrate {
                flags: u32::MAX,
                ..good
            },
        ),
    ];
    for (what, request) in bad {
        for outcome in [
            setup.device.to_device_raw(request),
            setup.device.to_system_raw(request),
        ] {
            ensure!(
                outcome.error == Some(Errno::INVAL),
                "{what}: {outcome:?} instead of EINVAL"
            );
        }
    }
    filled.verify(filled.all())
}

pub(super) fn unmapped_ranges_are_skipped(setup: &Setup) -> Result<()> {
    let mut filled = setup.filled(9, 3)?;
    // A whole unit is missing.
    filled.memory.unmap(UNIT_PAGES..2 * UNIT_PAGES)?;
    let outcome = setup.device.to_device(&filled.memory, filled.all());
    let outcome = outcome.complete("MIGRATE_TO_DEVICE")?;
    ensure!(
        outcome.moved == 2 * UNIT as u64 && outcome.skipped == UNIT as u64,
        "{outcome:?}"
    );
    filled.verify(filled.unit(0))?;
    filled.verify(filled.unit(2))?;
    // And all of it.
    filled.memory.unmap(filled.all())?;
    for outcome in [
        setup.device.to_device(&filled.memory, filled.all()),
        setup.device.to_system(&filled.memory, filled.all()),
    ] {
        let outcome = outcome.complete("migration of nothing")?;
        ensure!(
            outcome.moved == 0 && outcome.skipped == (filled.all().len() * PAGE) as u64,
            "{outcome:?}"
        );
    }
    Ok(())
}
