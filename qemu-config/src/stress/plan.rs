//! Which scenarios run on which machine, for how long, and where to go on after a failure.

use std::time::Duration;

use hmmgpu_guest_protocol::stress::{Machine, SCENARIOS, StressPlan, WORK};

/// Scenarios that one guest can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What they need.
    pub machine: Machine,
    /// Their names, in order.
    pub scenarios: Vec<String>,
}

/// The chosen scenarios, or all, by machine.
pub fn groups(chosen: &[String]) -> Vec<Group> {
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|one| one == name);
    let groups = Machine::ALL.iter().map(|machine| {
        let scenarios = SCENARIOS.iter().filter(|one| one.machine == *machine);
        let names = scenarios.map(|one| one.name.to_owned());
        Group {
            machine: *machine,
            scenarios: names.filter(|name| wanted(name)).collect(),
        }
    });
    groups.filter(|group| !group.scenarios.is_empty()).collect()
}

/// How long each of so many scenarios works, if all together have so much time: half of its share
/// and no more than usual, because to begin and to compare everything at the end takes time too.
pub fn work(time: Option<Duration>, scenarios: usize) -> Duration {
    let Some(time) = time else {
        return WORK;
    };
    let share = time / 2 / u32::try_from(scenarios.max(1)).unwrap_or(u32::MAX);
    share.clamp(Duration::from_secs(1), WORK)
}

/// The share of `these` scenarios of what time is left for them and for `later` ones: so whoever
/// comes later makes up for what others took too long.
pub fn share(left: Duration, these: usize, later: usize) -> Duration {
    let count = |scenarios: usize| u32::try_from(scenarios).unwrap_or(u32::MAX);
    left / count(these + later).max(1) * count(these)
}

/// The time of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// All of its scenarios together; none: each runs once.
    pub all: Option<Duration>,
    /// How long each works.
    pub work: Duration,
}

impl Group {
    /// What the next guest is to do, which begins with this scenario of this round after so much
    /// of the time; none when there is nothing left.
    pub fn plan(
        &self,
        seed: u32,
        from: (u32, usize),
        time: Time,
        gone: Duration,
    ) -> Option<StressPlan> {
        let (round, _) = from;
        let left = time.all.map(|time| time.saturating_sub(gone));
        match left {
            None if round > 1 => return None,
            Some(left) if round > 1 && left.is_zero() => return None,
            _ => {}
        }
        Some(StressPlan {
            scenarios: self.scenarios.clone(),
            seed,
            from,
            last: left.is_none().then_some(1),
            seconds: left.map(|left| left.as_secs()),
            work: time.work.as_secs(),
        })
    }

    /// The round, and the scenario in it, that come after this one.
    pub fn after(&self, round: u32, name: &str) -> (u32, usize) {
        let index = self.scenarios.iter().position(|one| one == name);
        match index.map_or(0, |index| index + 1) {
            next if next < self.scenarios.len() => (round, next),
            _ => (round + 1, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group {
            machine: Machine::Plain,
            scenarios: vec!["a".into(), "b".into()],
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn every_scenario_is_in_the_group_of_its_machine() {
        let groups = groups(&[]);
        let names: usize = groups.iter().map(|group| group.scenarios.len()).sum();
        assert_eq!(names, SCENARIOS.len());
        for group in &groups {
            for name in &group.scenarios {
                let scenario = hmmgpu_guest_protocol::stress::scenario(name).expect("is known");
                assert_eq!(scenario.machine, group.machine);
            }
        }
        assert!(super::groups(&["nonsense".into()]).is_empty());
    }

    #[test]
    fn what_is_left_is_shared_evenly() {
        assert_eq!(share(seconds(600), 15, 5), seconds(450));
        // The others took longer than that.
        assert_eq!(share(seconds(50), 2, 3), seconds(20));
        assert_eq!(share(Duration::ZERO, 3, 0), Duration::ZERO);
    }

    #[test]
    fn scenarios_work_for_half_of_their_share_and_no_longer_than_usual() {
        assert_eq!(work(None, 22), WORK);
        assert_eq!(work(Some(seconds(1800)), 22), WORK);
        assert_eq!(work(Some(seconds(120)), 20), seconds(3));
        assert_eq!(work(Some(seconds(1)), 20), seconds(1));
    }

    #[test]
    fn without_a_time_each_runs_once() {
        let group = group();
        let time = Time {
            all: None,
            work: WORK,
        };
        let plan = group.plan(7, (1, 1), time, seconds(1000)).expect("a plan");
        assert_eq!(
            (plan.last, plan.seconds, plan.from, plan.work),
            (Some(1), None, (1, 1), WORK.as_secs())
        );
        assert_eq!(group.after(1, "a"), (1, 1));
        assert_eq!(group.after(1, "b"), (2, 0));
        assert_eq!(group.plan(7, (2, 0), time, Duration::ZERO), None);
    }

    #[test]
    fn the_first_round_is_completed_whatever_the_time() {
        let group = group();
        let time = Time {
            all: Some(seconds(100)),
            work: seconds(2),
        };
        let plan = |from, gone| group.plan(1, from, time, seconds(gone));
        let first = plan((1, 1), 500).expect("a plan");
        assert_eq!((first.seconds, first.work), (Some(0), 2));
        assert_eq!(plan((3, 1), 60).expect("a plan").seconds, Some(40));
        assert_eq!(plan((3, 1), 60).expect("a plan").last, None);
        assert_eq!(plan((2, 0), 100), None);
    }
}
