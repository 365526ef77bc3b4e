// SPDX-License-Identifier: GPL-2.0-only
/*
 * Making memory accessible to the GPU, by policy: for a fault of the GPU, or ahead
 * of it for a range.
 */
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "context.h"

/* How often VRAM is made room in for one 2 MiB. */
#define HMMGPU_SERVICE_RECLAIMS	8
/*
 * After so many attempts a fault counts as served: if someone has taken the
 * memory back by then, the GPU faults again.
 */
#define HMMGPU_SERVICE_ROUNDS	8
/* Of these, so many migrate; after that memory is accessed where it is. */
#define HMMGPU_SERVICE_MOVES	3

static bool hmmgpu_policy_migrates(unsigned int policy)
{
	return policy == HMMGPU_POLICY_DEFAULT ||
	       policy == HMMGPU_POLICY_PREFER_DEVICE;
}

/**
 * hmmgpu_service_migrate() - put a range where its policy wants it
 * @ctx: the context; the caller holds a reference to its mm
 * @start: first address
 * @end: end of the range, which lies in 2 MiB
 * @policy: POLICY value
 * @trigger: TRIGGER value
 * @moved: the number of pages that moved is added to it
 *
 * That something does not move is no error, it can be accessed where it is.
 *
 * Context: Process context, no lock is held.
 * Return: 0; -EINTR; -ENODEV, the device has gone or goes.
 */
int hmmgpu_service_migrate(struct hmmgpu_context *ctx, unsigned long start,
			   unsigned long end, unsigned int policy,
			   unsigned int trigger, unsigned long *moved)
{
	struct hmmgpu_owner wanted = {
		.mm = ctx->mm,
		.addr = ALIGN_DOWN(start, HPAGE_PMD_SIZE),
	};
	struct hmmgpu_move move = {
		.mm = ctx->mm,
		.start = start,
		.end = end,
		.direction = HMMGPU_DIR_SYS_TO_DEV,
		.trigger = trigger,
		.keep = policy == HMMGPU_POLICY_PREFER_DEVICE,
		.whole = true,
	};
	unsigned int tries = 0;
	int ret;

	if (policy == HMMGPU_POLICY_ACCESS_IN_PLACE)
		return 0;
	if (policy == HMMGPU_POLICY_PREFER_SYSTEM)
		move.direction = HMMGPU_DIR_DEV_TO_SYS;
	for (;;) {
		ret = hmmgpu_move(ctx->hdev, &move);
		*moved += move.moved;
		if (ret != -ENOSPC || !move.whole)
			break;
		/* In the end, single pages into whatever room there is. */
		if (tries++ == HMMGPU_SERVICE_RECLAIMS ||
		    !hmmgpu_reclaim(ctx->hdev, &wanted))
			move.whole = false;
	}
	return ret == -EINTR || ret == -ENODEV ? ret : 0;
}

/* Zero pages are no obstacle: they migrate as holes, which can be written to. */
static bool hmmgpu_must_unshare(const unsigned long *pfns, unsigned long addr)
{
	unsigned long pfn = pfns[(addr % HPAGE_PMD_SIZE) >> PAGE_SHIFT];
	struct page *page;

	if ((pfn & (HMM_PFN_VALID | HMM_PFN_ERROR | HMM_PFN_WRITE)) !=
	    HMM_PFN_VALID)
		return false;
	page = hmm_pfn_to_page(pfn);
	return is_device_private_page(page) || PageAnon(page);
}

/*
 * The CPU makes its copies of what a fork shares, and what may not be written to
 * in VRAM comes home for that. All of the range at once: page by page, all of it
 * would go back and forth for each. Nobody waits for user space here, which may
 * have to do with other pages than the one that matters; whether that one can be
 * had is found out later.
 */
static int hmmgpu_unshare(struct hmmgpu_context *ctx, unsigned long start,
			  unsigned long end, unsigned long *pfns)
{
	int ret = hmmgpu_mirror_fault_in(ctx, start, end, true, false, pfns);

	return ret == -EINTR ? ret : 0;
}

static bool hmmgpu_any_local(struct hmmgpu_device *hdev,
			     const unsigned long *pfns)
{
	unsigned int i;

	for (i = 0; i < HMMGPU_LARGE_PAGES; i++) {
		if (!(pfns[i] & HMM_PFN_VALID))
			continue;
		if (is_device_private_page(hmm_pfn_to_page(pfns[i])))
			return true;
	}
	return false;
}

static u64 hmmgpu_access_bits(unsigned int access)
{
	switch (access) {
	case HMMGPU_FAULT_READ:
		return HMMGPU_PTE_VALID;
	case HMMGPU_FAULT_WRITE:
		return HMMGPU_PTE_VALID | HMMGPU_PTE_WRITE;
	default:
		return HMMGPU_PTE_VALID | HMMGPU_PTE_WRITE | HMMGPU_PTE_ATOMIC;
	}
}

/* Before the first attempt to migrate: is there something to do first? */
static int hmmgpu_service_prepare(struct hmmgpu_context *ctx,
				  unsigned long addr, unsigned long start,
				  unsigned long end, bool write,
				  unsigned int *policy, unsigned long *pfns)
{
	int ret;

	if (!write && *policy != HMMGPU_POLICY_PREFER_SYSTEM)
		return 0;
	ret = hmmgpu_mirror_look(ctx, addr, pfns);
	if (ret)
		return ret == -EINTR ? ret : 0;
	/* To look for what is not there would lock all others out. */
	if (*policy == HMMGPU_POLICY_PREFER_SYSTEM &&
	    !hmmgpu_any_local(ctx->hdev, pfns))
		*policy = HMMGPU_POLICY_ACCESS_IN_PLACE;
	if (!hmmgpu_policy_migrates(*policy))
		return 0;
	if (hmmgpu_must_unshare(pfns, addr))
		return hmmgpu_unshare(ctx, start, end, pfns);
	return 0;
}

/*
 * Would the CPU be allowed this access? If so, the range is made no larger than
 * the VMA: what is next to it is none of this fault's business.
 */
static int hmmgpu_service_vma(struct hmmgpu_context *ctx, unsigned long addr,
			      bool write, unsigned long *start,
			      unsigned long *end)
{
	struct vm_area_struct *vma;
	int ret = -EFAULT;

	if (mmap_read_lock_killable(ctx->mm))
		return -EINTR;
	vma = vma_lookup(ctx->mm, addr);
	if (vma && vma->vm_flags & (write ? VM_WRITE : VM_READ)) {
		*start = max(*start, vma->vm_start);
		*end = min(*end, vma->vm_end);
		ret = 0;
	}
	mmap_read_unlock(ctx->mm);
	return ret;
}

static int hmmgpu_service_page(struct hmmgpu_context *ctx, unsigned long addr,
			       unsigned int access,
			       void (*mapped)(struct hmmgpu_context *ctx),
			       unsigned long *pfns)
{
	unsigned long start = ALIGN_DOWN(addr, HPAGE_PMD_SIZE);
	unsigned long end = start + HPAGE_PMD_SIZE;
	unsigned int policy = hmmgpu_policy_get(ctx, addr, &start, &end);
	bool write = access != HMMGPU_FAULT_READ;
	unsigned long moved = 0;
	unsigned int round;
	bool can_move;
	long ret;

	ret = hmmgpu_service_vma(ctx, addr, write, &start, &end);
	if (!ret)
		ret = hmmgpu_service_prepare(ctx, addr, start, end, write,
					     &policy, pfns);
	for (round = 0; !ret && round < HMMGPU_SERVICE_ROUNDS; round++) {
		/*
		 * What was not there in the first round may have been on
		 * another device, which fault_in brought home: try again.
		 */
		can_move = policy != HMMGPU_POLICY_ACCESS_IN_PLACE &&
			   round < HMMGPU_SERVICE_MOVES;
		if (can_move)
			ret = hmmgpu_service_migrate(ctx, start, end, policy,
						     HMMGPU_TRIGGER_GPU_FAULT,
						     &moved);
		if (ret)
			break;
		ret = hmmgpu_mirror_map(ctx, start, end, false, pfns);
		if (ret < 0 && ret != -EBUSY)
			break;
		ret = 0;
		if (hmmgpu_mirror_allowed(ctx, addr, addr + PAGE_SIZE,
					  hmmgpu_access_bits(access)))
			break;
		/* Not before fault_in, which alone can wait for user space. */
		if (access == HMMGPU_FAULT_ATOMIC && round) {
			ret = hmmgpu_mirror_exclusive_page(ctx, addr, mapped);
			break;
		}
		ret = hmmgpu_mirror_fault_in(ctx, addr, addr + PAGE_SIZE,
					     write, true, pfns);
		if (fatal_signal_pending(current))
			ret = -EINTR;
	}
	/* It was all taken back each time, or cannot be given to the device. */
	if (!ret && round == HMMGPU_SERVICE_ROUNDS) {
		ret = hmmgpu_mirror_map(ctx, addr, addr + PAGE_SIZE, false,
					pfns);
		ret = ret == -EIO ? ret : 0;
	}
	if (!ret && !moved)
		hmmgpu_count(ctx->hdev, gpu_faults_in_place, 1);
	return ret;
}

/**
 * hmmgpu_service_fault() - serve a fault of the GPU
 * @ctx: the context; the caller holds a reference to its mm
 * @addr: the address
 * @access: FAULT access
 * @mapped: called if a page was made exclusive, while nobody can take it back
 *
 * The 2 MiB around the address, as far as it is one VMA with one policy, moves to
 * where that wants it, and what the CPU has mapped there is mapped for the GPU. Only
 * the page itself is faulted in if it is not there.
 *
 * Context: Process context, no lock is held.
 * Return: 0, the GPU may try again; -EFAULT, -EPERM: the process could not access
 * it either; -EOPNOTSUPP, no atomic operations there; -EIO, the device cannot be
 * given it; -ENOMEM; -EINTR; -ENODEV.
 */
int hmmgpu_service_fault(struct hmmgpu_context *ctx, unsigned long addr,
			 unsigned int access,
			 void (*mapped)(struct hmmgpu_context *ctx))
{
	unsigned long *pfns;
	int ret;

	addr = ALIGN_DOWN(addr, PAGE_SIZE);
	pfns = kvmalloc_array(HMMGPU_LARGE_PAGES, sizeof(*pfns), GFP_KERNEL);
	if (!pfns)
		return -ENOMEM;
	ret = hmmgpu_service_page(ctx, addr, access, mapped, pfns);
	kvfree(pfns);
	return ret;
}

struct hmmgpu_ahead {
	bool write;
	unsigned long mapped;
	unsigned long moved;
};

/*
 * Faults in what of a range is a VMA that allows the access. What user space
 * would have to provide first is left out, so that nobody waits for it here.
 */
static int hmmgpu_ahead_fault_in(struct hmmgpu_context *ctx,
				 unsigned long start, unsigned long end,
				 bool write, unsigned long *pfns)
{
	vm_flags_t needed = VM_READ | (write ? VM_WRITE : 0);
	int ret = 0;

	while (start < end && ret != -EINTR) {
		struct vm_area_struct *vma;
		unsigned long next = end;
		bool usable = false;

		if (mmap_read_lock_killable(ctx->mm))
			return -EINTR;
		vma = find_vma(ctx->mm, start);
		if (vma && vma->vm_start <= start) {
			next = min(end, vma->vm_end);
			usable = (vma->vm_flags & needed) == needed &&
				 !(vma->vm_flags & (VM_IO | VM_PFNMAP));
		} else if (vma) {
			next = min(end, vma->vm_start);
		}
		mmap_read_unlock(ctx->mm);
		if (usable)
			ret = hmmgpu_mirror_fault_in(ctx, start, next, write,
						     false, pfns);
		start = next;
	}
	return ret == -EINTR ? ret : 0;
}

static int hmmgpu_ahead_part(struct hmmgpu_context *ctx, unsigned long start,
			     unsigned long end, unsigned int policy,
			     struct hmmgpu_ahead *ahead, unsigned long *pfns)
{
	u64 bits = hmmgpu_access_bits(ahead->write ? HMMGPU_FAULT_WRITE :
						     HMMGPU_FAULT_READ);
	int ret;

	ret = hmmgpu_service_migrate(ctx, start, end, policy,
				     HMMGPU_TRIGGER_PREFETCH, &ahead->moved);
	if (!ret)
		ret = hmmgpu_ahead_fault_in(ctx, start, end, ahead->write,
					    pfns);
	/* What came home to be written to, or from another device. */
	if (!ret && hmmgpu_policy_migrates(policy))
		ret = hmmgpu_service_migrate(ctx, start, end, policy,
					     HMMGPU_TRIGGER_PREFETCH,
					     &ahead->moved);
	if (!ret) {
		long nr = hmmgpu_mirror_map(ctx, start, end, false, pfns);

		if (nr < 0 && nr != -EBUSY && nr != -EFAULT)
			ret = nr;
	}
	if (!ret)
		ahead->mapped += hmmgpu_mirror_allowed(ctx, start, end, bits);
	return ret;
}

static int hmmgpu_ahead_unit(struct hmmgpu_context *ctx, unsigned long start,
			     unsigned long end, unsigned long *pfns, void *data)
{
	int ret = hmmgpu_device_check(ctx->hdev);

	while (!ret && start < end) {
		unsigned long first = start, last = end;
		unsigned int policy;

		policy = hmmgpu_policy_get(ctx, start, &first, &last);
		ret = hmmgpu_ahead_part(ctx, start, last, policy, data, pfns);
		start = last;
	}
	return ret;
}

/**
 * hmmgpu_service_prefetch() - make a range accessible to the GPU
 * @ctx: the context
 * @arg: the range, checked; gets the results, which are valid in any case
 *
 * Context: Process context, &hmmgpu_device.gate is held for reading.
 * Return: 0 or a negative errno as documented for the ioctl.
 */
int hmmgpu_service_prefetch(struct hmmgpu_context *ctx,
			    struct hmmgpu_prefetch *arg)
{
	struct hmmgpu_ahead ahead = {
		.write = arg->flags & HMMGPU_PREFETCH_WRITE,
	};
	int ret;

	ret = hmmgpu_mirror_each(ctx, arg->addr, arg->addr + arg->size,
				 hmmgpu_ahead_unit, &ahead);
	arg->mapped_bytes = PFN_PHYS(ahead.mapped);
	arg->moved_bytes = PFN_PHYS(ahead.moved);
	return ret == -EFAULT ? -ESRCH : ret;
}
