//! What holds in every snapshot.

use hmmgpu_contract::{PAGE_SIZE, VRAM_BLOCK_BYTES};
use hmmgpu_telemetry::snapshot::{Latency, Snapshot, Transfers};

/// Its figures agree with each other.
///
/// # Panics
/// They do not.
pub(crate) fn check(snapshot: &Snapshot) {
    let Snapshot {
        vram,
        transfers,
        spans,
        queues,
        mmu,
        windows,
        ..
    } = snapshot;
    assert!(vram.used_bytes <= vram.peak_bytes && vram.peak_bytes <= vram.bytes);
    assert!(vram.largest_free_bytes <= vram.bytes - vram.used_bytes);
    let blocks: u64 = vram.map.iter().map(|run| u64::from(run.blocks)).sum();
    assert_eq!(blocks, vram.bytes / VRAM_BLOCK_BYTES, "blocks of the map");
    for folios in &vram.folios {
        let size = PAGE_SIZE << folios.order;
        assert!(folios.bytes <= folios.folios * size, "{folios:?}");
    }
    let in_folios: u64 = vram.folios.iter().map(|folios| folios.bytes).sum();
    assert_eq!(in_folios, vram.used_bytes, "folios of VRAM");
    transfers.iter().for_each(check_transfers);
    for window in windows {
        window.transfers.iter().for_each(check_transfers);
    }
    for row in spans {
        check_latency(&row.latency);
        assert_eq!(row.latency.count, row.count, "{row:?}");
        assert!(row.phases.spans <= row.count, "{row:?}");
    }
    for queue in queues {
        assert!(queue.depth <= queue.entries, "{queue:?}");
    }
    assert!(mmu.tlb_hits <= mmu.translations && mmu.walks <= mmu.translations);
}

fn check_transfers(row: &Transfers) {
    let size = PAGE_SIZE << row.order;
    assert_eq!(row.bytes, row.folios * size, "{row:?}");
    assert_eq!(row.filled_bytes, row.filled_folios * size, "{row:?}");
    check_latency(&row.latency);
    check_latency(&row.queue_wait);
}

fn check_latency(latency: &Latency) {
    let counted: u64 = latency.buckets.iter().map(|(_, count)| count).sum();
    assert_eq!(counted, latency.count, "{latency:?}");
    assert!(latency.min_ns <= latency.max_ns, "{latency:?}");
}
