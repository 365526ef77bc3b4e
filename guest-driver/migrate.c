// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration by request: a range of one mm, one VMA after the other, in batches
 * of which two are in flight. While the engine copies one, the next is collected.
 */
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/signal.h>

#include "batch.h"
#include "hmmgpu_trace.h"

/**
 * struct hmmgpu_request - one migration by request
 * @hdev: the device
 * @mm: the mm
 * @direction: DIR value
 * @flight: the batch whose copies are under way, or NULL
 * @spare: the batch to be collected next
 * @addr: all in front of it is done or in flight
 * @end: end of the range
 * @small_end: up to here, single pages only
 * @moved: pages that moved
 * @present: pages that were there
 * @skipped: pages that did not move
 * @max_order: largest order that moved
 */
struct hmmgpu_request {
	struct hmmgpu_device *hdev;
	struct mm_struct *mm;
	unsigned int direction;
	struct hmmgpu_batch *flight;
	struct hmmgpu_batch *spare;
	unsigned long addr;
	unsigned long end;
	unsigned long small_end;
	unsigned long moved;
	unsigned long present;
	unsigned long skipped;
	unsigned int max_order;
};

static int hmmgpu_request_complete(struct hmmgpu_request *req,
				   struct hmmgpu_batch *batch)
{
	int ret;

	ret = hmmgpu_batch_commit(batch);
	hmmgpu_batch_finish(batch);
	req->moved += batch->moved;
	req->present += batch->present;
	req->skipped += batch->stop - batch->moved - batch->present;
	req->max_order = max(req->max_order, batch->max_order);
	return ret;
}

static int hmmgpu_request_drain(struct hmmgpu_request *req)
{
	struct hmmgpu_batch *batch = req->flight;

	if (!batch)
		return 0;
	req->flight = NULL;
	req->spare = batch;
	return hmmgpu_request_complete(req, batch);
}

/*
 * Anonymous memory only. A VMA without any access is left out on the way to the
 * device, because holes are filled on the way: guard areas of thread stacks
 * would take VRAM.
 */
static bool hmmgpu_vma_eligible(struct hmmgpu_request *req,
				struct vm_area_struct *vma)
{
	if (!vma_is_anonymous(vma) || is_vm_hugetlb_page(vma) ||
	    vma->vm_flags & VM_SPECIAL)
		return false;
	return req->direction == HMMGPU_DIR_DEV_TO_SYS ||
	       vma->vm_flags & VM_ACCESS_FLAGS;
}

/*
 * A batch never goes beyond 2 MiB: DOC: Locking needs that, and of a wider hole
 * the core may mark only the first 2 MiB. A short batch is also soon over, and
 * on the way home the mm's other threads wait for it.
 */
static unsigned long hmmgpu_batch_end(struct hmmgpu_request *req,
				      unsigned long limit)
{
	return min(limit, ALIGN(req->addr + 1, HPAGE_PMD_SIZE));
}

static unsigned long hmmgpu_request_flags(struct hmmgpu_request *req)
{
	unsigned long flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE;

	/*
	 * What is on the device already stays untouched on the way there: a
	 * migration entry of a large device folio is not safe, see
	 * hmmgpu_request_lock().
	 */
	if (req->direction == HMMGPU_DIR_SYS_TO_DEV)
		flags = MIGRATE_VMA_SELECT_SYSTEM;
	if (hmmgpu_has_large(req->hdev) && req->addr >= req->small_end)
		flags |= MIGRATE_VMA_SELECT_COMPOUND;
	return flags;
}

static void hmmgpu_request_go_small(struct hmmgpu_request *req)
{
	hmmgpu_count(req->hdev, fallbacks, 1);
	trace_hmmgpu_fallback(req->hdev->id, req->direction, req->addr,
			      HMMGPU_LARGE_ORDER, 0);
	req->small_end = req->addr + HPAGE_PMD_SIZE;
}

/* The batch in @spare ends before its end: what now? */
static int hmmgpu_request_stopped(struct hmmgpu_request *req,
				  enum hmmgpu_stop reason)
{
	int ret;

	switch (reason) {
	case HMMGPU_STOP_NONE:
		return 0;
	case HMMGPU_STOP_SMALL:
		/* Its entries are locked until it has finished. */
		ret = hmmgpu_request_drain(req);
		if (ret)
			return ret;
		hmmgpu_request_go_small(req);
		return 0;
	default:
		ret = hmmgpu_request_drain(req);
		if (ret)
			return ret;
		return req->direction == HMMGPU_DIR_SYS_TO_DEV ? -ENOSPC :
								 -ENOMEM;
	}
}

/*
 * A large folio that other mms may map goes home as single pages. When one of
 * them unmaps it or exits, the kernel mistakes its migration entry, see
 * hmmgpu_request_lock(), and nothing here can keep another mm from that. To
 * collect single pages splits the folio first, and migration entries of single
 * pages are safe.
 */
static bool hmmgpu_request_must_split(struct hmmgpu_request *req,
				      struct vm_area_struct *vma,
				      unsigned long start, unsigned long end)
{
	return req->direction == HMMGPU_DIR_DEV_TO_SYS &&
	       start >= req->small_end &&
	       IS_ALIGNED(start | end, HPAGE_PMD_SIZE) &&
	       hmmgpu_shared_large(req->hdev, vma, start);
}

static int hmmgpu_request_batch(struct hmmgpu_request *req,
				struct vm_area_struct *vma)
{
	struct hmmgpu_batch *batch = req->spare, *before;
	unsigned long start = req->addr;
	unsigned long end = hmmgpu_batch_end(req, min(req->end, vma->vm_end));
	int ret;

	if (hmmgpu_request_must_split(req, vma, start, end))
		hmmgpu_request_go_small(req);
	if (hmmgpu_batch_collect(batch, vma, start, end,
				 hmmgpu_request_flags(req), NULL)) {
		req->skipped += PHYS_PFN(end - start);
		req->addr = end;
		return 0;
	}
	hmmgpu_batch_alloc(batch);
	hmmgpu_batch_copy(batch);
	req->addr = start + ((unsigned long)batch->stop << PAGE_SHIFT);

	before = req->flight;
	req->flight = batch;
	req->spare = before;
	if (before) {
		ret = hmmgpu_request_complete(req, before);
		if (ret)
			return ret;
	} else {
		req->spare = hmmgpu_batch_get(req->hdev, req->direction,
					      HMMGPU_TRIGGER_PREFETCH);
		if (!req->spare) {
			/* Then one at a time. */
			ret = hmmgpu_request_drain(req);
			if (ret)
				return ret;
		}
	}
	return hmmgpu_request_stopped(req, batch->stop_reason);
}

/*
 * The kernel's zap_huge_pmd_folio() takes the migration entry that a large
 * device folio has while it goes home for a mapping, and drops a reference and
 * a mapping that are not there. Nobody may unmap it between collect and finish,
 * but MADV_DONTNEED of another thread needs only what is locked for reading
 * here, the mm or the VMA. On the way home both are locked for writing.
 *
 * This keeps other threads out, not other mms: hmmgpu_request_must_split()
 * sees to those. On the way to the device the entries are of system memory, and
 * reading is enough.
 */
static int hmmgpu_request_lock(struct hmmgpu_request *req)
{
	if (req->direction == HMMGPU_DIR_DEV_TO_SYS)
		return mmap_write_lock_killable(req->mm);
	return mmap_read_lock_killable(req->mm);
}

static void hmmgpu_request_unlock(struct hmmgpu_request *req)
{
	/* The VMAs are unlocked by this, too. */
	if (req->direction == HMMGPU_DIR_DEV_TO_SYS)
		mmap_write_unlock(req->mm);
	else
		mmap_read_unlock(req->mm);
}

static int hmmgpu_request_lock_vma(struct hmmgpu_request *req,
				   struct vm_area_struct *vma)
{
	int ret;

	if (req->direction != HMMGPU_DIR_DEV_TO_SYS)
		return 0;
	/*
	 * Waits for faults in this VMA. They may wait for pages that another
	 * task has in flight, which in turn may wait for ours.
	 */
	if (req->flight && req->flight->args.vma != vma) {
		ret = hmmgpu_request_drain(req);
		if (ret)
			return ret;
	}
	vma_start_write(vma);
	return 0;
}

static int hmmgpu_request_step(struct hmmgpu_request *req)
{
	struct vm_area_struct *vma = find_vma(req->mm, req->addr);
	unsigned long next = req->end;

	if (vma && vma->vm_start <= req->addr) {
		if (hmmgpu_vma_eligible(req, vma))
			return hmmgpu_request_lock_vma(req, vma) ?:
			       hmmgpu_request_batch(req, vma);
		next = min(next, vma->vm_end);
	} else if (vma) {
		next = min(next, vma->vm_start);
	}
	req->skipped += PHYS_PFN(next - req->addr);
	req->addr = next;
	return 0;
}

static int hmmgpu_request_run(struct hmmgpu_request *req)
{
	int ret = 0, err;

	while (!ret && req->addr < req->end) {
		if (hmmgpu_request_lock(req))
			return -EINTR;
		/* Let go when someone else wants it. */
		do {
			if (fatal_signal_pending(current))
				ret = -EINTR;
			else
				ret = hmmgpu_device_check(req->hdev) ?:
				      hmmgpu_request_step(req);
			cond_resched();
		} while (!ret && req->addr < req->end &&
			 !mmap_lock_is_contended(req->mm));
		err = hmmgpu_request_drain(req);
		ret = ret ?: err;
		hmmgpu_request_unlock(req);
	}
	return ret;
}

/**
 * hmmgpu_migrate() - migrate a range of an mm
 * @hdev: the device
 * @mm: the mm; the caller holds a reference
 * @direction: HMMGPU_DIR_SYS_TO_DEV or HMMGPU_DIR_DEV_TO_SYS
 * @arg: the range, checked; gets the results, which are valid in any case
 *
 * Now and then a page does not migrate, because someone else has a reference at
 * the wrong moment: it is counted as skipped and is no error.
 *
 * Context: Process context, &hmmgpu_device.gate is held for reading.
 * Return: 0 or a negative errno as documented for the ioctls.
 */
int hmmgpu_migrate(struct hmmgpu_device *hdev, struct mm_struct *mm,
		   unsigned int direction, struct hmmgpu_migrate *arg)
{
	struct hmmgpu_request req = {
		.hdev = hdev,
		.mm = mm,
		.direction = direction,
		.addr = arg->addr,
		.end = arg->addr + arg->size,
	};
	struct hmmgpu_span span;
	int ret;

	lockdep_assert_held_read(&hdev->gate);
	req.spare = hmmgpu_batch_get(hdev, direction, HMMGPU_TRIGGER_PREFETCH);
	if (!req.spare)
		return -ENOMEM;
	hmmgpu_span_begin(hdev, &span, direction, HMMGPU_TRIGGER_PREFETCH,
			  arg->addr, PHYS_PFN(arg->size));
	ret = hmmgpu_request_run(&req);
	hmmgpu_span_end(hdev, &span, req.max_order, req.moved);
	hmmgpu_batch_put(req.spare);

	arg->moved_bytes = (u64)req.moved << PAGE_SHIFT;
	arg->present_bytes = (u64)req.present << PAGE_SHIFT;
	arg->skipped_bytes = (u64)req.skipped << PAGE_SHIFT;
	return ret;
}
