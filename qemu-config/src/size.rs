//! Sizes in bytes, as people write and read them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes. Written as a whole number with an optional suffix `K`, `M`, `G` or `T`
/// (powers of 1024; `KiB` and `KB` mean the same).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

/// 1 MiB.
pub const MIB: u64 = 1 << 20;
/// 1 GiB.
pub const GIB: u64 = 1 << 30;

/// A text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a size: {reason}; write for example 256M or 4G")]
pub struct SizeError {
    text: String,
    reason: &'static str,
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = |reason| SizeError {
            text: text.chars().take(40).collect(),
            reason,
        };
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = trimmed.split_at(digits);
        if number.is_empty() {
            return Err(error("it does not begin with a number"));
        }
        let shift = match suffix.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(error("the suffix is none of K, M, G, T")),
        };
        let number: u64 = number.parse().map_err(|_| error("it is too large"))?;
        number
            .checked_mul(1 << shift)
            .map(Size)
            .ok_or_else(|| error("it is too large"))
    }
}

impl fmt::Display for Size {
    /// The largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096b", 4096),
            ("2K", 2048),
            ("256M", 256 << 20),
            ("256m", 256 << 20),
            ("4GiB", 4 << 30),
            ("4gb", 4 << 30),
            ("1T", 1 << 40),
            (" 1G ", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "begin with a number"),
            ("G", "begin with a number"),
            ("-1", "begin with a number"),
            ("1.5G", "suffix"),
            ("1X", "suffix"),
            ("1 G", "suffix"),
            ("99999999999999999999", "too large"),
            ("99999999999T", "too large"),
        ] {
            let error = text.parse::<Size>().expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(
                error.contains("256M"),
                "an error says what to write: {error}"
            );
        }
    }

    #[test]
    fn a_long_text_is_cut_in_the_error() {
        assert!(
            "x".repeat(10_000)
                .parse::<Size>()
                .expect_err("nonsense")
                .to_string()
                .len()
                < 200
        );
    }

    #[test]
    fn display_is_read_back() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 20, 3 << 29, 1 << 40, u64::MAX] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(256 << 20).to_string(), "256M");
        assert_eq!(Size(3 << 29).to_string(), "1536M");
    }
}
