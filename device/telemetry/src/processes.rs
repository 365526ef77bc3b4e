//! Processes whose memory moved, as the driver names them.

use std::cmp::Reverse;
use std::collections::HashMap;

use hmmgpu_contract::PAGE_SHIFT;

use crate::MAX_PROCESSES;
use crate::classes::Class;
use crate::record::ProcessName;
use crate::snapshot::{Direction, Process, Trigger};
use crate::vram_map::{Owner, VramMap};

/// One process.
#[derive(Debug)]
struct Entry {
    pid: u32,
    name: ProcessName,
    spans: u64,
    gpu_fault_spans: u64,
    cpu_fault_spans: u64,
    sys_to_dev_pages: u64,
    dev_to_sys_pages: u64,
    last_ns: u64,
    /// Number of the last time that it was named: the larger, the later.
    seen: u64,
}

/// The table. Entries stay where they are as long as they own VRAM, so that the map of VRAM can
/// name them by number.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    entries: Vec<Entry>,
    by_pid: HashMap<u32, usize>,
    times_seen: u64,
}

impl Processes {
    /// The place of a process, which is made if need be; `None` for id 0, and when all that there
    /// is room for own VRAM.
    fn place(&mut self, pid: u32, vram: &VramMap) -> Option<usize> {
        if pid == 0 {
            return None;
        }
        self.times_seen += 1;
        if let Some(&place) = self.by_pid.get(&pid) {
            self.entries[place].seen = self.times_seen;
            return Some(place);
        }
        let entry = Entry {
            pid,
            name: ProcessName([0; 16]),
            spans: 0,
            gpu_fault_spans: 0,
            cpu_fault_spans: 0,
            sys_to_dev_pages: 0,
            dev_to_sys_pages: 0,
            last_ns: 0,
            seen: self.times_seen,
        };
        let place = if self.entries.len() < MAX_PROCESSES {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            // The one that was not seen for longest makes room.
            let places = self.entries.iter().enumerate();
            let (place, _) = places
                .filter(|(place, _)| vram.owned_bytes(owner(*place)) == 0)
                .min_by_key(|(_, entry)| entry.seen)?;
            self.by_pid.remove(&self.entries[place].pid);
            self.entries[place] = entry;
            place
        };
        self.by_pid.insert(pid, place);
        Some(place)
    }

    /// The number by which the map of VRAM knows a process; 0 for nobody.
    pub(crate) fn owner(&mut self, pid: u32, vram: &VramMap) -> Owner {
        self.place(pid, vram).map_or(0, owner)
    }

    /// What a process is called from now on.
    pub(crate) fn named(&mut self, pid: u32, name: ProcessName, vram: &VramMap) {
        if let Some(place) = self.place(pid, vram) {
            self.entries[place].name = name;
        }
    }

    /// A span of a process has ended, in which so many pages moved.
    pub(crate) fn span_ended(
        &mut self,
        pid: u32,
        class: Class,
        pages: u64,
        end_ns: u64,
        vram: &VramMap,
    ) {
        let Some(place) = self.place(pid, vram) else {
            return;
        };
        let entry = &mut self.entries[place];
        entry.spans += 1;
        match class.trigger {
            Trigger::GpuFault => entry.gpu_fault_spans += 1,
            Trigger::CpuFault => entry.cpu_fault_spans += 1,
            Trigger::Prefetch | Trigger::Evict => {}
        }
        match class.direction {
            Direction::SysToDev => entry.sys_to_dev_pages += pages,
            Direction::DevToSys => entry.dev_to_sys_pages += pages,
            Direction::DevToDev | Direction::SysToSys => {}
        }
        entry.last_ns = entry.last_ns.max(end_ns);
    }

    /// Those with VRAM first, then the ones that were seen last.
    pub(crate) fn rows(&self, vram: &VramMap) -> Vec<Process> {
        let vram_bytes = |place| vram.owned_bytes(owner(place));
        let mut order: Vec<_> = self.entries.iter().enumerate().collect();
        order.sort_by_key(|(place, entry)| (vram_bytes(*place) == 0, Reverse(entry.seen)));
        let row = |(place, entry): (usize, &Entry)| Process {
            pid: entry.pid,
            name: entry.name.to_string(),
            vram_bytes: vram_bytes(place),
            spans: entry.spans,
            gpu_fault_spans: entry.gpu_fault_spans,
            cpu_fault_spans: entry.cpu_fault_spans,
            sys_to_dev_bytes: entry.sys_to_dev_pages << PAGE_SHIFT,
            dev_to_sys_bytes: entry.dev_to_sys_pages << PAGE_SHIFT,
            last_ns: entry.last_ns,
        };
        order.into_iter().map(row).collect()
    }
}

/// The number of a place for the map of VRAM.
fn owner(place: usize) -> Owner {
    const { assert!(MAX_PROCESSES < Owner::MAX as usize) };
    Owner::try_from(place + 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_seen_for_longest_and_has_no_vram_makes_room() {
        let mut vram = VramMap::new(64 << 20, MAX_PROCESSES);
        let mut processes = Processes::default();
        let most = u32::try_from(MAX_PROCESSES).unwrap();
        for pid in 1..=most {
            processes.named(pid, ProcessName(*b"0123456789abcdef"), &vram);
        }
        let first = processes.owner(1, &vram);
        vram.alloc(0, 0, 1, first);
        processes.named(2, ProcessName([0; 16]), &vram);
        for pid in most + 1..most + 3 {
            let owner = processes.owner(pid, &vram);
            assert_ne!(owner, 0);
        }
        let rows = processes.rows(&vram);
        assert_eq!(rows.len(), MAX_PROCESSES);
        let pids: Vec<_> = rows.iter().map(|row| row.pid).collect();
        assert_eq!(pids[..4], [1, most + 2, most + 1, 2]);
        assert_eq!(rows[0].vram_bytes, 4096);
        assert!(!pids.contains(&3) && !pids.contains(&4) && pids.contains(&5));
    }

    #[test]
    fn when_all_have_vram_nobody_makes_room() {
        let mut vram = VramMap::new(64 << 20, MAX_PROCESSES);
        let mut processes = Processes::default();
        let most = u32::try_from(MAX_PROCESSES).unwrap();
        for pid in 1..=most {
            let owner = processes.owner(pid, &vram);
            vram.alloc(u64::from(pid) * 4096, 0, 1, owner);
        }
        assert_eq!(processes.owner(most + 1, &vram), 0);
        assert_eq!(processes.owner(0, &vram), 0);
        vram.free(7 * 4096, 0, 1);
        let owner = processes.owner(most + 1, &vram);
        assert_eq!(owner, 7);
        let rows = processes.rows(&vram);
        assert!(rows.iter().all(|row| row.pid != 7));
    }
}
