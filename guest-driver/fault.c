// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPU faults on device-private memory.
 */
#include <linux/mm.h>
#include <linux/moduleparam.h>

#include "batch.h"

/*
 * Single pages come home 2 MiB at a time, as large folios do: what a fault costs
 * besides its pages is then shared by 512 of them.
 */
static unsigned int fault_around_pages = HMMGPU_LARGE_PAGES;
module_param(fault_around_pages, uint, 0644);
MODULE_PARM_DESC(fault_around_pages, "Single pages that one CPU fault brings home, a power of two up to 512; 0 or 1 for just the one (default 512)");

static unsigned long hmmgpu_fault_window(void)
{
	unsigned int pages = clamp(READ_ONCE(fault_around_pages), 1U,
				   HMMGPU_LARGE_PAGES);

	return rounddown_pow_of_two(pages) << PAGE_SHIFT;
}

/*
 * What one fault brings home:
 *
 * * a large folio that is mapped by a PMD (vmf->pte is NULL): all of it;
 * * a page of a large folio that is mapped by PTEs: exactly this page. The core
 *   splits the folio and goes on, but does not look anew which folio the fault
 *   has locked; in a wider range it would take the head page without its lock;
 * * a single page: a window around it, within the VMA. A window is aligned and
 *   no larger than a PMD, so it has one page table.
 */
static unsigned long hmmgpu_fault_range(struct vm_fault *vmf,
					unsigned long *start,
					unsigned long *end)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long size = PAGE_SIZE;

	if (!vmf->pte)
		size = HPAGE_PMD_SIZE;
	else if (!folio_test_large(page_folio(vmf->page)))
		size = hmmgpu_fault_window();

	*start = max(ALIGN_DOWN(vmf->address, size), vma->vm_start);
	*end = min(ALIGN_DOWN(vmf->address, size) + size, vma->vm_end);
	return MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
	       (vmf->pte ? 0 : MIGRATE_VMA_SELECT_COMPOUND);
}

static vm_fault_t hmmgpu_fault_batch(struct hmmgpu_batch *batch,
				     struct vm_fault *vmf)
{
	unsigned long start, end, flags;
	unsigned int index = 0;
	bool wanted, part;
	int ret;

	flags = hmmgpu_fault_range(vmf, &start, &end);
	part = vmf->pte && folio_test_large(page_folio(vmf->page));
	ret = hmmgpu_batch_collect(batch, vmf->vma, start, end, flags,
				   vmf->page);
	if (ret)
		return ret == -EAGAIN ? 0 : VM_FAULT_SIGBUS;
	if (vmf->pte)
		index = PHYS_PFN(vmf->address - start);
	/*
	 * If the core did not let it migrate, someone else has it for a moment,
	 * and if there is only a hole, someone has unmapped it: the access is
	 * tried again.
	 */
	wanted = (batch->src[index] & MIGRATE_PFN_MIGRATE) &&
		 migrate_pfn_to_page(batch->src[index]);
	if (part && wanted)
		hmmgpu_span_fallback(batch->hdev, batch->span, vmf->address,
				     HMMGPU_FALLBACK_PARTIAL);

	batch->single_fallback = true;
	hmmgpu_batch_alloc(batch);
	if (wanted && !batch->dst[index]) {
		hmmgpu_batch_copy(batch);
		hmmgpu_batch_commit(batch);
		hmmgpu_batch_finish(batch);
		return VM_FAULT_OOM;
	}
	hmmgpu_batch_copy(batch);
	ret = hmmgpu_batch_commit(batch);
	hmmgpu_batch_finish(batch);
	return ret && wanted ? VM_FAULT_SIGBUS : 0;
}

/**
 * hmmgpu_fault() - a CPU touched device-private memory
 * @vmf: the fault; its page is locked and referenced by the caller
 *
 * The mm may be any: the device is found by the page. Works until the last page
 * is home, also while the device is being removed, so it takes no lock that
 * removal holds.
 *
 * While a large folio comes home by a fault, a kernel whose zap_huge_pmd_folio()
 * takes its migration entry for a mapping (hmmgpu_request_lock()) is corrupted
 * if another thread does MADV_DONTNEED on it, or a fork that shares it unmaps it
 * or exits. The former needs mmap_lock only for reading, as is held here, the
 * latter another one: a fault cannot keep either out.
 *
 * Context: mmap_lock is held for reading.
 * Return: 0 if the access should be tried again, VM_FAULT_OOM, or
 * VM_FAULT_SIGBUS if the data cannot be had.
 */
vm_fault_t hmmgpu_fault(struct vm_fault *vmf)
{
	struct hmmgpu_device *hdev = hmmgpu_from_pagemap(page_pgmap(vmf->page));
	struct hmmgpu_span span = {
		.direction = HMMGPU_DIR_DEV_TO_SYS,
		.trigger = HMMGPU_TRIGGER_CPU_FAULT,
	};
	struct hmmgpu_batch *batch;
	vm_fault_t ret;

	hmmgpu_count(hdev, cpu_faults, 1);
	if (READ_ONCE(hdev->dead))
		return VM_FAULT_SIGBUS;
	/* Recovery, the writer, holds it briefly, and never waits for a reader. */
	down_read(&hdev->flight);
	if (READ_ONCE(hdev->lost) || hmmgpu_vram_is_lost(hdev, vmf->page)) {
		up_read(&hdev->flight);
		return VM_FAULT_SIGBUS;
	}
	batch = hmmgpu_batch_get(hdev, &span);
	if (!batch) {
		up_read(&hdev->flight);
		return VM_FAULT_OOM;
	}

	hmmgpu_span_begin(hdev, &span, vmf->vma->vm_mm, vmf->address,
			  vmf->pte ? 1 : HMMGPU_LARGE_PAGES);
	ret = hmmgpu_fault_batch(batch, vmf);
	hmmgpu_span_end(hdev, &span, batch->max_order, batch->moved);
	hmmgpu_count(hdev, cpu_fault_pages, batch->moved);
	hmmgpu_batch_put(batch);
	up_read(&hdev->flight);
	return ret;
}
