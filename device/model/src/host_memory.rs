//! How much memory the host has left.

use std::fs;

/// Whether at least a quarter of the host's memory is available. `false` also when the host does
/// not say.
pub(crate) fn host_has_room() -> bool {
    fs::read_to_string("/proc/meminfo").is_ok_and(|meminfo| has_room(&meminfo))
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
    fn this_host_says() {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        assert!(meminfo.contains("MemTotal:") && meminfo.contains("MemAvailable:"));
    }
}
