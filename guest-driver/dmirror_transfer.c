// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device reads or writes a range of a process for /dev/hmm_dmirrorN: through
 * its page tables and its compute engine. The CPU copies only between the
 * caller's buffer and a bounce buffer that the device knows by DMA address.
 *
 * The caller's buffer may wait for user space, and removal waits for who uses the
 * device: so the device is used for one bounce buffer at a time, and the CPU copies
 * in between. READ_UNLOCKED, by its nature, may wait for user space while it uses
 * the device; removal then waits until that has answered, or the caller is killed.
 *
 * The jobs do not wait for faults to be served. Where one ends with a fault, all
 * that is left of the range is made accessible in one pass, which counts as one
 * fault, and the next job goes on from there.
 */
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "dmirror.h"

/**
 * struct hmmgpu_bounce - system memory between the caller and the device
 * @page: its first page
 * @order: its order: one job copies so much at most
 * @kept: the device may still write to it, so it is never freed
 */
struct hmmgpu_bounce {
	struct page *page;
	unsigned int order;
	bool kept;
};

/**
 * struct hmmgpu_transfer - the device reads or writes a range
 * @ctx: mirror of the address space
 * @cmd: the command: the range and the buffer; gets the counts
 * @write: the device writes the range
 * @populate: see there
 * @changes: &hmmgpu_mirror.changes before the range was last made accessible
 */
struct hmmgpu_transfer {
	struct hmmgpu_context *ctx;
	struct hmmgpu_dmirror_cmd *cmd;
	bool write;
	enum hmmgpu_populate populate;
	u64 changes;
};

/* A small one only takes more jobs. */
static int hmmgpu_bounce_get(struct hmmgpu_bounce *bounce, u64 bytes)
{
	gfp_t gfp = GFP_KERNEL | __GFP_ZERO;
	unsigned int order;

	order = get_order(min_t(u64, bytes, HPAGE_PMD_SIZE));
	bounce->kept = false;
	do {
		bounce->order = order;
		bounce->page = alloc_pages(order ? gfp | __GFP_NORETRY |
					   __GFP_NOWARN : gfp, order);
	} while (!bounce->page && order--);
	return bounce->page ? 0 : -ENOMEM;
}

static void hmmgpu_bounce_put(struct hmmgpu_bounce *bounce)
{
	if (!bounce->kept)
		__free_pages(bounce->page, bounce->order);
}

/*
 * One job: as many bytes as the page tables allow now. Returns -ENOENT if they
 * end early because something is not there, or not writable.
 */
static int hmmgpu_transfer_job(struct hmmgpu_transfer *tr, u64 addr,
			       dma_addr_t dma, size_t bytes, size_t *done)
{
	struct hmmgpu_job job = {
		.opcode = HMMGPU_JOB_COPY,
		.flags = cpu_to_le16(HMMGPU_JOB_NO_REPLAY |
				     (tr->write ? HMMGPU_JOB_SRC_DMA :
						  HMMGPU_JOB_DST_DMA)),
		.dst = cpu_to_le64(tr->write ? addr : dma),
		.src = cpu_to_le64(tr->write ? dma : addr),
		.count = cpu_to_le64(bytes),
	};
	struct hmmgpu_job_record record;
	int ret;

	ret = hmmgpu_job_run(tr->ctx, &job, &record);
	if (ret)
		return ret;
	/* A page that is done in part is done again. */
	*done = PAGE_ALIGN_DOWN(min_t(u64, le64_to_cpu(record.done), bytes));
	tr->cmd->cpages += PHYS_PFN(*done);

	switch (le32_to_cpu(record.status)) {
	case HMMGPU_STATUS_OK:
		return *done == bytes ? 0 : -EIO;
	case HMMGPU_STATUS_FAULT:
		break;
	default:
		return -EIO;
	}
	switch (le32_to_cpu(record.fault_reason)) {
	case HMMGPU_FAULT_NOT_PRESENT:
	case HMMGPU_FAULT_NOT_WRITABLE:
		return -ENOENT;
	case HMMGPU_FAULT_VIRTUAL_ADDRESS:
		return -EFAULT;
	default:
		return -EIO;
	}
}

/*
 * Whether the mm has changed since the range was made accessible, such as by
 * compaction, before the device came to it. That is still the same fault.
 */
static bool hmmgpu_transfer_undone(struct hmmgpu_transfer *tr)
{
	struct hmmgpu_mirror *mirror = &tr->ctx->mirror;
	bool undone;

	mutex_lock(&mirror->lock);
	undone = tr->cmd->faults && mirror->changes != tr->changes;
	tr->changes = mirror->changes;
	mutex_unlock(&mirror->lock);
	return undone;
}

/* The part of the range that fits into the bounce buffer, whatever it takes. */
static int hmmgpu_transfer_jobs(struct hmmgpu_transfer *tr, u64 addr,
				dma_addr_t dma, size_t bytes)
{
	struct hmmgpu_dmirror_cmd *cmd = tr->cmd;
	size_t done;
	bool again;
	int ret;

	for (;;) {
		if (fatal_signal_pending(current))
			return -EINTR;
		done = 0;
		ret = hmmgpu_transfer_job(tr, addr, dma, bytes, &done);
		if (ret != -ENOENT || tr->populate == HMMGPU_POPULATE_NOT)
			return ret;
		addr += done;
		dma += done;
		bytes -= done;
		again = hmmgpu_transfer_undone(tr);
		ret = hmmgpu_mirror_fault(tr->ctx, addr,
					  hmmgpu_cmd_end(cmd), tr->write,
					  tr->populate ==
					  HMMGPU_POPULATE_UNLOCKED);
		if (ret)
			return ret;
		if (!again)
			cmd->faults++;
	}
}

/* A lost device that does not reset may still write: then it keeps the memory. */
static int hmmgpu_transfer_chunk(struct hmmgpu_transfer *tr,
				 struct hmmgpu_bounce *bounce, u64 addr,
				 size_t bytes)
{
	enum dma_data_direction dir = tr->write ? DMA_TO_DEVICE :
						  DMA_FROM_DEVICE;
	struct hmmgpu_device *hdev = tr->ctx->hdev;
	dma_addr_t dma;
	int ret;

	ret = hmmgpu_dmirror_enter(tr->ctx);
	if (ret)
		return ret;
	dma = dma_map_page(hdev->dev, bounce->page, 0, bytes, dir);
	if (dma_mapping_error(hdev->dev, dma)) {
		ret = -ENOMEM;
		goto out;
	}
	ret = hmmgpu_transfer_jobs(tr, addr, dma, bytes);
	bounce->kept = hdev->lost && !hdev->quiesced;
	if (!bounce->kept)
		dma_unmap_page(hdev->dev, dma, bytes, dir);
out:
	return hmmgpu_dmirror_leave(tr->ctx, ret);
}

static int hmmgpu_transfer_all(struct hmmgpu_transfer *tr,
			       struct hmmgpu_bounce *bounce)
{
	u8 __user *user = u64_to_user_ptr(tr->cmd->ptr);
	u64 addr = tr->cmd->addr, end = hmmgpu_cmd_end(tr->cmd);
	void *data = page_address(bounce->page);
	int ret = 0;

	while (!ret && addr < end) {
		size_t bytes = min_t(u64, PAGE_SIZE << bounce->order,
				     end - addr);

		if (tr->write && copy_from_user(data, user, bytes))
			return -EFAULT;
		ret = hmmgpu_transfer_chunk(tr, bounce, addr, bytes);
		if (!ret && !tr->write && copy_to_user(user, data, bytes))
			return -EFAULT;
		addr += bytes;
		user += bytes;
		cond_resched();
	}
	return ret;
}

/**
 * hmmgpu_dmirror_transfer() - let the device read or write a range
 * @ctx: mirror of the address space
 * @cmd: the range and the buffer, checked; gets the counts
 * @write: the device writes the range
 * @populate: what to do about memory that the device cannot access
 *
 * If it fails in the middle, what came before it has been done.
 *
 * Context: Process context, &hmmgpu_device.gate is not held.
 * Return: 0 or a negative errno: -ENOENT, something is not there, or not
 * writable, and is not to be faulted in; -EFAULT, -EPERM, the process could not
 * access it either; -ENOMEM, also for more pages than the machine has; -EINTR, a
 * fatal signal; -EIO, -ENODEV, -ETIMEDOUT, the device failed.
 */
int hmmgpu_dmirror_transfer(struct hmmgpu_context *ctx,
			    struct hmmgpu_dmirror_cmd *cmd, bool write,
			    enum hmmgpu_populate populate)
{
	struct hmmgpu_transfer tr = {
		.ctx = ctx,
		.cmd = cmd,
		.write = write,
		.populate = populate,
	};
	struct hmmgpu_bounce bounce;
	int ret;

	if (hmmgpu_cmd_exceeds_ram(cmd))
		return -ENOMEM;
	ret = hmmgpu_bounce_get(&bounce, hmmgpu_cmd_bytes(cmd));
	if (ret)
		return ret;
	ret = hmmgpu_transfer_all(&tr, &bounce);
	hmmgpu_bounce_put(&bounce);
	return ret;
}
