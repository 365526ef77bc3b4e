/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All that differs between the kernels that this driver builds for. Kbuild
 * finds out by compiling compat/NAME.c.
 */
#ifndef HMMGPU_COMPAT_H
#define HMMGPU_COMPAT_H

#include <linux/hmm.h>
#include <linux/jiffies.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>

#ifndef HMMGPU_HAVE_DEVICE_PRIVATE_THP
#error "hmmgpu needs a kernel with device-private huge pages (7.2 or later)"
#endif

#if !defined(CONFIG_DEVICE_PRIVATE) || !defined(CONFIG_TRANSPARENT_HUGEPAGE)
#error "hmmgpu needs CONFIG_DEVICE_PRIVATE and CONFIG_TRANSPARENT_HUGEPAGE"
#endif

#ifndef CONFIG_HMM_MIRROR
#error "hmmgpu needs CONFIG_HMM_MIRROR"
#endif

#if PAGE_SHIFT != 12
#error "hmmgpu needs a kernel with pages of 4 KiB"
#endif

#ifdef CONFIG_X86
#include <asm/cpufeature.h>
#ifdef HMMGPU_HAVE_CPUID_API
#include <asm/cpuid/api.h>
#else
#include <asm/processor.h>
#endif
#endif

/**
 * hmmgpu_folio_init() - make a free device page the head of a folio
 * @folio: the first page
 * @pgmap: pagemap of the page
 * @order: order of the folio
 *
 * The first kernels with large device folios do not take the pagemap, and leave
 * in place whatever the tail pages had from a folio of another order. Such a
 * page may belong to one pagemap only, so it is written here.
 *
 * Context: Process context. On return the folio is locked and has one reference.
 */
static inline void hmmgpu_folio_init(struct folio *folio,
				     struct dev_pagemap *pgmap,
				     unsigned int order)
{
#ifdef HMMGPU_HAVE_FOLIO_INIT_PGMAP
	zone_device_folio_init(folio, pgmap, order);
#else
	unsigned long i;

	for (i = 0; i < 1UL << order; i++) {
		struct page *page = folio_page(folio, i);

		page->flags.f &= ~0xffUL;
		page->mapping = NULL;
		((struct folio *)page)->pgmap = pgmap;
	}
	zone_device_folio_init(folio, order);
#endif
}

/**
 * hmmgpu_range_fault_unlocked() - hmm_range_fault() that may let go of mmap_lock
 * @range: the range
 * @timeout: jiffies for which it may change again and again; to wait for user
 *           space does not count
 *
 * The first kernels cannot do that: memory that user space has to provide first
 * is out of reach there.
 *
 * Context: Process context, mmap_lock is not held.
 * Return: as hmm_range_fault_unlocked_timeout().
 */
static inline int hmmgpu_range_fault_unlocked(struct hmm_range *range,
					      unsigned long timeout)
{
#ifdef HMMGPU_HAVE_HMM_UNLOCKED
	return hmm_range_fault_unlocked_timeout(range, timeout);
#else
	unsigned long end = jiffies + timeout;
	int ret;

	do {
		range->notifier_seq = mmu_interval_read_begin(range->notifier);
		if (mmap_read_lock_killable(range->notifier->mm))
			return -EINTR;
		ret = hmm_range_fault(range);
		mmap_read_unlock(range->notifier->mm);
	} while (ret == -EBUSY && time_before(jiffies, end));
	return ret;
#endif
}

/**
 * hmmgpu_mmap_write_trylock() - take mmap_lock for writing if nobody has it
 * @mm: the mm
 *
 * Kernels have no function for it any more.
 *
 * Return: true if it is taken; mmap_write_unlock() gives it back.
 */
static inline bool hmmgpu_mmap_write_trylock(struct mm_struct *mm)
{
	if (!down_write_trylock(&mm->mmap_lock))
		return false;
	mm_lock_seqcount_begin(mm);
	return true;
}

/**
 * hmmgpu_on_tcg() - does this kernel run on QEMU's translator?
 *
 * Return: true if the hypervisor's CPUID leaf says so.
 */
static inline bool hmmgpu_on_tcg(void)
{
#ifdef CONFIG_X86
	u32 eax, sig[3];

	if (!boot_cpu_has(X86_FEATURE_HYPERVISOR))
		return false;
	cpuid(0x40000000, &eax, &sig[0], &sig[1], &sig[2]);
	return !memcmp(sig, "TCGTCGTCGTCG", sizeof(sig));
#else
	return false;
#endif
}

#endif /* HMMGPU_COMPAT_H */
