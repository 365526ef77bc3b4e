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
 * @direction: DIR value
 * @trigger: TRIGGER value
 * @nr: number of entries
 * @stop: entries from here on are left alone
 * @stop_reason: why
 * @keep: what moves to the device should be the last to be evicted
 * @whole: a large folio is not taken apart for want of room in VRAM
 * @single_fallback: take one page where 2 MiB cannot be had
 * @fence: fence behind the copies
 * @submitted: the fence was submitted
 * @present: pages that are already where they should go
 * @moved: pages that moved
 * @max_order: largest order that moved
 * @on_device: entries that the core left out because they are on the device
 * @nr_maps: number of @maps
 * @nr_notes: number of @notes
 * @nr_descs: number of @descs
 * @maps: system memory that the device may reach
 * @src: what the core says about each page
 * @dst: what it is told
 * @notes: descriptors that tell of allocations
 * @descs: descriptors that move data
 */
struct hmmgpu_batch {
	struct list_head link;
	struct hmmgpu_device *hdev;
	struct migrate_vma args;
	unsigned int direction;
	unsigned int trigger;
	unsigned int nr;
	unsigned int stop;
	enum hmmgpu_stop stop_reason;
	bool keep;
	bool whole;
	bool single_fallback;
	struct hmmgpu_fence fence;
	bool submitted;
	unsigned long present;
	unsigned long moved;
	unsigned int max_order;
	DECLARE_BITMAP(on_device, HMMGPU_BATCH_PAGES);
	unsigned int nr_maps;
	unsigned int nr_notes;
	unsigned int nr_descs;
	struct hmmgpu_map maps[HMMGPU_BATCH_PAGES];
	unsigned long src[HMMGPU_BATCH_PAGES];
	unsigned long dst[HMMGPU_BATCH_PAGES];
	struct hmmgpu_desc notes[HMMGPU_BATCH_PAGES];
	struct hmmgpu_desc descs[HMMGPU_BATCH_PAGES];
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
 * @id: unique on the device
 * @direction: DIR value
 * @trigger: TRIGGER value
 * @start_ns: when it began
 */
struct hmmgpu_span {
	u64 id;
	unsigned int direction;
	unsigned int trigger;
	u64 start_ns;
};

/* batch.c */
struct hmmgpu_batch *hmmgpu_batch_get(struct hmmgpu_device *hdev,
				      unsigned int direction,
				      unsigned int trigger);
void hmmgpu_batch_put(struct hmmgpu_batch *batch);
void hmmgpu_batch_free_all(struct hmmgpu_device *hdev);
bool hmmgpu_unit_next(struct hmmgpu_batch *batch, struct hmmgpu_unit *unit);
bool hmmgpu_shared_large(struct hmmgpu_device *hdev, struct vm_area_struct *vma,
			 unsigned long addr);
unsigned int hmmgpu_batch_find(struct hmmgpu_batch *batch,
			       struct vm_area_struct *vma, unsigned long start,
			       unsigned long end);
int hmmgpu_batch_collect(struct hmmgpu_batch *batch, struct vm_area_struct *vma,
			 unsigned long start, unsigned long end,
			 unsigned long flags, struct page *fault_page);
void hmmgpu_batch_collect_pfns(struct hmmgpu_batch *batch, unsigned int nr);
void hmmgpu_batch_copy(struct hmmgpu_batch *batch);
int hmmgpu_batch_commit(struct hmmgpu_batch *batch);
void hmmgpu_batch_finish(struct hmmgpu_batch *batch);

/* destination.c */
void hmmgpu_batch_alloc(struct hmmgpu_batch *batch);
void hmmgpu_batch_unmap(struct hmmgpu_batch *batch);
void hmmgpu_batch_drop(struct hmmgpu_batch *batch);

/* span.c */
void hmmgpu_span_begin(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
		       unsigned int direction, unsigned int trigger,
		       unsigned long addr, unsigned long pages);
void hmmgpu_span_end(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
		     unsigned int order, unsigned long pages);

#endif /* HMMGPU_BATCH_H */
