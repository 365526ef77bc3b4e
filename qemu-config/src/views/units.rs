//! Numbers as people read them. None is longer than ten characters.

/// Bytes in powers of 1024.
pub(crate) fn bytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1023.5 {
            return format!("{} {unit}", three_digits(value, unit == "B"));
        }
        value /= 1024.0;
    }
    format!("{} TiB", three_digits(value, false))
}

/// Bytes a second in powers of 1000.
pub(crate) fn rate(per_second: f64) -> String {
    let mut value = per_second;
    for unit in ["B/s", "kB/s", "MB/s"] {
        if value < 999.5 {
            return format!("{} {unit}", three_digits(value, unit == "B/s"));
        }
        value /= 1000.0;
    }
    format!("{} GB/s", three_digits(value, false))
}

/// A rate that may not be known.
pub(crate) fn rate_or_dash(per_second: Option<f64>) -> String {
    per_second.map_or_else(|| "-".into(), rate)
}

/// A time.
pub(crate) fn time(ns: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut value = ns as f64;
    for unit in ["ns", "us", "ms"] {
        if value < 999.5 {
            return format!("{} {unit}", three_digits(value, unit == "ns"));
        }
        value /= 1000.0;
    }
    format!("{} s", three_digits(value, false))
}

/// A time that may not be known.
pub(crate) fn time_or_dash(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".into(), time)
}

/// A count.
pub(crate) fn count(count: u64) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    short_count(count)
}

/// A count where there is little room: five characters up to 999 thousand million.
pub(crate) fn short_count(count: u64) -> String {
    if count < 10_000 {
        return count.to_string();
    }
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let mut value = count as f64;
    for unit in ["", "k", "M", "G"] {
        if value < 999.5 {
            return format!("{}{unit}", three_digits(value, false));
        }
        value /= 1000.0;
    }
    format!("{}T", three_digits(value, false))
}

/// Counts a second.
pub(crate) fn per_second(value: f64) -> String {
    if value < 999.5 {
        format!("{}/s", three_digits(value, value == 0.0))
    } else if value < 999_500.0 {
        format!("{}k/s", three_digits(value / 1000.0, false))
    } else {
        format!("{}M/s", three_digits(value / 1e6, false))
    }
}

/// A share of one.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A share that may not be known.
pub(crate) fn percent_or_dash(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), percent)
}

/// How long something runs: `1:02:03`.
pub(crate) fn uptime(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    format!(
        "{}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Cut to a width in characters, with a mark where something is missing.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('~');
    short
}

fn three_digits(value: f64, whole: bool) -> String {
    if whole || value >= 99.95 {
        format!("{value:.0}")
    } else if value >= 9.995 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(4 << 30), "4.00 GiB");
        assert_eq!(bytes(640 << 20), "640 MiB");
        assert_eq!(rate(9.163e9), "9.16 GB/s");
        assert_eq!(rate(999_700.0), "1.00 MB/s");
        assert_eq!(rate(0.0), "0 B/s");
        assert_eq!(time(3_474_000), "3.47 ms");
        assert_eq!(time(12), "12 ns");
        assert_eq!(count(99_999), "99999");
        assert_eq!(count(1_234_567), "1.23M");
        assert_eq!(short_count(9999), "9999");
        assert_eq!(short_count(30_796), "30.8k");
        assert_eq!(per_second(0.0), "0/s");
        assert_eq!(per_second(12_345.0), "12.3k/s");
        assert_eq!(per_second(2.5e6), "2.50M/s");
        assert_eq!(percent(0.794), "79 %");
        assert_eq!(uptime(3_723_000_000_000), "1:02:03");
        assert_eq!(cut("abcdef", 4), "abc~");
    }

    #[test]
    fn nothing_is_longer_than_its_column() {
        for value in [u64::MAX, u64::MAX / 3, 1 << 62, 1_048_575, 999_999] {
            assert!(count(value).len() <= 10, "{}", count(value));
            let short = short_count(value % 1_000_000_000_000);
            assert!(short.len() <= 5, "{short}");
        }
        for exponent in 0..15 {
            let value = 9.9996 * 10f64.powi(exponent);
            assert!(rate(value).len() <= 12, "{}", rate(value));
        }
    }
}
