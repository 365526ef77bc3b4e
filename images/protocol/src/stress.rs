//! The scenarios of `hmmgpu stress`, and what it asks of the runner in the guest.
//!
//! The launcher and the program in the guest share the list: what a scenario needs of its machine
//! is the launcher's to see to, what it does the program's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The program of the scenarios in the guest; its first argument is a scenario's name.
pub const PROGRAM: &str = "hmmgpu-stress";

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
    /// Two nodes of memory.
    TwoNodes,
    /// A GPU that can be unplugged.
    Pluggable,
    /// Few physical address bits, much of which a large aperture takes.
    FewAddressBits,
}

impl Machine {
    /// All of them, in the order that they are started in.
    pub const ALL: [Self; 4] = [
        Self::Plain,
        Self::TwoNodes,
        Self::Pluggable,
        Self::FewAddressBits,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
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
    /// Time after which no scenario begins any more, in seconds; the first round of all is
    /// completed even so.
    pub seconds: Option<u64>,
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
