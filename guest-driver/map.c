// SPDX-License-Identifier: GPL-2.0-only
/*
 * Entries for what the CPU has mapped.
 *
 * They are made from what the core says about a whole 2 MiB at a time, by the
 * usual protocol: note the notifier's sequence number, look, and under the
 * mirror's lock write only if nothing was invalidated meanwhile.
 */
#include <linux/dma-mapping.h>
#include <linux/hmm.h>
#include <linux/mm.h>

#include "context.h"
#include "hmmgpu_trace.h"

static int hmmgpu_range_fault(struct hmm_range *range, struct mm_struct *mm)
{
	int ret;

	range->notifier_seq = mmu_interval_read_begin(range->notifier);
	ret = mmap_read_lock_killable(mm);
	if (ret)
		return ret;
	ret = hmm_range_fault(range);
	mmap_read_unlock(mm);
	return ret;
}

static int hmmgpu_fault_in_as(struct hmmgpu_context *ctx, unsigned long start,
			      unsigned long end, bool write, bool unlocked,
			      unsigned long *pfns, void *owner)
{
	unsigned long timeout = jiffies +
				msecs_to_jiffies(HMMGPU_MIRROR_RETRY_MS);
	struct hmm_range range = {
		.notifier = &ctx->mirror.notifier,
		.start = start,
		.end = end,
		.hmm_pfns = pfns,
		.default_flags = HMM_PFN_REQ_FAULT |
				 (write ? HMM_PFN_REQ_WRITE : 0),
		.dev_private_owner = owner,
	};
	int ret;

	if (unlocked)
		return hmmgpu_range_fault_unlocked(&range,
						   msecs_to_jiffies(HMMGPU_MIRROR_RETRY_MS));
	do {
		ret = hmmgpu_range_fault(&range, ctx->mm);
	} while (ret == -EBUSY && time_before(jiffies, timeout));
	return ret;
}

/**
 * hmmgpu_mirror_fault_in() - see to it that the CPU could access a range
 * @ctx: the context; the caller holds a reference to its mm
 * @start: first address
 * @end: end of the range, which lies in 2 MiB
 * @write: it will be written to
 * @unlocked: faults may let go of mmap_lock, and so wait for user space
 * @pfns: room for an entry for each page; meaningless afterwards
 *
 * Brings home what is in another device's memory, and what is in our own but may
 * not be written to there: it is shared by a fork, or was read-only. The core
 * does not see to the latter by itself, it calls read-only entries of the owner
 * valid although writing was asked for. Another moment later things may be
 * different again.
 *
 * Context: Process context, no lock is held.
 * Return: 0; -EFAULT, there is nothing that can be accessed; -EPERM, it cannot
 * be written to; -EBUSY, it changes all the time; -ENOMEM; -EINTR.
 */
int hmmgpu_mirror_fault_in(struct hmmgpu_context *ctx, unsigned long start,
			   unsigned long end, bool write, bool unlocked,
			   unsigned long *pfns)
{
	unsigned long nr = PHYS_PFN(end - start), i;
	int ret;

	ret = hmmgpu_fault_in_as(ctx, start, end, write, unlocked, pfns,
				 ctx->hdev);
	if (ret || !write)
		return ret;
	for (i = 0; i < nr; i++)
		if (!(pfns[i] & HMM_PFN_WRITE))
			return hmmgpu_fault_in_as(ctx, start, end, write,
						  unlocked, pfns, NULL);
	return 0;
}

static int hmmgpu_look(struct hmmgpu_context *ctx, struct hmm_range *range,
		       unsigned long addr, unsigned long *pfns)
{
	*range = (struct hmm_range) {
		.notifier = &ctx->mirror.notifier,
		/* A range that begins inside a device PMD gets wrong pfns. */
		.start = ALIGN_DOWN(addr, HPAGE_PMD_SIZE),
		.end = ALIGN_DOWN(addr, HPAGE_PMD_SIZE) + HPAGE_PMD_SIZE,
		.hmm_pfns = pfns,
		.dev_private_owner = ctx->hdev,
	};
	memset(pfns, 0, HMMGPU_LARGE_PAGES * sizeof(*pfns));
	return hmmgpu_range_fault(range, ctx->mm);
}

/**
 * hmmgpu_mirror_look() - see what is in 2 MiB, without changing anything
 * @ctx: the context; the caller holds a reference to its mm
 * @addr: an address in the 2 MiB
 * @pfns: gets HMMGPU_LARGE_PAGES entries, as hmm_range_fault() gives them
 *
 * Another moment later things may be different.
 *
 * Context: Process context, no lock is held.
 * Return: 0 or a negative errno.
 */
int hmmgpu_mirror_look(struct hmmgpu_context *ctx, unsigned long addr,
		       unsigned long *pfns)
{
	struct hmm_range range;

	return hmmgpu_look(ctx, &range, addr, pfns);
}

static bool hmmgpu_pfn_valid(unsigned long pfn)
{
	return (pfn & (HMM_PFN_VALID | HMM_PFN_ERROR)) == HMM_PFN_VALID;
}

static bool hmmgpu_pfn_local(struct hmmgpu_device *hdev, unsigned long pfn)
{
	struct page *page = hmm_pfn_to_page(pfn);

	return is_device_private_page(page) &&
	       page_pgmap(page) == &hdev->pagemap;
}

/*
 * The device writes where it may write, and nothing marks entries as written: so
 * a folio counts as dirty from when it is mapped. It stays so as long as it is
 * mapped, for all that cleans folios invalidates the mapping before.
 */
static u64 hmmgpu_make_entry(struct hmmgpu_device *hdev, unsigned long pfn,
			     unsigned long size)
{
	struct page *page = hmm_pfn_to_page(pfn);
	struct folio *folio = page_folio(page);
	u64 entry = HMMGPU_PTE_VALID;
	dma_addr_t addr;

	if (pfn & HMM_PFN_WRITE)
		entry |= HMMGPU_PTE_WRITE;
	if (hmmgpu_pfn_local(hdev, pfn)) {
		if (hmmgpu_vram_is_lost(hdev, page))
			return 0;
		if (pfn & HMM_PFN_WRITE)
			entry |= HMMGPU_PTE_ATOMIC;
		return entry | HMMGPU_PTE_VRAM |
		       hmmgpu_page_to_vram(hdev, page);
	}
	addr = dma_map_page(hdev->dev, page, 0, size,
			    hmmgpu_pte_direction(entry));
	if (dma_mapping_error(hdev->dev, addr))
		return 0;
	if ((pfn & HMM_PFN_WRITE) && !folio_test_dirty(folio))
		folio_mark_dirty(folio);
	return entry | addr;
}

/*
 * Returns the number of pages that are mapped, by this or before; zero if the
 * device cannot be given them.
 */
static unsigned int hmmgpu_map_one(struct hmmgpu_context *ctx,
				   unsigned long addr, unsigned long pfn,
				   bool large)
{
	struct hmmgpu_pagetable *pt = &ctx->mirror.pt;
	struct hmmgpu_device *hdev = ctx->hdev;
	u64 entry, wanted = HMMGPU_PTE_VALID;
	unsigned int nr = large ? HMMGPU_LARGE_PAGES : 1;
	bool is_large;

	if (pfn & HMM_PFN_WRITE)
		wanted |= HMMGPU_PTE_WRITE;
	entry = hmmgpu_pt_entry(pt, addr, &is_large);
	if ((entry & wanted) == wanted)
		return nr;
	if (entry & HMMGPU_PTE_VRAM) {
		/* The same memory, or it would have been taken away. */
		entry |= wanted | HMMGPU_PTE_ATOMIC;
	} else {
		/* Memory that the device only read is mapped anew to be written. */
		if (entry)
			hmmgpu_mirror_zap(ctx, addr, addr + nr * PAGE_SIZE);
		entry = hmmgpu_make_entry(hdev, pfn,
					  large ? HPAGE_PMD_SIZE : PAGE_SIZE);
		if (!entry)
			return 0;
	}
	hmmgpu_pt_set(pt, addr, entry, large);
	if (large)
		hmmgpu_count(hdev, gpu_maps_large, 1);
	else
		hmmgpu_count(hdev, gpu_maps_small, 1);
	return nr;
}

/* All of a 2 MiB that the CPU maps by one entry is alike. */
static bool hmmgpu_pfns_large(const unsigned long *pfns)
{
	return hmmgpu_pfn_valid(pfns[0]) &&
	       hmm_pfn_to_map_order(pfns[0]) >= HMMGPU_LARGE_ORDER &&
	       IS_ALIGNED(pfns[0] & ~HMM_PFN_FLAGS, HMMGPU_LARGE_PAGES);
}

static long hmmgpu_map_pfns(struct hmmgpu_context *ctx, unsigned long start,
			    unsigned long end, const unsigned long *pfns,
			    bool local_only)
{
	struct hmmgpu_pagetable *pt = &ctx->mirror.pt;
	unsigned long unit = ALIGN_DOWN(start, HPAGE_PMD_SIZE);
	bool whole = end - start == HPAGE_PMD_SIZE;
	unsigned long addr;
	bool is_large, refused = false;
	long nr = 0;
	u64 entry;

	lockdep_assert_held(&ctx->mirror.lock);
	entry = hmmgpu_pt_entry(pt, start, &is_large);
	if (hmmgpu_pfns_large(pfns) &&
	    (is_large || (whole && !hmmgpu_pt_any(pt, start, end)))) {
		if (local_only && !hmmgpu_pfn_local(ctx->hdev, pfns[0]))
			return 0;
		return hmmgpu_map_one(ctx, unit, pfns[0], true) ?
		       PHYS_PFN(end - start) : -EIO;
	}
	/* The CPU's entry is split, so ours should be gone; see to it. */
	if (entry && is_large)
		hmmgpu_mirror_zap(ctx, start, end);
	for (addr = start; addr < end; addr += PAGE_SIZE) {
		unsigned long pfn = pfns[PHYS_PFN(addr - unit)];

		if (!hmmgpu_pfn_valid(pfn) ||
		    (local_only && !hmmgpu_pfn_local(ctx->hdev, pfn)))
			continue;
		if (hmmgpu_map_one(ctx, addr, pfn, false))
			nr++;
		else
			refused = true;
	}
	return !nr && refused ? -EIO : nr;
}

static bool hmmgpu_pfns_any(const unsigned long *pfns)
{
	unsigned int i;

	for (i = 0; i < HMMGPU_LARGE_PAGES; i++)
		if (hmmgpu_pfn_valid(pfns[i]))
			return true;
	return false;
}

/**
 * hmmgpu_mirror_map() - map for the GPU what the CPU has mapped
 * @ctx: the context; the caller holds a reference to its mm
 * @start: first address
 * @end: end of the range, which lies in 2 MiB
 * @local_only: only what is in the device's own VRAM
 * @pfns: room for HMMGPU_LARGE_PAGES entries; meaningless afterwards
 *
 * Nothing is faulted in. An entry of 2 MiB is made where the CPU has one and the
 * range is all of it.
 *
 * Context: Process context, no lock is held.
 * Return: number of pages of the range that are mapped now; -EBUSY, it changes
 * all the time; -EIO, the device cannot be given any of it; -ENOMEM; -EFAULT;
 * -EINTR.
 */
long hmmgpu_mirror_map(struct hmmgpu_context *ctx, unsigned long start,
		       unsigned long end, bool local_only, unsigned long *pfns)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;
	unsigned long timeout = jiffies +
				msecs_to_jiffies(HMMGPU_MIRROR_RETRY_MS);
	struct hmm_range range;
	bool small;
	long ret;

	for (;;) {
		if (time_after(jiffies, timeout))
			return -EBUSY;
		ret = hmmgpu_look(ctx, &range, start, pfns);
		if (ret == -EBUSY)
			continue;
		if (ret)
			return ret;
		if (!hmmgpu_pfns_any(pfns))
			return 0;
		small = end - start != HPAGE_PMD_SIZE ||
			!hmmgpu_pfns_large(pfns);
		ret = hmmgpu_mirror_grow(ctx, start, small);
		if (ret)
			return ret;

		mutex_lock(&mirror->lock);
		if (!mmu_interval_read_retry(range.notifier,
					     range.notifier_seq) &&
		    hmmgpu_pt_ready(&mirror->pt, start, small))
			break;
		mutex_unlock(&mirror->lock);
	}
	ret = hmmgpu_map_pfns(ctx, start, end, pfns, local_only);
	mutex_unlock(&mirror->lock);
	trace_hmmgpu_map(ctx->hdev->id, ctx->number, start, end, ret);
	return ret;
}

/**
 * hmmgpu_mirror_allowed() - how much of a range can the GPU access?
 * @ctx: the context
 * @start: first address
 * @end: end of the range, which lies in 2 MiB
 * @bits: PTE bits that are needed
 *
 * Context: Process context, &hmmgpu_mirror.lock is not held.
 * Return: number of pages whose entries have all of @bits.
 */
unsigned int hmmgpu_mirror_allowed(struct hmmgpu_context *ctx,
				   unsigned long start, unsigned long end,
				   u64 bits)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;
	unsigned int nr = 0;
	bool large;

	mutex_lock(&mirror->lock);
	for (; start < end; start += PAGE_SIZE)
		if ((hmmgpu_pt_entry(&mirror->pt, start, &large) & bits) ==
		    bits)
			nr++;
	mutex_unlock(&mirror->lock);
	return nr;
}
