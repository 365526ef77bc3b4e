// SPDX-License-Identifier: GPL-2.0-only
/*
 * Phase 2 of a migration, alloc: where each unit of a batch goes, and the
 * descriptors that take it there.
 */
#include <linux/dma-mapping.h>
#include <linux/highmem.h>

#include "batch.h"
#include "mutate.h"

/**
 * hmmgpu_dma_dir() - which way the system memory of a batch is used
 * @batch: the batch
 *
 * Return: the direction of its mappings.
 */
enum dma_data_direction hmmgpu_dma_dir(const struct hmmgpu_batch *batch)
{
	return batch->span->direction == HMMGPU_DIR_SYS_TO_DEV ?
	       DMA_TO_DEVICE : DMA_FROM_DEVICE;
}

static bool hmmgpu_batch_map(struct hmmgpu_batch *batch, struct page *page,
			     unsigned int order, dma_addr_t *addr)
{
	struct device *dev = batch->hdev->dev;

	*addr = dma_map_page(dev, page, 0, PAGE_SIZE << order,
			     hmmgpu_dma_dir(batch));
	if (dma_mapping_error(dev, *addr))
		return false;
	batch->maps[batch->nr_maps++] = (struct hmmgpu_map) {
		.addr = *addr,
		.order = order,
	};
	return true;
}

static void hmmgpu_batch_unmap_last(struct hmmgpu_batch *batch)
{
	struct hmmgpu_map *map = &batch->maps[--batch->nr_maps];

	dma_unmap_page(batch->hdev->dev, map->addr, PAGE_SIZE << map->order,
		       hmmgpu_dma_dir(batch));
}

/**
 * hmmgpu_batch_unmap() - take the device's access to system memory away
 * @batch: a batch that the device is done with
 */
void hmmgpu_batch_unmap(struct hmmgpu_batch *batch)
{
	while (batch->nr_maps)
		hmmgpu_batch_unmap_last(batch);
}

/**
 * hmmgpu_batch_drop() - give the destinations of a batch up
 * @batch: a batch whose copies failed
 *
 * The pages stay where they were. What a lost device may still write to is
 * never used again.
 */
void hmmgpu_batch_drop(struct hmmgpu_batch *batch)
{
	struct hmmgpu_device *hdev = batch->hdev;
	bool leak = hdev->lost && !hdev->quiesced &&
		    batch->span->direction == HMMGPU_DIR_DEV_TO_SYS;
	unsigned int i;

	for (i = 0; i < batch->nr; i++) {
		struct page *page = migrate_pfn_to_page(batch->dst[i]);

		if (!page)
			continue;
		hmmgpu_count(hdev, failed_pages,
			     folio_nr_pages(page_folio(page)));
		folio_unlock(page_folio(page));
		if (!leak)
			folio_put(page_folio(page));
		batch->dst[i] = 0;
	}
}

static void hmmgpu_batch_stop(struct hmmgpu_batch *batch,
			      struct hmmgpu_unit *unit, enum hmmgpu_stop reason)
{
	batch->stop = unit->index;
	batch->stop_reason = reason;
}

static void hmmgpu_batch_stop_small(struct hmmgpu_batch *batch,
				    struct hmmgpu_unit *unit,
				    unsigned int fallback)
{
	hmmgpu_batch_stop(batch, unit, HMMGPU_STOP_SMALL);
	batch->stop_fallback = fallback;
}

/* The next allocation of a large folio is to fail, once. */
static bool hmmgpu_batch_injected(struct hmmgpu_batch *batch,
				  unsigned int order)
{
	return order && atomic_xchg(&batch->hdev->fail_large, 0);
}

static void hmmgpu_batch_note(struct hmmgpu_batch *batch, u64 vram,
			      unsigned int order)
{
	struct hmmgpu_desc *last;

	if (hmmgpu_mutate(HMMGPU_MUTATE_NO_ALLOC))
		return;
	if (batch->nr_notes) {
		u64 end;

		last = &batch->notes[batch->nr_notes - 1];
		end = le64_to_cpu(last->dst) +
		      ((u64)le32_to_cpu(last->count) << (PAGE_SHIFT + order));
		if (last->order == order && end == vram) {
			le32_add_cpu(&last->count, 1);
			return;
		}
	}
	batch->notes[batch->nr_notes++] = (struct hmmgpu_desc) {
		.opcode = HMMGPU_OP_NOTE,
		.order = order,
		.flags = cpu_to_le16(HMMGPU_NOTE_ALLOC),
		.count = cpu_to_le32(1),
		.dst = cpu_to_le64(vram),
		.arg = cpu_to_le64(batch->span->process.id),
	};
}

/* Single pages that follow each other on both sides share a descriptor. */
static bool hmmgpu_batch_extend(struct hmmgpu_batch *batch,
				const struct hmmgpu_desc *desc)
{
	struct hmmgpu_desc *last;
	u64 bytes;

	if (!batch->nr_descs)
		return false;
	last = &batch->descs[batch->nr_descs - 1];
	if (desc->order || last->order || last->opcode != desc->opcode)
		return false;
	bytes = (u64)le32_to_cpu(last->count) << PAGE_SHIFT;
	if (le64_to_cpu(last->dst) + bytes != le64_to_cpu(desc->dst))
		return false;
	if (desc->opcode == HMMGPU_OP_COPY &&
	    le64_to_cpu(last->src) + bytes != le64_to_cpu(desc->src))
		return false;
	le32_add_cpu(&last->count, 1);
	return true;
}

static void hmmgpu_batch_desc(struct hmmgpu_batch *batch, u8 opcode, u16 flags,
			      unsigned int order, u64 dst, u64 src,
			      struct page *page)
{
	struct hmmgpu_desc desc = {
		.opcode = opcode,
		.order = order,
		.flags = cpu_to_le16(flags | batch->span->trigger <<
				     HMMGPU_FLAG_TRIGGER_SHIFT),
		.count = cpu_to_le32(1),
		.dst = cpu_to_le64(dst),
		.src = cpu_to_le64(src),
	};

	if (order && (flags & HMMGPU_FLAG_DST_VRAM) &&
	    hmmgpu_mutate(HMMGPU_MUTATE_SHORT_COPY))
		desc.order = 0;
	if (batch->check)
		hmmgpu_checksum_want(batch, &desc, order, page);
	if (batch->check || !hmmgpu_batch_extend(batch, &desc))
		batch->descs[batch->nr_descs++] = desc;
	if (opcode == HMMGPU_OP_FILL)
		batch->nr_filled[!!order]++;
	else
		batch->nr_copied[!!order]++;
}

static unsigned long hmmgpu_dst_entry(struct page *page, unsigned int order,
				      unsigned long src)
{
	return migrate_pfn(page_to_pfn(page)) | (src & MIGRATE_PFN_WRITE) |
	       (order ? MIGRATE_PFN_COMPOUND : 0);
}

/*
 * A hole is filled by the device, nothing is copied for it; the zero pages, small
 * and huge, look like holes. A large hole gets a large destination or none: of
 * single destinations the core needs all 512, and dereferences NULL at a gap.
 * Where a large destination cannot be had, holes and folios alike are collected
 * once more as single pages. For a folio that has the core split it while all
 * who map it are known; the split that the core does after collecting looks at
 * one mm only.
 */
static void hmmgpu_alloc_vram(struct hmmgpu_batch *batch,
			      struct hmmgpu_unit *unit)
{
	struct hmmgpu_device *hdev = batch->hdev;
	struct hmmgpu_owner owner = {
		.mm = batch->args.vma->vm_mm,
		.keep = batch->keep,
	};
	unsigned int why = HMMGPU_FALLBACK_NO_VRAM;
	struct page *page = NULL;
	dma_addr_t addr = 0;
	u64 vram;

	if (!unit->migrate && test_bit(unit->index, batch->on_device)) {
		batch->present++;
		return;
	}
	/* Pages merged by KSM belong to unrelated mms: let them be. */
	if (!unit->migrate ||
	    (unit->page && folio_test_ksm(page_folio(unit->page))))
		return;
	if (unit->page &&
	    !hmmgpu_batch_map(batch, unit->page, unit->order, &addr)) {
		if (unit->order)
			hmmgpu_batch_stop_small(batch, unit,
						HMMGPU_FALLBACK_NO_MEMORY);
		return;
	}

	owner.addr = ALIGN_DOWN(batch->args.start + PFN_PHYS(unit->index),
				HPAGE_PMD_SIZE);
	if (hmmgpu_batch_injected(batch, unit->order))
		why = HMMGPU_FALLBACK_INJECTED;
	else if (unit->order)
		page = hmmgpu_vram_alloc_large(hdev, &owner);
	else
		page = hmmgpu_vram_alloc_page(hdev, &owner, &batch->run,
					      batch->stop - unit->index);
	if (!page) {
		hmmgpu_vram_put_run(hdev, &batch->run);
		if (unit->page)
			hmmgpu_batch_unmap_last(batch);
		if (unit->order && !batch->whole &&
		    hmmgpu_vram_used(hdev) < hdev->vram_bytes >> PAGE_SHIFT) {
			hmmgpu_batch_stop_small(batch, unit, why);
			return;
		}
		hmmgpu_batch_stop(batch, unit, HMMGPU_STOP_FULL);
		/* With @whole, room is made for it, and it is tried again. */
		if (unit->order && !batch->whole)
			hmmgpu_span_fallback(hdev, batch->span,
					     batch->args.start +
					     PFN_PHYS(unit->index), why);
		return;
	}

	vram = hmmgpu_mutate_alloc(hmmgpu_page_to_vram(hdev, page));
	hmmgpu_batch_note(batch, vram, unit->order);
	hmmgpu_batch_desc(batch, unit->page ? HMMGPU_OP_COPY : HMMGPU_OP_FILL,
			  HMMGPU_FLAG_DST_VRAM, unit->order, vram, addr,
			  unit->page);
	batch->dst[unit->index] = hmmgpu_dst_entry(page, unit->order,
						   batch->src[unit->index]);
}

static struct folio *hmmgpu_alloc_folio(struct hmmgpu_batch *batch,
					unsigned int order, unsigned int index)
{
	struct vm_area_struct *vma = batch->args.vma;
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;

	if (order)
		gfp = GFP_TRANSHUGE | __GFP_NOWARN |
		      (vma ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL);
	if (!vma)
		return folio_alloc(gfp, order);
	return vma_alloc_folio(gfp, order, vma,
			       batch->args.start + (index << PAGE_SHIFT));
}

/*
 * QEMU's translator does not see that the device writes to guest memory, so
 * code that it translated from whatever was in these pages before would go on
 * to run. A write by the CPU throws that code away. The kernel's own zeroing of
 * new pages does, too; this is for when it is off. Memory that is made
 * executable only later stays exposed.
 */
static void hmmgpu_scrub_code(struct hmmgpu_batch *batch, struct folio *folio)
{
	struct vm_area_struct *vma = batch->args.vma;
	unsigned long i, nr = folio_nr_pages(folio);

	if (!batch->hdev->scrub_code || want_init_on_alloc(GFP_HIGHUSER))
		return;
	/* Who maps a page that is evicted is not known: it may be code. */
	if (vma && !(vma->vm_flags & VM_EXEC))
		return;
	for (i = 0; i < nr; i++)
		clear_highpage(folio_page(folio, i));
	hmmgpu_count(batch->hdev, code_pages_scrubbed, nr);
}

static bool hmmgpu_alloc_system(struct hmmgpu_batch *batch,
				struct hmmgpu_unit *unit, unsigned int order)
{
	struct folio *folio = hmmgpu_alloc_folio(batch, order, unit->index);
	dma_addr_t addr;
	u64 vram;

	if (!folio)
		return false;
	folio_lock(folio);
	hmmgpu_scrub_code(batch, folio);
	if (!hmmgpu_batch_map(batch, folio_page(folio, 0), order, &addr)) {
		folio_unlock(folio);
		folio_put(folio);
		return false;
	}
	vram = hmmgpu_mutate_source(hmmgpu_page_to_vram(batch->hdev,
							unit->page));
	hmmgpu_batch_desc(batch, HMMGPU_OP_COPY, HMMGPU_FLAG_SRC_VRAM, order,
			  addr, vram, folio_page(folio, 0));
	batch->dst[unit->index] = hmmgpu_dst_entry(folio_page(folio, 0), order,
						   batch->src[unit->index]);
	return true;
}

/*
 * In a CPU fault a folio cannot be collected anew as single pages: the fault
 * holds a reference that keeps it from being split. One single destination makes
 * the core split the PMD; the next fault then splits the folio, and the one
 * after that moves the page. An eviction has no such way out, the destination
 * must be of the same order there: evict.c goes by the mms instead.
 */
static void hmmgpu_alloc_home(struct hmmgpu_batch *batch,
			      struct hmmgpu_unit *unit)
{
	unsigned int why = HMMGPU_FALLBACK_NO_MEMORY;
	struct hmmgpu_device *hdev = batch->hdev;

	if (!unit->page) {
		/* A hole, or something that is not on the device. */
		batch->present += 1UL << unit->order;
		return;
	}
	if (!unit->migrate || !is_device_private_page(unit->page))
		return;
	if (hmmgpu_vram_is_lost(hdev, unit->page)) {
		batch->lost += 1UL << unit->order;
		return;
	}
	if (hmmgpu_batch_injected(batch, unit->order))
		why = HMMGPU_FALLBACK_INJECTED;
	else if (hmmgpu_alloc_system(batch, unit, unit->order))
		return;
	if (!unit->order) {
		hmmgpu_batch_stop(batch, unit, HMMGPU_STOP_FULL);
		return;
	}
	if (batch->args.vma && !batch->single_fallback) {
		hmmgpu_batch_stop_small(batch, unit, why);
		return;
	}
	hmmgpu_span_fallback(hdev, batch->span, batch->args.start, why);
	if (!batch->args.vma)
		return;
	if (!hmmgpu_alloc_system(batch, unit, 0))
		hmmgpu_batch_stop(batch, unit, HMMGPU_STOP_FULL);
}

/**
 * hmmgpu_batch_alloc() - phase 2: allocate destinations, write descriptors
 * @batch: a batch that was collected
 *
 * If something cannot be allocated the batch ends in front of it:
 * &hmmgpu_batch.stop and &hmmgpu_batch.stop_reason.
 *
 * Context: Process context, may sleep.
 */
void hmmgpu_batch_alloc(struct hmmgpu_batch *batch)
{
	struct hmmgpu_unit unit = { };
	u64 clock = local_clock();

	while (hmmgpu_unit_next(batch, &unit)) {
		if (batch->span->direction == HMMGPU_DIR_SYS_TO_DEV)
			hmmgpu_alloc_vram(batch, &unit);
		else
			hmmgpu_alloc_home(batch, &unit);
	}
	hmmgpu_vram_put_run(batch->hdev, &batch->run);
	hmmgpu_phase_end(batch, HMMGPU_PHASE_ALLOC, clock);
}
