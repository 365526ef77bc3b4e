//! Programs that compute on shared virtual memory, each of which verifies what the GPU did. They
//! are short, and read as examples of how such programs look.

pub(crate) mod atomic_counter;
pub(crate) mod checksum;
pub(crate) mod fork;
pub(crate) mod list;
pub(crate) mod two_gpus;
pub(crate) mod vector_add;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::device;
use crate::random_mix::available_memory;

/// What all of them can be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Device node.
    #[arg(long, visible_alias = "device", default_value = device::NODE)]
    pub(crate) node: PathBuf,
}

/// Fails unless so many bytes can be allocated: else the kernel would end some program.
fn needs_memory(bytes: usize) -> Result<()> {
    let available = available_memory()?;
    let wanted = bytes + (64 << 20);
    ensure!(
        wanted <= available,
        "{} MiB of memory are needed and {} MiB are free: give the guest more with --memory, or \
         this program a smaller --size",
        wanted >> 20,
        available >> 20
    );
    Ok(())
}

fn mib(bytes: usize) -> usize {
    bytes >> 20
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
