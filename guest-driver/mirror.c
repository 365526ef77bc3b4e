// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mirror of an mm: what of it the GPU can access, kept up to date by the
 * notifier.
 *
 * Entries are made from what the core says about a whole 2 MiB at a time, by the
 * usual protocol: note the notifier's sequence number, look, and under the
 * mirror's lock write only if nothing was invalidated meanwhile. Whatever changes
 * in the mm afterwards takes the entries away before it happens.
 */
#include <linux/dma-mapping.h>
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "context.h"
#include "hmmgpu_trace.h"

/* How long others may change the mm again and again before we give up. */
#define HMMGPU_MIRROR_RETRY_MS	1000

/*
 * While the device has an entry in its TLB, jobs may be using it. When this
 * returns none is any more; a device that does not answer has been reset.
 */
static void hmmgpu_mirror_flush(struct hmmgpu_context *ctx, unsigned long start,
				unsigned long end)
{
	struct hmmgpu_device *hdev = ctx->hdev;
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_INVALIDATE,
		.count = cpu_to_le32(ctx->number),
		.dst = cpu_to_le64(start),
		.src = cpu_to_le64(end - start),
	};
	struct hmmgpu_fence fence;
	struct hmmgpu_submission sub = {
		.descs = &desc,
		.nr_descs = 1,
		.fence = &fence,
	};

	/* Not enabled: it accesses nothing. */
	if (!READ_ONCE(ctx->running))
		return;
	hmmgpu_count(hdev, invalidations, 1);
	if (hmmgpu_ring_submit(&hdev->invalidations, &sub))
		hmmgpu_device_lose(hdev, "lost");
	else
		hmmgpu_fence_wait(&hdev->invalidations, &fence);
}

static void hmmgpu_mirror_zap(struct hmmgpu_context *ctx, unsigned long start,
			      unsigned long end)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;

	lockdep_assert_held(&mirror->lock);
	if (!hmmgpu_pt_revoke(&mirror->pt, &start, &end))
		return;
	hmmgpu_mirror_flush(ctx, start, end);
	hmmgpu_pt_release(&mirror->pt, start, end);
	trace_hmmgpu_invalidate(ctx->hdev->id, ctx->number, start, end);
}

/*
 * Invalidations that our own migrations cause are not told apart: to take
 * something away is always right, and what is local is mapped anew at the next
 * fault. What the device does not have needs no flush.
 */
static bool hmmgpu_mirror_invalidate(struct mmu_interval_notifier *notifier,
				     const struct mmu_notifier_range *range,
				     unsigned long cur_seq)
{
	struct hmmgpu_mirror *mirror = container_of(notifier,
						    struct hmmgpu_mirror,
						    notifier);
	struct hmmgpu_context *ctx = container_of(mirror, struct hmmgpu_context,
						  mirror);

	if (mmu_notifier_range_blockable(range)) {
		mutex_lock(&mirror->lock);
	} else if (!mutex_trylock(&mirror->lock)) {
		return false;
	} else if (hmmgpu_pt_any(&mirror->pt, range->start, range->end)) {
		/* That would mean to wait for the device. */
		mutex_unlock(&mirror->lock);
		return false;
	}
	mmu_interval_set_seq(notifier, cur_seq);
	if (range->event != MMU_NOTIFY_EXCLUSIVE || range->owner != ctx)
		mirror->changes++;
	hmmgpu_mirror_zap(ctx, range->start, range->end);
	if (range->event == MMU_NOTIFY_UNMAP)
		hmmgpu_gpu_fault_unmap(ctx, range->start, range->end);
	mutex_unlock(&mirror->lock);
	return true;
}

static const struct mmu_interval_notifier_ops hmmgpu_mirror_ops = {
	.invalidate = hmmgpu_mirror_invalidate,
};

/**
 * hmmgpu_mirror_init() - begin to mirror the mm of a context
 * @ctx: the context; the caller holds a reference to its mm
 *
 * Return: 0 or a negative errno.
 */
int hmmgpu_mirror_init(struct hmmgpu_context *ctx)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;
	int ret;

	mutex_init(&mirror->lock);
	ret = hmmgpu_pt_init(&mirror->pt, ctx->hdev);
	if (ret)
		return ret;
	ret = mmu_interval_notifier_insert(&mirror->notifier, ctx->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &hmmgpu_mirror_ops);
	if (ret)
		hmmgpu_pt_exit(&mirror->pt);
	return ret;
}

/**
 * hmmgpu_mirror_exit() - end mirroring
 * @ctx: the context, which is disabled
 */
void hmmgpu_mirror_exit(struct hmmgpu_context *ctx)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;

	mmu_interval_notifier_remove(&mirror->notifier);
	mutex_lock(&mirror->lock);
	hmmgpu_mirror_zap(ctx, 0, ULONG_MAX);
	mutex_unlock(&mirror->lock);
	hmmgpu_pt_exit(&mirror->pt);
	mutex_destroy(&mirror->lock);
}

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
		return hmmgpu_range_fault_unlocked(&range);
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
		if (pfn & HMM_PFN_WRITE)
			entry |= HMMGPU_PTE_ATOMIC;
		return entry | HMMGPU_PTE_VRAM |
		       hmmgpu_page_to_vram(hdev, page);
	}
	addr = dma_map_page(hdev->dev, page, 0, size, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(hdev->dev, addr))
		return 0;
	if ((pfn & HMM_PFN_WRITE) && !folio_test_dirty(folio))
		folio_mark_dirty(folio);
	return entry | addr;
}

/* Returns the number of pages that are mapped, by this or before. */
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
	if (entry) {
		/* The same memory, or it would have been taken away. */
		entry |= wanted;
		if (entry & HMMGPU_PTE_VRAM)
			entry |= HMMGPU_PTE_ATOMIC;
		else if (!folio_test_dirty(page_folio(hmm_pfn_to_page(pfn))))
			folio_mark_dirty(page_folio(hmm_pfn_to_page(pfn)));
	} else {
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
	bool is_large;
	long nr = 0;
	u64 entry;

	lockdep_assert_held(&ctx->mirror.lock);
	entry = hmmgpu_pt_entry(pt, start, &is_large);
	if (hmmgpu_pfns_large(pfns) &&
	    (is_large || (whole && !hmmgpu_pt_any(pt, start, end)))) {
		if (local_only && !hmmgpu_pfn_local(ctx->hdev, pfns[0]))
			return 0;
		return hmmgpu_map_one(ctx, unit, pfns[0], true) ?
		       PHYS_PFN(end - start) : 0;
	}
	/* The CPU's entry is split, so ours should be gone; see to it. */
	if (entry && is_large)
		hmmgpu_mirror_zap(ctx, start, end);
	for (addr = start; addr < end; addr += PAGE_SIZE) {
		unsigned long pfn = pfns[PHYS_PFN(addr - unit)];

		if (!hmmgpu_pfn_valid(pfn) ||
		    (local_only && !hmmgpu_pfn_local(ctx->hdev, pfn)))
			continue;
		nr += hmmgpu_map_one(ctx, addr, pfn, false);
	}
	return nr;
}

/* As hmmgpu_pt_grow(). Where there are many tables, it is less than before. */
static int hmmgpu_mirror_grow(struct hmmgpu_context *ctx, unsigned long addr,
			      bool small)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;
	struct hmmgpu_pagetable *pt = &mirror->pt;
	struct hmmgpu_table *list;

	if (hmmgpu_pt_crowded(pt)) {
		mutex_lock(&pt->grow);
		mutex_lock(&mirror->lock);
		list = hmmgpu_pt_prune(pt);
		if (list)
			hmmgpu_mirror_flush(ctx, 0, BIT(HMMGPU_VA_BITS));
		mutex_unlock(&mirror->lock);
		hmmgpu_pt_free_pruned(pt, list);
		mutex_unlock(&pt->grow);
	}
	return hmmgpu_pt_grow(pt, addr, small);
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
 * all the time; -ENOMEM; -EFAULT; -EINTR.
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
 * hmmgpu_mirror_allows() - can the GPU access an address?
 * @ctx: the context
 * @addr: the address
 * @bits: PTE bits that are needed
 * @local: set if it is in the device's own VRAM; may be NULL
 *
 * Context: Process context, &hmmgpu_mirror.lock is not held.
 * Return: true if the entry has all of @bits.
 */
bool hmmgpu_mirror_allows(struct hmmgpu_context *ctx, unsigned long addr,
			  u64 bits, bool *local)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;
	bool large;
	u64 entry;

	mutex_lock(&mirror->lock);
	entry = hmmgpu_pt_entry(&mirror->pt, addr, &large);
	mutex_unlock(&mirror->lock);
	if (local)
		*local = entry & HMMGPU_PTE_VRAM;
	return (entry & bits) == bits;
}

static bool hmmgpu_mirror_allows_all(struct hmmgpu_context *ctx,
				     unsigned long start, unsigned long end,
				     u64 bits)
{
	for (; start < end; start += PAGE_SIZE)
		if (!hmmgpu_mirror_allows(ctx, start, bits, NULL))
			return false;
	return true;
}

static int hmmgpu_mirror_fault_unit(struct hmmgpu_context *ctx,
				    unsigned long start, unsigned long end,
				    bool write, bool unlocked,
				    unsigned long *pfns)
{
	unsigned long timeout = jiffies +
				msecs_to_jiffies(HMMGPU_MIRROR_RETRY_MS);
	u64 bits = HMMGPU_PTE_VALID | (write ? HMMGPU_PTE_WRITE : 0);

	do {
		long ret;

		ret = hmmgpu_mirror_fault_in(ctx, start, end, write, unlocked,
					     pfns);
		if (ret)
			return ret;
		ret = hmmgpu_mirror_map(ctx, start, end, false, pfns);
		if (ret < 0)
			return ret;
		if (hmmgpu_mirror_allows_all(ctx, start, end, bits))
			return 0;
	} while (time_before(jiffies, timeout));
	return -EBUSY;
}

/**
 * hmmgpu_mirror_each() - call a function for each part of a range
 * @ctx: the context
 * @start: first address
 * @end: end of the range
 * @fn: called for what of the range lies in one 2 MiB, with room for
 *      HMMGPU_LARGE_PAGES pfns and with a reference to the mm, until it fails
 * @data: for @fn
 *
 * Context: Process context, no lock is held.
 * Return: what @fn returned last; -EFAULT, the process has gone; -ENOMEM; -EINTR.
 */
int hmmgpu_mirror_each(struct hmmgpu_context *ctx, unsigned long start,
		       unsigned long end, hmmgpu_part_fn fn, void *data)
{
	unsigned long *pfns, next;
	int ret = 0;

	pfns = kvmalloc_array(HMMGPU_LARGE_PAGES, sizeof(*pfns), GFP_KERNEL);
	if (!pfns)
		return -ENOMEM;
	if (!mmget_not_zero(ctx->mm)) {
		kvfree(pfns);
		return -EFAULT;
	}
	for (; !ret && start < end; start = next) {
		next = min(end, ALIGN(start + 1, HPAGE_PMD_SIZE));
		ret = fn(ctx, start, next, pfns, data);
		if (!ret && fatal_signal_pending(current))
			ret = -EINTR;
		cond_resched();
	}
	mmput(ctx->mm);
	kvfree(pfns);
	return ret;
}

struct hmmgpu_fault_how {
	bool write;
	bool unlocked;
};

static int hmmgpu_each_fault(struct hmmgpu_context *ctx, unsigned long start,
			     unsigned long end, unsigned long *pfns, void *data)
{
	struct hmmgpu_fault_how *how = data;

	return hmmgpu_mirror_fault_unit(ctx, start, end, how->write,
					how->unlocked, pfns);
}

/**
 * hmmgpu_mirror_fault() - make a range accessible to the GPU where it is
 * @ctx: the context
 * @start: first address
 * @end: end of the range
 * @write: for writing
 * @unlocked: faults may let go of mmap_lock, and so wait for user space
 *
 * Nothing migrates to the device.
 *
 * Context: Process context, no lock is held.
 * Return: 0; -EFAULT, there is nothing that can be accessed, or the process has
 * gone; -EPERM, it cannot be written to; -EBUSY, it changes all the time;
 * -ENOMEM; -EINTR. What comes before the address that it failed at is mapped.
 */
int hmmgpu_mirror_fault(struct hmmgpu_context *ctx, unsigned long start,
			unsigned long end, bool write, bool unlocked)
{
	struct hmmgpu_fault_how how = { .write = write, .unlocked = unlocked };

	return hmmgpu_mirror_each(ctx, start, end, hmmgpu_each_fault, &how);
}

static int hmmgpu_each_present(struct hmmgpu_context *ctx, unsigned long start,
			       unsigned long end, unsigned long *pfns,
			       void *data)
{
	long ret = hmmgpu_mirror_map(ctx, start, end, true, pfns);

	return ret < 0 ? ret : 0;
}

/**
 * hmmgpu_mirror_map_present() - map what of a range is in the device's VRAM
 * @ctx: the context
 * @start: first address
 * @end: end of the range
 *
 * Context: Process context, no lock is held.
 * Return: 0, also if there is nothing; otherwise as hmmgpu_mirror_fault().
 */
int hmmgpu_mirror_map_present(struct hmmgpu_context *ctx, unsigned long start,
			      unsigned long end)
{
	return hmmgpu_mirror_each(ctx, start, end, hmmgpu_each_present, NULL);
}

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
