//! What the kernel logs from now on.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use rustix::fs::OFlags;

/// The longest record that the kernel gives out.
const RECORD: usize = 8192;

/// The kernel's log, from when it was opened on.
#[derive(Debug)]
pub(super) struct KernelLog(File);

impl KernelLog {
    pub(super) fn open() -> Result<Self> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open("/dev/kmsg")
            .context("cannot open /dev/kmsg")?;
        file.seek(SeekFrom::End(0))
            .context("cannot go to the end of the kernel's log")?;
        Ok(Self(file))
    }

    /// The lines that came since it was opened, or since the last call.
    pub(super) fn lines(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = vec![0; RECORD];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => return Ok(lines),
                Ok(bytes) => lines.push(text(&String::from_utf8_lossy(&record[..bytes]))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // Records that were overwritten before they were read.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error).context("cannot read the kernel's log"),
            }
        }
    }
}

/// The text of a record: `6,1234,5678,-;text`, and lines with more about it.
fn text(record: &str) -> String {
    let first = record.lines().next().unwrap_or_default();
    let text = first.split_once(';').map_or(first, |(_, text)| text);
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_text_behind_a_semicolon() {
        assert_eq!(
            text("4,12,34,-;WARNING: a; b\n SUBSYSTEM=x\n"),
            "WARNING: a; b"
        );
        assert_eq!(text(""), "");
    }
}
