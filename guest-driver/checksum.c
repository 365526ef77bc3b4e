// SPDX-License-Identifier: GPL-2.0-only
/*
 * Checksums of copies: the device tells what VRAM holds after each, and the CPU
 * compares that with the side that it can read.
 */
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

#include "batch.h"

static bool copy_checksum;
module_param(copy_checksum, bool, 0644);
MODULE_PARM_DESC(copy_checksum, "Compare the checksum of each copy, and repeat it where it is wrong: slow (default off)");

/**
 * struct hmmgpu_checksums - checksums of the copies of a batch
 * @addr: where the device writes @told
 * @told: what the device says, one for each copy
 * @pages: first page of system memory of each copy, NULL where VRAM is filled
 *         with zeros
 * @orders: order of each
 * @nr: number of copies
 */
struct hmmgpu_checksums {
	dma_addr_t addr;
	__le64 *told;
	struct page *pages[HMMGPU_BATCH_PAGES];
	u8 orders[HMMGPU_BATCH_PAGES];
	unsigned int nr;
};

#define HMMGPU_TOLD_BYTES	(HMMGPU_BATCH_PAGES * sizeof(__le64))

static bool hmmgpu_tells_checksums(struct hmmgpu_device *hdev)
{
	return hmmgpu_read(hdev, HMMGPU_REG_FEATURES_LO) &
	       HMMGPU_FEATURE_CHECKSUM;
}

/**
 * hmmgpu_checksum_begin() - a batch is about to be used
 * @batch: the batch
 *
 * Context: Process context, may sleep.
 * Return: 0, or -ENOMEM: copies that should be checked are not made instead.
 */
int hmmgpu_checksum_begin(struct hmmgpu_batch *batch)
{
	struct hmmgpu_checksums *sums = batch->checksums;
	struct hmmgpu_device *hdev = batch->hdev;

	batch->check = false;
	if (!READ_ONCE(copy_checksum))
		return 0;
	if (!sums) {
		if (!hmmgpu_tells_checksums(hdev)) {
			dev_warn_once(hdev->dev,
				      "parameter copy_checksum is set, and the device tells no checksums\n");
			return 0;
		}
		sums = kvzalloc(sizeof(*sums), GFP_KERNEL);
		if (!sums)
			return -ENOMEM;
		sums->told = dma_alloc_coherent(hdev->dev, HMMGPU_TOLD_BYTES,
						&sums->addr, GFP_KERNEL);
		if (!sums->told) {
			kvfree(sums);
			return -ENOMEM;
		}
		batch->checksums = sums;
	}
	batch->check = true;
	return 0;
}

/**
 * hmmgpu_checksum_free() - the batch goes away
 * @batch: the batch
 *
 * What a lost device may still write to is never used again.
 */
void hmmgpu_checksum_free(struct hmmgpu_batch *batch)
{
	struct hmmgpu_checksums *sums = batch->checksums;
	struct hmmgpu_device *hdev = batch->hdev;

	if (!sums)
		return;
	if (!hdev->lost || hdev->quiesced)
		dma_free_coherent(hdev->dev, HMMGPU_TOLD_BYTES, sums->told,
				  sums->addr);
	kvfree(sums);
	batch->checksums = NULL;
}

/**
 * hmmgpu_checksum_reset() - a batch has no copies yet
 * @batch: the batch
 */
void hmmgpu_checksum_reset(struct hmmgpu_batch *batch)
{
	if (batch->check)
		batch->checksums->nr = 0;
}

/**
 * hmmgpu_checksum_want() - a copy is to be checked
 * @batch: a batch that is checked
 * @desc: the descriptor of the copy, of one folio
 * @order: order of the folio
 * @page: first page of its side in system memory, which was mapped in the order
 *        of the copies; NULL: VRAM is filled with zeros
 */
void hmmgpu_checksum_want(struct hmmgpu_batch *batch, struct hmmgpu_desc *desc,
			  unsigned int order, struct page *page)
{
	struct hmmgpu_checksums *sums = batch->checksums;
	unsigned int nr = sums->nr++;
	__le64 addr = cpu_to_le64(sums->addr + nr * sizeof(*sums->told));

	sums->pages[nr] = page;
	sums->orders[nr] = order;
	desc->flags |= cpu_to_le16(HMMGPU_FLAG_CHECKSUM);
	if (page)
		desc->arg = addr;
	else
		desc->src = addr;
}

static u64 hmmgpu_checksum_page(u64 sum, struct page *page)
{
	const __le64 *words = kmap_local_page(page);
	unsigned int i;

	for (i = 0; i < PAGE_SIZE / sizeof(*words); i++)
		sum = (sum ^ le64_to_cpu(words[i])) * HMMGPU_CHECKSUM_PRIME;
	kunmap_local(words);
	return sum;
}

static u64 hmmgpu_checksum_zeros(unsigned int order)
{
	u64 sum = HMMGPU_CHECKSUM_BASIS;
	unsigned long i;

	for (i = 0; i < 1UL << order; i++)
		sum = hmmgpu_checksum_page(sum, ZERO_PAGE(0));
	return sum;
}

static u64 hmmgpu_checksum_folio(struct hmmgpu_batch *batch, struct page *page,
				 const struct hmmgpu_map *map)
{
	u64 sum = HMMGPU_CHECKSUM_BASIS;
	unsigned long i;

	dma_sync_single_for_cpu(batch->hdev->dev, map->addr,
				PAGE_SIZE << map->order,
				hmmgpu_dma_dir(batch));
	for (i = 0; i < 1UL << map->order; i++)
		sum = hmmgpu_checksum_page(sum, page + i);
	dma_sync_single_for_device(batch->hdev->dev, map->addr,
				   PAGE_SIZE << map->order,
				   hmmgpu_dma_dir(batch));
	return sum;
}

/**
 * hmmgpu_checksum_compare() - have the copies of a batch copied what they should?
 * @batch: a batch whose fence has come, and whose pages are still mapped
 *
 * Context: Process context, may sleep.
 * Return: 0, or -EIO.
 */
int hmmgpu_checksum_compare(struct hmmgpu_batch *batch)
{
	struct hmmgpu_checksums *sums = batch->checksums;
	const struct hmmgpu_map *map = batch->maps;
	unsigned int nr, wrong = 0;
	struct page *page;
	u64 sum;

	if (!batch->check)
		return 0;
	for (nr = 0; nr < sums->nr; nr++) {
		page = sums->pages[nr];
		sum = page ? hmmgpu_checksum_folio(batch, page, map++) :
			     hmmgpu_checksum_zeros(sums->orders[nr]);
		wrong += sum != le64_to_cpu(READ_ONCE(sums->told[nr]));
		cond_resched();
	}
	if (!wrong)
		return 0;
	dev_err_ratelimited(batch->hdev->dev,
			    "%u copies do not have the checksum that they should have\n",
			    wrong);
	return -EIO;
}
