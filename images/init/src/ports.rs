//! Virtio-serial ports, by name.
//!
//! A machine that was suspended wakes up with ports that the kernel takes for closed by the host:
//! when it resumes the controller, Linux 7.3 asks how the host's ends are before it can take the
//! answer, and never learns it. Whoever writes would wait for ever. So a port that was connected and
//! is not any more has its controller probed again, after which all ports are new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Ports appear a while after the driver of their controller has: the host announces each.
const PATIENCE: Duration = Duration::from_secs(30);
/// The host's ends are connected before the machine starts; the guest's kernel learns that a little
/// later.
const MOMENT: Duration = Duration::from_secs(5);
/// There is no notice of a port's name to wait for, nor of its connection.
const POLL: Duration = Duration::from_millis(2);
const CLASS: &str = "/sys/class/virtio-ports";

/// How often the controller was probed again.
static GENERATION: Mutex<u64> = Mutex::new(0);

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

    /// Opens a port for what goes to the host; only one opening at a time is possible.
    pub(crate) fn output(&self, name: &'static str) -> Result<Port> {
        let generation = *GENERATION.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.open(name, OFlags::NONBLOCK)?;
        while !is_connected(&file).with_context(|| format!("cannot watch {name}"))? {
            ensure!(
                Instant::now() < self.deadline,
                "the host has not opened the virtio-serial port {name}"
            );
        }
        Ok(Port {
            name,
            file,
            generation,
        })
    }

    /// Opens a port for what comes from the host. It ends when the machine is suspended.
    pub(crate) fn input(&self, name: &str) -> Result<File> {
        self.open(name, OFlags::empty())
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(flags.bits().cast_signed());
        loop {
            // The node follows the entry in /sys; not there yet is as good as no entry.
            if let Some(entry) = find(|text| text == name) {
                let path = Path::new("/dev").join(entry.file_name().unwrap_or_default());
                match options.open(&path) {
                    Err(error) if is_gone(&error) => {}
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

/// A port's entry in [`CLASS`], by its name.
fn find(wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    fs::read_dir(CLASS).ok()?.flatten().find_map(|entry| {
        let text = fs::read_to_string(entry.path().join("name")).ok()?;
        wanted(text.trim()).then(|| entry.path())
    })
}

/// What a port says that is not there, or not any more.
fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NXIO | Errno::NODEV))
}

/// A port for output, which goes on when the machine was suspended.
#[derive(Debug)]
pub(crate) struct Port {
    name: &'static str,
    /// Does not wait.
    file: File,
    generation: u64,
}

impl Port {
    /// Waits until it can be written to; false if it is not connected any more.
    fn wait(&self) -> io::Result<bool> {
        loop {
            let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = fds[0].revents();
            if flags.contains(PollFlags::HUP) {
                return Ok(false);
            }
            if flags.contains(PollFlags::OUT) {
                return Ok(true);
            }
        }
    }

    /// All ports are probed again, unless that has been done for another one.
    fn connect_again(&mut self) -> Result<()> {
        let mut generation = GENERATION.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = Ports::new();
        loop {
            if *generation == self.generation {
                probe_again()?;
                *generation += 1;
            }
            self.generation = *generation;
            self.file = ports.open(self.name, OFlags::NONBLOCK)?;
            if is_connected(&self.file)? {
                return Ok(());
            }
            // It slept again, or the host has gone.
            ensure!(
                Instant::now() < ports.deadline,
                "the host has closed the virtio-serial port {}",
                self.name
            );
        }
    }
}

/// Waits for the host's end to be connected, for a moment.
fn is_connected(port: &File) -> io::Result<bool> {
    let deadline = Instant::now() + MOMENT;
    let now = Timespec::try_from(Duration::ZERO).map_err(io::Error::other)?;
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(port, PollFlags::OUT)];
        match poll(&mut fds, Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].revents().contains(PollFlags::OUT) {
            return Ok(true);
        }
        std::thread::sleep(POLL);
    }
    Ok(false)
}

impl Write for Port {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self.wait()? {
                true => self.file.write(data),
                false => Err(Errno::NODEV.into()),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_gone(&error) => {
                    self.connect_again().map_err(io::Error::other)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes the controller of the ports from its driver and gives it back. A virtio console, which is a
/// port as well, hangs up then.
fn probe_again() -> Result<()> {
    let port = find(|name| !name.is_empty()).context("there are no virtio-serial ports")?;
    let device = fs::canonicalize(port.join("device")).context("a port has no controller")?;
    let driver = fs::canonicalize(device.join("driver")).context("a controller has no driver")?;
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    for file in ["unbind", "bind"] {
        fs::write(driver.join(file), name.as_bytes())
            .with_context(|| format!("cannot {file} {name}"))?;
    }
    Ok(())
}
