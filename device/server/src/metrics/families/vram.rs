//! VRAM: how much of it, and in which pieces.

use std::fmt::Display;

use hmmgpu_telemetry::snapshot::{Snapshot, VramFolios};

use super::{Family, counter, gauge, name};
use crate::metrics::text::Samples;

pub(super) const FAMILIES: &[Family] = &[
    gauge(
        "hmmgpu_vram_size_bytes",
        "bytes",
        "Size of VRAM.",
        |to, from| {
            to.put(&[], from.vram.bytes);
        },
    ),
    gauge(
        "hmmgpu_vram_used_bytes",
        "bytes",
        "VRAM in use.",
        |to, from| {
            to.put(&[], from.vram.used_bytes);
        },
    ),
    gauge(
        "hmmgpu_vram_peak_bytes",
        "bytes",
        "Most VRAM in use at any time.",
        |to, from| {
            to.put(&[], from.vram.peak_bytes);
        },
    ),
    gauge(
        "hmmgpu_vram_largest_free_bytes",
        "bytes",
        "Largest free range of VRAM.",
        |to, from| {
            to.put(&[], from.vram.largest_free_bytes);
        },
    ),
    gauge(
        "hmmgpu_vram_fragmentation_ratio",
        "ratio",
        "Share of free VRAM that is in no free and aligned block of 2 MiB.",
        |to, from| to.put(&[], from.vram.fragmentation),
    ),
    gauge(
        "hmmgpu_vram_folios",
        "folios",
        "Folios in VRAM by order and state.",
        |to, from| {
            each_folio_kind(to, from, |row| row.folios);
        },
    ),
    gauge(
        "hmmgpu_vram_folio_bytes",
        "bytes",
        "VRAM in use by order and state.",
        |to, from| {
            each_folio_kind(to, from, |row| row.bytes);
        },
    ),
    counter(
        "hmmgpu_vram_inconsistent_notes_total",
        "",
        "Notes of the driver that contradict the ones before them.",
        |to, from| to.put(&[], from.vram.inconsistent_notes),
    ),
];

fn each_folio_kind(samples: &mut Samples<'_>, snapshot: &Snapshot, value: fn(&VramFolios) -> u64) {
    for row in &snapshot.vram.folios {
        let labels: [(&str, &dyn Display); 2] =
            [("order", &row.order), ("state", &name(row.state))];
        samples.put(&labels, value(row));
    }
}
