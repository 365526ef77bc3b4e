//! The driver leaves the device, and the device the bus, while memory migrates.
//!
//! Everything comes home first (the driver's removal), requests and jobs end with an error, open
//! files stay and are good for nothing but to be closed. Then the device comes back.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hmmgpu_guest_protocol::runner::HostRequest;

use super::crew::{Crew, usual};
use super::frame::{Frame, ask};
use super::system::{pause, write};
use super::tally::{Trouble, trouble};
use crate::region::Backing;
use crate::rng::Rng;

pub(super) const UNBIND: &[Trouble] = &[trouble("unbind"), trouble("remove")];
pub(super) const UNPLUG: &[Trouble] = &[trouble("unplug")];

const BUS: &str = "/sys/bus/pci";
const CREW: Crew = Crew {
    workers: 2,
    movers: 2,
    regions: &[(Backing::Huge, 4), (Backing::Huge, 2), (Backing::Small, 1)],
};

/// The driver is unbound and bound, the device removed and found again.
pub(super) fn unbind(frame: &Frame) -> Result<()> {
    race(frame, |rng, device| {
        let before = frame.tally.moment();
        let driver = Path::new(BUS).join("drivers/hmmgpu");
        if rng.one_in(2) {
            write(driver.join("unbind"), device)?;
            frame.tally.happened("unbind", before, 0);
            pause(rng.below(100));
            write(driver.join("bind"), device)
        } else {
            write(address(device).join("remove"), "1")?;
            frame.tally.happened("remove", before, 0);
            pause(rng.below(100));
            write(Path::new(BUS).join("rescan"), "1")
        }
    })
}

/// The host takes the device away and brings it back.
pub(super) fn unplug(frame: &Frame) -> Result<()> {
    race(frame, |rng, device| {
        let before = frame.tally.moment();
        ask(HostRequest::Unplug { gpu: 0 });
        frame.wait("the device to go", || !address(device).exists())?;
        frame.tally.happened("unplug", before, 0);
        pause(rng.below(100));
        ask(HostRequest::Replug { gpu: 0 });
        Ok(())
    })
}

fn race(frame: &Frame, cycle: impl Fn(&mut Rng, &str) -> Result<()> + Sync) -> Result<()> {
    let device = frame.pci_address()?;
    frame.expect_absence();
    let extra = || {
        let mut rng = frame.rng(200);
        while frame.running() {
            pause(100 + rng.below(300));
            cycle(&mut rng, &device)?;
            frame
                .wait("the device to come back", || frame.device().is_ok())
                .context("it did not come back")?;
        }
        Ok(())
    };
    CREW.race(frame, usual, &[&extra])
}

fn address(device: &str) -> PathBuf {
    Path::new(BUS).join("devices").join(device)
}
