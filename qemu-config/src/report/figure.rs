//! Figures: as text, as data, and as places on an axis.

use maud::{Markup, html};
use serde::Serialize;

/// A figure of the result as shown text, with its place in the JSON and its value there.
pub(super) fn figure(key: &str, value: impl Serialize, shown: &str) -> Markup {
    html! { data data-key=(key) data-value=(json(value)) { (shown) } }
}

/// As the JSON has it.
pub(super) fn json(value: impl Serialize) -> String {
    serde_json::to_string(&value).unwrap_or_default()
}

/// As a float: counts here are far below 2^53, where it is exact.
#[allow(clippy::cast_precision_loss)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Bytes in the largest unit that leaves a whole number or so.
pub(super) fn bytes(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (size, unit) in units {
        if bytes >= size {
            let figure = float(bytes) / float(size);
            return if bytes.is_multiple_of(size) {
                format!("{figure:.0} {unit}")
            } else {
                format!("{figure:.1} {unit}")
            };
        }
    }
    format!("{bytes} B")
}

/// Size of a folio.
pub(super) fn folio(order: u8) -> String {
    if order > 40 {
        // No such folio exists; a result may say so nevertheless.
        return format!("2^{} B", u32::from(order) + 12);
    }
    bytes(4096 << order)
}

/// A time that may be short or long.
pub(super) fn seconds(seconds: f64) -> String {
    let (figure, unit) = if seconds >= 1.0 {
        (seconds, "s")
    } else if seconds >= 1e-3 {
        (seconds * 1e3, "ms")
    } else {
        (seconds * 1e6, "us")
    };
    if figure >= 100.0 || figure == 0.0 {
        format!("{figure:.0} {unit}")
    } else if figure >= 10.0 {
        format!("{figure:.1} {unit}")
    } else {
        format!("{figure:.2} {unit}")
    }
}

/// A rate in the unit that fits, also for the small ones that a slow host has.
pub(super) fn rate(bytes_per_s: f64) -> String {
    let (figure, unit) = if bytes_per_s >= 1e15 {
        return format!("{bytes_per_s:.1e} B/s");
    } else if bytes_per_s >= 1e9 {
        (bytes_per_s / 1e9, "GB/s")
    } else if bytes_per_s >= 1e6 {
        (bytes_per_s / 1e6, "MB/s")
    } else {
        (bytes_per_s / 1e3, "kB/s")
    };
    if figure >= 100.0 {
        format!("{figure:.0} {unit}")
    } else {
        format!("{figure:.1} {unit}")
    }
}

/// A logarithmic axis. Its ends are 1, 2 or 5 of a decade.
pub(super) struct LogAxis {
    first: f64,
    last: f64,
}

impl LogAxis {
    /// Holds all of these that are above zero; none if there are none.
    pub(super) fn over(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut range: Option<(f64, f64)> = None;
        for figure in figures.filter(|figure| figure.is_finite() && *figure > 0.0) {
            let (min, max) = range.unwrap_or((figure, figure));
            range = Some((min.min(figure), max.max(figure)));
        }
        let (min, max) = range?;
        let steps = |figure: f64| {
            let decade = figure.log10().floor();
            [0.0, 2_f64.log10(), 5_f64.log10(), 1.0].map(|step| decade + step)
        };
        let below = |step: &f64| *step <= min.log10() + 1e-9;
        let first = steps(min).into_iter().rfind(below)?;
        let last = steps(max)
            .into_iter()
            .find(|step| *step >= max.log10() - 1e-9)?;
        // A tick has to be within.
        Some(Self {
            first,
            last: if last - first < 1.0 {
                first + 1.0
            } else {
                last
            },
        })
    }

    /// Where a figure is, in percent of the width.
    pub(super) fn place(&self, figure: f64) -> f64 {
        if figure <= 0.0 {
            return 0.0;
        }
        ((figure.log10() - self.first) / (self.last - self.first) * 100.0).clamp(0.0, 100.0)
    }

    /// Its ticks: at decades, as few as have room for a label each.
    #[allow(clippy::cast_possible_truncation)] // The logarithm of a float is within 400.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let first = (self.first - 1e-9).ceil() as i32;
        let last = (self.last + 1e-9).floor() as i32;
        let decades = usize::try_from(last - first).unwrap_or(0);
        (first..=last)
            .step_by((decades + 1).div_ceil(3).max(1))
            .map(|exponent| 10_f64.powi(exponent))
            .collect()
    }
}

/// A percentage as SVG wants it.
pub(super) fn place(percent: f64) -> String {
    format!("{percent:.2}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_what_it_is_made_of() {
        let axis = LogAxis::over([1.5e8, 9e9, 0.0, f64::NAN].into_iter()).unwrap();
        assert_eq!(axis.ticks(), [1e8, 1e9, 1e10]);
        assert!((axis.place(1e9) - 50.0).abs() < 1e-9);
        let axis = LogAxis::over([2.5e8, 1.2e10].into_iter()).unwrap();
        assert_eq!(axis.ticks(), [1e9, 1e10]);
        assert!((axis.place(2e8), axis.place(2e10)) == (0.0, 100.0));
        let narrow = LogAxis::over([3.0, 3.1].into_iter()).unwrap();
        assert_eq!(narrow.ticks(), [10.0]);
        assert_eq!((axis.place(0.0), axis.place(1e99)), (0.0, 100.0));
        assert!(LogAxis::over([0.0].into_iter()).is_none());
        let wide = LogAxis::over([1e-300, 1e300].into_iter()).unwrap();
        assert!(wide.ticks().len() <= 4);
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            (bytes(512), bytes(4096), bytes(2 << 20)),
            ("512 B".into(), "4 KiB".into(), "2 MiB".into())
        );
        assert_eq!(bytes((1 << 30) + (1 << 29)), "1.5 GiB");
        assert_eq!((folio(9), folio(255)), ("2 MiB".into(), "2^267 B".into()));
        assert_eq!(
            (seconds(0.0), seconds(1.5e-5), seconds(0.25)),
            ("0 us".into(), "15.0 us".into(), "250 ms".into())
        );
        assert_eq!(
            (rate(9.14e9), rate(3.04e8), rate(1e300)),
            ("9.1 GB/s".into(), "304 MB/s".into(), "1.0e300 B/s".into())
        );
    }
}
