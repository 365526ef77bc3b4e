// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mistakes on purpose, see mutate.h.
 */
#include <linux/moduleparam.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "context.h"
#include "mutate.h"

static const char * const hmmgpu_mutation_names[HMMGPU_NR_MUTATIONS] = {
	[HMMGPU_MUTATE_NONE] = "none",
	[HMMGPU_MUTATE_DOUBLE_ALLOC] = "double-alloc",
	[HMMGPU_MUTATE_OVERLAP] = "overlap",
	[HMMGPU_MUTATE_COPY_FREED] = "copy-freed",
	[HMMGPU_MUTATE_SHORT_COPY] = "short-copy",
	[HMMGPU_MUTATE_NO_ALLOC] = "no-alloc",
	[HMMGPU_MUTATE_FREE_ORDER] = "free-order",
	[HMMGPU_MUTATE_NO_SPLIT] = "no-split",
	[HMMGPU_MUTATE_DOUBLE_FREE] = "double-free",
	[HMMGPU_MUTATE_STALE] = "stale",
	[HMMGPU_MUTATE_KEEP_ENTRY] = "keep-entry",
	[HMMGPU_MUTATE_LEAK] = "leak",
};

/* The mistake that is yet to be made. */
static atomic_t hmmgpu_mutation = ATOMIC_INIT(HMMGPU_MUTATE_NONE);
/* VRAM that was allocated and freed last; tests do one thing at a time. */
static u64 hmmgpu_last_alloc;
static u64 hmmgpu_last_freed;

static int hmmgpu_mutation_set(const char *value, const struct kernel_param *kp)
{
	int found = sysfs_match_string(hmmgpu_mutation_names, value);

	if (found < 0)
		return found;
	atomic_set(&hmmgpu_mutation, found);
	return 0;
}

static int hmmgpu_mutation_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n",
			  hmmgpu_mutation_names[atomic_read(&hmmgpu_mutation)]);
}

static const struct kernel_param_ops hmmgpu_mutation_ops = {
	.set = hmmgpu_mutation_set,
	.get = hmmgpu_mutation_get,
};

module_param_cb(mutation, &hmmgpu_mutation_ops, NULL, 0600);
MODULE_PARM_DESC(mutation, "The next mistake to make, once; reads \"none\" when it is made. LOSES DATA");

/**
 * hmmgpu_mutate() - is this mistake to be made here?
 * @mistake: the mistake
 *
 * Context: Any.
 * Return: true once for each time that it was asked for.
 */
bool hmmgpu_mutate(enum hmmgpu_mutation mistake)
{
	return atomic_cmpxchg(&hmmgpu_mutation, mistake, HMMGPU_MUTATE_NONE) ==
	       mistake;
}

/**
 * hmmgpu_mutate_alloc() - where is the folio that was allocated?
 * @vram: where it should be
 *
 * Context: Any.
 * Return: its byte offset in VRAM.
 */
u64 hmmgpu_mutate_alloc(u64 vram)
{
	if (hmmgpu_mutate(HMMGPU_MUTATE_DOUBLE_ALLOC))
		return hmmgpu_last_alloc;
	if (hmmgpu_mutate(HMMGPU_MUTATE_OVERLAP))
		return hmmgpu_last_alloc + SZ_1M;
	hmmgpu_last_alloc = vram;
	return vram;
}

/**
 * hmmgpu_mutate_entry() - do the entries of a range stay that should go?
 * @pt: the page table
 * @start: first address
 * @end: end of the range
 *
 * Context: as hmmgpu_pt_any().
 * Return: true if there are some, once.
 */
bool hmmgpu_mutate_entry(struct hmmgpu_pagetable *pt, unsigned long start,
			 unsigned long end)
{
	return hmmgpu_pt_any(pt, start, end) &&
	       hmmgpu_mutate(HMMGPU_MUTATE_KEEP_ENTRY);
}

/**
 * hmmgpu_mutate_source() - where is the folio that comes home?
 * @vram: where it should be
 *
 * Context: Any.
 * Return: its byte offset in VRAM.
 */
u64 hmmgpu_mutate_source(u64 vram)
{
	return hmmgpu_mutate(HMMGPU_MUTATE_COPY_FREED) ? hmmgpu_last_freed :
							 vram;
}

/**
 * hmmgpu_mutate_freed() - note what was freed last
 * @vram: its byte offset in VRAM
 *
 * Context: Any.
 */
void hmmgpu_mutate_freed(u64 vram)
{
	hmmgpu_last_freed = vram;
}

/**
 * hmmgpu_mutate_note() - is the note that was made the right one?
 * @descs: notes for the device
 * @nr: their number, the last of which is about a whole folio
 * @room: number that there is room for
 *
 * Context: Any.
 */
void hmmgpu_mutate_note(struct hmmgpu_desc *descs, unsigned int *nr,
			unsigned int room)
{
	struct hmmgpu_desc *last = &descs[*nr - 1];
	u16 kind = le16_to_cpu(last->flags);

	if (kind == HMMGPU_NOTE_SPLIT) {
		if (hmmgpu_mutate(HMMGPU_MUTATE_NO_SPLIT))
			(*nr)--;
		return;
	}
	if (hmmgpu_mutate(HMMGPU_MUTATE_FREE_ORDER))
		last->order = 0;
	if (*nr < room && hmmgpu_mutate(HMMGPU_MUTATE_DOUBLE_FREE))
		descs[(*nr)++] = *last;
}
