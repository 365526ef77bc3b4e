//! Which metrics there are, and where in a snapshot they come from.

mod events;
mod mmu;
mod moves;
mod processes;
mod vram;

use hmmgpu_telemetry::snapshot::Snapshot;
use serde::Serialize;

use super::text::Samples;

/// What may be done with a metric's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They only grow.
    Counter,
    /// They go up and down.
    Gauge,
    /// They are distributions.
    Histogram,
}

/// Metrics of one name.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Empty where it counts what its name says.
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
    pub(super) samples: fn(&mut Samples<'_>, &Snapshot),
}

const fn counter(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    samples: fn(&mut Samples<'_>, &Snapshot),
) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        unit,
        help,
        samples,
    }
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    samples: fn(&mut Samples<'_>, &Snapshot),
) -> Family {
    Family {
        name,
        kind: Kind::Gauge,
        unit,
        help,
        samples,
    }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    samples: fn(&mut Samples<'_>, &Snapshot),
) -> Family {
    Family {
        name,
        kind: Kind::Histogram,
        unit: "seconds",
        help,
        samples,
    }
}

/// Names of all series that there can be, as they are queried.
pub fn metric_names() -> Vec<String> {
    all()
        .flat_map(|family| {
            let suffixes: &[&str] = match family.kind {
                Kind::Histogram => &["_bucket", "_count", "_sum"],
                Kind::Counter | Kind::Gauge => &[""],
            };
            suffixes
                .iter()
                .map(|suffix| format!("{}{suffix}", family.name))
        })
        .collect()
}

/// The name that a value has in snapshots.
fn name(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// All of them, in the order in which they are written. Every one has the label `gpu`.
pub(super) fn all() -> impl Iterator<Item = &'static Family> {
    [
        vram::FAMILIES,
        moves::FAMILIES,
        processes::FAMILIES,
        events::FAMILIES,
        mmu::FAMILIES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_say_what_they_are() {
        let names: BTreeSet<&str> = all().map(|family| family.name).collect();
        assert_eq!(names.len(), all().count(), "each name once");
        for family in all() {
            let name = family.name;
            assert!(name.starts_with("hmmgpu_"), "{name}");
            let counter = family.kind == Kind::Counter;
            assert_eq!(name.ends_with("_total"), counter, "{name}");
            let stem = name.strip_suffix("_total").unwrap_or(name);
            assert!(stem.ends_with(family.unit), "{name}: {}", family.unit);
            assert!(family.help.ends_with('.'), "{name}");
            assert!(!family.help.contains(['\\', '\n']), "{name}");
        }
    }
}
