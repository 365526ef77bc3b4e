//! What a scenario has done, counted where all of its processes and threads see it.
//!
//! A scenario passes only if its trouble happened, and while migrations were in flight (but for what
//! is made while none can be): one that tested nothing has failed.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};

use crate::sys::memory::{Memory, PAGE, WORDS};

/// What every scenario counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Requests for migration that began.
    Begun,
    /// Requests that ended.
    Ended,
    /// Pages that requests moved to the device.
    ToDevice,
    /// Pages that requests moved home.
    ToSystem,
    /// Requests refused because VRAM or memory was full.
    Refused,
    /// Jobs of the GPU.
    Jobs,
    /// Bytes compared.
    Verified,
    /// Somebody failed: everybody is to end. Not told.
    Stop,
}

/// Their names, where they are told.
const FIGURES: &[(Figure, &str)] = &[
    (Figure::Begun, "requests"),
    (Figure::ToDevice, "to_device_pages"),
    (Figure::ToSystem, "to_system_pages"),
    (Figure::Refused, "requests_refused"),
    (Figure::Jobs, "gpu_jobs"),
    (Figure::Verified, "verified_bytes"),
];
const FIRST_TROUBLE: usize = Figure::Stop as usize + 1;

/// A trouble that a scenario makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) name: &'static str,
    /// It is made to memory: some of that has to be on the device at the time.
    pub(super) on_memory: bool,
    /// It is made while no request is under way.
    pub(super) at_rest: bool,
}

/// A trouble that is made to memory.
pub(super) const fn to_memory(name: &'static str) -> Trouble {
    Trouble {
        on_memory: true,
        ..trouble(name)
    }
}

/// A trouble that is made to something else.
pub(super) const fn trouble(name: &'static str) -> Trouble {
    Trouble {
        name,
        on_memory: false,
        at_rest: false,
    }
}

/// A trouble that is made while no request is under way.
pub(super) const fn at_rest(name: &'static str) -> Trouble {
    Trouble {
        at_rest: true,
        ..trouble(name)
    }
}

/// What is counted of each trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Times,
    InFlight,
    OnDevice,
}
const PER_TROUBLE: usize = 3;

/// The requests at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    begun: u64,
    ended: u64,
}

/// The counters.
#[derive(Debug)]
pub(super) struct Tally {
    memory: Memory,
    troubles: &'static [Trouble],
}

impl Tally {
    pub(super) fn new(troubles: &'static [Trouble]) -> io::Result<Tally> {
        assert!(FIRST_TROUBLE + troubles.len() * PER_TROUBLE <= WORDS);
        Ok(Tally {
            memory: Memory::shared(PAGE)?,
            troubles,
        })
    }

    fn word(&self, figure: Figure) -> &AtomicU64 {
        self.memory.atomic(0, figure as usize)
    }

    pub(super) fn add(&self, figure: Figure, count: u64) {
        self.word(figure).fetch_add(count, Ordering::SeqCst);
    }

    pub(super) fn get(&self, figure: Figure) -> u64 {
        self.word(figure).load(Ordering::SeqCst)
    }

    fn of(&self, name: &str, of: Of) -> &AtomicU64 {
        let index = self
            .troubles
            .iter()
            .position(|trouble| trouble.name == name);
        let index = index.unwrap_or_else(|| panic!("{name} is not among the scenario's troubles"));
        let word = FIRST_TROUBLE + index * PER_TROUBLE + of as usize;
        self.memory.atomic(0, word)
    }

    /// The requests now; for [`happened`](Self::happened).
    pub(super) fn moment(&self) -> Moment {
        // In this order: a request that begins in between counts as in flight, none as ended.
        let ended = self.get(Figure::Ended);
        let begun = self.get(Figure::Begun);
        Moment { begun, ended }
    }

    /// A trouble happened between a moment and now, to memory of which so many pages were on the
    /// device.
    pub(super) fn happened(&self, name: &str, since: Moment, on_device: usize) {
        self.of(name, Of::Times).fetch_add(1, Ordering::SeqCst);
        let in_flight = since.begun > since.ended || self.get(Figure::Begun) > since.begun;
        self.of(name, Of::InFlight)
            .fetch_add(u64::from(in_flight), Ordering::SeqCst);
        self.of(name, Of::OnDevice)
            .fetch_add(on_device as u64, Ordering::SeqCst);
    }

    /// Requests of processes that were killed have no end: how many there are, and they count as
    /// ended. No others may be under way.
    pub(super) fn settle(&self) -> u64 {
        let missing = self
            .get(Figure::Begun)
            .saturating_sub(self.get(Figure::Ended));
        self.add(Figure::Ended, missing);
        missing
    }

    /// A trouble happened, of which the scenario itself knows that a migration was in flight.
    pub(super) fn happened_in_flight(&self, name: &str) {
        self.of(name, Of::Times).fetch_add(1, Ordering::SeqCst);
        self.of(name, Of::InFlight).fetch_add(1, Ordering::SeqCst);
    }

    /// How often a trouble happened while migrations were in flight.
    pub(super) fn in_flight(&self, name: &str) -> u64 {
        self.of(name, Of::InFlight).load(Ordering::SeqCst)
    }

    /// All that is told.
    pub(super) fn counted(&self) -> BTreeMap<String, u64> {
        let mut counted: BTreeMap<String, u64> = FIGURES
            .iter()
            .map(|(figure, name)| ((*name).to_owned(), self.get(*figure)))
            .collect();
        for trouble in self.troubles {
            let mut put = |name: String, of| {
                counted.insert(name, self.of(trouble.name, of).load(Ordering::SeqCst));
            };
            put(trouble.name.to_owned(), Of::Times);
            if !trouble.at_rest {
                put(format!("{}_in_flight", trouble.name), Of::InFlight);
            }
            if trouble.on_memory {
                put(format!("{}_pages_on_device", trouble.name), Of::OnDevice);
            }
        }
        counted
    }

    /// Fails with the first figure that shows that nothing was tested.
    pub(super) fn prove(&self) -> Result<()> {
        for (figure, what) in [
            (Figure::ToDevice, "moved to the device"),
            (Figure::ToSystem, "came home by request"),
            (Figure::Verified, "was compared"),
        ] {
            if self.get(figure) == 0 {
                bail!("nothing was tested: nothing {what}");
            }
        }
        for trouble in self.troubles {
            let name = trouble.name;
            if trouble.at_rest {
                if self.of(name, Of::Times).load(Ordering::SeqCst) == 0 {
                    bail!("nothing was tested: no {name}");
                }
            } else if self.in_flight(name) == 0 {
                bail!("nothing was tested: no {name} while a migration was in flight");
            }
            if trouble.on_memory && self.of(name, Of::OnDevice).load(Ordering::SeqCst) == 0 {
                bail!("nothing was tested: no {name} of memory on the device");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TROUBLES: &[Trouble] = &[to_memory("munmap"), trouble("freeze")];

    #[test]
    fn a_scenario_that_tested_nothing_is_found_out() {
        let tally = Tally::new(TROUBLES).unwrap();
        let reason = || tally.prove().unwrap_err().to_string();
        assert!(reason().contains("moved to the device"), "{}", reason());
        for figure in [Figure::ToDevice, Figure::ToSystem, Figure::Verified] {
            tally.add(figure, 1);
        }
        assert!(reason().contains("no munmap while"), "{}", reason());

        // Without a request in flight it does not count.
        tally.happened("munmap", tally.moment(), 7);
        assert!(reason().contains("no munmap while"), "{}", reason());
        tally.add(Figure::Begun, 1);
        let during = tally.moment();
        tally.happened("freeze", during, 0);
        tally.add(Figure::Ended, 1);
        tally.happened("munmap", during, 0);
        tally.prove().unwrap();
        let counted = tally.counted();
        assert_eq!(counted["munmap"], 2);
        assert_eq!(counted["munmap_in_flight"], 1);
        assert_eq!(counted["munmap_pages_on_device"], 7);
        assert_eq!(counted["freeze_in_flight"], 1);
        assert!(!counted.contains_key("freeze_pages_on_device"));
    }

    #[test]
    fn what_is_made_at_rest_has_to_happen_and_claims_no_more() {
        const AT_REST: &[Trouble] = &[at_rest("clear")];
        let tally = Tally::new(AT_REST).unwrap();
        for figure in [Figure::ToDevice, Figure::ToSystem, Figure::Verified] {
            tally.add(figure, 1);
        }
        let reason = tally.prove().unwrap_err().to_string();
        assert!(reason.contains("no clear"), "{reason}");
        tally.happened("clear", tally.moment(), 0);
        tally.prove().unwrap();
        assert_eq!(tally.counted()["clear"], 1);
        assert!(!tally.counted().contains_key("clear_in_flight"));
    }

    #[test]
    fn a_request_that_begins_meanwhile_counts() {
        let tally = Tally::new(TROUBLES).unwrap();
        let before = tally.moment();
        tally.add(Figure::Begun, 1);
        tally.add(Figure::Ended, 1);
        tally.happened("freeze", before, 0);
        assert_eq!(tally.in_flight("freeze"), 1);
    }

    #[test]
    fn children_count_in_the_same_place() {
        let tally = Tally::new(TROUBLES).unwrap();
        let child = crate::sys::fork::fork(|| {
            tally.add(Figure::Jobs, 3);
            0
        });
        child.unwrap().wait().unwrap();
        assert_eq!(tally.get(Figure::Jobs), 3);
    }
}
