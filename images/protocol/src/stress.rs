//! The scenarios of `hmmgpu stress`, and what it asks of the runner in the guest.
//!
//! The launcher and the program in the guest share the list: what a scenario needs of its machine
//! is the launcher's to see to, what it does the program's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The program of the scenarios in the guest; its first argument is a scenario's name.
pub const PROGRAM: &str = "hmmgpu-stress";

/// How long a scenario works, unless there is less time for it. It goes on until its troubles have
/// met a migration.
pub const WORK: Duration = Duration::from_secs(5);

/// A scenario that takes longer is stuck. It ends by itself well before.
pub const LIMIT: Duration = Duration::from_secs(300);

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it runs on.
    pub machine: Machine,
    /// What it does, in one line.
    pub about: &'static str,
}

/// What a scenario needs of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Machine {
    /// Nothing in particular.
    Plain,
    /// So little memory that all of it can be taken within seconds.
    LittleMemory,
    /// Two nodes of memory.
    TwoNodes,
    /// A GPU that can be unplugged.
    Pluggable,
    /// Few physical address bits, much of which a large aperture takes.
    FewAddressBits,
}

impl Machine {
    /// All of them, in the order that they are started in.
    pub const ALL: [Self; 5] = [
        Self::Plain,
        Self::LittleMemory,
        Self::TwoNodes,
        Self::Pluggable,
        Self::FewAddressBits,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::LittleMemory => "little-memory",
            Self::TwoNodes => "two-nodes",
            Self::Pluggable => "pluggable",
            Self::FewAddressBits => "few-address-bits",
        }
    }
}

/// All scenarios, in the order that they are run in on each machine.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fork-storm",
        machine: Machine::Plain,
        about: "Many forks share memory that moves; they write their copies, exit and are killed",
    },
    Scenario {
        name: "partial-mappings",
        machine: Machine::Plain,
        about: "Threads unmap, protect and move parts of memory that is on its way",
    },
    Scenario {
        name: "madvise-drop",
        machine: Machine::Plain,
        about: "Threads drop content by MADV_DONTNEED and MADV_FREE and write anew",
    },
    Scenario {
        name: "order-churn",
        machine: Machine::Plain,
        about: "All of VRAM is used as folios of 2 MiB, freed, used as single pages, and back",
    },
    Scenario {
        name: "kill",
        machine: Machine::Plain,
        about: "Processes exit and are killed in the middle of their migrations",
    },
    Scenario {
        name: "cold-pageout",
        machine: Machine::Plain,
        about: "Memory is said to be cold, and swapped out",
    },
    Scenario {
        name: "collapse",
        machine: Machine::Plain,
        about: "MADV_COLLAPSE makes large folios of memory that is partly on the device",
    },
    Scenario {
        name: "uffd-wp",
        machine: Machine::Plain,
        about: "userfaultfd holds writes; none may get past it",
    },
    Scenario {
        name: "soft-dirty",
        machine: Machine::Plain,
        about: "pagemap and smaps are read; no written page may be forgotten",
    },
    Scenario {
        name: "direct-io",
        machine: Machine::Plain,
        about: "O_DIRECT pins pages that are asked to move, and writes to them",
    },
    Scenario {
        name: "vmsplice",
        machine: Machine::Plain,
        about: "Pages are lent to a pipe and asked to move",
    },
    Scenario {
        name: "ksm",
        machine: Machine::Plain,
        about: "Pages of equal content are merged and parted",
    },
    Scenario {
        name: "swap-pressure",
        machine: Machine::Plain,
        about: "The kernel reclaims to zram all the time",
    },
    Scenario {
        name: "memory-limit",
        machine: Machine::Plain,
        about: "A control group has less memory than it uses, VRAM included",
    },
    Scenario {
        name: "fragmented-vram",
        machine: Machine::Plain,
        about: "VRAM has no room for large folios though most of it is free",
    },
    Scenario {
        name: "fragmented-memory",
        machine: Machine::LittleMemory,
        about: "Large folios cannot be allocated for the way home",
    },
    Scenario {
        name: "cpu-hotplug",
        machine: Machine::Plain,
        about: "A CPU goes and comes back",
    },
    Scenario {
        name: "suspend",
        machine: Machine::Plain,
        about: "The machine is suspended to idle, and woken",
    },
    Scenario {
        name: "out-of-memory",
        machine: Machine::LittleMemory,
        about: "The kernel ends processes because memory is over",
    },
    Scenario {
        name: "numa",
        machine: Machine::TwoNodes,
        about: "mbind and migrate_pages move memory between nodes",
    },
    Scenario {
        name: "unbind",
        machine: Machine::Pluggable,
        about: "The driver is unbound, the device removed, and both come back",
    },
    Scenario {
        name: "unplug",
        machine: Machine::Pluggable,
        about: "The host unplugs the device and plugs it in again",
    },
    Scenario {
        name: "few-address-bits",
        machine: Machine::FewAddressBits,
        about: "A large aperture takes much of few physical address bits",
    },
];

/// The scenario of this name.
pub fn scenario(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

/// Scenarios to run in one guest, round after round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StressPlan {
    /// Names of the scenarios of a round, in order.
    pub scenarios: Vec<String>,
    /// The seed of the first round of all; see [`seed_of_round`].
    pub seed: u32,
    /// The round to begin with, from 1, and the scenario in it, from 0.
    pub from: (u32, usize),
    /// The last round; none: until the time is over.
    pub last: Option<u32>,
    /// How long after the guest's boot the scenarios that begin are to have ended, in seconds; the
    /// first round of all is completed even so.
    pub seconds: Option<u64>,
    /// How long each works, in seconds; see [`WORK`].
    pub work: u64,
}

/// The seed of a round, from 1: the first round of that seed repeats it.
pub fn seed_of_round(seed: u32, round: u32) -> u32 {
    seed.wrapping_add(round.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_short() {
        for (index, one) in SCENARIOS.iter().enumerate() {
            assert!(
                SCENARIOS[index + 1..]
                    .iter()
                    .all(|other| other.name != one.name)
            );
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(one.name.chars().all(plain), "{}", one.name);
            assert!(
                one.name.len() <= 20 && one.about.len() <= 90,
                "{}",
                one.name
            );
        }
        assert_eq!(scenario(SCENARIOS[0].name), Some(&SCENARIOS[0]));
        assert_eq!(scenario("nonsense"), None);
    }

    #[test]
    fn a_round_is_repeated_as_the_first_one() {
        for round in [1, 2, 1000] {
            assert_eq!(seed_of_round(seed_of_round(7, round), 1), 7 + round - 1);
        }
        assert_eq!(seed_of_round(u32::MAX, 2), 0);
    }
}
