// SPDX-License-Identifier: GPL-2.0-only
/*
 * Batches: their memory, the cursor over their entries, and the phases of a
 * migration other than alloc (destination.c).
 */
#include <linux/moduleparam.h>
#include <linux/slab.h>

#include "batch.h"

/* How often copies of which one has failed are repeated. */
#define HMMGPU_COPY_RETRIES	2

/* How often a range is collected whose page table goes meanwhile. */
#define HMMGPU_COLLECT_TRIES	3

/*
 * What a migration costs besides its copy can be measured by leaving that out. To
 * set this taints the kernel.
 */
static bool hmmgpu_floor;
module_param_named_unsafe(floor, hmmgpu_floor, bool, 0644);
MODULE_PARM_DESC(floor, "Debug: migrate memory without copying or filling it. DATA IS LOST, in both directions: for measurements only (default off)");

/**
 * hmmgpu_batch_get() - get a batch
 * @hdev: the device
 * @span: the migration that it will be part of
 *
 * Context: Process context, may sleep.
 * Return: the batch, or NULL if there is no memory.
 */
struct hmmgpu_batch *hmmgpu_batch_get(struct hmmgpu_device *hdev,
				      struct hmmgpu_span *span)
{
	struct hmmgpu_batch *batch;

	spin_lock(&hdev->batch_lock);
	batch = list_first_entry_or_null(&hdev->batches, struct hmmgpu_batch,
					 link);
	if (batch) {
		list_del(&batch->link);
		hdev->nr_batches--;
	}
	spin_unlock(&hdev->batch_lock);

	if (!batch) {
		batch = kvmalloc(sizeof(*batch), GFP_KERNEL);
		if (!batch)
			return NULL;
		batch->checksums = NULL;
	}
	batch->hdev = hdev;
	batch->span = span;
	batch->keep = false;
	batch->whole = false;
	batch->single_fallback = false;
	if (hmmgpu_checksum_begin(batch)) {
		hmmgpu_batch_put(batch);
		return NULL;
	}
	return batch;
}

/**
 * hmmgpu_batch_put() - give a batch back
 * @batch: the batch, or NULL
 *
 * Context: Process context.
 */
void hmmgpu_batch_put(struct hmmgpu_batch *batch)
{
	struct hmmgpu_device *hdev;

	if (!batch)
		return;
	hdev = batch->hdev;
	spin_lock(&hdev->batch_lock);
	if (hdev->nr_batches < HMMGPU_SPARE_BATCHES) {
		list_add(&batch->link, &hdev->batches);
		hdev->nr_batches++;
		batch = NULL;
	}
	spin_unlock(&hdev->batch_lock);
	if (batch)
		hmmgpu_checksum_free(batch);
	kvfree(batch);
}

/**
 * hmmgpu_batch_free_all() - free the spare batches
 * @hdev: the device
 */
void hmmgpu_batch_free_all(struct hmmgpu_device *hdev)
{
	struct hmmgpu_batch *batch, *next;

	list_for_each_entry_safe(batch, next, &hdev->batches, link) {
		hmmgpu_checksum_free(batch);
		kvfree(batch);
	}
	INIT_LIST_HEAD(&hdev->batches);
	hdev->nr_batches = 0;
}

static unsigned int hmmgpu_unit_order(unsigned long src)
{
	struct page *page = migrate_pfn_to_page(src);

	if (!(src & MIGRATE_PFN_COMPOUND))
		return 0;
	/* A compound entry without a page is a hole, or was refused. */
	return page ? folio_order(page_folio(page)) : HMMGPU_LARGE_ORDER;
}

/**
 * hmmgpu_unit_next() - go to the next unit of a batch
 * @batch: a batch that was collected
 * @unit: the cursor, zeroed at first
 *
 * The only place that knows how compound entries look. They may change between
 * two phases, when the core splits a folio, so each phase walks anew.
 *
 * Return: false at the end.
 */
bool hmmgpu_unit_next(struct hmmgpu_batch *batch, struct hmmgpu_unit *unit)
{
	unsigned long src;

	unit->index = unit->next;
	if (unit->index >= batch->stop)
		return false;
	src = batch->src[unit->index];
	unit->order = hmmgpu_unit_order(src);
	unit->page = migrate_pfn_to_page(src);
	unit->migrate = src & MIGRATE_PFN_MIGRATE;
	unit->next = unit->index + (1U << unit->order);
	return true;
}

static void hmmgpu_batch_reset(struct hmmgpu_batch *batch, unsigned int nr)
{
	batch->nr = nr;
	batch->stop = nr;
	batch->stop_reason = HMMGPU_STOP_NONE;
	batch->submitted = false;
	batch->present = 0;
	batch->lost = 0;
	batch->moved = 0;
	batch->max_order = 0;
	bitmap_zero(batch->on_device, HMMGPU_BATCH_PAGES);
	batch->stuck = false;
	memset(batch->nr_copied, 0, sizeof(batch->nr_copied));
	memset(batch->nr_filled, 0, sizeof(batch->nr_filled));
	batch->run.nr = 0;
	batch->nr_maps = 0;
	batch->nr_notes = 0;
	batch->nr_descs = 0;
	hmmgpu_checksum_reset(batch);
}

/**
 * hmmgpu_batch_collect() - phase 1: isolate and unmap the pages of a range
 * @batch: the batch
 * @vma: the VMA
 * @start: first address
 * @end: end of the range, which lies in @vma and in the same 2 MiB as @start
 * @flags: MIGRATE_VMA_SELECT flags
 * @fault_page: page of the CPU fault, or NULL
 *
 * Only folios of order 0, and of 2 MiB that are mapped and selected as a whole, stay
 * as they are. The core splits all others, and if it cannot (one pinned page is
 * enough), leaves the rest of the 2 MiB out: those entries are empty and count
 * as skipped.
 *
 * Context: mmap_lock is held.
 * Return: 0, or -EINVAL if the core does not migrate such a VMA.
 */
int hmmgpu_batch_collect(struct hmmgpu_batch *batch, struct vm_area_struct *vma,
			 unsigned long start, unsigned long end,
			 unsigned long flags, struct page *fault_page)
{
	u64 clock = local_clock();
	unsigned int tries = 0;
	int ret;

	mmap_assert_locked(vma->vm_mm);
	do {
		batch->args = (struct migrate_vma) {
			.vma = vma,
			.start = start,
			.end = end,
			.src = batch->src,
			.dst = batch->dst,
			.pgmap_owner = batch->hdev,
			.flags = flags,
			.fault_page = fault_page,
		};
		ret = migrate_vma_setup(&batch->args);
		if (!ret && batch->args.npages != PHYS_PFN(end - start)) {
			migrate_vma_pages(&batch->args);
			migrate_vma_finalize(&batch->args);
			hmmgpu_count(batch->hdev, collected_again, 1);
			ret = -EAGAIN;
		}
	} while (ret == -EAGAIN && ++tries < HMMGPU_COLLECT_TRIES);
	if (!ret) {
		hmmgpu_batch_reset(batch, batch->args.npages);
		if (flags & MIGRATE_VMA_SELECT_SYSTEM)
			hmmgpu_batch_find_left_out(batch);
	}
	hmmgpu_phase_end(batch, HMMGPU_PHASE_COLLECT, clock);
	return ret;
}

/**
 * hmmgpu_batch_collect_pfns() - phase 1: isolate and unmap pages of VRAM
 * @batch: the batch; &hmmgpu_batch.src holds pfns
 * @nr: number of pfns
 *
 * Context: Process context, may sleep.
 */
void hmmgpu_batch_collect_pfns(struct hmmgpu_batch *batch, unsigned int nr)
{
	u64 clock = local_clock();

	batch->args = (struct migrate_vma) { };
	memset(batch->dst, 0, nr * sizeof(*batch->dst));
	migrate_device_pfns(batch->src, nr);
	hmmgpu_batch_reset(batch, nr);
	hmmgpu_phase_end(batch, HMMGPU_PHASE_COLLECT, clock);
}

/*
 * The device gets to know what is allocated, as always, and has nothing to copy or
 * to wait for.
 */
static void hmmgpu_batch_copy_nothing(struct hmmgpu_batch *batch)
{
	struct hmmgpu_submission sub = {
		.notes = batch->notes,
		.nr_notes = batch->nr_notes,
	};
	struct hmmgpu_device *hdev = batch->hdev;

	dev_warn_once(hdev->dev,
		      "parameter floor is set: migrations copy nothing, DATA IS LOST\n");
	memset(batch->nr_copied, 0, sizeof(batch->nr_copied));
	memset(batch->nr_filled, 0, sizeof(batch->nr_filled));
	if (!batch->nr_notes || !hmmgpu_ring_submit(&hdev->ring, &sub))
		batch->nr_descs = 0;
}

/**
 * hmmgpu_batch_copy() - phase 3: let the engine copy
 * @batch: a batch whose destinations are allocated
 *
 * Does not wait. What goes wrong is told by hmmgpu_batch_commit().
 *
 * Context: Process context, may sleep while the ring is full.
 */
void hmmgpu_batch_copy(struct hmmgpu_batch *batch)
{
	struct hmmgpu_submission sub = {
		.notes = batch->notes,
		.nr_notes = batch->nr_notes,
		.descs = batch->descs,
		.nr_descs = batch->nr_descs,
		.fence = &batch->fence,
	};
	u64 clock = local_clock();

	if (READ_ONCE(hmmgpu_floor))
		hmmgpu_batch_copy_nothing(batch);
	else if (batch->nr_descs)
		batch->submitted = !hmmgpu_ring_submit(&batch->hdev->ring,
						       &sub);
	hmmgpu_phase_end(batch, HMMGPU_PHASE_COPY, clock);
}

/* What the device has done, whatever the core makes of it. */
static void hmmgpu_batch_count_copies(struct hmmgpu_batch *batch)
{
	struct hmmgpu_device *hdev = batch->hdev;
	unsigned int large;

	for (large = 0; large < ARRAY_SIZE(batch->nr_copied); large++) {
		unsigned int order = large ? HMMGPU_LARGE_ORDER : 0;
		unsigned int copied = batch->nr_copied[large];
		unsigned int filled = batch->nr_filled[large];

		if (copied && batch->span->direction == HMMGPU_DIR_SYS_TO_DEV)
			hmmgpu_count_at(hdev, sys_to_dev_folios, order, copied);
		else if (copied)
			hmmgpu_count_at(hdev, dev_to_sys_folios, order, copied);
		if (filled)
			hmmgpu_count_at(hdev, filled_folios, order, filled);
	}
}

/* What has come of the copies. */
static int hmmgpu_batch_result(struct hmmgpu_batch *batch)
{
	return hmmgpu_fence_wait(&batch->hdev->ring, &batch->fence) ?:
	       hmmgpu_checksum_compare(batch);
}

/*
 * Once more, from and to the same places: whatever is wrong at the destination
 * is overwritten. The notes were taken the first time.
 */
static int hmmgpu_batch_repeat(struct hmmgpu_batch *batch)
{
	struct hmmgpu_submission sub = {
		.descs = batch->descs,
		.nr_descs = batch->nr_descs,
		.fence = &batch->fence,
	};

	hmmgpu_count(batch->hdev, copy_retries, 1);
	return hmmgpu_ring_submit(&batch->hdev->ring, &sub);
}

static int hmmgpu_batch_wait(struct hmmgpu_batch *batch)
{
	u64 clock = local_clock();
	unsigned int tries;
	int ret = 0;

	if (batch->submitted)
		ret = hmmgpu_batch_result(batch);
	else if (batch->nr_descs)
		ret = -ENODEV;
	/* All at once: who failed is known of the first only, and it is rare. */
	for (tries = 0; ret == -EIO && tries < HMMGPU_COPY_RETRIES; tries++)
		ret = hmmgpu_batch_repeat(batch) ?: hmmgpu_batch_result(batch);
	batch->submitted = false;
	/* Before the CPU can see the pages. */
	hmmgpu_batch_unmap(batch);
	if (!ret)
		hmmgpu_batch_count_copies(batch);
	hmmgpu_phase_end(batch, HMMGPU_PHASE_COPY, clock);
	return ret;
}

/*
 * A large folio that the core could not split is refused as a whole, although
 * its entry is no longer compound then. If it was to move whole, someone has a
 * reference to it; if not, that it did not is known already.
 */
static void hmmgpu_batch_refused(struct hmmgpu_batch *batch,
				 const struct hmmgpu_unit *unit)
{
	unsigned long nr = 1UL << unit->order;

	if (unit->page)
		nr = folio_nr_pages(page_folio(unit->page));
	hmmgpu_count(batch->hdev, refused_pages, nr);
	if (unit->page && batch->dst[unit->index] & MIGRATE_PFN_COMPOUND)
		hmmgpu_span_fallback(batch->hdev, batch->span,
				     batch->args.start +
				     PFN_PHYS(unit->index),
				     HMMGPU_FALLBACK_SPLIT_FAILED);
}

/**
 * hmmgpu_batch_commit() - phase 4: wait for the copies, then move the pages
 * @batch: the batch
 *
 * The copies are complete before the core is told anything, so a copy that
 * fails leaves every page where it was. A page counts as moved only if the core
 * still says so afterwards: it may have found another reference (-EAGAIN), or
 * something in place of a hole.
 *
 * Context: Process context, may sleep.
 * Return: 0; -EIO if a copy failed each time, -ETIMEDOUT or -ENODEV if the device
 * is lost.
 */
int hmmgpu_batch_commit(struct hmmgpu_batch *batch)
{
	struct hmmgpu_unit unit = { };
	u64 clock;
	int ret;

	ret = hmmgpu_batch_wait(batch);
	if (ret) {
		/* If it is lost, hmmgpu_batch_drop() has to know how quiet it is. */
		hmmgpu_device_wait_quiet(batch->hdev);
		hmmgpu_batch_drop(batch);
		return ret;
	}

	clock = local_clock();
	if (batch->args.vma)
		migrate_vma_pages(&batch->args);
	else
		migrate_device_pages(batch->src, batch->dst, batch->nr);

	while (hmmgpu_unit_next(batch, &unit)) {
		if (!batch->dst[unit.index])
			continue;
		if (unit.migrate) {
			batch->moved += 1UL << unit.order;
			batch->max_order = max(batch->max_order, unit.order);
		} else {
			hmmgpu_batch_refused(batch, &unit);
		}
	}
	hmmgpu_phase_end(batch, HMMGPU_PHASE_COMMIT, clock);
	return 0;
}

/**
 * hmmgpu_batch_finish() - phase 5: map the pages again, new or old
 * @batch: the batch
 *
 * Context: Process context, may sleep.
 */
void hmmgpu_batch_finish(struct hmmgpu_batch *batch)
{
	u64 clock = local_clock();

	if (batch->args.vma)
		migrate_vma_finalize(&batch->args);
	else
		migrate_device_finalize(batch->src, batch->dst, batch->nr);
	hmmgpu_phase_end(batch, HMMGPU_PHASE_FINISH, clock);
}
