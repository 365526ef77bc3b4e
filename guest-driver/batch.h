/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One batch of a migration and its five phases, in the order in which they run:
 * collect, alloc, copy, commit, finish.
 *
 * Between copy and commit the engine works. Another batch may be collected,
 * allocated and submitted meanwhile, also under the same mmap_lock.
 */
#ifndef HMMGPU_BATCH_H
#define HMMGPU_BATCH_H

#include <linux/dma-direction.h>
#include <linux/sched/clock.h>

#include "hmmgpu_drv.h"

/**
 * enum hmmgpu_stop - why the last entries of a batch are left alone
 * @HMMGPU_STOP_NONE: they are not
 * @HMMGPU_STOP_SMALL: no large destination; single pages may do
 * @HMMGPU_STOP_FULL: no destination at all
 */
enum hmmgpu_stop {
	HMMGPU_STOP_NONE,
	HMMGPU_STOP_SMALL,
	HMMGPU_STOP_FULL,
};

/**
 * struct hmmgpu_map - system memory that the device may reach
 * @addr: DMA address
 * @order: order of the folio
 */
struct hmmgpu_map {
	dma_addr_t addr;
	unsigned int order;
};

/**
 * struct hmmgpu_batch - one batch
 * @link: in &hmmgpu_device.batches while it is spare
 * @hdev: the device
 * @args: arguments of the core; without a VMA, pages are named by pfn
 * @span: the migration that it is part of
 * @nr: number of entries
 * @stop: entries from here on are left alone
 * @stop_reason: why
 * @stop_fallback: with HMMGPU_STOP_SMALL: FALLBACK value
 * @keep: what moves to the device should be the last to be evicted
 * @whole: a large folio is not taken apart for want of room in VRAM
 * @single_fallback: take one page where 2 MiB cannot be had
 * @fence: fence behind the copies
 * @submitted: the fence was submitted
 * @present: pages that are already where they should go
 * @lost: pages whose content a reset has taken
 * @moved: pages that moved
 * @max_order: largest order that moved
 * @on_device: entries that the core left out because they are on the device
 * @stuck: to the device only: a large folio is among what the core left out
 * @nr_copied: folios that are copied, single pages and large ones
 * @nr_filled: folios that are filled, likewise
 * @run: pages of VRAM that are taken for it and not used yet
 * @nr_maps: number of @maps
 * @nr_notes: number of @notes
 * @nr_descs: number of @descs
 * @maps: system memory that the device may reach
 * @src: what the core says about each page; the second half see
 *       hmmgpu_batch_collect()
 * @dst: what it is told
 * @notes: descriptors that tell of allocations
 * @descs: descriptors that move data
 * @check: the checksum of each copy is compared
 * @checksums: what for, once that was so
 */
struct hmmgpu_batch {
	struct list_head link;
	struct hmmgpu_device *hdev;
	struct migrate_vma args;
	struct hmmgpu_span *span;
	unsigned int nr;
	unsigned int stop;
	enum hmmgpu_stop stop_reason;
	unsigned int stop_fallback;
	bool keep;
	bool whole;
	bool single_fallback;
	struct hmmgpu_fence fence;
	bool submitted;
	unsigned long present;
	unsigned long lost;
	unsigned long moved;
	unsigned int max_order;
	DECLARE_BITMAP(on_device, HMMGPU_BATCH_PAGES);
	bool stuck;
	unsigned int nr_copied[2];
	unsigned int nr_filled[2];
	struct hmmgpu_vram_run run;
	unsigned int nr_maps;
	unsigned int nr_notes;
	unsigned int nr_descs;
	struct hmmgpu_map maps[HMMGPU_BATCH_PAGES];
	unsigned long src[2 * HMMGPU_BATCH_PAGES];
	unsigned long dst[2 * HMMGPU_BATCH_PAGES];
	struct hmmgpu_desc notes[HMMGPU_BATCH_PAGES];
	struct hmmgpu_desc descs[HMMGPU_BATCH_PAGES];
	bool check;
	struct hmmgpu_checksums *checksums;
};

/**
 * struct hmmgpu_unit - cursor over the units of a batch
 * @index: first entry of the unit
 * @order: its order
 * @page: its first page, NULL for a hole or for nothing
 * @migrate: the core lets it migrate
 * @next: first entry of the next unit
 */
struct hmmgpu_unit {
	unsigned int index;
	unsigned int order;
	struct page *page;
	bool migrate;
	unsigned int next;
};

/**
 * struct hmmgpu_span - one migration, for the host's clock
 * @direction: DIR value
 * @trigger: TRIGGER value
 * @id: unique on the device
 * @process: whose memory moves; an id of zero if it is not that of one process
 * @asked: pages that are asked to move
 * @start_ns: when it began
 * @phase_ns: time that this thread spent in each phase of its batches
 * @fallbacks: large folios that did not move whole, by FALLBACK value
 *
 * Whoever begins one sets the first two, and has all else zero.
 */
struct hmmgpu_span {
	unsigned int direction;
	unsigned int trigger;
	u64 id;
	struct hmmgpu_process process;
	u32 asked;
	u64 start_ns;
	u64 phase_ns[HMMGPU_NR_PHASES];
	u32 fallbacks[HMMGPU_NR_FALLBACKS];
};

/*
 * The time since local_clock() was @start is that of a phase. This clock is cheap
 * everywhere; where processors differ a little, what would be negative is left out.
 */
static inline void hmmgpu_phase_end(struct hmmgpu_batch *batch,
				    enum hmmgpu_phase phase, u64 start)
{
	s64 ns = local_clock() - start;

	if (ns > 0)
		batch->span->phase_ns[phase] += ns;
}

/* batch.c */
struct hmmgpu_batch *hmmgpu_batch_get(struct hmmgpu_device *hdev,
				      struct hmmgpu_span *span);
void hmmgpu_batch_put(struct hmmgpu_batch *batch);
void hmmgpu_batch_free_all(struct hmmgpu_device *hdev);
bool hmmgpu_unit_next(struct hmmgpu_batch *batch, struct hmmgpu_unit *unit);
int hmmgpu_batch_collect(struct hmmgpu_batch *batch, struct vm_area_struct *vma,
			 unsigned long start, unsigned long end,
			 unsigned long flags, struct page *fault_page);
void hmmgpu_batch_collect_pfns(struct hmmgpu_batch *batch, unsigned int nr);
void hmmgpu_batch_copy(struct hmmgpu_batch *batch);
int hmmgpu_batch_commit(struct hmmgpu_batch *batch);
void hmmgpu_batch_finish(struct hmmgpu_batch *batch);

/* checksum.c */
int hmmgpu_checksum_begin(struct hmmgpu_batch *batch);
void hmmgpu_checksum_free(struct hmmgpu_batch *batch);
void hmmgpu_checksum_reset(struct hmmgpu_batch *batch);
void hmmgpu_checksum_want(struct hmmgpu_batch *batch, struct hmmgpu_desc *desc,
			  unsigned int order, struct page *page);
int hmmgpu_checksum_compare(struct hmmgpu_batch *batch);

/* look.c */
bool hmmgpu_find_large(struct hmmgpu_device *hdev, struct vm_area_struct *vma,
		       unsigned long addr, bool on_device, bool *shared);
unsigned int hmmgpu_batch_find(struct hmmgpu_batch *batch,
			       struct vm_area_struct *vma, unsigned long start,
			       unsigned long end);
void hmmgpu_batch_find_left_out(struct hmmgpu_batch *batch);

/* destination.c */
enum dma_data_direction hmmgpu_dma_dir(const struct hmmgpu_batch *batch);
void hmmgpu_batch_alloc(struct hmmgpu_batch *batch);
void hmmgpu_batch_unmap(struct hmmgpu_batch *batch);
void hmmgpu_batch_drop(struct hmmgpu_batch *batch);

/* span.c */
void hmmgpu_span_begin(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
		       const struct mm_struct *mm, unsigned long addr,
		       unsigned long pages);
void hmmgpu_span_fallback(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
			  unsigned long addr, unsigned int reason);
void hmmgpu_span_end(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
		     unsigned int order, unsigned long pages);

#endif /* HMMGPU_BATCH_H */
