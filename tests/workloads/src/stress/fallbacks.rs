//! Fallbacks to a smaller order, as a trouble of a scenario.

use anyhow::Result;

use super::frame::Frame;
use super::system::pause;
use super::tally::Moment;
use crate::device::Device;

/// Notices the driver's fallbacks for one reason, from when it is made on.
#[derive(Debug)]
pub(super) struct Fallbacks<'a> {
    frame: &'a Frame,
    device: &'a Device,
    reason: u16,
    /// When, and how many there were then.
    begun: (Moment, u64),
}

impl<'a> Fallbacks<'a> {
    pub(super) fn new(frame: &'a Frame, device: &'a Device, reason: u16) -> Result<Fallbacks<'a>> {
        let begun = (frame.tally.moment(), count(device, reason)?);
        Ok(Fallbacks {
            frame,
            device,
            reason,
            begun,
        })
    }

    /// Counts them as `fallback` until the scenario has done enough. None is missed between two
    /// looks, nor before the first: memory that was split may not become large again.
    pub(super) fn watch(&self) -> Result<()> {
        let (mut before, mut known) = self.begun;
        while self.frame.running() {
            let moment = self.frame.tally.moment();
            let found = count(self.device, self.reason)?;
            if found > known {
                self.frame.tally.happened("fallback", before, 0);
            }
            (before, known) = (moment, found);
            pause(20);
        }
        Ok(())
    }
}

fn count(device: &Device, reason: u16) -> Result<u64> {
    Ok(device.stats()?.fallbacks[usize::from(reason)])
}
