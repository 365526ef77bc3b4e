// SPDX-License-Identifier: GPL-2.0-only
/*
 * Looking at what an mm has mapped, without changing anything.
 */
#include <linux/hmm.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/signal.h>

#include "batch.h"

/*
 * Looks at a range and changes nothing in the mm: nothing is faulted in,
 * unmapped or split. The result is a snapshot, so there is no need for a
 * notifier that would tell of changes: the one here is only how the core gets to
 * know the mm.
 */
static void hmmgpu_snapshot(struct hmmgpu_device *hdev,
			    struct vm_area_struct *vma, unsigned long start,
			    unsigned long end, unsigned long *pfns)
{
	struct mmu_interval_notifier nobody = { .mm = vma->vm_mm };
	struct hmm_range range = {
		.notifier = &nobody,
		.start = start,
		.end = end,
		.hmm_pfns = pfns,
		.dev_private_owner = hdev,
	};

	memset(pfns, 0, PHYS_PFN(end - start) * sizeof(*pfns));
	/* If it fails, what it has not come to stays zero: not there. */
	hmm_range_fault(&range);
}

/* Inside a large folio the pfn may be that of a wrong page of this folio. */
static bool hmmgpu_snapshot_is_ours(struct hmmgpu_device *hdev,
				    unsigned long hmm_pfn)
{
	return (hmm_pfn & HMM_PFN_VALID) &&
	       (hmm_pfn & ~HMM_PFN_FLAGS) - hdev->first_pfn <
	       hdev->vram_bytes >> PAGE_SHIFT;
}

/**
 * hmmgpu_find_large() - is a large folio mapped there as a whole?
 * @hdev: the device
 * @vma: the VMA
 * @addr: address in @vma
 * @on_device: a folio on the device; otherwise, an anonymous one of system memory
 * @shared: set if so: whether other mms may map it, too
 *
 * Only an entry that is writable is certain to be the only one. One that is not
 * may be so because of a fork, or because the VMA is not writable.
 *
 * Context: mmap_lock is held. If it is for writing, a folio that is not shared
 * does not become so.
 * Return: true if there is one.
 */
bool hmmgpu_find_large(struct hmmgpu_device *hdev, struct vm_area_struct *vma,
		       unsigned long addr, bool on_device, bool *shared)
{
	unsigned long pfn;

	hmmgpu_snapshot(hdev, vma, addr, addr + PAGE_SIZE, &pfn);
	if (!(pfn & HMM_PFN_VALID) ||
	    hmm_pfn_to_map_order(pfn) != HMMGPU_LARGE_ORDER ||
	    hmmgpu_snapshot_is_ours(hdev, pfn) != on_device)
		return false;
	*shared = !(pfn & HMM_PFN_WRITE);
	/* Neither the huge zero page nor a file's. */
	return on_device || PageAnon(hmm_pfn_to_page(pfn));
}

/*
 * Is this page of system memory part of a large anonymous folio? The folio may
 * go at any time, unless there is a reference to it.
 */
static bool hmmgpu_snapshot_is_large(struct hmmgpu_device *hdev,
				     unsigned long hmm_pfn)
{
	struct folio *folio;
	bool ret;

	if (!(hmm_pfn & HMM_PFN_VALID) ||
	    hmmgpu_snapshot_is_ours(hdev, hmm_pfn))
		return false;
	folio = page_folio(hmm_pfn_to_page(hmm_pfn));
	if (!folio_try_get(folio))
		return false;
	ret = folio_order(folio) == HMMGPU_LARGE_ORDER &&
	      folio_test_anon(folio);
	folio_put(folio);
	return ret;
}

/* Nobody needs @dst before there are destinations: it gets the snapshot. */
static unsigned int hmmgpu_batch_look(struct hmmgpu_batch *batch,
				      struct vm_area_struct *vma,
				      unsigned long start, unsigned long end)
{
	unsigned int i, nr = PHYS_PFN(end - start), found = 0;

	bitmap_zero(batch->on_device, HMMGPU_BATCH_PAGES);
	hmmgpu_snapshot(batch->hdev, vma, start, end, batch->dst);
	for (i = 0; i < nr; i++) {
		if (hmmgpu_snapshot_is_ours(batch->hdev, batch->dst[i])) {
			__set_bit(i, batch->on_device);
			found++;
		}
	}
	return found;
}

static void hmmgpu_batch_clear(struct hmmgpu_batch *batch, unsigned int nr)
{
	memset(batch->dst, 0, nr * sizeof(*batch->dst));
}

/**
 * hmmgpu_batch_find() - find out what of a range is on the device
 * @batch: a batch without destinations
 * @vma: the VMA
 * @start: first address
 * @end: end of the range, which lies in @vma and in the same 2 MiB as @start
 *
 * Sets &hmmgpu_batch.on_device.
 *
 * Context: mmap_lock is held.
 * Return: number of pages that are on the device.
 */
unsigned int hmmgpu_batch_find(struct hmmgpu_batch *batch,
			       struct vm_area_struct *vma, unsigned long start,
			       unsigned long end)
{
	unsigned int found = hmmgpu_batch_look(batch, vma, start, end);

	hmmgpu_batch_clear(batch, PHYS_PFN(end - start));
	return found;
}

/**
 * hmmgpu_batch_find_left_out() - find out what became of what was left out
 * @batch: a batch that was collected, without destinations
 *
 * What the core left out is on the device, or did not let itself be collected.
 * Only the former counts as present. Of the latter, what is part of a large folio
 * is so because that could not be isolated, or split. Sets
 * &hmmgpu_batch.on_device and &hmmgpu_batch.stuck if there is anything.
 *
 * Context: mmap_lock is held.
 */
void hmmgpu_batch_find_left_out(struct hmmgpu_batch *batch)
{
	struct migrate_vma *args = &batch->args;
	struct hmmgpu_unit unit = { };
	bool looked = false;

	while (hmmgpu_unit_next(batch, &unit)) {
		if (batch->src[unit.index])
			continue;
		if (!looked)
			hmmgpu_batch_look(batch, args->vma, args->start,
					  args->end);
		looked = true;
		if (hmmgpu_snapshot_is_large(batch->hdev,
					     batch->dst[unit.index])) {
			batch->stuck = true;
			break;
		}
	}
	if (looked)
		hmmgpu_batch_clear(batch, batch->nr);
}

static unsigned long hmmgpu_vma_resident(struct hmmgpu_device *hdev,
					 struct vm_area_struct *vma,
					 unsigned long *pfns)
{
	unsigned long addr = vma->vm_start, pages = 0, end;
	unsigned int i;

	for (; addr < vma->vm_end && !fatal_signal_pending(current);
	     addr = end) {
		end = min(vma->vm_end, ALIGN(addr + 1, HPAGE_PMD_SIZE));
		hmmgpu_snapshot(hdev, vma, addr, end, pfns);
		for (i = 0; i < PHYS_PFN(end - addr); i++)
			pages += hmmgpu_snapshot_is_ours(hdev, pfns[i]);
		cond_resched();
	}
	return pages;
}

/**
 * hmmgpu_mm_resident() - how much of VRAM has an mm mapped?
 * @hdev: the device
 * @mm: the mm; the caller holds a reference
 * @pages: gets the number of pages
 *
 * As with what an mm has of RAM, memory that a fork shares counts for each.
 *
 * Context: Process context, &hmmgpu_device.gate is held for reading, and no
 * mmap_lock.
 * Return: 0; -ENOMEM; -EINTR.
 */
int hmmgpu_mm_resident(struct hmmgpu_device *hdev, struct mm_struct *mm,
		       unsigned long *pages)
{
	struct vm_area_struct *vma;
	unsigned long *pfns, addr;

	pfns = kvmalloc_array(HMMGPU_LARGE_PAGES, sizeof(*pfns), GFP_KERNEL);
	if (!pfns)
		return -ENOMEM;
	if (mmap_read_lock_killable(mm)) {
		kvfree(pfns);
		return -EINTR;
	}
	*pages = 0;
	for (addr = 0; (vma = find_vma(mm, addr)); addr = vma->vm_end) {
		/* Private mappings of files have anonymous pages, too. */
		if (vma->anon_vma && !is_vm_hugetlb_page(vma) &&
		    !(vma->vm_flags & VM_SPECIAL))
			*pages += hmmgpu_vma_resident(hdev, vma, pfns);
	}
	mmap_read_unlock(mm);
	kvfree(pfns);
	return fatal_signal_pending(current) ? -EINTR : 0;
}
