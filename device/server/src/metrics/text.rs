//! Prometheus' text format, version 0.0.4: how lines are written.

use std::fmt::{Display, Write};

use hmmgpu_telemetry::snapshot::{Latency, Snapshot};

use super::families::{self, Family, Kind};

/// Of the HTTP answer.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of histograms, in nanoseconds and as they are written, in seconds. They are the
/// same whatever was measured, so that series neither come nor go. Snapshots' own buckets are
/// finer: one across a bound counts above it.
const BOUNDS: [(u64, &str); 25] = [
    (250, "2.5e-07"),
    (500, "5e-07"),
    (1_000, "1e-06"),
    (2_500, "2.5e-06"),
    (5_000, "5e-06"),
    (10_000, "1e-05"),
    (25_000, "2.5e-05"),
    (50_000, "5e-05"),
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
    (60_000_000_000, "60"),
];

/// All metrics of these GPUs.
pub fn prometheus_text(gpus: &[(u32, Snapshot)]) -> String {
    let mut text = String::new();
    for family in families::all() {
        head(&mut text, family);
        for (gpu, snapshot) in gpus {
            let mut samples = Samples {
                text: &mut text,
                name: family.name,
                gpu: *gpu,
            };
            (family.samples)(&mut samples, snapshot);
        }
    }
    text
}

/// What a family is; the help texts have nothing that would have to be escaped.
fn head(text: &mut String, family: &Family) {
    let Family {
        name,
        kind,
        unit,
        help,
        ..
    } = family;
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    put(
        text,
        format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
    );
    if !unit.is_empty() {
        put(text, format_args!("# UNIT {name} {unit}\n"));
    }
}

/// Nanoseconds, written as seconds.
pub(super) fn seconds(ns: u64) -> f64 {
    // Beyond 2^53 ns, a hundred days, the last nanoseconds are lost.
    ns as f64 / 1e9
}

/// A label's name and value.
pub(super) type Label<'a> = (&'a str, &'a dyn Display);

/// Where the samples of one family and GPU are written.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    name: &'static str,
    gpu: u32,
}

impl Samples<'_> {
    /// One value.
    pub(super) fn put(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.sample("", labels, None, value);
    }

    /// One distribution.
    pub(super) fn histogram(&mut self, labels: &[Label<'_>], latency: &Latency) {
        let mut buckets = latency.buckets.iter().peekable();
        let mut below = 0;
        for (bound, le) in BOUNDS {
            while let Some((_, samples)) = buckets.next_if(|(upper, _)| *upper <= bound) {
                below += samples;
            }
            self.sample("_bucket", labels, Some(le), below);
        }
        self.sample("_bucket", labels, Some("+Inf"), latency.count);
        self.sample("_sum", labels, None, seconds(latency.sum_ns));
        self.sample("_count", labels, None, latency.count);
    }

    fn sample(
        &mut self,
        suffix: &str,
        labels: &[Label<'_>],
        le: Option<&str>,
        value: impl Display,
    ) {
        let (name, gpu) = (self.name, self.gpu);
        put(self.text, format_args!("{name}{suffix}{{gpu=\"{gpu}\""));
        for (label, value) in labels {
            put(self.text, format_args!(",{label}=\""));
            let _ = write!(Escaped(self.text), "{value}");
            self.text.push('"');
        }
        if let Some(le) = le {
            put(self.text, format_args!(",le=\"{le}\""));
        }
        put(self.text, format_args!("}} {value}\n"));
    }
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = text.write_fmt(what);
}

/// Escapes what a label's value may not hold.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Samples<'_>)) -> String {
        let mut text = String::new();
        write(&mut Samples {
            text: &mut text,
            name: "m",
            gpu: 3,
        });
        text
    }

    #[test]
    fn labels_are_escaped() {
        let text = written(|samples| samples.put(&[("name", &"a\\b\"c\nd{},ä")], 7));
        assert_eq!(text, "m{gpu=\"3\",name=\"a\\\\b\\\"c\\nd{},ä\"} 7\n");
    }

    #[test]
    fn bounds_grow_and_are_written_as_what_they_are() {
        assert!(BOUNDS.is_sorted_by(|a, b| a.0 < b.0));
        for (ns, text) in BOUNDS {
            assert_eq!(text.parse::<f64>().expect("a number"), seconds(ns));
        }
    }

    #[test]
    fn histograms_are_cumulative() {
        let latency = Latency {
            count: 8,
            sum_ns: 2_500_000_000,
            buckets: vec![
                (250, 1),
                (251, 2),
                (1_000, 1),
                (2_000_000, 3),
                (u64::MAX, 1),
            ],
            ..Latency::default()
        };
        let text = written(|samples| samples.histogram(&[("order", &9)], &latency));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), BOUNDS.len() + 3);
        for (line, expected) in [
            (0, "m_bucket{gpu=\"3\",order=\"9\",le=\"2.5e-07\"} 1"),
            (1, "m_bucket{gpu=\"3\",order=\"9\",le=\"5e-07\"} 3"),
            (2, "m_bucket{gpu=\"3\",order=\"9\",le=\"1e-06\"} 4"),
            (11, "m_bucket{gpu=\"3\",order=\"9\",le=\"0.001\"} 4"),
            (12, "m_bucket{gpu=\"3\",order=\"9\",le=\"0.0025\"} 7"),
            (24, "m_bucket{gpu=\"3\",order=\"9\",le=\"60\"} 7"),
            (25, "m_bucket{gpu=\"3\",order=\"9\",le=\"+Inf\"} 8"),
            (26, "m_sum{gpu=\"3\",order=\"9\"} 2.5"),
            (27, "m_count{gpu=\"3\",order=\"9\"} 8"),
        ] {
            assert_eq!(lines[line], expected);
        }
    }
}
