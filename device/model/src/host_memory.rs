//! How much memory the host has left.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Where the host says it.
const MEMINFO: &str = "/proc/meminfo";
/// Most that is read: what is looked for are the first lines.
const HEAD: usize = 1024;

/// Asks the host how much memory it has left, for as long as it lives: the file stays open, so that
/// a process that has given up the right to open files can go on asking.
#[derive(Debug)]
pub struct HostMemory(Option<File>);

impl HostMemory {
    /// Opens what is to be asked later. Where that fails, there never is room.
    pub fn open() -> Self {
        let opened = File::open(MEMINFO);
        Self(
            opened
                .inspect_err(|error| tracing::warn!("cannot open {MEMINFO}: {error}"))
                .ok(),
        )
    }

    /// Whether at least a quarter of the host's memory is available. `false` also when the host
    /// does not say.
    pub(crate) fn has_room(&self) -> bool {
        let mut head = [0; HEAD];
        let read = self
            .0
            .as_ref()
            .and_then(|file| file.read_at(&mut head, 0).ok());
        let text = read.and_then(|read| str::from_utf8(&head[..read]).ok());
        text.is_some_and(has_room)
    }
}

fn has_room(meminfo: &str) -> bool {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    match (kib("MemTotal:"), kib("MemAvailable:")) {
        (Some(total), Some(available)) => available >= total / 4,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_must_be_available() {
        let meminfo = |available: &str| {
            format!("MemTotal:       8000000 kB\nMemFree:   1 kB\nMemAvailable:   {available}\n")
        };
        assert!(has_room(&meminfo("2000000 kB")));
        assert!(!has_room(&meminfo("1999999 kB")));
        assert!(!has_room(&meminfo("many")));
        assert!(!has_room(""));
    }

    #[test]
    fn this_host_says_again_and_again() {
        let HostMemory(file) = HostMemory::open();
        let file = file.unwrap();
        for _ in 0..2 {
            let mut head = [0; HEAD];
            let read = file.read_at(&mut head, 0).unwrap();
            let text = str::from_utf8(&head[..read]).unwrap();
            assert!(text.contains("MemTotal:") && text.contains("MemAvailable:"));
        }
    }
}
