// SPDX-License-Identifier: GPL-2.0-only
/*
 * The fault queue: from the device to the threads that serve its faults.
 */
#include <linux/dma-mapping.h>

#include "context.h"

static void hmmgpu_fault_ring_free(struct hmmgpu_device *hdev)
{
	struct hmmgpu_fault_ring *ring = &hdev->fault_ring;

	if (ring->records)
		dma_free_coherent(hdev->dev,
				  ring->size * sizeof(*ring->records),
				  ring->records, ring->records_dma);
	if (ring->header)
		dma_free_coherent(hdev->dev, HMMGPU_QUEUE_ALIGN, ring->header,
				  ring->header_dma);
}

/**
 * hmmgpu_fault_ring_init() - allocate the fault queue's memory and enable it
 * @hdev: the device, ready after a reset
 *
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_fault_ring_init(struct hmmgpu_device *hdev)
{
	struct hmmgpu_fault_ring *ring = &hdev->fault_ring;
	u32 log2 = min(HMMGPU_FAULT_RING_LOG2,
		       hmmgpu_read(hdev, HMMGPU_REG_MAX_RING_LOG2));
	int ret;

	BUILD_BUG_ON(sizeof(struct hmmgpu_fault_record) != 64);

	mutex_init(&ring->lock);
	ring->size = BIT(log2);
	ring->header = dma_alloc_coherent(hdev->dev, HMMGPU_QUEUE_ALIGN,
					  &ring->header_dma, GFP_KERNEL);
	ring->records = dma_alloc_coherent(hdev->dev,
					   ring->size * sizeof(*ring->records),
					   &ring->records_dma, GFP_KERNEL);
	if (!ring->header || !ring->records) {
		hmmgpu_fault_ring_free(hdev);
		return dev_err_probe(hdev->dev, -ENOMEM,
				     "no memory for the fault queue\n");
	}
	ret = hmmgpu_queue_start(hdev, HMMGPU_QUEUE_REG(HMMGPU_FAULT_QUEUE, 0),
				 ring->header_dma, ring->records_dma, log2,
				 HMMGPU_VECTOR_FAULT);
	if (ret)
		hmmgpu_fault_ring_free(hdev);
	return ret;
}

/**
 * hmmgpu_fault_ring_exit() - free the fault queue's memory
 * @hdev: the device; hmmgpu_device_stop() was called
 */
void hmmgpu_fault_ring_exit(struct hmmgpu_device *hdev)
{
	if (hdev->quiesced)
		hmmgpu_fault_ring_free(hdev);
}

/**
 * hmmgpu_fault_ring_restart() - enable the fault queue again after a reset
 * @hdev: the device; it is ready, and still marked as lost
 *
 * Return: 0 or -EIO, with the reason in the log.
 */
int hmmgpu_fault_ring_restart(struct hmmgpu_device *hdev)
{
	struct hmmgpu_fault_ring *ring = &hdev->fault_ring;
	int ret;

	mutex_lock(&ring->lock);
	memset(ring->header, 0, HMMGPU_QUEUE_ALIGN);
	ring->consumer = 0;
	ret = hmmgpu_queue_start(hdev, HMMGPU_QUEUE_REG(HMMGPU_FAULT_QUEUE, 0),
				 ring->header_dma, ring->records_dma,
				 ilog2(ring->size), HMMGPU_VECTOR_FAULT);
	mutex_unlock(&ring->lock);
	return ret;
}

/*
 * A context has one fault at a time. What finds one there that was not taken yet
 * is newer, and that one was of a context of the same number that is gone.
 */
static void hmmgpu_fault_deliver(struct hmmgpu_device *hdev,
				 const struct hmmgpu_fault_record *record)
{
	u32 number = le32_to_cpu(record->context);
	struct hmmgpu_context *ctx;

	if (number >= hdev->nr_contexts)
		return;
	spin_lock(&hdev->context_lock);
	ctx = hdev->contexts[number];
	if (ctx) {
		spin_lock(&ctx->fault_lock);
		ctx->fault = *record;
		ctx->fault_epoch = hdev->epoch;
		ctx->fault_pending = true;
		spin_unlock(&ctx->fault_lock);
		wake_up(&ctx->fault_wait);
	}
	spin_unlock(&hdev->context_lock);
}

static void hmmgpu_fault_ring_take(struct hmmgpu_device *hdev)
{
	struct hmmgpu_fault_ring *ring = &hdev->fault_ring;

	lockdep_assert_held(&ring->lock);
	for (;;) {
		u32 producer = le32_to_cpu(READ_ONCE(ring->header->producer));
		u32 nr = producer - ring->consumer;

		if (!nr)
			return;
		if (nr > ring->size) {
			hmmgpu_device_lose(hdev, hdev->epoch,
					   "fault queue is corrupt");
			return;
		}
		/* The records are read after the index that covers them. */
		dma_rmb();
		while (nr--) {
			hmmgpu_fault_deliver(hdev,
					     &ring->records[ring->consumer &
							    (ring->size - 1)]);
			ring->consumer++;
		}
		/* The records are read before they may be overwritten. */
		mb();
		WRITE_ONCE(ring->header->consumer, cpu_to_le32(ring->consumer));
		/* See hmmgpu_ring_publish(), the other way round. */
		mb();
		if (READ_ONCE(ring->header->need_kick)) {
			hmmgpu_write(hdev,
				     HMMGPU_QUEUE_REG(HMMGPU_FAULT_QUEUE,
						      HMMGPU_QUEUE_DOORBELL),
				     1);
			hmmgpu_count(hdev, doorbells, 1);
		}
	}
}

/**
 * hmmgpu_fault_ring_drain() - hand all new faults to their contexts
 * @hdev: the device
 *
 * Context: Process context, may sleep. The interrupt's thread, and who has waited
 * for a job for long, in case that an interrupt was lost.
 */
void hmmgpu_fault_ring_drain(struct hmmgpu_device *hdev)
{
	struct hmmgpu_fault_ring *ring = &hdev->fault_ring;

	mutex_lock(&ring->lock);
	if (!READ_ONCE(hdev->lost))
		hmmgpu_fault_ring_take(hdev);
	mutex_unlock(&ring->lock);
}
