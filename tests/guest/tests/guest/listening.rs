//! Where processes can be reached from outside: sockets of the network, and modes of those in files.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::Pid;

/// Tables of the network's sockets in `/proc`.
const TABLES: [&str; 6] = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"];

/// Local addresses of a process's sockets of the network, as the kernel writes them: hexadecimal, the
/// host's byte order, with the port behind a colon.
pub(crate) fn on_the_network(process: Pid) -> Result<Vec<String>> {
    let folder = format!("/proc/{}", process.as_raw_nonzero());
    let files = std::fs::read_dir(format!("{folder}/fd")).context("no files")?;
    let own: BTreeSet<String> = files
        .flatten()
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            Some(inode.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut found = Vec::new();
    for table in TABLES {
        // A kernel without IPv6 has half of them.
        let text = std::fs::read_to_string(format!("{folder}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, inode) = (fields.get(1), fields.get(9));
            if let (Some(local), Some(inode)) = (local, inode)
                && own.contains(*inode)
            {
                found.push(format!("{table} {local}"));
            }
        }
    }
    Ok(found)
}

/// Sockets in a folder, and below it, that others than their owner may connect to: neither has the socket
/// mode 0600, nor is it in a folder below that only the owner may enter.
pub(crate) fn open_to_others(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = path.symlink_metadata()?;
        let for_others = metadata.mode() & 0o077 != 0;
        if metadata.is_dir() && for_others {
            found.extend(open_to_others(&path)?);
        } else if metadata.file_type().is_socket() && for_others {
            found.push(path);
        }
    }
    Ok(found)
}
