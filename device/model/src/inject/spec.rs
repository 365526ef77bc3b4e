//! What may be made to go wrong, and when: the grammar of `docs/faults.md`.
//!
//! ```text
//! SPEC   = SITE [ "." PART ] ":" ACTION [ "@" WHEN ] [ "*" TIMES ]
//! SITE   = copy | fence | interrupt | fault | translation | engine | vram | gpu
//! PART   = of copy: sys_to_dev | dev_to_sys | dev_to_dev | sys_to_sys
//!          of fence: copy | invalidation
//! ACTION = fail | corrupt | drop | delay=TIME | hang[=TIME] | full=SIZE | reset | gone
//! WHEN   = N | every:N | rate:P[,seed:S]
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hmmgpu_telemetry::snapshot::{FaultAction, FaultSite};

/// Longest time that something can be delayed for.
const MAX_DELAY: Duration = Duration::from_secs(3600);
/// Longest text that is quoted in an error.
const QUOTED: usize = 60;

/// Which of those that come by at a site are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// Those of one name.
    Only(&'static str),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It ends with an error.
    Fail,
    /// It is done wrong.
    Corrupt,
    /// It is not done, and nobody is told.
    Drop,
    /// It is done so much later.
    Delay(Duration),
    /// The engine stands still: so long, or until a reset.
    Hang(Option<Duration>),
    /// There is no VRAM from this byte offset on.
    Full(u64),
    /// The device resets itself.
    Reset,
    /// The device is not there any more.
    Gone,
}

impl Action {
    /// Without its value.
    pub fn kind(self) -> FaultAction {
        match self {
            Self::Fail => FaultAction::Fail,
            Self::Corrupt => FaultAction::Corrupt,
            Self::Drop => FaultAction::Drop,
            Self::Delay(_) => FaultAction::Delay,
            Self::Hang(_) => FaultAction::Hang,
            Self::Full(_) => FaultAction::Full,
            Self::Reset => FaultAction::Reset,
            Self::Gone => FaultAction::Gone,
        }
    }
}

/// Which of those that come by it hits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// At once, without waiting for anything to come by; of the device as a whole only.
    Now,
    /// The one of this number, counted from 1 since it was armed, and those after it.
    From(u64),
    /// Every so manieth.
    Every(u64),
    /// Each with this probability, by a generator of this seed.
    Rate {
        /// Probability, above 0, at most 1.
        probability: f64,
        /// Seed: the same one hits the same ones.
        seed: u64,
    },
}

/// A fault to be injected.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultSpec {
    /// Where.
    pub site: FaultSite,
    /// Which of those there.
    pub part: Part,
    /// What.
    pub action: Action,
    /// When.
    pub when: When,
    /// How often at most; `None`: without end.
    pub times: Option<u64>,
    text: String,
}

/// A text is not a fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a fault: {reason}")]
pub struct SpecError {
    text: String,
    reason: String,
}

const SITES: [(&str, FaultSite); 8] = [
    ("copy", FaultSite::Copy),
    ("fence", FaultSite::Fence),
    ("interrupt", FaultSite::Interrupt),
    ("fault", FaultSite::Fault),
    ("translation", FaultSite::Translation),
    ("engine", FaultSite::Engine),
    ("vram", FaultSite::Vram),
    ("gpu", FaultSite::Gpu),
];

/// Names of sites, for people.
const SITE_NAMES: &str = "copy, fence, interrupt, fault, translation, engine, vram, gpu";
/// No site of a device: its process, which the command does something to from outside.
const SERVER: &str = "server";

/// Actions of each site, for people.
fn actions_of(site: FaultSite) -> &'static str {
    match site {
        FaultSite::Copy | FaultSite::Fence | FaultSite::Translation => {
            "fail, corrupt, drop, delay=TIME"
        }
        FaultSite::Interrupt | FaultSite::Fault => "corrupt, drop, delay=TIME",
        FaultSite::Engine => "hang, hang=TIME",
        FaultSite::Vram => "full=SIZE",
        FaultSite::Gpu => "reset, gone",
    }
}

fn parts_of(site: FaultSite) -> &'static [&'static str] {
    match site {
        FaultSite::Copy => &["sys_to_dev", "dev_to_sys", "dev_to_dev", "sys_to_sys"],
        FaultSite::Fence => &["copy", "invalidation"],
        _ => &[],
    }
}

impl FromStr for FaultSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        parse(text.trim()).map_err(|reason| SpecError {
            text: text.chars().take(QUOTED).collect(),
            reason,
        })
    }
}

impl fmt::Display for FaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse(text: &str) -> Result<FaultSpec, String> {
    let (site, rest) = text
        .split_once(':')
        .ok_or("write SITE:ACTION, for example copy:fail@100")?;
    let (site, part) = match site.split_once('.') {
        Some((site, part)) => (site, Some(part)),
        None => (site, None),
    };
    let site = SITES
        .iter()
        .find(|(name, _)| *name == site)
        .map(|(_, site)| *site)
        .ok_or_else(|| no_such_site(site))?;
    let part = match part {
        None => Part::All,
        Some(part) => parse_part(site, part)?,
    };
    let (rest, times) = match rest.rsplit_once('*') {
        Some((rest, times)) => (rest, Some(positive(times, "times")?)),
        None => (rest, None),
    };
    let (action, when) = match rest.split_once('@') {
        Some((action, when)) => (action, Some(when)),
        None => (rest, None),
    };
    let action = parse_action(site, action)?;
    let when = match when {
        Some(when) => parse_when(when)?,
        None if site == FaultSite::Gpu => When::Now,
        // A condition, which lasts.
        None if site == FaultSite::Vram => When::Every(1),
        None => When::From(1),
    };
    let once = matches!(when, When::Now | When::From(_)) && site != FaultSite::Vram;
    Ok(FaultSpec {
        site,
        part,
        action,
        when,
        times: times.or(once.then_some(1)),
        text: text.to_owned(),
    })
}

fn no_such_site(site: &str) -> String {
    if site == SERVER {
        "a server's process is killed or stopped by 'hmmgpu inject' alone, while it runs".to_owned()
    } else {
        format!(
            "there is no such site; there are {SITE_NAMES}; \
             'hmmgpu inject' also knows {SERVER}:kill and {SERVER}:stop=TIME"
        )
    }
}

fn parse_part(site: FaultSite, text: &str) -> Result<Part, String> {
    let parts = parts_of(site);
    match parts.iter().find(|part| **part == text) {
        Some(part) => Ok(Part::Only(part)),
        None if parts.is_empty() => Err("this site has no parts".to_owned()),
        None => Err(format!("its parts are {}", parts.join(", "))),
    }
}

fn parse_action(site: FaultSite, text: &str) -> Result<Action, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let action = match (name, value) {
        ("fail", None) => Action::Fail,
        ("corrupt", None) => Action::Corrupt,
        ("drop", None) => Action::Drop,
        ("delay", Some(time)) => Action::Delay(parse_fault_time(time)?),
        ("hang", None) => Action::Hang(None),
        ("hang", Some(time)) => Action::Hang(Some(parse_fault_time(time)?)),
        ("full", Some(size)) => Action::Full(parse_size(size)?),
        ("reset", None) => Action::Reset,
        ("gone", None) => Action::Gone,
        _ => return Err(format!("here there are {}", actions_of(site))),
    };
    let possible = match site {
        FaultSite::Copy | FaultSite::Fence | FaultSite::Translation => matches!(
            action,
            Action::Fail | Action::Corrupt | Action::Drop | Action::Delay(_)
        ),
        FaultSite::Interrupt | FaultSite::Fault => {
            matches!(action, Action::Corrupt | Action::Drop | Action::Delay(_))
        }
        FaultSite::Engine => matches!(action, Action::Hang(_)),
        FaultSite::Vram => matches!(action, Action::Full(_)),
        FaultSite::Gpu => matches!(action, Action::Reset | Action::Gone),
    };
    if possible {
        Ok(action)
    } else {
        Err(format!("here there are {}", actions_of(site)))
    }
}

fn parse_when(text: &str) -> Result<When, String> {
    if let Some(every) = text.strip_prefix("every:") {
        return positive(every, "every").map(When::Every);
    }
    if let Some(rate) = text.strip_prefix("rate:") {
        let (rate, seed) = match rate.split_once(",seed:") {
            Some((rate, seed)) => {
                let seed = seed
                    .parse()
                    .map_err(|_| "a seed is a whole number".to_owned())?;
                (rate, seed)
            }
            None => (rate, 1),
        };
        let probability = rate
            .parse::<f64>()
            .ok()
            .filter(|rate| *rate > 0.0 && *rate <= 1.0)
            .ok_or("a rate is above 0 and at most 1, for example rate:0.01")?;
        return Ok(When::Rate { probability, seed });
    }
    positive(text, "@").map(When::From)
}

fn positive(text: &str, what: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("{what} takes a whole number from 1 on"))
}

/// A number with a suffix.
fn split_suffix(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

/// A time as faults and links have it: a number and a unit.
///
/// # Errors
/// What a time is like.
pub fn parse_fault_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_suffix(text);
    let number: Option<u64> = number.parse().ok();
    let time = match unit {
        "ns" => number.map(Duration::from_nanos),
        "us" => number.map(Duration::from_micros),
        "ms" => number.map(Duration::from_millis),
        "s" => number.map(Duration::from_secs),
        _ => None,
    };
    time.filter(|time| *time <= MAX_DELAY)
        .ok_or_else(|| "a time is, for example, 500us, 50ms or 2s, an hour at most".to_owned())
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_suffix(text);
    let shift = match unit {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(shift)
        .and_then(|(number, shift)| number.checked_mul(1 << shift))
        .ok_or_else(|| "a size is, for example, 0, 64M or 1G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(text: &str) -> FaultSpec {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_fault_hits_once_unless_it_says_more() {
        let fault = spec("copy:fail@100");
        assert_eq!(fault.site, FaultSite::Copy);
        assert_eq!((fault.action, fault.part), (Action::Fail, Part::All));
        assert_eq!((fault.when, fault.times), (When::From(100), Some(1)));
        assert_eq!(fault.to_string(), "copy:fail@100");
        let fault = spec("copy.dev_to_sys:corrupt@3*2");
        assert_eq!(fault.part, Part::Only("dev_to_sys"));
        assert_eq!((fault.when, fault.times), (When::From(3), Some(2)));
        let fault = spec("copy:delay=50ms@every:10");
        assert_eq!(fault.action, Action::Delay(Duration::from_millis(50)));
        assert_eq!((fault.when, fault.times), (When::Every(10), None));
        let fault = spec("fence.invalidation:drop@rate:0.25,seed:7*9");
        let rate = When::Rate {
            probability: 0.25,
            seed: 7,
        };
        assert_eq!((fault.when, fault.times), (rate, Some(9)));
    }

    #[test]
    fn what_is_left_out_depends_on_the_site() {
        assert_eq!(spec("gpu:gone").when, When::Now);
        assert_eq!(spec("gpu:reset@5").when, When::From(5));
        assert_eq!(spec("engine:hang").when, When::From(1));
        assert_eq!(
            spec("engine:hang=2s").action,
            Action::Hang(Some(Duration::from_secs(2)))
        );
        let full = spec("vram:full=64M");
        assert_eq!(full.action, Action::Full(64 << 20));
        assert_eq!((full.when, full.times), (When::Every(1), None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "SITE:ACTION"),
            ("copy", "SITE:ACTION"),
            ("copies:fail", "copy, fence"),
            ("copies:fail", "knows server:kill and server:stop=TIME"),
            ("server:kill", "by 'hmmgpu inject' alone, while it runs"),
            ("server:stop=1s", "by 'hmmgpu inject' alone, while it runs"),
            ("copy:burn", "fail, corrupt, drop, delay=TIME"),
            ("copy:delay", "delay=TIME"),
            ("copy:delay=5", "50ms"),
            ("copy:delay=2h", "50ms"),
            ("copy:delay=3601s", "an hour"),
            ("copy:fail@0", "from 1 on"),
            ("copy:fail@every:", "from 1 on"),
            ("copy:fail@rate:0", "above 0"),
            ("copy:fail@rate:nan", "above 0"),
            ("copy:fail@rate:1,seed:x", "whole number"),
            ("copy:fail*0", "from 1 on"),
            ("copy.up:fail", "sys_to_dev, dev_to_sys"),
            ("gpu.0:gone", "no parts"),
            ("interrupt:fail", "corrupt, drop"),
            ("vram:full=99999999999G", "64M"),
            ("engine:drop", "hang"),
        ] {
            let error = text.parse::<FaultSpec>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<FaultSpec>();
        }

        #[test]
        fn nothing_like_a_fault_panics(
            text in "(copy|gpu|vram|fence)(\\.[a-z_]{0,10})?:(fail|delay|full|hang)(=[0-9]{0,25}[a-zA-Z]{0,2})?(@[a-z:0-9.,]{0,30})?(\\*[0-9]{0,25})?"
        ) {
            if let Ok(fault) = text.parse::<FaultSpec>() {
                prop_assert_eq!(fault.to_string(), text);
            }
        }
    }
}
