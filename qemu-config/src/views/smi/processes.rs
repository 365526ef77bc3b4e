//! Which processes are worth a line.

use std::cmp::Reverse;

use hmmgpu_telemetry::snapshot::{Process, Snapshot};

/// Processes of a GPU that are shown.
const MAX_PROCESSES: usize = 7;
/// How long ago a process without VRAM may have moved memory to be shown, in nanoseconds.
const LATELY_NS: u64 = 60_000_000_000;

/// Processes that are shown: those with VRAM, those with the most first, then those that moved
/// memory lately, the last one first.
pub(super) fn shown(snapshot: &Snapshot) -> Vec<&Process> {
    let since = snapshot.time_ns.saturating_sub(LATELY_NS);
    let mut shown: Vec<&Process> = snapshot
        .processes
        .iter()
        .filter(|process| process.vram_bytes > 0 || process.last_ns > since)
        .collect();
    shown.sort_by_key(|process| Reverse((process.vram_bytes, process.last_ns)));
    shown.truncate(MAX_PROCESSES);
    shown
}

/// The processes that are not shown.
pub(super) fn others(snapshot: &Snapshot, shown: &[&Process]) -> Option<String> {
    let with_vram = |process: &&Process| process.vram_bytes > 0;
    let count = snapshot.processes.len() - shown.len();
    let holding = snapshot
        .processes
        .iter()
        .filter(|process| with_vram(process))
        .count()
        - shown.iter().filter(|process| with_vram(process)).count();
    let others = if count == 1 { "other" } else { "others" };
    match (count, holding) {
        (0, _) => None,
        (_, 0) => Some(format!("{count} {others} without VRAM")),
        _ => Some(format!("{count} {others}, {holding} of them with VRAM")),
    }
}
