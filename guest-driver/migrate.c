// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration by request: a range of one mm, one VMA after the other, in batches
 * of which two are in flight. While the engine copies one, the next is collected.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/signal.h>

#include "batch.h"

/* With &hmmgpu_move.try_lock: how often to try for mmap_lock. */
#define HMMGPU_LOCK_TRIES	20

/**
 * enum hmmgpu_large - a large folio that is mapped where a batch begins
 * @HMMGPU_LARGE_NONE: there is none, or it does not matter
 * @HMMGPU_LARGE_WHOLE: it will move whole
 * @HMMGPU_LARGE_PART: only a part of it was asked for
 * @HMMGPU_LARGE_SHARED: other mms may map it
 */
enum hmmgpu_large {
	HMMGPU_LARGE_NONE,
	HMMGPU_LARGE_WHOLE,
	HMMGPU_LARGE_PART,
	HMMGPU_LARGE_SHARED,
};

/**
 * struct hmmgpu_request - one migration by request
 * @hdev: the device
 * @move: what is asked for, and gets the results
 * @mm: the mm
 * @direction: DIR value
 * @span: the span
 * @flight: the batch whose copies are under way, or NULL
 * @spare: the batch to be collected next
 * @lost: a reset has taken the content of some of the pages
 * @addr: all in front of it is done or in flight
 * @end: end of the range
 * @small_end: up to here, single pages only
 */
struct hmmgpu_request {
	struct hmmgpu_device *hdev;
	struct hmmgpu_move *move;
	struct mm_struct *mm;
	unsigned int direction;
	struct hmmgpu_span span;
	struct hmmgpu_batch *flight;
	struct hmmgpu_batch *spare;
	bool lost;
	unsigned long addr;
	unsigned long end;
	unsigned long small_end;
};

static int hmmgpu_request_complete(struct hmmgpu_request *req,
				   struct hmmgpu_batch *batch)
{
	struct hmmgpu_move *move = req->move;
	int ret;

	ret = hmmgpu_batch_commit(batch);
	hmmgpu_batch_finish(batch);
	move->moved += batch->moved;
	move->present += batch->present;
	req->lost |= batch->lost;
	move->skipped += batch->stop - batch->moved - batch->present;
	move->max_order = max(move->max_order, batch->max_order);
	return ret;
}

static int hmmgpu_request_drain(struct hmmgpu_request *req)
{
	struct hmmgpu_batch *batch = req->flight;
	int ret;

	if (!batch)
		return 0;
	req->flight = NULL;
	ret = hmmgpu_request_complete(req, batch);
	if (req->spare)
		hmmgpu_batch_put(batch);
	else
		req->spare = batch;
	return ret;
}

/*
 * Anonymous memory only, if not asked for more. A VMA without any access is left
 * out on the way to the device, because holes are filled on the way: guard areas
 * of thread stacks would take VRAM.
 */
static bool hmmgpu_vma_eligible(struct hmmgpu_request *req,
				struct vm_area_struct *vma)
{
	if (!(req->move->any_vma || vma_is_anonymous(vma)) ||
	    is_vm_hugetlb_page(vma) || vma->vm_flags & VM_SPECIAL)
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

/* The batch ends before its end: what now? */
static int hmmgpu_request_stopped(struct hmmgpu_request *req,
				  struct hmmgpu_batch *batch)
{
	unsigned int fallback = batch->stop_fallback;
	int ret;

	switch (batch->stop_reason) {
	case HMMGPU_STOP_NONE:
		return 0;
	case HMMGPU_STOP_SMALL:
		/* Its entries are locked until it has finished. */
		ret = hmmgpu_request_drain(req);
		if (ret)
			return ret;
		hmmgpu_span_fallback(req->hdev, &req->span, req->addr,
				     fallback);
		req->small_end = req->addr + HPAGE_PMD_SIZE;
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
 * What will happen to a large folio, unless it moves whole: nothing, if there is
 * none.
 *
 * One that other mms may map goes home as single pages. When one of them unmaps
 * it or exits, the kernel mistakes its migration entry, see
 * hmmgpu_request_lock(), and nothing here can keep another mm from that. To
 * collect single pages splits the folio first, and migration entries of single
 * pages are safe. One of which only a part was asked for is split likewise.
 *
 * On the way to the device, what is asked for as a whole is not looked at.
 */
static enum hmmgpu_large hmmgpu_request_large(struct hmmgpu_request *req,
					      struct vm_area_struct *vma,
					      unsigned long start,
					      unsigned long end)
{
	bool home = req->direction == HMMGPU_DIR_DEV_TO_SYS;
	bool part = !IS_ALIGNED(start | end, HPAGE_PMD_SIZE);
	bool shared;

	if (!hmmgpu_has_large(req->hdev) || start < req->small_end ||
	    !(home || part) ||
	    !hmmgpu_find_large(req->hdev, vma, start, home, &shared))
		return HMMGPU_LARGE_NONE;
	if (part)
		return HMMGPU_LARGE_PART;
	return shared ? HMMGPU_LARGE_SHARED : HMMGPU_LARGE_WHOLE;
}

/* After collecting: a large folio that was left out stays where it is. */
static void hmmgpu_request_tell(struct hmmgpu_request *req,
				const struct hmmgpu_batch *batch,
				enum hmmgpu_large large)
{
	unsigned int reason;

	if (batch->stuck ||
	    (large != HMMGPU_LARGE_NONE && !batch->src[0]))
		reason = HMMGPU_FALLBACK_SPLIT_FAILED;
	else if (large == HMMGPU_LARGE_SHARED)
		reason = HMMGPU_FALLBACK_SHARED;
	else if (large == HMMGPU_LARGE_PART)
		reason = HMMGPU_FALLBACK_PARTIAL;
	else
		return;
	hmmgpu_span_fallback(req->hdev, &req->span, batch->args.start, reason);
}

static struct hmmgpu_batch *hmmgpu_request_spare(struct hmmgpu_request *req)
{
	struct hmmgpu_batch *batch;

	batch = hmmgpu_batch_get(req->hdev, &req->span);
	if (batch) {
		batch->keep = req->move->keep;
		batch->whole = req->move->whole;
	}
	return batch;
}

static int hmmgpu_request_batch(struct hmmgpu_request *req,
				struct vm_area_struct *vma)
{
	struct hmmgpu_batch *batch = req->spare, *before;
	unsigned long start = req->addr;
	unsigned long end = hmmgpu_batch_end(req, min(req->end, vma->vm_end));
	bool again = start < req->small_end;
	enum hmmgpu_large large;
	int ret;

	large = hmmgpu_request_large(req, vma, start, end);
	if (large == HMMGPU_LARGE_SHARED)
		req->small_end = end;
	if (hmmgpu_batch_collect(batch, vma, start, end,
				 hmmgpu_request_flags(req), NULL)) {
		req->move->skipped += PHYS_PFN(end - start);
		req->addr = end;
		return 0;
	}
	/* What goes as single pages now has been told of before. */
	if (!again)
		hmmgpu_request_tell(req, batch, large);
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
		if (req->addr < req->end)
			req->spare = hmmgpu_request_spare(req);
		if (!req->spare) {
			/* Then one at a time. */
			ret = hmmgpu_request_drain(req);
			if (ret)
				return ret;
		}
	}
	return hmmgpu_request_stopped(req, batch);
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
	unsigned int tries;

	if (req->move->try_lock) {
		for (tries = 0; tries < HMMGPU_LOCK_TRIES; tries++) {
			if (hmmgpu_mmap_write_trylock(req->mm))
				return 0;
			usleep_range(100, 500);
		}
		return -EAGAIN;
	}
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
	req->move->skipped += PHYS_PFN(next - req->addr);
	req->addr = next;
	return 0;
}

static int hmmgpu_request_run(struct hmmgpu_request *req)
{
	int ret = 0, err;

	while (!ret && req->addr < req->end) {
		ret = hmmgpu_request_lock(req);
		if (ret)
			return ret;
		down_read(&req->hdev->flight);
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
		up_read(&req->hdev->flight);
		hmmgpu_request_unlock(req);
	}
	return ret;
}

/**
 * hmmgpu_move() - migrate a range of an mm
 * @hdev: the device
 * @move: what is asked for; gets the results, which are valid in any case
 *
 * Now and then a page does not migrate, because someone else has a reference at
 * the wrong moment: it is counted as skipped and is no error.
 *
 * Context: Process context, no mmap_lock is held. Removal must not be beyond
 * stopping contexts: &hmmgpu_device.gate is held for reading, or this is the
 * thread of a context.
 * Return: 0; -ENOSPC, VRAM is full; -ENOMEM, no system memory; -EIO, a copy
 * failed and the pages stayed where they were, or a reset has taken some that
 * should come home; -ETIMEDOUT, the device did not answer; -EINTR, a fatal signal;
 * -ENODEV, the device is lost or goes; -EAGAIN, mmap_lock could not be had with
 * &hmmgpu_move.try_lock.
 */
int hmmgpu_move(struct hmmgpu_device *hdev, struct hmmgpu_move *move)
{
	struct hmmgpu_request req = {
		.hdev = hdev,
		.move = move,
		.mm = move->mm,
		.direction = move->direction,
		.span = {
			.direction = move->direction,
			.trigger = move->trigger,
		},
		.addr = move->start,
		.end = move->end,
	};
	int ret;

	move->moved = 0;
	move->present = 0;
	move->skipped = 0;
	move->max_order = 0;
	req.spare = hmmgpu_request_spare(&req);
	if (!req.spare)
		return -ENOMEM;
	hmmgpu_span_begin(hdev, &req.span, move->mm, move->start,
			  PHYS_PFN(move->end - move->start));
	ret = hmmgpu_request_run(&req);
	if (!ret && req.lost)
		ret = -EIO;
	hmmgpu_span_end(hdev, &req.span, move->max_order, move->moved);
	hmmgpu_batch_put(req.spare);
	return ret;
}
