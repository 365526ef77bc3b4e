// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mirror of an mm: what of it the GPU can access, kept up to date by the
 * notifier.
 *
 * Whatever changes in the mm, the notifier takes the entries away before it
 * happens. map.c makes entries anew.
 */
#include <linux/mmu_notifier.h>

#include "context.h"
#include "hmmgpu_trace.h"
#include "mutate.h"

/* How often to invalidate before the device is given up. */
#define HMMGPU_FLUSH_TRIES	3

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
	u32 epoch = READ_ONCE(hdev->epoch);
	unsigned int tries;
	int ret = -EIO;

	/* Not enabled: it accesses nothing. */
	if (!READ_ONCE(ctx->running) || hmmgpu_mutate(HMMGPU_MUTATE_STALE))
		return;
	for (tries = 0; ret == -EIO && tries < HMMGPU_FLUSH_TRIES; tries++) {
		hmmgpu_count(hdev, invalidations, 1);
		ret = hmmgpu_ring_submit(&hdev->invalidations, &sub);
		if (!ret)
			ret = hmmgpu_fence_wait(&hdev->invalidations, &fence);
	}
	/* Whatever goes wrong, the caller may give the memory away after this. */
	if (ret)
		hmmgpu_device_lose(hdev, epoch, "an invalidation failed");
}

/**
 * hmmgpu_mirror_zap() - take a range away from the GPU
 * @ctx: the context
 * @start: first address
 * @end: end of the range
 *
 * Context: &hmmgpu_mirror.lock is held.
 */
void hmmgpu_mirror_zap(struct hmmgpu_context *ctx, unsigned long start,
		       unsigned long end)
{
	struct hmmgpu_mirror *mirror = &ctx->mirror;

	lockdep_assert_held(&mirror->lock);
	if (hmmgpu_mutate_entry(&mirror->pt, start, end))
		return;
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

/**
 * hmmgpu_mirror_grow() - see to it that there are tables for 2 MiB
 * @ctx: the context
 * @addr: an address in the 2 MiB
 * @small: for entries of 4 KiB; otherwise for one of 2 MiB
 *
 * Where there are many tables, those that are empty go.
 *
 * Context: Process context, &hmmgpu_mirror.lock is not held.
 * Return: as hmmgpu_pt_grow().
 */
int hmmgpu_mirror_grow(struct hmmgpu_context *ctx, unsigned long addr,
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
