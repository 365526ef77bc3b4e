//! Virtio-serial ports, by name.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Ports appear a while after the driver of their controller has: the host announces each.
const PATIENCE: Duration = Duration::from_secs(30);
/// There is no notice of a port's name to wait for.
const POLL: Duration = Duration::from_millis(2);
const CLASS: &str = "/sys/class/virtio-ports";

/// The ports of the machine.
#[derive(Debug)]
pub(crate) struct Ports {
    deadline: Instant,
}

impl Ports {
    /// The patience for all ports together begins.
    pub(crate) fn new() -> Self {
        Self {
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// Opens a port for reading and writing; only one opening at a time is possible.
    pub(crate) fn open(&self, name: &str) -> Result<File> {
        loop {
            // The node follows the entry in /sys; not there yet is as good as no entry.
            if let Some(path) = find(name) {
                match OpenOptions::new().read(true).write(true).open(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    opened => {
                        return opened.with_context(|| format!("cannot open {}", path.display()));
                    }
                }
            }
            if Instant::now() > self.deadline {
                anyhow::bail!("the machine has no virtio-serial port {name}");
            }
            std::thread::sleep(POLL);
        }
    }
}

fn find(name: &str) -> Option<PathBuf> {
    fs::read_dir(CLASS).ok()?.flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path().join("name")).ok()?;
        (text.trim() == name).then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}
