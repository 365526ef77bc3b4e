// SPDX-License-Identifier: GPL-2.0-only
/*
 * Making ranges accessible to the GPU without moving them to it.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "context.h"

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
		if (hmmgpu_mirror_allowed(ctx, start, end, bits) ==
		    PHYS_PFN(end - start))
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
