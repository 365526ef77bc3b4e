// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compiles where zone_device_folio_init() takes the pagemap.
 */
#include <linux/memremap.h>

void hmmgpu_probe(struct folio *folio, struct dev_pagemap *pgmap);

void hmmgpu_probe(struct folio *folio, struct dev_pagemap *pgmap)
{
	zone_device_folio_init(folio, pgmap, 9);
}
