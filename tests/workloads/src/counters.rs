//! The driver's counters by name, as it shows them in debugfs: what the device counts as well has
//! the name that it has in the host's telemetry.

use hmmgpu_guest_protocol::bench::Counter;
use hmmgpu_uapi::{Query, Stats};

/// In the order of the hardware contract's DIR, TRIGGER and FALLBACK values, and of the phases.
const DIRECTIONS: [&str; 2] = ["sys_to_dev", "dev_to_sys"];
const TRIGGERS: [&str; 4] = ["prefetch", "gpu_fault", "cpu_fault", "evict"];
const FALLBACKS: [&str; 6] = [
    "no_vram",
    "no_memory",
    "shared",
    "split_failed",
    "partial",
    "injected",
];
const PHASES: [&str; 5] = ["collect", "alloc", "copy", "commit", "finish"];

/// All counters, each name once for each order.
pub(crate) fn named(query: &Query, stats: &Stats) -> Vec<Counter> {
    let mut counters = Vec::new();
    for (name, by_order) in [
        ("transfers.sys_to_dev.folios", stats.sys_to_dev_folios),
        ("transfers.sys_to_dev.filled_folios", stats.filled_folios),
        ("transfers.dev_to_sys.folios", stats.dev_to_sys_folios),
        ("vram.folios", stats.vram_folios),
        ("events.splits", stats.splits),
    ] {
        for (order, value) in (0..).zip(by_order) {
            counters.push(Counter {
                name: name.to_owned(),
                order: Some(order),
                value,
            });
        }
    }
    let mut add = |name: String, value: u64| {
        counters.push(Counter {
            name,
            order: None,
            value,
        });
    };
    for (index, direction) in DIRECTIONS.iter().enumerate() {
        for (trigger, number) in TRIGGERS.iter().zip(index * TRIGGERS.len()..) {
            let name = |what: &str| format!("spans.{direction}.{trigger}.{what}");
            add(name("count"), stats.spans[number]);
            add(name("pages_asked"), stats.pages_asked[number]);
            add(name("pages_moved"), stats.pages_moved[number]);
        }
    }
    for (phase, ns) in PHASES.iter().zip(stats.phase_ns) {
        add(format!("spans.phases.{phase}_ns"), ns);
    }
    for (reason, folios) in FALLBACKS.iter().zip(stats.fallbacks) {
        add(format!("fallbacks.{reason}"), folios);
    }
    for (name, value) in [
        ("vram.bytes", query.vram_bytes),
        (
            "vram.used_bytes",
            query.vram_bytes.saturating_sub(query.vram_free_bytes),
        ),
        ("events.descriptors", stats.descriptors),
        ("events.fences", stats.fences),
        ("events.doorbells", stats.doorbells),
        ("events.resets.register", stats.resets),
        ("mmu.invalidations", stats.invalidations),
        ("mmu.faults.replayed", stats.gpu_faults_replayed),
        ("mmu.faults.cancelled", stats.gpu_faults_cancelled),
        ("compute.jobs", stats.jobs),
        ("compute.contexts", stats.contexts),
        ("driver.cpu_faults", stats.cpu_faults),
        ("driver.cpu_fault_pages", stats.cpu_fault_pages),
        ("driver.refused_pages", stats.refused_pages),
        ("driver.failed_pages", stats.failed_pages),
        ("driver.evicted_pages", stats.evicted_pages),
        ("driver.fence_sleeps", stats.fence_sleeps),
        ("driver.fence_timeouts", stats.fence_timeouts),
        ("driver.interrupts", stats.interrupts),
        ("driver.code_pages_scrubbed", stats.code_pages_scrubbed),
        ("driver.gpu_faults_in_place", stats.gpu_faults_in_place),
        ("driver.gpu_maps_large", stats.gpu_maps_large),
        ("driver.gpu_maps_small", stats.gpu_maps_small),
        ("driver.exclusive_pages", stats.exclusive_pages),
        ("driver.copy_retries", stats.copy_retries),
        ("driver.fences_missed", stats.fences_missed),
        ("driver.recoveries", stats.recoveries),
        ("driver.lost_pages", stats.lost_pages),
        ("driver.contexts_given_up", stats.contexts_given_up),
        ("driver.collected_again", stats.collected_again),
    ] {
        add(name.to_owned(), value);
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmmgpu_contract::desc::{
        DIR_DEV_TO_SYS, DIR_SYS_TO_DEV, FALLBACK_INJECTED, FALLBACK_NO_MEMORY, FALLBACK_NO_VRAM,
        FALLBACK_PARTIAL, FALLBACK_SHARED, FALLBACK_SPLIT_FAILED, TRIGGER_CPU_FAULT, TRIGGER_EVICT,
        TRIGGER_GPU_FAULT, TRIGGER_PREFETCH,
    };

    #[test]
    fn names_are_those_of_the_contract() {
        let place = |names: &[&str], name: &str| names.iter().position(|one| *one == name);
        for (name, value) in [
            ("sys_to_dev", DIR_SYS_TO_DEV),
            ("dev_to_sys", DIR_DEV_TO_SYS),
        ] {
            assert_eq!(place(&DIRECTIONS, name), Some(value.into()));
        }
        for (name, value) in [
            ("prefetch", TRIGGER_PREFETCH),
            ("gpu_fault", TRIGGER_GPU_FAULT),
            ("cpu_fault", TRIGGER_CPU_FAULT),
            ("evict", TRIGGER_EVICT),
        ] {
            assert_eq!(place(&TRIGGERS, name), Some(value.into()));
        }
        for (name, value) in [
            ("no_vram", FALLBACK_NO_VRAM),
            ("no_memory", FALLBACK_NO_MEMORY),
            ("shared", FALLBACK_SHARED),
            ("split_failed", FALLBACK_SPLIT_FAILED),
            ("partial", FALLBACK_PARTIAL),
            ("injected", FALLBACK_INJECTED),
        ] {
            assert_eq!(place(&FALLBACKS, name), Some(value.into()));
        }
    }

    #[test]
    fn each_counter_has_a_name_and_its_value() {
        // Every counter has a value of its own: none may be missing, and none be there twice.
        let words = Stats::SIZE / 8;
        let bytes: Vec<u8> = (1..=words as u64).flat_map(u64::to_le_bytes).collect();
        let Ok(bytes) = bytes.try_into() else {
            panic!("not {words} words");
        };
        let stats = Stats::from_le_bytes(&bytes);
        let query = Query {
            vram_bytes: 1 << 40,
            vram_free_bytes: 1 << 39,
            ..Query::default()
        };
        let counters = named(&query, &stats);
        let mut values: Vec<u64> = counters.iter().map(|counter| counter.value).collect();
        values.sort_unstable();
        let expected: Vec<u64> = (1..=words as u64).chain([1 << 39, 1 << 40]).collect();
        assert_eq!(values, expected);
        let value = |name: &str, order| {
            let mut found = counters
                .iter()
                .filter(|counter| counter.name == name && counter.order == order)
                .map(|counter| counter.value);
            (found.next(), found.next())
        };
        assert_eq!(
            value("spans.dev_to_sys.cpu_fault.pages_moved", None),
            (Some(stats.pages_moved[6]), None)
        );
        assert_eq!(
            value("events.splits", Some(9)),
            (Some(stats.splits[9]), None)
        );
    }
}
