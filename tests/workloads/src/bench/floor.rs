//! The driver's debug parameter with which migrations copy nothing.

use std::fs;

use anyhow::{Context, Result};

const PARAMETER: &str = "/sys/module/hmmgpu/parameters/floor";

/// While this lives, what migrates loses its content.
#[derive(Debug)]
pub(super) struct Floor(());

impl Floor {
    /// Sets it.
    pub(super) fn set() -> Result<Floor> {
        write("1")?;
        Ok(Floor(()))
    }

    /// Takes it back. Only then may anything that matters migrate.
    pub(super) fn clear(self) -> Result<()> {
        let _cleared_here = std::mem::ManuallyDrop::new(self);
        write("0")
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // On the way out with an error that says more.
        let _ = write("0");
    }
}

fn write(value: &str) -> Result<()> {
    fs::write(PARAMETER, value).with_context(|| {
        format!("cannot write {PARAMETER}: build driver and guest programs from one revision")
    })
}
