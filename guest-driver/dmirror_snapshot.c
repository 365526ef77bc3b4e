// SPDX-License-Identifier: GPL-2.0-only
/*
 * SNAPSHOT of /dev/hmm_dmirrorN: what is mapped, looked at without touching it.
 */
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "dmirror.h"

/**
 * struct hmmgpu_watch - tells if a range changed while it was looked at
 * @notifier: the range
 * @lock: held when its sequence is set and when it is checked
 */
struct hmmgpu_watch {
	struct mmu_interval_notifier notifier;
	spinlock_t lock; /* orders changes against the check for them */
};

static bool hmmgpu_watch_invalidate(struct mmu_interval_notifier *notifier,
				    const struct mmu_notifier_range *range,
				    unsigned long seq)
{
	struct hmmgpu_watch *watch = container_of(notifier, struct hmmgpu_watch,
						  notifier);

	spin_lock(&watch->lock);
	mmu_interval_set_seq(notifier, seq);
	spin_unlock(&watch->lock);
	return true;
}

static const struct mmu_interval_notifier_ops hmmgpu_watch_ops = {
	.invalidate = hmmgpu_watch_invalidate,
};

/* Looks at a part of the range, until it holds still. */
static int hmmgpu_watch_look(struct hmmgpu_watch *watch,
			     struct hmm_range *range)
{
	struct mm_struct *mm = watch->notifier.mm;
	bool again;
	int ret;

	range->notifier = &watch->notifier;
	do {
		range->notifier_seq = mmu_interval_read_begin(range->notifier);
		if (mmap_read_lock_killable(mm))
			return -EINTR;
		ret = hmm_range_fault(range);
		mmap_read_unlock(mm);
		if (ret && ret != -EBUSY)
			return ret;
		spin_lock(&watch->lock);
		again = ret || mmu_interval_read_retry(range->notifier,
						       range->notifier_seq);
		spin_unlock(&watch->lock);
		if (fatal_signal_pending(current))
			return -EINTR;
	} while (again);
	return 0;
}

/*
 * Inside a large device folio the core may give the pfn of a wrong page of the
 * folio: good enough to tell whose it is. What is on another device is not
 * there, as far as this one is concerned.
 */
static u8 hmmgpu_snapshot_byte(unsigned long pfn)
{
	struct page *page;
	u8 prot;

	if (pfn & HMM_PFN_ERROR)
		return HMMGPU_DMIRROR_PROT_ERROR;
	if (!(pfn & HMM_PFN_VALID))
		return HMMGPU_DMIRROR_PROT_NONE;

	prot = pfn & HMM_PFN_WRITE ? HMMGPU_DMIRROR_PROT_WRITE :
				     HMMGPU_DMIRROR_PROT_READ;
	page = hmm_pfn_to_page(pfn);
	if (is_device_private_page(page))
		prot |= HMMGPU_DMIRROR_PROT_LOCAL;
	else if (is_zero_pfn(page_to_pfn(page)))
		prot |= HMMGPU_DMIRROR_PROT_ZERO;
	switch (hmm_pfn_to_map_order(pfn) + PAGE_SHIFT) {
	case PMD_SHIFT:
		return prot | HMMGPU_DMIRROR_PROT_PMD;
	case PUD_SHIFT:
		return prot | HMMGPU_DMIRROR_PROT_PUD;
	default:
		return prot;
	}
}

/**
 * struct hmmgpu_snapshot - what a snapshot needs
 * @watch: the range
 * @pfns: what the core says about a part of it
 * @bytes: what the caller gets to know of that
 */
struct hmmgpu_snapshot {
	struct hmmgpu_watch watch;
	unsigned long pfns[HMMGPU_LARGE_PAGES];
	u8 bytes[HMMGPU_LARGE_PAGES];
};

/* In parts that do not cross 2 MiB. */
static int hmmgpu_snapshot_all(struct hmmgpu_snapshot *snap,
			       struct hmmgpu_context *ctx,
			       struct hmmgpu_dmirror_cmd *cmd)
{
	u8 __user *user = u64_to_user_ptr(cmd->ptr);
	unsigned long addr = cmd->addr, end = hmmgpu_cmd_end(cmd);

	while (addr < end) {
		struct hmm_range range = {
			.start = addr,
			.end = min(ALIGN(addr + 1, HPAGE_PMD_SIZE), end),
			.hmm_pfns = snap->pfns,
			.dev_private_owner = ctx->hdev,
		};
		unsigned long i, nr = PHYS_PFN(range.end - addr);
		int ret;

		/* The struct pages of VRAM go with the device. */
		ret = hmmgpu_dmirror_enter(ctx);
		if (ret)
			return ret;
		ret = hmmgpu_watch_look(&snap->watch, &range);
		for (i = 0; !ret && i < nr; i++)
			snap->bytes[i] = hmmgpu_snapshot_byte(snap->pfns[i]);
		ret = hmmgpu_dmirror_leave(ctx, ret);
		if (ret)
			return ret;
		if (copy_to_user(user, snap->bytes, nr))
			return -EFAULT;
		cmd->cpages += nr;
		user += nr;
		addr = range.end;
		cond_resched();
	}
	return 0;
}

/**
 * hmmgpu_dmirror_snapshot() - tell how the device would see each page now
 * @ctx: mirror of the address space
 * @cmd: the range and the buffer, checked; gets the number of pages
 *
 * Nothing is faulted in, neither for the CPU nor for the device.
 *
 * Context: Process context, may sleep, &hmmgpu_device.gate is not held.
 * Return: 0; -EFAULT, the buffer; -EINVAL, the process has gone; -ENOMEM; -EINTR,
 * a fatal signal; -ENODEV.
 */
int hmmgpu_dmirror_snapshot(struct hmmgpu_context *ctx,
			    struct hmmgpu_dmirror_cmd *cmd)
{
	struct hmmgpu_snapshot *snap = kzalloc(sizeof(*snap), GFP_KERNEL);
	struct mm_struct *mm = ctx->mm;
	int ret = -EINVAL;

	if (!snap)
		return -ENOMEM;
	spin_lock_init(&snap->watch.lock);
	if (!mmget_not_zero(mm))
		goto out_free;
	ret = mmu_interval_notifier_insert(&snap->watch.notifier, mm, cmd->addr,
					   hmmgpu_cmd_bytes(cmd),
					   &hmmgpu_watch_ops);
	if (ret)
		goto out_put;
	ret = hmmgpu_snapshot_all(snap, ctx, cmd);
	mmu_interval_notifier_remove(&snap->watch.notifier);
out_put:
	mmput(mm);
out_free:
	kfree(snap);
	return ret;
}
