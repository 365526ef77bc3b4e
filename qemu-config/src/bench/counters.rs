//! The driver's own counters beside the host's. What equals what is in `docs/telemetry-driver.md`.

use hmmgpu_guest_protocol::bench::Counter;
use hmmgpu_telemetry::snapshot::{Outcome, Phases, Snapshot, Spans};
use serde::{Deserialize, Serialize};

use super::result::BenchError;

/// A counter as the driver has it and as the host has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterCheck {
    /// Its name, as in debugfs.
    pub name: String,
    /// Folio order, of those that are kept by order.
    pub order: Option<u8>,
    /// By the driver.
    pub driver: u64,
    /// By the host, if it can know.
    pub host: Option<u64>,
    /// Whether they are the same; nothing where the host cannot know.
    pub equal: Option<bool>,
}

/// The driver's counters beside those of a snapshot that was taken while nothing was under way.
pub fn compare(counters: &[Counter], host: &Snapshot) -> Vec<CounterCheck> {
    counters
        .iter()
        .map(|counter| {
            let value = host_value(&counter.name, counter.order, host);
            CounterCheck {
                name: counter.name.clone(),
                order: counter.order,
                driver: counter.value,
                host: value,
                equal: value.map(|value| value == counter.value),
            }
        })
        .collect()
}

/// The differences.
pub fn differences(checks: &[CounterCheck]) -> Vec<BenchError> {
    checks
        .iter()
        .filter_map(|check| {
            let host = check.host.filter(|host| *host != check.driver)?;
            Some(BenchError::CountersDiffer {
                name: check.name.clone(),
                order: check.order,
                driver: check.driver,
                host,
            })
        })
        .collect()
}

/// What the host counts under this name; nothing if it does not count that.
fn host_value(name: &str, order: Option<u8>, host: &Snapshot) -> Option<u64> {
    let parts: Vec<&str> = name.split('.').collect();
    let events = &host.events;
    let of_order = |pairs: &[(u8, u64)]| {
        let ours = pairs.iter().filter(|(of, _)| Some(*of) == order);
        ours.map(|(_, count)| count).sum()
    };
    let faults = |outcome| {
        let ours = host
            .mmu
            .faults
            .iter()
            .filter(|fault| fault.outcome == outcome);
        ours.map(|fault| fault.count).sum()
    };
    Some(match parts[..] {
        ["transfers", direction, what] => {
            let ours = host.transfers.iter().filter(|transfers| {
                Some(transfers.order) == order && word(transfers.direction) == direction
            });
            match what {
                "folios" => ours.map(|transfers| transfers.folios).sum(),
                "filled_folios" => ours.map(|transfers| transfers.filled_folios).sum(),
                _ => return None,
            }
        }
        ["spans", "phases", phase] => {
            let phases = host.spans.iter().map(|spans| &spans.phases);
            phases.map(phase_ns(phase)?).sum()
        }
        ["spans", direction, trigger, what] => {
            let figure: fn(&Spans) -> u64 = match what {
                "count" => |spans| spans.count,
                "pages_asked" => |spans| spans.pages_asked,
                "pages_moved" => |spans| spans.pages_moved,
                _ => return None,
            };
            let ours = host.spans.iter().filter(|spans| {
                word(spans.direction) == direction && word(spans.trigger) == trigger
            });
            ours.map(figure).sum()
        }
        ["fallbacks", reason] => {
            let ours = host.fallbacks.iter().filter(|one| one.reason == reason);
            ours.map(|fallbacks| fallbacks.folios).sum()
        }
        ["vram", "bytes"] => host.vram.bytes,
        ["vram", "used_bytes"] => host.vram.used_bytes,
        ["vram", "folios"] => {
            let ours = host
                .vram
                .folios
                .iter()
                .filter(|one| Some(one.order) == order);
            ours.map(|folios| folios.folios).sum()
        }
        ["events", "splits"] => of_order(&events.splits),
        ["events", "descriptors"] => events.descriptors,
        ["events", "fences"] => events.fences,
        ["events", "doorbells"] => events.doorbells,
        ["events", "resets", cause] => {
            let ours = events.resets.iter().filter(|(name, _)| name == cause);
            ours.map(|(_, count)| count).sum()
        }
        ["mmu", "invalidations"] => host.mmu.invalidations,
        ["mmu", "faults", "replayed"] => faults(Outcome::Replayed),
        ["mmu", "faults", "cancelled"] => faults(Outcome::Cancelled),
        ["compute", "jobs"] => host.compute.jobs.iter().map(|jobs| jobs.count).sum(),
        ["compute", "contexts"] => host.compute.contexts,
        _ => return None,
    })
}

/// The name that the JSON has for a direction or a trigger.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn phase_ns(name: &str) -> Option<fn(&Phases) -> u64> {
    Some(match name {
        "collect_ns" => |phases| phases.collect_ns,
        "alloc_ns" => |phases| phases.alloc_ns,
        "copy_ns" => |phases| phases.copy_ns,
        "commit_ns" => |phases| phases.commit_ns,
        "finish_ns" => |phases| phases.finish_ns,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::example::snapshot;
    use hmmgpu_telemetry::snapshot::{
        Access, Direction, Fallbacks, Faults, FolioState, Latency, Transfers, Trigger, VramFolios,
    };

    /// A snapshot in which each figure that has a counterpart is a number of its own.
    fn host() -> Snapshot {
        let mut host = snapshot(vec![]);
        let transfers = |order, direction, folios, filled_folios| Transfers {
            order,
            direction,
            trigger: Trigger::Prefetch,
            folios,
            bytes: 0,
            filled_folios,
            filled_bytes: 0,
            engine_ns: 0,
            errors: 0,
            latency: Latency::default(),
            queue_wait: Latency::default(),
        };
        host.transfers = vec![
            transfers(9, Direction::SysToDev, 1, 2),
            transfers(9, Direction::SysToDev, 10, 20),
            transfers(0, Direction::SysToDev, 5000, 6000),
            transfers(9, Direction::DevToSys, 7, 0),
        ];
        let spans = |order, trigger, count, ns| Spans {
            order,
            direction: Direction::DevToSys,
            trigger,
            count,
            pages_asked: count * 100,
            pages_moved: count * 10,
            busy_ns: 0,
            engine_ns: 0,
            latency: Latency::default(),
            phases: Phases {
                spans: count,
                collect_ns: ns,
                ..Phases::default()
            },
        };
        host.spans = vec![
            spans(0, Trigger::CpuFault, 3, 30),
            spans(9, Trigger::CpuFault, 4, 40),
            spans(9, Trigger::Evict, 5, 50),
        ];
        host.fallbacks = vec![Fallbacks {
            order: 9,
            direction: Direction::SysToDev,
            trigger: Trigger::Prefetch,
            reason: "no_vram".into(),
            folios: 8,
        }];
        host.vram.bytes = 64;
        host.vram.folios = [FolioState::Whole, FolioState::Split]
            .map(|state| VramFolios {
                order: 0,
                state,
                folios: 6,
                bytes: 0,
            })
            .into();
        host.events.splits = vec![(9, 13), (4, 14)];
        host.events.resets = vec![("register".into(), 15), ("flr".into(), 16)];
        host.events.fences = 17;
        host.mmu.faults = vec![Faults {
            access: Access::Read,
            reason: "FAULT_NOT_PRESENT".into(),
            outcome: Outcome::Replayed,
            count: 18,
        }];
        host
    }

    #[test]
    fn names_say_where_the_host_counts() {
        let host = host();
        for (name, order, value) in [
            ("transfers.sys_to_dev.folios", Some(9), Some(11)),
            ("transfers.sys_to_dev.filled_folios", Some(9), Some(22)),
            ("transfers.dev_to_sys.folios", Some(9), Some(7)),
            ("transfers.dev_to_sys.folios", Some(3), Some(0)),
            ("spans.dev_to_sys.cpu_fault.count", None, Some(7)),
            ("spans.dev_to_sys.cpu_fault.pages_asked", None, Some(700)),
            ("spans.dev_to_sys.evict.pages_moved", None, Some(50)),
            ("spans.sys_to_dev.prefetch.count", None, Some(0)),
            ("spans.phases.collect_ns", None, Some(120)),
            ("fallbacks.no_vram", None, Some(8)),
            ("fallbacks.shared", None, Some(0)),
            ("vram.bytes", None, Some(64)),
            ("vram.folios", Some(0), Some(12)),
            ("events.splits", Some(9), Some(13)),
            ("events.resets.register", None, Some(15)),
            ("events.fences", None, Some(17)),
            ("mmu.faults.replayed", None, Some(18)),
            ("mmu.faults.cancelled", None, Some(0)),
            ("compute.jobs", None, Some(0)),
            ("driver.fence_sleeps", None, None),
            ("spans.phases.lunch_ns", None, None),
            ("", None, None),
        ] {
            assert_eq!(host_value(name, order, &host), value, "{name} {order:?}");
        }
    }

    #[test]
    fn a_difference_is_an_error_and_nothing_else_is() {
        let counter = |name: &str, value| Counter {
            name: name.into(),
            order: None,
            value,
        };
        let checks = compare(
            &[
                counter("events.fences", 17),
                counter("vram.bytes", 63),
                counter("driver.interrupts", 9),
            ],
            &host(),
        );
        let equal: Vec<_> = checks.iter().map(|check| check.equal).collect();
        assert_eq!(equal, [Some(true), Some(false), None]);
        let [error] = &differences(&checks)[..] else {
            panic!("{checks:?}")
        };
        assert_eq!(
            *error,
            BenchError::CountersDiffer {
                name: "vram.bytes".into(),
                order: None,
                driver: 63,
                host: 64,
            }
        );
        assert!(
            error
                .to_string()
                .contains("the driver counts 63 and the host 64")
        );
    }
}
