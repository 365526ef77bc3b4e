// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages of system memory that only the GPU can access, for atomic operations.
 */
#include <linux/dma-mapping.h>
#include <linux/mm.h>
#include <linux/rmap.h>

#include "context.h"

static bool hmmgpu_map_exclusive(struct hmmgpu_context *ctx, unsigned long addr,
				 struct page *page, u64 changes)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;
	struct hmmgpu_device *hdev = ctx->hdev;
	dma_addr_t dma;
	bool large;

	if (mirror->changes != changes ||
	    !hmmgpu_pt_ready(&mirror->pt, addr, true) ||
	    hmmgpu_pt_entry(&mirror->pt, addr, &large))
		return false;
	dma = dma_map_page(hdev->dev, page, 0, PAGE_SIZE, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(hdev->dev, dma))
		return false;
	folio_mark_dirty(page_folio(page));
	hmmgpu_pt_set(&mirror->pt, addr,
		      dma | HMMGPU_PTE_VALID | HMMGPU_PTE_WRITE |
		      HMMGPU_PTE_ATOMIC, false);
	hmmgpu_count(hdev, gpu_maps_small, 1);
	hmmgpu_count(hdev, exclusive_pages, 1);
	return true;
}

/**
 * hmmgpu_mirror_exclusive_page() - give the GPU a page for atomic operations
 * @ctx: the context; the caller holds a reference to its mm
 * @addr: address of the page
 * @mapped: called when it is mapped, before anyone can take it back; or NULL
 *
 * Only the GPU can access the page then, until the CPU's next access takes it
 * back. The sequence number is of no use here, since making a page exclusive
 * changes it; &hmmgpu_mirror.changes leaves that out. The folio's lock keeps the
 * CPU from taking the page back before it is mapped.
 *
 * Context: Process context, no lock is held.
 * Return: 0; -EOPNOTSUPP, not anonymous memory; -EFAULT, it cannot be written to;
 * -EBUSY, it changes all the time; -ENOMEM; -EINTR.
 */
int hmmgpu_mirror_exclusive_page(struct hmmgpu_context *ctx, unsigned long addr,
				 void (*mapped)(struct hmmgpu_context *ctx))
{
	unsigned long timeout = jiffies +
				msecs_to_jiffies(HMMGPU_MIRROR_RETRY_MS);
	struct hmmgpu_mirror *mirror = &ctx->mirror;
	unsigned long pfn;
	int ret;

	do {
		struct folio *folio;
		struct page *page;
		u64 changes;
		bool done;

		ret = hmmgpu_mirror_grow(ctx, addr, true);
		if (ret)
			return ret;
		mutex_lock(&mirror->lock);
		changes = mirror->changes;
		mutex_unlock(&mirror->lock);
		/* What was under way when it was counted is over after this. */
		mmu_interval_read_begin(&mirror->notifier);

		ret = mmap_read_lock_killable(ctx->mm);
		if (ret)
			return ret;
		page = make_device_exclusive(ctx->mm, addr, ctx, &folio);
		if (IS_ERR(page)) {
			mmap_read_unlock(ctx->mm);
			return PTR_ERR(page);
		}
		mutex_lock(&mirror->lock);
		done = hmmgpu_map_exclusive(ctx, addr, page, changes);
		mutex_unlock(&mirror->lock);
		if (done && mapped)
			mapped(ctx);
		folio_unlock(folio);
		folio_put(folio);
		mmap_read_unlock(ctx->mm);
		if (done)
			return 0;
		/*
		 * What the core did to make it exclusive were changes, too: it
		 * split a PMD, broke a COW. Next time there is nothing of that
		 * left to do, but the page to be taken back first.
		 */
		ret = hmmgpu_mirror_fault_in(ctx, addr, addr + PAGE_SIZE, true,
					     false, &pfn);
		if (ret)
			return ret;
		cond_resched();
	} while (time_before(jiffies, timeout));
	return -EBUSY;
}

static int hmmgpu_each_exclusive(struct hmmgpu_context *ctx,
				 unsigned long start, unsigned long end,
				 unsigned long *pfns, void *data)
{
	int ret = 0;

	for (; !ret && start < end; start += PAGE_SIZE)
		ret = hmmgpu_mirror_exclusive_page(ctx, start, NULL);
	return ret;
}

/**
 * hmmgpu_mirror_exclusive() - give the GPU pages for atomic operations
 * @ctx: the context
 * @start: first address
 * @end: end of the range
 *
 * Context: Process context, no lock is held.
 * Return: as hmmgpu_mirror_exclusive_page(); -EFAULT also if the process has
 * gone.
 */
int hmmgpu_mirror_exclusive(struct hmmgpu_context *ctx, unsigned long start,
			    unsigned long end)
{
	return hmmgpu_mirror_each(ctx, start, end, hmmgpu_each_exclusive, NULL);
}

/**
 * hmmgpu_mirror_is_exclusive() - is a page of system memory for the GPU only?
 * @ctx: the context
 * @start: first address
 * @end: end of the range
 *
 * Context: Process context, &hmmgpu_mirror.lock is not held.
 * Return: true if any page of the range is.
 */
bool hmmgpu_mirror_is_exclusive(struct hmmgpu_context *ctx, unsigned long start,
				unsigned long end)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;
	bool ret;

	mutex_lock(&mirror->lock);
	ret = hmmgpu_pt_any_exclusive(&mirror->pt, start, end);
	mutex_unlock(&mirror->lock);
	return ret;
}
