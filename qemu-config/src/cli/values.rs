//! Values of arguments, checked as they are parsed.

use std::time::Duration;

use crate::profile::{check_cpus, check_gpus, check_kernel_arg, check_memory, check_vram};
use crate::size::Size;

pub(super) fn size_with(text: &str, check: fn(Size) -> Result<(), String>) -> Result<Size, String> {
    let size: Size = text
        .parse()
        .map_err(|error: crate::size::SizeError| error.to_string())?;
    check(size).map(|()| size)
}

pub(super) fn memory(text: &str) -> Result<Size, String> {
    size_with(text, check_memory)
}

pub(super) fn vram(text: &str) -> Result<Size, String> {
    size_with(text, check_vram)
}

pub(super) fn two_mib(text: &str) -> Result<Size, String> {
    size_with(text, crate::bench::plan::check_two_mib)
}

pub(super) fn cpus(text: &str) -> Result<u32, String> {
    let cpus = text
        .parse()
        .map_err(|_| format!("'{text}' is not a number"))?;
    check_cpus(cpus).map(|()| cpus)
}

pub(super) fn gpus(text: &str) -> Result<u32, String> {
    let gpus = text
        .parse()
        .map_err(|_| format!("'{text}' is not a number"))?;
    check_gpus(gpus).map(|()| gpus)
}

pub(super) fn kernel_arg(text: &str) -> Result<String, String> {
    check_kernel_arg(text).map(|()| text.to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => 0,
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
    {
        Some(seconds @ 1..=31_536_000) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!(
            "'{text}' is not a time; write for example 90s, 10m or 1h"
        )),
    }
}

/// An interval: seconds, with a fraction where wanted.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.05..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("'{text}' is not 0.05 to 3600 seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(duration("99999999999999999999h").is_err());
    }

    #[test]
    fn intervals_have_bounds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("3600"), Ok(Duration::from_secs(3600)));
        for text in ["", "0", "-1", "0.01", "3601", "nan", "inf", "soon"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
