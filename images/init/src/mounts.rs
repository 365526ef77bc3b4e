//! File systems that programs expect, and the loopback interface.

use std::fs;
use std::io;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};

use crate::report;

/// Source or type, where, and whether the guest can do without it.
const MOUNTS: &[(&str, &str, bool)] = &[
    ("proc", "/proc", false),
    ("sysfs", "/sys", false),
    ("devtmpfs", "/dev", false),
    ("devpts", "/dev/pts", true),
    ("tmpfs", "/dev/shm", true),
    ("tmpfs", "/run", false),
    ("tmpfs", "/tmp", true),
    // A file system whose pages are not those of shared memory.
    ("ramfs", "/ram", true),
    ("debugfs", "/sys/kernel/debug", true),
    ("tracefs", "/sys/kernel/tracing", true),
    ("cgroup2", "/sys/fs/cgroup", true),
];

/// Links that C libraries and shells rely on.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts all of them.
pub(crate) fn mount_all() -> Result<()> {
    for (kind, path, optional) in MOUNTS {
        match mount_one(kind, path) {
            Ok(()) => {}
            Err(error) if *optional => report::console(&format!("no {kind} on {path}: {error}")),
            Err(error) => return Err(error).with_context(|| format!("cannot mount {path}")),
        }
    }
    for (target, link) in LINKS {
        match std::os::unix::fs::symlink(target, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot create {link}"));
            }
            _ => {}
        }
    }
    let _ = rustix::system::sethostname(b"hmmgpu");
    let up = Command::new("/bin/busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    if !up.is_ok_and(|status| status.success()) {
        report::console("the loopback interface is not up");
    }
    Ok(())
}

fn mount_one(kind: &str, path: &str) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // User files may have come here with the initramfs (which is in memory as well).
    if kind == "tmpfs" && fs::read_dir(path)?.next().is_some() {
        return Ok(());
    }
    let options = match path {
        "/tmp" | "/dev/shm" | "/ram" => Some(c"mode=1777"),
        "/dev/pts" => Some(c"mode=620,ptmxmode=666"),
        _ => None,
    };
    mount(kind, path, kind, MountFlags::empty(), options)?;
    Ok(())
}
