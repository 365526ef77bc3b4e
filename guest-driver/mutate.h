/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mistakes that the driver can be made to make, for the tests of the device's
 * checker of VRAM: only in a build with HMMGPU_MUTATIONS=1, which loses data. In
 * any other build nothing of this is there.
 *
 * Each mistake is made where a driver would make it, and once for each time that
 * the module parameter "mutation" is set to its name.
 */
#ifndef HMMGPU_MUTATE_H
#define HMMGPU_MUTATE_H

#include <linux/types.h>

struct hmmgpu_desc;
struct hmmgpu_pagetable;

/**
 * enum hmmgpu_mutation - a mistake; the names are those of the parameter
 * @HMMGPU_MUTATE_NONE: none
 * @HMMGPU_MUTATE_DOUBLE_ALLOC: the allocator gives out what is in use
 * @HMMGPU_MUTATE_OVERLAP: the allocator gives out 2 MiB that begin in use
 * @HMMGPU_MUTATE_COPY_FREED: what comes home is copied from what was freed last
 * @HMMGPU_MUTATE_SHORT_COPY: 2 MiB go to VRAM, of which one page is copied
 * @HMMGPU_MUTATE_NO_ALLOC: a page is moved to VRAM that nobody has allocated
 * @HMMGPU_MUTATE_FREE_ORDER: 2 MiB are freed as if they were a single page
 * @HMMGPU_MUTATE_NO_SPLIT: the pages of a folio are freed, which was never split
 * @HMMGPU_MUTATE_DOUBLE_FREE: a folio is freed twice
 * @HMMGPU_MUTATE_STALE: the GPU keeps the translation of what goes home
 * @HMMGPU_MUTATE_KEEP_ENTRY: the entry of what goes home stays in the page table
 * @HMMGPU_MUTATE_LEAK: a folio that nobody uses is not freed
 * @HMMGPU_NR_MUTATIONS: their number
 */
enum hmmgpu_mutation {
	HMMGPU_MUTATE_NONE,
	HMMGPU_MUTATE_DOUBLE_ALLOC,
	HMMGPU_MUTATE_OVERLAP,
	HMMGPU_MUTATE_COPY_FREED,
	HMMGPU_MUTATE_SHORT_COPY,
	HMMGPU_MUTATE_NO_ALLOC,
	HMMGPU_MUTATE_FREE_ORDER,
	HMMGPU_MUTATE_NO_SPLIT,
	HMMGPU_MUTATE_DOUBLE_FREE,
	HMMGPU_MUTATE_STALE,
	HMMGPU_MUTATE_KEEP_ENTRY,
	HMMGPU_MUTATE_LEAK,
	HMMGPU_NR_MUTATIONS,
};

#ifdef HMMGPU_MUTATIONS

bool hmmgpu_mutate(enum hmmgpu_mutation mistake);
u64 hmmgpu_mutate_alloc(u64 vram);
bool hmmgpu_mutate_entry(struct hmmgpu_pagetable *pt, unsigned long start,
			 unsigned long end);
u64 hmmgpu_mutate_source(u64 vram);
void hmmgpu_mutate_freed(u64 vram);
void hmmgpu_mutate_note(struct hmmgpu_desc *descs, unsigned int *nr,
			unsigned int room);

#else

static inline bool hmmgpu_mutate(enum hmmgpu_mutation mistake)
{
	return false;
}

static inline u64 hmmgpu_mutate_alloc(u64 vram)
{
	return vram;
}

static inline bool hmmgpu_mutate_entry(struct hmmgpu_pagetable *pt,
				       unsigned long start, unsigned long end)
{
	return false;
}

static inline u64 hmmgpu_mutate_source(u64 vram)
{
	return vram;
}

static inline void hmmgpu_mutate_freed(u64 vram)
{
}

static inline void hmmgpu_mutate_note(struct hmmgpu_desc *descs,
				      unsigned int *nr, unsigned int room)
{
}

#endif

#endif
