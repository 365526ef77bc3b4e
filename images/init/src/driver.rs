//! Loading kernel modules, and waiting for the devices of the driver.

use std::ffi::CString;
use std::fs::{self, File};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::kmsg;

/// Paths of modules, in the order to load them.
const BASE_MODULES: &str = "/hmmgpu/modules";
/// The driver.
const DRIVER: &str = "/hmmgpu/hmmgpu.ko";
/// A probe resets the device and maps its memory; emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Loads what the machine needs before the host can be spoken to.
pub(crate) fn load_base_modules() -> Result<()> {
    let list =
        fs::read_to_string(BASE_MODULES).with_context(|| format!("cannot read {BASE_MODULES}"))?;
    for path in list.lines() {
        insert(path, "")?;
    }
    Ok(())
}

/// Loads the driver and waits until each of its PCI functions has a device node.
pub(crate) fn load(parameters: &str) -> Result<Vec<String>> {
    let expected = functions()?;
    if expected == 0 {
        bail!("this machine has no hmmgpu PCI device: attach one to QEMU (vfio-user-pci)");
    }
    // Watched before the driver is loaded, so that no node is missed.
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .context("cannot watch /dev")?;
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE).context("cannot watch /dev")?;
    insert(DRIVER, parameters).with_context(kernel_log)?;

    let deadline = Instant::now() + PATIENCE;
    loop {
        let nodes = nodes()?;
        if nodes.len() >= expected {
            return Ok(nodes);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!(
                "the driver made {} of {expected} device nodes; {}",
                nodes.len(),
                kernel_log()
            );
        }
        // Also looks again without a notice: a driver that gave up does not send one.
        let timeout =
            Timespec::try_from(left.min(Duration::from_millis(500))).context("time to wait")?;
        match poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot watch /dev"),
        }
        let mut buffer = [0; 4096];
        while rustix::io::read(&watch, &mut buffer).is_ok_and(|n| n > 0) {}
    }
}

/// Loads a module; one that is loaded already is fine.
pub(crate) fn insert(path: &str, parameters: &str) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
    let text = CString::new(parameters).context("parameters of a module")?;
    match rustix::system::finit_module(&file, &text, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error)
            .with_context(|| format!("cannot load {path} with parameters \"{parameters}\"")),
    }
}

/// PCI functions that the driver is for.
fn functions() -> Result<usize> {
    let id = |entry: &fs::DirEntry, name: &str| {
        let text = fs::read_to_string(entry.path().join(name)).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let entries = fs::read_dir("/sys/bus/pci/devices").context("cannot list PCI devices")?;
    Ok(entries
        .flatten()
        .filter(|entry| {
            id(entry, "vendor") == Some(hmmgpu_contract::pci::PCI_VENDOR_ID)
                && id(entry, "device") == Some(hmmgpu_contract::pci::PCI_DEVICE_ID)
        })
        .count())
}

/// Device nodes of the driver, sorted.
fn nodes() -> Result<Vec<String>> {
    let mut nodes: Vec<_> = fs::read_dir("/dev")
        .context("cannot list /dev")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let number = name.strip_prefix("hmmgpu");
            number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
        .map(|name| format!("/dev/{name}"))
        .collect();
    nodes.sort();
    Ok(nodes)
}

/// What the kernel said of the driver, for an error.
pub(crate) fn kernel_log() -> String {
    let lines = kmsg::lines_with("hmmgpu");
    if lines.is_empty() {
        return "the kernel log says nothing of hmmgpu".into();
    }
    format!("the kernel log says:\n{}", lines.join("\n"))
}
