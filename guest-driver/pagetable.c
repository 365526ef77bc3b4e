// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page tables of the GPU, which the device walks in guest RAM.
 *
 * What is taken away goes in two steps, with the invalidation of the GPU's TLB
 * between them: entries lose their valid bit, which makes the device ignore the
 * rest of them, and later their address is taken back from the device. So a list
 * of what has to be unmapped needs no memory: it stays in the entries.
 */
#include <linux/dma-mapping.h>
#include <linux/slab.h>

#include "context.h"

#define HMMGPU_PT_ENTRIES	BIT(HMMGPU_PT_BITS)
#define HMMGPU_PT_BYTES		(HMMGPU_PT_ENTRIES * sizeof(__le64))
#define HMMGPU_PT_TOP		(HMMGPU_PT_LEVELS - 1)
#define HMMGPU_VA_END		BIT(HMMGPU_VA_BITS)
/* So many tables are no reason to look for empty ones: 4 GiB of single pages. */
#define HMMGPU_PT_PRUNE_MIN	2048

/**
 * struct hmmgpu_table - one table
 * @entries: what the device sees
 * @dma: DMA address of @entries
 * @nr_used: entries that are not zero
 * @next: in a list of tables that are to be freed
 * @children: tables of the next level, whether or not an entry points to them;
 *            none at level 0
 */
struct hmmgpu_table {
	__le64 *entries;
	dma_addr_t dma;
	unsigned int nr_used;
	struct hmmgpu_table *next;
	struct hmmgpu_table *children[];
};

static unsigned int hmmgpu_pt_shift(unsigned int level)
{
	return PAGE_SHIFT + level * HMMGPU_PT_BITS;
}

static unsigned int hmmgpu_pt_index(unsigned long addr, unsigned int level)
{
	return (addr >> hmmgpu_pt_shift(level)) & (HMMGPU_PT_ENTRIES - 1);
}

static struct hmmgpu_table *hmmgpu_table_alloc(struct hmmgpu_device *hdev,
					       unsigned int level)
{
	struct hmmgpu_table *table;
	unsigned int nr = level ? HMMGPU_PT_ENTRIES : 0;

	table = kvzalloc(struct_size(table, children, nr), GFP_KERNEL);
	if (!table)
		return NULL;
	table->entries = dma_alloc_coherent(hdev->dev, HMMGPU_PT_BYTES,
					    &table->dma, GFP_KERNEL);
	if (!table->entries) {
		kvfree(table);
		return NULL;
	}
	return table;
}

static void hmmgpu_table_free(struct hmmgpu_device *hdev,
			      struct hmmgpu_table *table)
{
	/* A device that does not reset may still read it. */
	if (!hdev->lost || hdev->quiesced)
		dma_free_coherent(hdev->dev, HMMGPU_PT_BYTES, table->entries,
				  table->dma);
	kvfree(table);
}

static void hmmgpu_tables_free(struct hmmgpu_device *hdev,
			       struct hmmgpu_table *table, unsigned int level)
{
	unsigned int i;

	if (!table)
		return;
	for (i = 0; level && i < HMMGPU_PT_ENTRIES; i++)
		hmmgpu_tables_free(hdev, table->children[i], level - 1);
	hmmgpu_table_free(hdev, table);
}

static struct hmmgpu_table *hmmgpu_table_child(struct hmmgpu_table *table,
					       unsigned int level,
					       unsigned long addr)
{
	/* Pairs with hmmgpu_pt_grow(): what is found is initialised. */
	return smp_load_acquire(&table->children[hmmgpu_pt_index(addr, level)]);
}

static struct hmmgpu_table *hmmgpu_pt_table(struct hmmgpu_pagetable *pt,
					    unsigned long addr,
					    unsigned int wanted)
{
	struct hmmgpu_table *table = pt->root;
	unsigned int level;

	for (level = HMMGPU_PT_TOP; table && level > wanted; level--)
		table = hmmgpu_table_child(table, level, addr);
	return table;
}

/**
 * hmmgpu_pt_init() - make an empty page table
 * @pt: the page table
 * @hdev: the device
 *
 * Return: 0 or -ENOMEM.
 */
int hmmgpu_pt_init(struct hmmgpu_pagetable *pt, struct hmmgpu_device *hdev)
{
	pt->hdev = hdev;
	pt->nr_tables = 1;
	pt->prune_at = HMMGPU_PT_PRUNE_MIN;
	mutex_init(&pt->grow);
	pt->root = hmmgpu_table_alloc(hdev, HMMGPU_PT_TOP);
	return pt->root ? 0 : -ENOMEM;
}

/**
 * hmmgpu_pt_exit() - free a page table
 * @pt: the page table; nothing is mapped, and the device does not use it
 */
void hmmgpu_pt_exit(struct hmmgpu_pagetable *pt)
{
	hmmgpu_tables_free(pt->hdev, pt->root, HMMGPU_PT_TOP);
	pt->root = NULL;
	mutex_destroy(&pt->grow);
}

/**
 * hmmgpu_pt_root() - what the device has to be told
 * @pt: the page table
 *
 * Return: DMA address of the root.
 */
dma_addr_t hmmgpu_pt_root(const struct hmmgpu_pagetable *pt)
{
	return pt->root->dma;
}

/**
 * hmmgpu_pt_ready() - are there tables for 2 MiB?
 * @pt: the page table
 * @addr: an address in the 2 MiB
 * @small: for entries of 4 KiB; otherwise for one of 2 MiB
 *
 * Context: &hmmgpu_mirror.lock is held.
 * Return: true if there are.
 */
bool hmmgpu_pt_ready(struct hmmgpu_pagetable *pt, unsigned long addr,
		     bool small)
{
	return hmmgpu_pt_table(pt, addr, small ? 0 : 1);
}

/**
 * hmmgpu_pt_grow() - see to it that there are tables for 2 MiB
 * @pt: the page table
 * @addr: an address in the 2 MiB
 * @small: for entries of 4 KiB; otherwise for one of 2 MiB
 *
 * Context: Process context, may sleep and reclaim memory: &hmmgpu_mirror.lock
 * must not be held, and when it is taken hmmgpu_pt_ready() tells if the tables
 * are still there.
 * Return: 0, -ENOMEM, or -EFAULT if the device has no such address.
 */
int hmmgpu_pt_grow(struct hmmgpu_pagetable *pt, unsigned long addr, bool small)
{
	struct hmmgpu_table *table = pt->root;
	unsigned int level;
	int ret = 0;

	if (addr >= HMMGPU_VA_END)
		return -EFAULT;
	mutex_lock(&pt->grow);
	for (level = HMMGPU_PT_TOP; level > (small ? 0 : 1); level--) {
		struct hmmgpu_table *child;

		child = hmmgpu_table_child(table, level, addr);
		if (!child) {
			child = hmmgpu_table_alloc(pt->hdev, level - 1);
			if (!child) {
				ret = -ENOMEM;
				break;
			}
			/* Pairs with hmmgpu_table_child(). */
			smp_store_release(&table->children[hmmgpu_pt_index(addr, level)],
					  child);
			pt->nr_tables++;
		}
		table = child;
	}
	mutex_unlock(&pt->grow);
	return ret;
}

/**
 * hmmgpu_pt_crowded() - is it time to look for empty tables?
 * @pt: the page table
 *
 * Return: true if it is.
 */
bool hmmgpu_pt_crowded(const struct hmmgpu_pagetable *pt)
{
	return READ_ONCE(pt->nr_tables) >= READ_ONCE(pt->prune_at);
}

/* Adds empty tables to @list and returns it. */
static struct hmmgpu_table *hmmgpu_table_prune(struct hmmgpu_table *table,
					       unsigned int level,
					       struct hmmgpu_table *list,
					       unsigned long *nr)
{
	unsigned int i;

	for (i = 0; i < HMMGPU_PT_ENTRIES; i++) {
		struct hmmgpu_table *child = table->children[i];
		u64 entry = le64_to_cpu(table->entries[i]);

		if (!child)
			continue;
		if (level > 1)
			list = hmmgpu_table_prune(child, level - 1, list, nr);
		if (child->nr_used)
			continue;
		/* An entry of 2 MiB may be in its place. */
		if (entry && !(entry & HMMGPU_PTE_LEAF)) {
			WRITE_ONCE(table->entries[i], 0);
			table->nr_used--;
		}
		table->children[i] = NULL;
		child->next = list;
		list = child;
		++*nr;
	}
	return list;
}

/**
 * hmmgpu_pt_prune() - take tables out that are empty
 * @pt: the page table
 *
 * What a process once had mapped it may never use again, and it has more
 * addresses than there is memory for tables. The device may be reading these
 * tables: they can be freed after an invalidation of all.
 *
 * Context: &hmmgpu_pagetable.grow and &hmmgpu_mirror.lock are held.
 * Return: a list for hmmgpu_pt_free_pruned().
 */
struct hmmgpu_table *hmmgpu_pt_prune(struct hmmgpu_pagetable *pt)
{
	struct hmmgpu_table *list;
	unsigned long nr = 0;

	lockdep_assert_held(&pt->grow);
	list = hmmgpu_table_prune(pt->root, HMMGPU_PT_TOP, NULL, &nr);
	pt->nr_tables -= nr;
	pt->prune_at = max(2 * pt->nr_tables, HMMGPU_PT_PRUNE_MIN);
	return list;
}

/**
 * hmmgpu_pt_free_pruned() - free tables that were taken out
 * @pt: the page table
 * @list: from hmmgpu_pt_prune()
 */
void hmmgpu_pt_free_pruned(struct hmmgpu_pagetable *pt,
			   struct hmmgpu_table *list)
{
	while (list) {
		struct hmmgpu_table *table = list;

		list = table->next;
		hmmgpu_table_free(pt->hdev, table);
	}
}

/**
 * hmmgpu_pt_entry() - what is mapped at an address
 * @pt: the page table
 * @addr: the address
 * @large: set if it is an entry of 2 MiB
 *
 * Context: &hmmgpu_mirror.lock is held.
 * Return: the entry, or zero.
 */
u64 hmmgpu_pt_entry(struct hmmgpu_pagetable *pt, unsigned long addr,
		    bool *large)
{
	struct hmmgpu_table *table;
	u64 entry;

	*large = false;
	if (addr >= HMMGPU_VA_END)
		return 0;
	table = hmmgpu_pt_table(pt, addr, 1);
	if (!table)
		return 0;
	entry = le64_to_cpu(table->entries[hmmgpu_pt_index(addr, 1)]);
	if (!entry)
		return 0;
	*large = entry & HMMGPU_PTE_LEAF;
	if (*large)
		return entry;
	table = hmmgpu_table_child(table, 1, addr);
	return le64_to_cpu(table->entries[hmmgpu_pt_index(addr, 0)]);
}

static void hmmgpu_table_set(struct hmmgpu_table *table, unsigned int level,
			     unsigned long addr, u64 entry)
{
	__le64 *slot = &table->entries[hmmgpu_pt_index(addr, level)];

	if (!*slot && entry)
		table->nr_used++;
	else if (*slot && !entry)
		table->nr_used--;
	/* What it points to is seen before it is. */
	dma_wmb();
	WRITE_ONCE(*slot, cpu_to_le64(entry));
}

/**
 * hmmgpu_pt_set() - map something, or add a permission
 * @pt: the page table; hmmgpu_pt_grow() was called for @addr
 * @addr: the address
 * @entry: the entry: the one that is there with more permissions, or any if there
 *         is none
 * @large: it maps 2 MiB: then no entry of 4 KiB is in use there, otherwise none
 *         of 2 MiB
 *
 * The device needs no invalidation for that.
 *
 * Context: &hmmgpu_mirror.lock is held.
 */
void hmmgpu_pt_set(struct hmmgpu_pagetable *pt, unsigned long addr, u64 entry,
		   bool large)
{
	struct hmmgpu_table *table = pt->root, *child;
	unsigned int level, last = large ? 1 : 0;

	if (large)
		entry |= HMMGPU_PTE_LEAF;
	for (level = HMMGPU_PT_TOP; level > last; level--) {
		child = hmmgpu_table_child(table, level, addr);
		if (!table->entries[hmmgpu_pt_index(addr, level)])
			hmmgpu_table_set(table, level, addr,
					 child->dma | HMMGPU_PTE_VALID);
		table = child;
	}
	hmmgpu_table_set(table, last, addr, entry);
}

typedef bool (*hmmgpu_leaf_fn)(struct hmmgpu_pagetable *pt,
			       struct hmmgpu_table *table, unsigned int level,
			       unsigned long addr, void *data);

/* Calls @fn for the leaves in a range until it returns true. */
static bool hmmgpu_pt_walk(struct hmmgpu_pagetable *pt,
			   struct hmmgpu_table *table, unsigned int level,
			   unsigned long start, unsigned long end,
			   hmmgpu_leaf_fn fn, void *data)
{
	unsigned long size = 1UL << hmmgpu_pt_shift(level);
	unsigned long addr, next;

	for (addr = start; addr < end && table->nr_used; addr = next) {
		u64 entry = le64_to_cpu(table->entries[hmmgpu_pt_index(addr, level)]);

		next = min(end, ALIGN_DOWN(addr, size) + size);
		if (!entry)
			continue;
		if (!level || entry & HMMGPU_PTE_LEAF) {
			if (fn(pt, table, level, ALIGN_DOWN(addr, size), data))
				return true;
		} else if (hmmgpu_pt_walk(pt,
					  hmmgpu_table_child(table, level, addr),
					  level - 1, addr, next, fn, data)) {
			return true;
		}
	}
	return false;
}

static bool hmmgpu_pt_walk_all(struct hmmgpu_pagetable *pt, unsigned long start,
			       unsigned long end, hmmgpu_leaf_fn fn, void *data)
{
	end = min(end, HMMGPU_VA_END);
	return hmmgpu_pt_walk(pt, pt->root, HMMGPU_PT_TOP, start, end, fn,
			      data);
}

static bool hmmgpu_leaf_any(struct hmmgpu_pagetable *pt,
			    struct hmmgpu_table *table, unsigned int level,
			    unsigned long addr, void *data)
{
	return true;
}

/**
 * hmmgpu_pt_any() - is anything mapped in a range?
 * @pt: the page table
 * @start: first address
 * @end: end of the range
 *
 * Context: &hmmgpu_mirror.lock is held.
 * Return: true if there is.
 */
bool hmmgpu_pt_any(struct hmmgpu_pagetable *pt, unsigned long start,
		   unsigned long end)
{
	return hmmgpu_pt_walk_all(pt, start, end, hmmgpu_leaf_any, NULL);
}

static bool hmmgpu_leaf_exclusive(struct hmmgpu_pagetable *pt,
				  struct hmmgpu_table *table,
				  unsigned int level, unsigned long addr,
				  void *data)
{
	u64 entry = le64_to_cpu(table->entries[hmmgpu_pt_index(addr, level)]);

	return (entry & HMMGPU_PTE_ATOMIC) && !(entry & HMMGPU_PTE_VRAM);
}

/**
 * hmmgpu_pt_any_exclusive() - may anything in a range be used for atomic
 *                             operations that is in system memory?
 * @pt: the page table
 * @start: first address
 * @end: end of the range
 *
 * Context: &hmmgpu_mirror.lock is held.
 * Return: true if there is.
 */
bool hmmgpu_pt_any_exclusive(struct hmmgpu_pagetable *pt, unsigned long start,
			     unsigned long end)
{
	return hmmgpu_pt_walk_all(pt, start, end, hmmgpu_leaf_exclusive, NULL);
}

struct hmmgpu_revoked {
	unsigned long start;
	unsigned long end;
};

static bool hmmgpu_leaf_revoke(struct hmmgpu_pagetable *pt,
			       struct hmmgpu_table *table, unsigned int level,
			       unsigned long addr, void *data)
{
	__le64 *slot = &table->entries[hmmgpu_pt_index(addr, level)];
	struct hmmgpu_revoked *revoked = data;

	WRITE_ONCE(*slot, *slot & ~cpu_to_le64(HMMGPU_PTE_VALID));
	revoked->start = min(revoked->start, addr);
	revoked->end = max(revoked->end,
			   addr + (1UL << hmmgpu_pt_shift(level)));
	return false;
}

/**
 * hmmgpu_pt_revoke() - first step of unmapping
 * @pt: the page table
 * @start: first address; becomes that of what has to be invalidated
 * @end: end of the range; likewise
 *
 * An entry of 2 MiB goes as a whole. If there was something, the caller
 * invalidates the GPU's TLB for the range that it gets, and then calls
 * hmmgpu_pt_release() for it.
 *
 * Context: &hmmgpu_mirror.lock is held.
 * Return: true if something was mapped.
 */
bool hmmgpu_pt_revoke(struct hmmgpu_pagetable *pt, unsigned long *start,
		      unsigned long *end)
{
	struct hmmgpu_revoked revoked = { .start = ULONG_MAX };

	hmmgpu_pt_walk_all(pt, *start, *end, hmmgpu_leaf_revoke, &revoked);
	if (!revoked.end)
		return false;
	*start = revoked.start;
	*end = revoked.end;
	return true;
}

static bool hmmgpu_leaf_release(struct hmmgpu_pagetable *pt,
				struct hmmgpu_table *table, unsigned int level,
				unsigned long addr, void *data)
{
	u64 entry = le64_to_cpu(table->entries[hmmgpu_pt_index(addr, level)]);
	struct hmmgpu_device *hdev = pt->hdev;

	/* Of what lies between, some was not in the range that was revoked. */
	if (entry & HMMGPU_PTE_VALID)
		return false;
	if (!(entry & HMMGPU_PTE_VRAM))
		dma_unmap_page(hdev->dev, entry & HMMGPU_PTE_ADDRESS,
			       1UL << hmmgpu_pt_shift(level),
			       hmmgpu_pte_direction(entry));
	hmmgpu_table_set(table, level, addr, 0);
	return false;
}

/**
 * hmmgpu_pt_release() - second step of unmapping
 * @pt: the page table
 * @start: first address, from hmmgpu_pt_revoke()
 * @end: end of the range, likewise
 *
 * Context: &hmmgpu_mirror.lock is held, and has been since hmmgpu_pt_revoke().
 */
void hmmgpu_pt_release(struct hmmgpu_pagetable *pt, unsigned long start,
		       unsigned long end)
{
	hmmgpu_pt_walk_all(pt, start, end, hmmgpu_leaf_release, NULL);
}
