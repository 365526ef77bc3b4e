//! Which scenarios run on which machine, for how long, and where to go on after a failure.

use std::time::Duration;

use hmmgpu_guest_protocol::stress::{Machine, SCENARIOS, StressPlan};

/// Scenarios that one guest can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What they need.
    pub machine: Machine,
    /// Their names, in order.
    pub scenarios: Vec<String>,
    /// The time that they have together; none: each runs once.
    pub time: Option<Duration>,
}

/// The chosen scenarios, or all, by machine; each has the same share of the time.
pub fn groups(chosen: &[String], time: Option<Duration>) -> Vec<Group> {
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|one| one == name);
    let of = |machine| {
        let scenarios = SCENARIOS.iter().filter(move |one| one.machine == machine);
        let names = scenarios.map(|one| one.name.to_owned());
        names.filter(|name| wanted(name)).collect::<Vec<_>>()
    };
    let all: usize = Machine::ALL.iter().map(|machine| of(*machine).len()).sum();
    let groups = Machine::ALL.iter().map(|machine| {
        let scenarios = of(*machine);
        let share = |time: Duration| {
            let one = time / u32::try_from(all.max(1)).unwrap_or(u32::MAX);
            one * u32::try_from(scenarios.len()).unwrap_or(u32::MAX)
        };
        Group {
            machine: *machine,
            time: time.map(share),
            scenarios,
        }
    });
    groups.filter(|group| !group.scenarios.is_empty()).collect()
}

impl Group {
    /// What the next guest is to do, which begins with this scenario of this round after so much
    /// of the time; none when there is nothing left.
    pub fn plan(&self, seed: u32, from: (u32, usize), gone: Duration) -> Option<StressPlan> {
        let (round, _) = from;
        let left = self.time.map(|time| time.saturating_sub(gone));
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

    fn group(time: Option<u64>) -> Group {
        Group {
            machine: Machine::Plain,
            scenarios: vec!["a".into(), "b".into()],
            time: time.map(Duration::from_secs),
        }
    }

    #[test]
    fn every_scenario_is_in_one_group_and_has_its_share() {
        let groups = groups(&[], Some(Duration::from_secs(600)));
        let names: usize = groups.iter().map(|group| group.scenarios.len()).sum();
        assert_eq!(names, SCENARIOS.len());
        for group in &groups {
            for name in &group.scenarios {
                let scenario = hmmgpu_guest_protocol::stress::scenario(name).expect("is known");
                assert_eq!(scenario.machine, group.machine);
            }
            let share = group.time.expect("a time").as_secs_f64();
            let one = 600.0 / SCENARIOS.len() as f64;
            assert!((share / group.scenarios.len() as f64 - one).abs() < 0.01);
        }
        assert!(super::groups(&["nonsense".into()], None).is_empty());
    }

    #[test]
    fn without_a_time_each_runs_once() {
        let group = group(None);
        let plan = group
            .plan(7, (1, 1), Duration::from_secs(1000))
            .expect("a plan");
        assert_eq!(
            (plan.last, plan.seconds, plan.from),
            (Some(1), None, (1, 1))
        );
        assert_eq!(group.after(1, "a"), (1, 1));
        assert_eq!(group.after(1, "b"), (2, 0));
        assert_eq!(group.plan(7, (2, 0), Duration::ZERO), None);
    }

    #[test]
    fn the_first_round_is_completed_whatever_the_time() {
        let group = group(Some(100));
        let plan = |from, gone| group.plan(1, from, Duration::from_secs(gone));
        assert_eq!(plan((1, 1), 500).expect("a plan").seconds, Some(0));
        assert_eq!(plan((3, 1), 60).expect("a plan").seconds, Some(40));
        assert_eq!(plan((3, 1), 60).expect("a plan").last, None);
        assert_eq!(plan((2, 0), 100), None);
    }
}
