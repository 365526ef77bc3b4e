//! What links there are, and how one is written: see `docs/link.md`.
//!
//! ```text
//! SPEC = off | (NAME | RATE [ "/" RATE ]) [ "," LATENCY ]
//! NAME = pcie3-x1 … pcie5-x16 | c2c
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Rates that can be modelled, in bytes a second.
const RATES: std::ops::RangeInclusive<u64> = 1_000_000..=1_000_000_000_000;
/// Longest latency.
const MAX_LATENCY: Duration = Duration::from_secs(1);
/// Longest text that is quoted in an error.
const QUOTED: usize = 60;

/// What one lane of PCIe 4 carries in bytes a second, besides what the protocol needs: 16 of them were
/// measured at 25 GB/s. Version 3 carries half of it and version 5 twice as much.
const PCIE4_LANE: u64 = 1_562_500_000;
/// Of what has a name: the order of magnitude of a round trip.
const LATENCY: Duration = Duration::from_micros(1);

/// How fast a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRates {
    /// From guest RAM to VRAM, in bytes a second.
    pub to_device: u64,
    /// From VRAM to guest RAM, in bytes a second.
    pub to_system: u64,
    /// From when the last byte was carried until the other side knows of it.
    pub latency: Duration,
}

/// A link, or none: as fast as the host copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    text: String,
    rates: Option<LinkRates>,
}

/// A text is not a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a link: {reason}")]
pub struct LinkError {
    text: String,
    reason: &'static str,
}

impl LinkSpec {
    /// No link: as fast as the host copies.
    pub fn off() -> Self {
        Self {
            text: "off".to_owned(),
            rates: None,
        }
    }

    /// How fast it is; `None`: there is no link.
    pub fn rates(&self) -> Option<LinkRates> {
        self.rates
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for LinkSpec {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        match parse(text) {
            Ok(rates) => Ok(Self {
                text: text.to_owned(),
                rates,
            }),
            Err(reason) => Err(LinkError {
                text: text.chars().take(QUOTED).collect(),
                reason,
            }),
        }
    }
}

fn parse(text: &str) -> Result<Option<LinkRates>, &'static str> {
    if text == "off" {
        return Ok(None);
    }
    let (link, latency) = match text.split_once(',') {
        Some((link, latency)) => (link, Some(latency)),
        None => (text, None),
    };
    let mut rates = match named(link) {
        Some(rates) => rates,
        None => own(link)?,
    };
    if let Some(latency) = latency {
        rates.latency = crate::inject::parse_fault_time(latency)
            .ok()
            .filter(|latency| *latency <= MAX_LATENCY)
            .ok_or("a latency is, for example, 500ns or 2us, a second at most")?;
    }
    Ok(Some(rates))
}

/// A link that has a name.
fn named(name: &str) -> Option<LinkRates> {
    let (to_device, to_system) = match name {
        // What was measured on a GH200.
        "c2c" => (375_000_000_000, 297_000_000_000),
        _ => {
            let (version, lanes) = name.strip_prefix("pcie")?.split_once("-x")?;
            let lanes = match lanes {
                "1" => 1,
                "2" => 2,
                "4" => 4,
                "8" => 8,
                "16" => 16,
                _ => return None,
            };
            let rate = match version {
                "3" => PCIE4_LANE / 2 * lanes,
                "4" => PCIE4_LANE * lanes,
                "5" => PCIE4_LANE * 2 * lanes,
                _ => return None,
            };
            (rate, rate)
        }
    };
    Some(LinkRates {
        to_device,
        to_system,
        latency: LATENCY,
    })
}

/// A link of one's own.
fn own(text: &str) -> Result<LinkRates, &'static str> {
    let (to_device, to_system) = match text.split_once('/') {
        Some((to_device, to_system)) => (rate(to_device)?, rate(to_system)?),
        None => (rate(text)?, rate(text)?),
    };
    Ok(LinkRates {
        to_device,
        to_system,
        latency: Duration::ZERO,
    })
}

fn rate(text: &str) -> Result<u64, &'static str> {
    const WHAT: &str = "write off, pcie3-x1 to pcie5-x16, c2c, or bytes a second from 1M to 1000G, \
                        for example 12.5G or 8G/6G";
    let (number, unit) = match text.strip_suffix('G') {
        Some(number) => (number, 1e9),
        None => (text.strip_suffix('M').ok_or(WHAT)?, 1e6),
    };
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    let number: f64 = number
        .bytes()
        .all(plain)
        .then(|| number.parse().ok())
        .flatten()
        .ok_or(WHAT)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // Saturates, and is in bounds then or not.
    let rate = (number * unit) as u64;
    RATES.contains(&rate).then_some(rate).ok_or(WHAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(text: &str) -> LinkRates {
        let spec: LinkSpec = text.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(spec.to_string(), text);
        spec.rates().expect("a link")
    }

    #[test]
    fn links_have_names() {
        let us = Duration::from_micros;
        let pcie = |to_device| LinkRates {
            to_device,
            to_system: to_device,
            latency: us(1),
        };
        assert_eq!(rates("pcie4-x16"), pcie(25_000_000_000));
        assert_eq!(rates("pcie3-x16"), pcie(12_500_000_000));
        assert_eq!(rates("pcie5-x16"), pcie(50_000_000_000));
        assert_eq!(rates("pcie3-x1"), pcie(781_250_000));
        let c2c = rates("c2c,3us");
        assert_eq!(c2c.to_device, 375_000_000_000);
        assert_eq!(c2c.to_system, 297_000_000_000);
        assert_eq!(c2c.latency, us(3));
        let off: LinkSpec = "off".parse().expect("no link");
        assert_eq!((off.rates(), &off), (None, &LinkSpec::off()));
    }

    #[test]
    fn links_of_ones_own() {
        let own = rates("12.5G");
        assert_eq!(own.to_device, 12_500_000_000);
        assert_eq!(
            (own.to_system, own.latency),
            (own.to_device, Duration::ZERO)
        );
        let own = rates("8G/600M,2us");
        assert_eq!((own.to_device, own.to_system), (8_000_000_000, 600_000_000));
        assert_eq!(own.latency, Duration::from_micros(2));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "pcie3-x1"),
            ("pcie6-x16", "pcie5-x16"),
            ("pcie4-x3", "pcie5-x16"),
            ("5", "12.5G"),
            ("0G", "1M to"),
            ("1001G", "1M to"),
            ("-5G", "12.5G"),
            ("infG", "12.5G"),
            ("5e3G", "12.5G"),
            ("5G/", "12.5G"),
            ("5G,2", "500ns"),
            ("5G,2s", "a second"),
            ("off,2us", "12.5G"),
        ] {
            let error = text.parse::<LinkSpec>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_like_a_link_panics(text in "(pcie[0-9-x]{0,6}|[0-9.]{0,30}[GM]?(/[0-9.]{0,9}G)?)(,[0-9]{0,25}[a-z]{0,2})?") {
            if let Ok(spec) = text.parse::<LinkSpec>() {
                prop_assert_eq!(spec.to_string(), text);
            }
        }
    }
}
