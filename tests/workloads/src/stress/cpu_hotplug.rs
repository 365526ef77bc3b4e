//! A CPU goes and comes back while memory migrates.
//!
//! Lists of pages that a CPU keeps are drained, its interrupts and timers move to another one, and
//! threads that were about to poll for a fence go on elsewhere.

use std::path::Path;

use anyhow::{Result, bail};

use super::crew::{USUAL, usual};
use super::frame::{Frame, skip};
use super::system::{Setting, pause, write};
use super::tally::{Trouble, trouble};

pub(super) const TROUBLES: &[Trouble] = &[trouble("offline"), trouble("online")];

pub(super) fn run(frame: &Frame) -> Result<()> {
    let path = Path::new("/sys/devices/system/cpu/cpu1/online");
    if !path.exists() {
        bail!(skip("this machine has no CPU that could go"));
    }
    // Back at the end, whatever happens.
    let _there = Setting::new(path, "1")?;
    let plug = || {
        let mut rng = frame.rng(200);
        while frame.running() {
            for (name, value) in [("offline", "0"), ("online", "1")] {
                pause(rng.below(150));
                let before = frame.tally.moment();
                write(path, value)?;
                frame.tally.happened(name, before, 0);
            }
        }
        Ok(())
    };
    USUAL.race(frame, usual, &[&plug])
}
