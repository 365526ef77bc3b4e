//! Faults on purpose and links, as inputs arm and model them.

use arbitrary::Arbitrary;
use hmmgpu_model::{FaultSpec, LinkSpec, When as SpecWhen};
use hmmgpu_telemetry::snapshot::FaultSite;

/// What queues serve.
const SERVED: &[&str] = &["fail", "corrupt", "drop", "delay="];
/// What the device tells.
const TOLD: &[&str] = &["corrupt", "drop", "delay="];

/// Sites, of which some are parts of others, and what can go wrong there.
const SITES: [(&str, &[&str]); 14] = [
    ("copy", SERVED),
    ("copy.sys_to_dev", SERVED),
    ("copy.dev_to_sys", SERVED),
    ("copy.dev_to_dev", SERVED),
    ("copy.sys_to_sys", SERVED),
    ("fence", SERVED),
    ("fence.copy", SERVED),
    ("fence.invalidation", SERVED),
    ("interrupt", TOLD),
    ("fault", TOLD),
    ("translation", SERVED),
    ("engine", &["hang", "hang="]),
    ("vram", &["full="]),
    ("gpu", &["reset", "gone"]),
];

const LINKS: [&str; 4] = ["off", "pcie3-x1", "pcie5-x16", "c2c,20us"];

/// A fault that is possible.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(crate) struct Fault {
    site: u8,
    action: u8,
    /// A time, or a size: of few milliseconds, or up to about all of VRAM.
    amount: u8,
    when: When,
    /// 0: nothing is said of it.
    times: u8,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
enum When {
    Unsaid,
    From(u8),
    Every(u8),
    Rate { percent: u8, seed: u8 },
}

/// A part of a list that a byte chooses.
fn chosen<T>(list: &[T], by: u8) -> &T {
    &list[usize::from(by) % list.len()]
}

impl Fault {
    fn text(self) -> String {
        let (site, actions) = *chosen(&SITES, self.site);
        let action = *chosen(actions, self.action);
        let amount = u32::from(self.amount);
        let value = match action {
            "full=" => format!("{}K", amount * 256),
            "delay=" | "hang=" => format!("{}us", amount * 8),
            _ => String::new(),
        };
        let when = match self.when {
            When::Unsaid => String::new(),
            When::From(first) => format!("@{}", u32::from(first) + 1),
            When::Every(every) => format!("@every:{}", u32::from(every) + 1),
            When::Rate { percent, seed } => {
                let probability = f64::from(percent % 100 + 1) / 100.0;
                format!("@rate:{probability},seed:{seed}")
            }
        };
        let times = match self.times {
            0 => String::new(),
            times => format!("*{times}"),
        };
        format!("{site}:{action}{value}{when}{times}")
    }

    pub(crate) fn spec(self) -> FaultSpec {
        self.text()
            .parse()
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A link, or none.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(crate) struct Link(u8);

impl Link {
    pub(crate) fn spec(self) -> LinkSpec {
        chosen(&LINKS, self.0).parse().expect("a link")
    }
}

/// What may have gone wrong since all was cleared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breakage {
    pub(crate) fences: bool,
    pub(crate) translations: bool,
    /// The device may reset itself, or be gone, whenever it copies.
    pub(crate) device: bool,
}

impl Breakage {
    /// This one is about to be armed.
    pub(crate) fn add(&mut self, fault: &FaultSpec) {
        match fault.site {
            FaultSite::Fence => self.fences = true,
            FaultSite::Translation => self.translations = true,
            FaultSite::Gpu if !is_at_once(fault) || fault.times != Some(1) => self.device = true,
            _ => {}
        }
    }
}

/// It happens as soon as it is armed.
pub(crate) fn is_at_once(fault: &FaultSpec) -> bool {
    fault.when == SpecWhen::Now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_input_says_is_a_fault_or_a_link() {
        let whens = [
            When::Unsaid,
            When::From(255),
            When::Every(0),
            When::Rate {
                percent: 99,
                seed: 255,
            },
        ];
        for number in 0..=255 {
            Link(number).spec();
            for when in whens {
                for action in 0..4 {
                    let fault = Fault {
                        site: number,
                        action,
                        amount: number,
                        when,
                        times: number,
                    };
                    assert_eq!(fault.spec().to_string(), fault.text());
                }
            }
        }
    }
}
