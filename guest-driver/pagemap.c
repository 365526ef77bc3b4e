// SPDX-License-Identifier: GPL-2.0-only
/*
 * Struct pages for VRAM, and what the core calls about them.
 */
#include <linux/ioport.h>

#include "hmmgpu_drv.h"
#include "hmmgpu_trace.h"

static unsigned long hmmgpu_folio_index(struct hmmgpu_device *hdev,
					struct folio *folio)
{
	return folio_pfn(folio) - hdev->first_pfn;
}

/*
 * May run under a page-table lock or in interrupt context: it only marks. The
 * folio may be allocated again, by someone else and at another order, as soon as
 * the mark is set and passed on, so it is not touched after that.
 */
static void hmmgpu_folio_free(struct folio *folio)
{
	struct hmmgpu_device *hdev = hmmgpu_from_pagemap(folio->pgmap);

	hmmgpu_vram_free(hdev, hmmgpu_folio_index(hdev, folio),
			 folio_order(folio));
}

/*
 * Called with interrupts off, for each new page of the folio and then once more
 * without one: must not sleep. Clearing the compound head cleared the pagemap
 * that shares its place, so it is set anew; the mapping likewise is the
 * driver's to set when it has this operation.
 */
static void hmmgpu_folio_split(struct folio *head, struct folio *tail)
{
	struct hmmgpu_device *hdev = hmmgpu_from_pagemap(head->pgmap);

	if (tail) {
		tail->pgmap = head->pgmap;
		tail->page.mapping = head->page.mapping;
		return;
	}
	hmmgpu_vram_split(hdev, hmmgpu_folio_index(hdev, head));
	hmmgpu_count_at(hdev, splits, HMMGPU_LARGE_ORDER, 1);
	trace_hmmgpu_split(hdev->id, hmmgpu_page_to_vram(hdev, &head->page),
			   HMMGPU_LARGE_ORDER, 0);
}

static const struct dev_pagemap_ops hmmgpu_pagemap_ops = {
	.folio_free = hmmgpu_folio_free,
	.migrate_to_ram = hmmgpu_fault,
	.folio_split = hmmgpu_folio_split,
};

/**
 * hmmgpu_pagemap_init() - make struct pages for VRAM
 * @hdev: the device; its VRAM size is known
 *
 * They need physical addresses that nothing else has. A large 64-bit PCI window
 * behind RAM may leave none.
 *
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_pagemap_init(struct hmmgpu_device *hdev)
{
	struct dev_pagemap *pagemap = &hdev->pagemap;
	struct resource *res;
	void *ret;

	res = request_free_mem_region(&iomem_resource, hdev->vram_bytes,
				      "hmmgpu");
	if (IS_ERR(res))
		return dev_err_probe(hdev->dev, PTR_ERR(res),
				     "no room for %llu MiB of device-private pages among physical addresses: give the guest more physical address bits, less VRAM, or a smaller 64-bit PCI window\n",
				     hdev->vram_bytes >> 20);

	pagemap->type = MEMORY_DEVICE_PRIVATE;
	pagemap->ops = &hmmgpu_pagemap_ops;
	pagemap->owner = hdev;
	pagemap->nr_range = 1;
	pagemap->range.start = res->start;
	pagemap->range.end = res->start + hdev->vram_bytes - 1;
	ret = memremap_pages(pagemap, dev_to_node(hdev->dev));
	if (IS_ERR(ret)) {
		release_mem_region(res->start, resource_size(res));
		return dev_err_probe(hdev->dev, PTR_ERR(ret),
				     "no struct pages for %llu MiB of VRAM (they take 1/64 of that in system memory)\n",
				     hdev->vram_bytes >> 20);
	}
	hdev->region = res;
	hdev->first_pfn = PHYS_PFN(pagemap->range.start);
	return 0;
}

/**
 * hmmgpu_pagemap_exit() - undo hmmgpu_pagemap_init()
 * @hdev: the device, its VRAM empty
 *
 * memunmap_pages() waits for the last folio without a limit, so everything has
 * to be home before. It also keeps this module's code in place: a folio that
 * lives, and with it every callback that may be running, holds the pagemap.
 */
void hmmgpu_pagemap_exit(struct hmmgpu_device *hdev)
{
	memunmap_pages(&hdev->pagemap);
	release_mem_region(hdev->region->start, resource_size(hdev->region));
}
