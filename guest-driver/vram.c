// SPDX-License-Identifier: GPL-2.0-only
/*
 * The VRAM allocator: blocks of 2 MiB, each whole or split into 512 pages.
 *
 * Freeing may happen in any context, but the device has to be told of it before
 * the memory is used anew. So a free only marks pages; whoever next puts
 * something into the ring takes the notes along, and only then is the memory
 * free. A mark needs no memory, so no note can be lost. The kernel's buddy
 * allocator for GPUs is no choice here: it sleeps and cannot be called from
 * folio_free.
 */
#include <linux/bitmap.h>
#include <linux/vmalloc.h>

#include "hmmgpu_drv.h"
#include "mutate.h"

/* While notes are pending: let a few gather before the device gets them. */
#define HMMGPU_NOTE_DELAY_MS	5

enum hmmgpu_block_state {
	HMMGPU_BLOCK_FREE,
	HMMGPU_BLOCK_WHOLE,
	HMMGPU_BLOCK_PAGES,
};

/**
 * struct hmmgpu_block - 2 MiB of VRAM
 * @link: in &hmmgpu_vram.free or &hmmgpu_vram.partial, or in none
 * @noted: in &hmmgpu_vram.noted, or in none
 * @age: in &hmmgpu_vram.used or &hmmgpu_vram.kept, or in none
 * @owner: who got it last
 * @state: free, one folio, or single pages
 * @nr_used: of single pages: those that are allocated or in @freed
 * @split: the device has to be told that the folio was split
 * @whole_freed: the device has to be told that the folio was freed
 * @used: pages that are allocated or in @freed
 * @freed: pages of whose free the device has to be told
 * @lost: pages whose content a reset has taken
 */
struct hmmgpu_block {
	struct list_head link;
	struct list_head noted;
	struct list_head age;
	struct hmmgpu_owner owner;
	u8 state;
	u16 nr_used;
	bool split;
	bool whole_freed;
	DECLARE_BITMAP(used, HMMGPU_LARGE_PAGES);
	DECLARE_BITMAP(freed, HMMGPU_LARGE_PAGES);
	DECLARE_BITMAP(lost, HMMGPU_LARGE_PAGES);
};

/**
 * hmmgpu_vram_init() - set the allocator up
 * @hdev: the device; its VRAM size is known
 *
 * Return: 0 or -ENOMEM.
 */
int hmmgpu_vram_init(struct hmmgpu_device *hdev)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	unsigned long i;

	spin_lock_init(&vram->lock);
	INIT_LIST_HEAD(&vram->free);
	INIT_LIST_HEAD(&vram->partial);
	INIT_LIST_HEAD(&vram->noted);
	INIT_LIST_HEAD(&vram->used);
	INIT_LIST_HEAD(&vram->kept);
	vram->nr_blocks = hdev->vram_bytes / HMMGPU_VRAM_BLOCK_BYTES;
	vram->blocks = vcalloc(vram->nr_blocks, sizeof(*vram->blocks));
	if (!vram->blocks)
		return dev_err_probe(hdev->dev, -ENOMEM,
				     "no memory to manage %llu bytes of VRAM\n",
				     hdev->vram_bytes);
	for (i = 0; i < vram->nr_blocks; i++) {
		INIT_LIST_HEAD(&vram->blocks[i].noted);
		INIT_LIST_HEAD(&vram->blocks[i].age);
		list_add_tail(&vram->blocks[i].link, &vram->free);
	}
	return 0;
}

/**
 * hmmgpu_vram_exit() - undo hmmgpu_vram_init()
 * @hdev: the device
 */
void hmmgpu_vram_exit(struct hmmgpu_device *hdev)
{
	vfree(hdev->vram.blocks);
}

static unsigned long hmmgpu_block_first(struct hmmgpu_vram *vram,
					struct hmmgpu_block *block)
{
	return (block - vram->blocks) * HMMGPU_LARGE_PAGES;
}

static void hmmgpu_block_note(struct hmmgpu_device *hdev,
			      struct hmmgpu_block *block)
{
	lockdep_assert_held(&hdev->vram.lock);
	if (!list_empty(&block->noted))
		return;
	/* The work goes on until there are none: it is queued for the first. */
	if (list_empty(&hdev->vram.noted))
		queue_delayed_work(hdev->wq, &hdev->note_work,
				   msecs_to_jiffies(HMMGPU_NOTE_DELAY_MS));
	list_add_tail(&block->noted, &hdev->vram.noted);
}

static long hmmgpu_vram_take_large(struct hmmgpu_vram *vram)
{
	struct hmmgpu_block *block;

	lockdep_assert_held(&vram->lock);
	block = list_first_entry_or_null(&vram->free, struct hmmgpu_block,
					 link);
	if (!block)
		return -1;
	list_del_init(&block->link);
	block->state = HMMGPU_BLOCK_WHOLE;
	return hmmgpu_block_first(vram, block);
}

/* So many pages of a block that has single pages are not used any more. */
static void hmmgpu_block_release(struct hmmgpu_vram *vram,
				 struct hmmgpu_block *block, unsigned int nr)
{
	lockdep_assert_held(&vram->lock);
	if (block->nr_used == HMMGPU_LARGE_PAGES && nr)
		list_add_tail(&block->link, &vram->partial);
	block->nr_used -= nr;
	if (!block->nr_used) {
		block->state = HMMGPU_BLOCK_FREE;
		list_move(&block->link, &vram->free);
		list_del_init(&block->age);
	}
}

/* Takes a run of up to @want pages. Returns its first page; @want gets its length. */
static long hmmgpu_vram_take_pages(struct hmmgpu_vram *vram, unsigned int *want)
{
	struct hmmgpu_block *block;
	unsigned int bit, end;

	lockdep_assert_held(&vram->lock);
	block = list_first_entry_or_null(&vram->partial, struct hmmgpu_block,
					 link);
	if (!block) {
		block = list_first_entry_or_null(&vram->free,
						 struct hmmgpu_block, link);
		if (!block)
			return -1;
		list_move(&block->link, &vram->partial);
		block->state = HMMGPU_BLOCK_PAGES;
		block->nr_used = 0;
	}
	bit = find_first_zero_bit(block->used, HMMGPU_LARGE_PAGES);
	end = find_next_bit(block->used, min(bit + *want, HMMGPU_LARGE_PAGES),
			    bit);
	*want = end - bit;
	bitmap_set(block->used, bit, *want);
	block->nr_used += *want;
	if (block->nr_used == HMMGPU_LARGE_PAGES)
		list_del_init(&block->link);
	return hmmgpu_block_first(vram, block) + bit;
}

/* Takes a large folio, or a run of up to @want pages, of which there are @nr then. */
static long hmmgpu_vram_take(struct hmmgpu_device *hdev, unsigned int order,
			     unsigned int *nr, const struct hmmgpu_owner *owner)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	struct hmmgpu_block *block;
	unsigned long flags;
	long page;

	spin_lock_irqsave(&vram->lock, flags);
	page = order ? hmmgpu_vram_take_large(vram) :
		       hmmgpu_vram_take_pages(vram, nr);
	if (page >= 0) {
		block = &vram->blocks[page / HMMGPU_LARGE_PAGES];
		if (list_empty(&block->age) ||
		    block->owner.keep != owner->keep)
			list_move_tail(&block->age, owner->keep ? &vram->kept :
								  &vram->used);
		block->owner = *owner;
		vram->used_pages += (unsigned long)*nr << order;
		hmmgpu_count_at(hdev, vram_folios, order, *nr);
	}
	spin_unlock_irqrestore(&vram->lock, flags);
	return page;
}

/* As hmmgpu_vram_take(); what was freed is free as soon as the device knows. */
static long hmmgpu_vram_take_any(struct hmmgpu_device *hdev, unsigned int order,
				 unsigned int *nr,
				 const struct hmmgpu_owner *owner)
{
	long index = hmmgpu_vram_take(hdev, order, nr, owner);

	if (index >= 0 || !hmmgpu_vram_has_notes(hdev) ||
	    hmmgpu_ring_flush_notes(hdev))
		return index;
	return hmmgpu_vram_take(hdev, order, nr, owner);
}

static struct page *hmmgpu_vram_folio(struct hmmgpu_device *hdev,
				      unsigned long index, unsigned int order)
{
	struct page *page = pfn_to_page(hdev->first_pfn + index);

	hmmgpu_folio_init((struct folio *)page, &hdev->pagemap, order);
	return page;
}

/**
 * hmmgpu_vram_alloc_large() - allocate a large folio of VRAM
 * @hdev: the device
 * @owner: who gets it
 *
 * The caller has to tell the device (NOTE alloc) before it uses the memory, and
 * before it drops the reference. A freed folio of another order may have been
 * here: hmmgpu_folio_init() writes all that it left in the struct pages, which
 * freeing does not reset. What is charged to the memcg stays charged to it
 * while it is in VRAM.
 *
 * Context: Process context, may sleep.
 * Return: the head page of a locked folio with one reference, or NULL.
 */
struct page *hmmgpu_vram_alloc_large(struct hmmgpu_device *hdev,
				     const struct hmmgpu_owner *owner)
{
	unsigned int nr = 1;
	long index = hmmgpu_vram_take_any(hdev, HMMGPU_LARGE_ORDER, &nr, owner);

	return index < 0 ? NULL :
			   hmmgpu_vram_folio(hdev, index, HMMGPU_LARGE_ORDER);
}

/**
 * hmmgpu_vram_alloc_page() - allocate a single page of VRAM
 * @hdev: the device
 * @owner: who gets it
 * @run: pages that were taken for this caller already, zeroed at first
 * @want: how many more it may ask for, this one included
 *
 * As hmmgpu_vram_alloc_large(). Pages are taken from the allocator by runs; what is
 * left of the last one is given back with hmmgpu_vram_put_run().
 *
 * Context: Process context, may sleep.
 * Return: a locked folio with one reference, or NULL.
 */
struct page *hmmgpu_vram_alloc_page(struct hmmgpu_device *hdev,
				    const struct hmmgpu_owner *owner,
				    struct hmmgpu_vram_run *run,
				    unsigned int want)
{
	long index;

	if (!run->nr) {
		run->nr = want;
		index = hmmgpu_vram_take_any(hdev, 0, &run->nr, owner);
		if (index < 0) {
			run->nr = 0;
			return NULL;
		}
		run->first = index;
	}
	run->nr--;
	return hmmgpu_vram_folio(hdev, run->first++, 0);
}

/**
 * hmmgpu_vram_put_run() - give back pages that nobody asked for
 * @hdev: the device
 * @run: the pages; empty afterwards
 *
 * The device was never told of them.
 *
 * Context: Any.
 */
void hmmgpu_vram_put_run(struct hmmgpu_device *hdev,
			 struct hmmgpu_vram_run *run)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	struct hmmgpu_block *block;
	unsigned long flags;

	if (!run->nr)
		return;
	block = &vram->blocks[run->first / HMMGPU_LARGE_PAGES];
	spin_lock_irqsave(&vram->lock, flags);
	bitmap_clear(block->used, run->first % HMMGPU_LARGE_PAGES, run->nr);
	vram->used_pages -= run->nr;
	hmmgpu_count_at(hdev, vram_folios, 0, -(s64)run->nr);
	hmmgpu_block_release(vram, block, run->nr);
	spin_unlock_irqrestore(&vram->lock, flags);
	run->nr = 0;
}

static void hmmgpu_block_forget_lost(struct hmmgpu_vram *vram,
				     struct hmmgpu_block *block,
				     unsigned int bit, unsigned int nr)
{
	lockdep_assert_held(&vram->lock);
	if (bitmap_empty(block->lost, HMMGPU_LARGE_PAGES))
		return;
	vram->lost_pages -= bitmap_weight(block->lost, HMMGPU_LARGE_PAGES);
	bitmap_clear(block->lost, bit, nr);
	vram->lost_pages += bitmap_weight(block->lost, HMMGPU_LARGE_PAGES);
}

/**
 * hmmgpu_vram_free() - free a folio of VRAM
 * @hdev: the device
 * @page: index of its first page in VRAM
 * @order: its order
 *
 * A large folio that was split comes back as 512 single pages.
 *
 * Context: Any.
 */
void hmmgpu_vram_free(struct hmmgpu_device *hdev, unsigned long page,
		      unsigned int order)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	struct hmmgpu_block *block = &vram->blocks[page / HMMGPU_LARGE_PAGES];
	unsigned long flags;

	hmmgpu_mutate_freed((u64)page << PAGE_SHIFT);
	spin_lock_irqsave(&vram->lock, flags);
	if (hmmgpu_mutate(HMMGPU_MUTATE_LEAK)) {
		vram->used_pages -= 1UL << order;
		spin_unlock_irqrestore(&vram->lock, flags);
		return;
	}
	if (order)
		block->whole_freed = true;
	else
		__set_bit(page % HMMGPU_LARGE_PAGES, block->freed);
	hmmgpu_block_forget_lost(vram, block, page % HMMGPU_LARGE_PAGES,
				 1U << order);
	vram->used_pages -= 1UL << order;
	hmmgpu_count_at(hdev, vram_folios, order, -1);
	hmmgpu_block_note(hdev, block);
	spin_unlock_irqrestore(&vram->lock, flags);
}

/**
 * hmmgpu_vram_split() - a large folio has become 512 single pages
 * @hdev: the device
 * @page: index of its first page in VRAM
 *
 * Context: Any.
 */
void hmmgpu_vram_split(struct hmmgpu_device *hdev, unsigned long page)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	struct hmmgpu_block *block = &vram->blocks[page / HMMGPU_LARGE_PAGES];
	unsigned long flags;

	spin_lock_irqsave(&vram->lock, flags);
	block->state = HMMGPU_BLOCK_PAGES;
	block->split = true;
	block->nr_used = HMMGPU_LARGE_PAGES;
	bitmap_fill(block->used, HMMGPU_LARGE_PAGES);
	hmmgpu_count_at(hdev, vram_folios, HMMGPU_LARGE_ORDER, -1);
	hmmgpu_count_at(hdev, vram_folios, 0, HMMGPU_LARGE_PAGES);
	hmmgpu_block_note(hdev, block);
	spin_unlock_irqrestore(&vram->lock, flags);
}

static void hmmgpu_make_note(struct hmmgpu_desc *desc, u16 kind,
			     unsigned long page, u8 order, u32 count)
{
	*desc = (struct hmmgpu_desc) {
		.opcode = HMMGPU_OP_NOTE,
		.order = order,
		.flags = cpu_to_le16(kind),
		.count = cpu_to_le32(count),
		.dst = cpu_to_le64((u64)page << PAGE_SHIFT),
	};
}

/* Returns true if the block has more notes than there was room for. */
static bool hmmgpu_block_take_notes(struct hmmgpu_vram *vram,
				    struct hmmgpu_block *block,
				    struct hmmgpu_desc *descs,
				    unsigned int *nr, unsigned int room)
{
	unsigned long first = hmmgpu_block_first(vram, block);
	unsigned int start, end, freed = 0;

	lockdep_assert_held(&vram->lock);
	if (block->split || block->whole_freed) {
		if (*nr == room)
			return true;
		/* A split has to be known before pages of it are freed. */
		hmmgpu_make_note(&descs[(*nr)++],
				 block->split ? HMMGPU_NOTE_SPLIT :
						HMMGPU_NOTE_FREE,
				 first, HMMGPU_LARGE_ORDER, 1);
		hmmgpu_mutate_note(descs, nr, room);
		if (block->whole_freed) {
			block->state = HMMGPU_BLOCK_FREE;
			list_add(&block->link, &vram->free);
			list_del_init(&block->age);
		}
		block->split = false;
		block->whole_freed = false;
	}

	for_each_set_bitrange(start, end, block->freed, HMMGPU_LARGE_PAGES) {
		if (*nr == room)
			break;
		hmmgpu_make_note(&descs[(*nr)++], HMMGPU_NOTE_FREE,
				 first + start, 0, end - start);
		bitmap_clear(block->used, start, end - start);
		bitmap_clear(block->freed, start, end - start);
		freed += end - start;
	}
	if (freed)
		hmmgpu_block_release(vram, block, freed);
	return !bitmap_empty(block->freed, HMMGPU_LARGE_PAGES);
}

/**
 * hmmgpu_vram_take_notes() - the next notes for the device
 * @hdev: the device
 * @descs: where to put them
 * @room: number of descriptors that have room there
 *
 * The caller puts them into the ring, in this order, ahead of all that uses VRAM
 * which is allocated from now on.
 *
 * Context: &hmmgpu_ring.lock is held.
 * Return: number of descriptors.
 */
unsigned int hmmgpu_vram_take_notes(struct hmmgpu_device *hdev,
				    struct hmmgpu_desc *descs,
				    unsigned int room)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	unsigned long flags;
	unsigned int nr = 0;

	lockdep_assert_held(&hdev->ring.lock);
	spin_lock_irqsave(&vram->lock, flags);
	while (nr < room && !list_empty(&vram->noted)) {
		struct hmmgpu_block *block =
			list_first_entry(&vram->noted, struct hmmgpu_block,
					 noted);

		if (hmmgpu_block_take_notes(vram, block, descs, &nr, room))
			break;
		list_del_init(&block->noted);
	}
	spin_unlock_irqrestore(&vram->lock, flags);
	return nr;
}

/**
 * hmmgpu_vram_has_notes() - are there notes for the device?
 * @hdev: the device
 *
 * Context: Any.
 * Return: true if there are.
 */
bool hmmgpu_vram_has_notes(struct hmmgpu_device *hdev)
{
	unsigned long flags;
	bool ret;

	spin_lock_irqsave(&hdev->vram.lock, flags);
	ret = !list_empty(&hdev->vram.noted);
	spin_unlock_irqrestore(&hdev->vram.lock, flags);
	return ret;
}

/**
 * hmmgpu_vram_used() - pages of VRAM that are allocated
 * @hdev: the device
 *
 * Context: Any.
 * Return: number of pages.
 */
unsigned long hmmgpu_vram_used(struct hmmgpu_device *hdev)
{
	unsigned long flags, used;

	spin_lock_irqsave(&hdev->vram.lock, flags);
	used = hdev->vram.used_pages;
	spin_unlock_irqrestore(&hdev->vram.lock, flags);
	return used;
}

/**
 * hmmgpu_vram_alive() - pages of VRAM that are allocated and hold something
 * @hdev: the device
 *
 * Context: Any.
 * Return: number of pages, without those whose content a reset has taken.
 */
unsigned long hmmgpu_vram_alive(struct hmmgpu_device *hdev)
{
	unsigned long flags, alive;

	spin_lock_irqsave(&hdev->vram.lock, flags);
	alive = hdev->vram.used_pages - hdev->vram.lost_pages;
	spin_unlock_irqrestore(&hdev->vram.lock, flags);
	return alive;
}

/**
 * hmmgpu_vram_oldest() - which block should make room for something else?
 * @hdev: the device
 * @kept: of those that should be the last to do so
 * @owner: gets who has it
 *
 * The one that was taken into use first. It is the last in line for the next
 * call, in case that it does not become free.
 *
 * Context: Any.
 * Return: false if there is none.
 */
bool hmmgpu_vram_oldest(struct hmmgpu_device *hdev, bool kept,
			struct hmmgpu_owner *owner)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	struct list_head *list = kept ? &vram->kept : &vram->used;
	struct hmmgpu_block *oldest;
	unsigned long flags;

	spin_lock_irqsave(&vram->lock, flags);
	oldest = list_first_entry_or_null(list, struct hmmgpu_block, age);
	if (oldest) {
		*owner = oldest->owner;
		list_move_tail(&oldest->age, list);
	}
	spin_unlock_irqrestore(&vram->lock, flags);
	return oldest;
}

/**
 * hmmgpu_vram_list() - list what is allocated
 * @hdev: the device
 * @position: block to begin with; set to the one to go on with
 * @pfns: the list
 * @room: number of entries that have room there, at least HMMGPU_LARGE_PAGES
 *
 * A large folio takes HMMGPU_LARGE_PAGES entries, of which the first counts: the
 * form that migrate_device_pfns() expects. The others name its pages, in case
 * that it is split before they are looked at. Only what is allocated is listed:
 * the order of a free page means nothing, and migrate_device_range(), which goes
 * by it, may skip pages that live.
 *
 * Context: Any.
 * Return: number of entries; zero at the end of VRAM.
 */
unsigned int hmmgpu_vram_list(struct hmmgpu_device *hdev,
			      unsigned long *position, unsigned long *pfns,
			      unsigned int room)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	unsigned int nr = 0, bit;
	unsigned long flags;

	spin_lock_irqsave(&vram->lock, flags);
	for (; *position < vram->nr_blocks; ++*position) {
		struct hmmgpu_block *block = &vram->blocks[*position];
		unsigned long first = hdev->first_pfn +
				      hmmgpu_block_first(vram, block);

		if (room - nr < HMMGPU_LARGE_PAGES)
			break;
		if (block->state == HMMGPU_BLOCK_WHOLE && !block->whole_freed) {
			for (bit = 0; bit < HMMGPU_LARGE_PAGES; bit++)
				pfns[nr++] = first + bit;
		} else if (block->state == HMMGPU_BLOCK_PAGES) {
			for_each_andnot_bit(bit, block->used, block->freed,
					    HMMGPU_LARGE_PAGES)
				pfns[nr++] = first + bit;
		}
	}
	spin_unlock_irqrestore(&vram->lock, flags);
	return nr;
}

/* As the device would have it, had it not been reset: notes are still to come. */
static unsigned int hmmgpu_block_announce(struct hmmgpu_vram *vram,
					  struct hmmgpu_block *block,
					  struct hmmgpu_desc *descs)
{
	unsigned long first = hmmgpu_block_first(vram, block);
	unsigned int start, end, nr = 0;

	lockdep_assert_held(&vram->lock);
	if (block->state == HMMGPU_BLOCK_FREE)
		return 0;
	if (block->state == HMMGPU_BLOCK_WHOLE || block->split) {
		hmmgpu_make_note(&descs[nr++], HMMGPU_NOTE_ALLOC, first,
				 HMMGPU_LARGE_ORDER, 1);
		return nr;
	}
	for_each_set_bitrange(start, end, block->used, HMMGPU_LARGE_PAGES)
		hmmgpu_make_note(&descs[nr++], HMMGPU_NOTE_ALLOC,
				 first + start, 0, end - start);
	return nr;
}

/* Returns the number of pages that were not lost before. */
static unsigned int hmmgpu_block_mark_lost(struct hmmgpu_block *block)
{
	unsigned int before = bitmap_weight(block->lost, HMMGPU_LARGE_PAGES);

	switch (block->state) {
	case HMMGPU_BLOCK_WHOLE:
		if (block->whole_freed)
			return 0;
		bitmap_fill(block->lost, HMMGPU_LARGE_PAGES);
		break;
	case HMMGPU_BLOCK_PAGES:
		bitmap_andnot(block->lost, block->used, block->freed,
			      HMMGPU_LARGE_PAGES);
		break;
	default:
		return 0;
	}
	/* It cannot make room for anything. */
	list_del_init(&block->age);
	return bitmap_weight(block->lost, HMMGPU_LARGE_PAGES) - before;
}

/**
 * hmmgpu_vram_lose() - a reset has taken what was in VRAM
 * @hdev: the device, of which nobody uses the VRAM now
 * @position: block to begin with; set to the one to go on with
 * @descs: gets notes that tell the device what is allocated
 * @room: number of descriptors that have room there, at least HMMGPU_LARGE_PAGES
 * @lost: the number of pages that are marked is added to it
 *
 * Marks what is allocated as lost. The notes say what is allocated as the
 * device knew it, so that those that are still pending are right behind them.
 *
 * Context: Process context.
 * Return: number of descriptors; @position is at the end when all is done.
 */
unsigned int hmmgpu_vram_lose(struct hmmgpu_device *hdev,
			      unsigned long *position,
			      struct hmmgpu_desc *descs, unsigned int room,
			      unsigned long *lost)
{
	struct hmmgpu_vram *vram = &hdev->vram;
	unsigned long flags, marked = 0;
	unsigned int nr = 0;

	spin_lock_irqsave(&vram->lock, flags);
	for (; *position < vram->nr_blocks && room - nr >= HMMGPU_LARGE_PAGES;
	     ++*position) {
		struct hmmgpu_block *block = &vram->blocks[*position];

		nr += hmmgpu_block_announce(vram, block, &descs[nr]);
		marked += hmmgpu_block_mark_lost(block);
	}
	vram->lost_pages += marked;
	spin_unlock_irqrestore(&vram->lock, flags);
	hmmgpu_count(hdev, lost_pages, marked);
	*lost += marked;
	return nr;
}

/**
 * hmmgpu_vram_is_lost() - has a reset taken what was in this page?
 * @hdev: the device
 * @page: a page of its VRAM that is allocated and stays so
 *
 * Context: Any; &hmmgpu_device.flight or &hmmgpu_device.gate keeps recovery away.
 * Return: true if so.
 */
bool hmmgpu_vram_is_lost(struct hmmgpu_device *hdev, struct page *page)
{
	unsigned long index = page_to_pfn(page) - hdev->first_pfn;

	return test_bit(index % HMMGPU_LARGE_PAGES,
			hdev->vram.blocks[index / HMMGPU_LARGE_PAGES].lost);
}
