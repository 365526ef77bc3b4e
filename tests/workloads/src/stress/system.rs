//! What scenarios change of the system, and put back.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use super::frame::skip;

/// A file that says how something is set; it is as before again when this is dropped.
#[derive(Debug)]
pub(super) struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Sets it.
    pub(super) fn new(path: impl Into<PathBuf>, value: &str) -> Result<Setting> {
        let path = path.into();
        let before = read(&path)?;
        write(&path, value)?;
        Ok(Setting { path, before })
    }

    /// Sets it where there is such a file.
    pub(super) fn if_any(path: impl Into<PathBuf>, value: &str) -> Result<Option<Setting>> {
        let path = path.into();
        match path.exists() {
            true => Setting::new(path, value).map(Some),
            false => Ok(None),
        }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // The scenario has its verdict by now.
        let _ = std::fs::write(&self.path, &self.before);
    }
}

/// A small file's text without its last end of line.
pub(super) fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}

/// Writes all of a small file at once.
pub(super) fn write(path: impl AsRef<Path>, value: &str) -> Result<()> {
    let path = path.as_ref();
    std::fs::write(path, value)
        .with_context(|| format!("cannot write {value:?} to {}", path.display()))
}

/// A number that a file consists of.
pub(super) fn number(path: impl AsRef<Path>) -> Result<u64> {
    let path = path.as_ref();
    let text = read(path)?;
    text.parse()
        .with_context(|| format!("{}: {text:?} is no number", path.display()))
}

/// The number behind a name, in a file with one such pair a line; 0 if it is not there.
pub(super) fn number_of(path: impl AsRef<Path>, name: &str) -> Result<u64> {
    let text = read(path)?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    });
    Ok(value.unwrap_or(0))
}

/// Pages that were ever swapped out.
pub(super) fn swapped_out() -> Result<u64> {
    number_of("/proc/vmstat", "pswpout")
}

/// Whether an error is this one of the system's.
pub(super) fn is(error: &anyhow::Error, errno: Errno) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.and_then(io::Error::raw_os_error) == Some(errno.raw_os_error())
    })
}

/// Paces what is done over and over; nothing waits for anything here.
pub(super) fn pause(milliseconds: usize) {
    std::thread::sleep(Duration::from_millis(milliseconds as u64));
}

/// Runs one of the shell's tools.
pub(super) fn tool(words: &[&str]) -> Result<()> {
    let output = Command::new("/bin/busybox").args(words).output();
    let output = output.with_context(|| format!("cannot run {}", words[0]))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        words.join(" "),
        said.trim()
    );
    Ok(())
}

/// Loads a kernel module, if there is one of that name: it may be built in as well.
pub(super) fn load(module: &str) {
    let _ = tool(&["modprobe", module]);
}

/// Swap in compressed memory.
#[derive(Debug)]
pub(super) struct Swap(());

impl Swap {
    const DEVICE: &str = "/dev/zram0";
    const FOLDER: &str = "/sys/block/zram0";
    /// Much more than any scenario has.
    const BYTES: &str = "268435456";

    /// Switches it on.
    pub(super) fn on() -> Result<Swap> {
        if !Path::new("/proc/swaps").exists() {
            bail!(skip("this kernel has no swap"));
        }
        load("zram");
        let folder = Path::new(Self::FOLDER);
        if !folder.exists() {
            bail!(skip("this kernel has no zram"));
        }
        write(folder.join("disksize"), Self::BYTES)?;
        tool(&["mkswap", Self::DEVICE])?;
        tool(&["swapon", Self::DEVICE])?;
        Ok(Swap(()))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // What is not done here makes the next scenario that wants swap fail, and say why.
        let _ = tool(&["swapoff", Self::DEVICE]);
        let _ = write(Path::new(Self::FOLDER).join("reset"), "1");
    }
}

/// A control group for memory.
#[derive(Debug)]
pub(super) struct Group(PathBuf);

impl Group {
    const ROOT: &str = "/sys/fs/cgroup";

    /// One with nobody in it.
    pub(super) fn new(name: &str) -> Result<Group> {
        let root = Path::new(Self::ROOT);
        let controllers = read(root.join("cgroup.controllers")).unwrap_or_default();
        if !controllers.split(' ').any(|one| one == "memory") {
            bail!(skip("this kernel has no control groups for memory"));
        }
        write(root.join("cgroup.subtree_control"), "+memory")?;
        let path = root.join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Group(path))
    }

    /// This process belongs to it from now on; the memory that it has stays where it is counted.
    pub(super) fn enter(&self) -> Result<()> {
        write(self.0.join("cgroup.procs"), "0")
    }

    /// Sets something, if the kernel has it.
    pub(super) fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.0.join(file);
        match path.exists() {
            true => write(path, value),
            false => Ok(()),
        }
    }

    /// How often something happened to it.
    pub(super) fn events(&self, name: &str) -> Result<u64> {
        number_of(self.0.join("memory.events"), name)
    }

    /// Has the kernel reclaim so much of its memory; false if there was not so much.
    pub(super) fn reclaim(&self, bytes: &str) -> Result<bool> {
        match write(self.0.join("memory.reclaim"), bytes) {
            Ok(()) => Ok(true),
            Err(error) if is(&error, Errno::AGAIN) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A child that is in it ends with the scenario at the latest.
        let _ = write(Path::new(Self::ROOT).join("cgroup.procs"), "0");
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_put_back_and_numbers_found() {
        let folder = std::env::temp_dir().join(format!("hmmgpu-setting-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("file");
        write(&path, "low 1\nmax 7").unwrap();
        assert_eq!(number_of(&path, "max").unwrap(), 7);
        assert_eq!(number_of(&path, "ma").unwrap(), 0);
        let setting = Setting::new(&path, "3").unwrap();
        assert_eq!(number(&path).unwrap(), 3);
        drop(setting);
        assert_eq!(read(&path).unwrap(), "low 1\nmax 7");
        assert!(Setting::if_any(folder.join("none"), "1").unwrap().is_none());
        let error = read(folder.join("none")).unwrap_err();
        assert!(is(&error, Errno::NOENT) && !is(&error, Errno::AGAIN));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
