//! The machine is suspended to idle and woken while memory migrates.
//!
//! Threads are frozen wherever they are, the driver brings home what is in VRAM and lets go of the
//! device, which loses its power; the CPUs stand still until somebody presses the power button.
//! Then the device is taken into use again, and threads go on where they were.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use hmmgpu_guest_protocol::runner::HostRequest;
use rustix::io::Errno;

use super::crew::{USUAL, usual};
use super::frame::{Frame, ask, skip};
use super::system::{Setting, is, load, pause, read, write};
use super::tally::{Trouble, to_memory};
use crate::sys::memory::PAGE;

pub(super) const TROUBLES: &[Trouble] = &[to_memory("suspend")];

const STATE: &str = "/sys/power/state";
/// What makes the kernel turn back half-way.
const TEST: &str = "/sys/power/pm_test";
/// The device that refused last.
const REFUSED: &str = "/sys/power/suspend_stats/last_failed_dev";
/// The driver of the button, as kernels name it and as they did until 7.0.
const BUTTON: [&str; 2] = [
    "/sys/bus/platform/drivers/acpi-button",
    "/sys/bus/acpi/drivers/button",
];

pub(super) fn run(frame: &Frame) -> Result<()> {
    let states = read(STATE).unwrap_or_default();
    if !states.split(' ').any(|state| state == "freeze") {
        bail!(skip("this kernel cannot be suspended to idle"));
    }
    load("button");
    if !BUTTON.iter().any(|path| Path::new(path).exists()) {
        bail!(skip("this kernel has no power button that could wake it"));
    }
    let _whole = Setting::if_any(TEST, "none")?;
    let device = frame.device()?;
    let address = frame.pci_address()?;
    let sleep = || {
        let mut rng = frame.rng(200);
        while frame.running() {
            pause(rng.below(300));
            let query = device.query()?;
            let on_device = (query.vram_bytes - query.vram_free_bytes) / PAGE as u64;
            let before = frame.tally.moment();
            match write(STATE, "freeze") {
                Ok(()) => {
                    let on_device = usize::try_from(on_device)?;
                    frame.tally.happened("suspend", before, on_device);
                }
                // The button was pressed before it slept.
                Err(error) if is(&error, Errno::BUSY) => {
                    let refused = read(REFUSED).unwrap_or_default();
                    ensure!(refused != address, "the GPU's driver refused to suspend");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    ask(HostRequest::Wake { on: true });
    let result = USUAL.race(frame, usual, &[&sleep]);
    ask(HostRequest::Wake { on: false });
    result
}
