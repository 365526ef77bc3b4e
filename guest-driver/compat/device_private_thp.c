// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compiles where device-private memory can hold transparent huge pages.
 */
#include <linux/memremap.h>
#include <linux/migrate.h>

void hmmgpu_probe(struct dev_pagemap_ops *ops, struct migrate_vma *args);

void hmmgpu_probe(struct dev_pagemap_ops *ops, struct migrate_vma *args)
{
	ops->folio_free = NULL;
	ops->folio_split = NULL;
	args->flags = MIGRATE_VMA_SELECT_COMPOUND | MIGRATE_PFN_COMPOUND;
}
