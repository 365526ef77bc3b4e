// SPDX-License-Identifier: GPL-2.0-only
/*
 * The copy queue: its memory, and putting descriptors into it.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>

#include "hmmgpu_drv.h"

/* Notes that one submission takes along at most. */
#define HMMGPU_NOTES_PER_SUBMIT	256U
/* Of these, that many at once. */
#define HMMGPU_NOTES_AT_ONCE	8U

static u32 hmmgpu_ring_room(struct hmmgpu_ring *ring)
{
	u32 consumer = le32_to_cpu(READ_ONCE(ring->header->consumer));

	lockdep_assert_held(&ring->lock);
	return ring->size - (ring->producer - consumer);
}

static void hmmgpu_ring_put(struct hmmgpu_ring *ring,
			    const struct hmmgpu_desc *descs, unsigned int nr)
{
	lockdep_assert_held(&ring->lock);
	while (nr--)
		ring->entries[ring->producer++ & (ring->size - 1)] = *descs++;
}

/* The notes of freed and split VRAM go first: it may be used anew behind them. */
static void hmmgpu_ring_put_notes(struct hmmgpu_device *hdev, u32 room)
{
	struct hmmgpu_ring *ring = &hdev->ring;
	struct hmmgpu_desc notes[HMMGPU_NOTES_AT_ONCE];
	unsigned int left = min(room, HMMGPU_NOTES_PER_SUBMIT);
	unsigned int nr;

	do {
		nr = min(left, HMMGPU_NOTES_AT_ONCE);
		nr = hmmgpu_vram_take_notes(hdev, notes, nr);
		hmmgpu_ring_put(ring, notes, nr);
		left -= nr;
	} while (nr);
}

static void hmmgpu_ring_put_fence(struct hmmgpu_ring *ring, unsigned int slot,
				  u64 sequence, u16 flags)
{
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_FENCE,
		.flags = cpu_to_le16(flags),
		.dst = cpu_to_le64(ring->fences_dma +
				   slot * sizeof(*ring->fences)),
		.arg = cpu_to_le64(sequence),
	};

	hmmgpu_ring_put(ring, &desc, 1);
}

static void hmmgpu_ring_publish(struct hmmgpu_device *hdev, u32 from)
{
	struct hmmgpu_ring *ring = &hdev->ring;

	lockdep_assert_held(&ring->lock);
	hmmgpu_count(hdev, descriptors, ring->producer - from);
	/* The descriptors are seen before the index that covers them. */
	dma_wmb();
	WRITE_ONCE(ring->header->producer, cpu_to_le32(ring->producer));
	/*
	 * The index is seen before need_kick is read. The engine does the
	 * reverse (sets need_kick, full barrier, reads the index), so that one
	 * of the two notices the other.
	 */
	mb();
	if (READ_ONCE(ring->header->need_kick)) {
		hmmgpu_write(hdev,
			     HMMGPU_QUEUE_REG(0, HMMGPU_QUEUE_DOORBELL), 1);
		hmmgpu_count(hdev, doorbells, 1);
	}
}

/* Returns with the lock held if it returns 0. */
static int hmmgpu_ring_reserve(struct hmmgpu_device *hdev, u32 need,
			       struct hmmgpu_fence *fence)
{
	struct hmmgpu_ring *ring = &hdev->ring;
	unsigned long end = jiffies +
			    msecs_to_jiffies(hmmgpu_fence_timeout_ms());

	might_sleep();
	for (;;) {
		unsigned int slot = 0;

		if (READ_ONCE(hdev->lost))
			return -ENODEV;
		spin_lock(&ring->lock);
		if (fence)
			slot = find_first_zero_bit(ring->slots,
						   HMMGPU_FENCE_SLOTS);
		if (hmmgpu_ring_room(ring) >= need &&
		    slot < HMMGPU_FENCE_SLOTS) {
			if (fence) {
				__set_bit(slot, ring->slots);
				fence->slot = slot;
				fence->sequence = ring->next_sequence++;
			}
			return 0;
		}
		spin_unlock(&ring->lock);
		if (time_after(jiffies, end)) {
			hmmgpu_device_lose(hdev, "ring stays full");
			return -ETIMEDOUT;
		}
		usleep_range(50, 200);
	}
}

/**
 * hmmgpu_ring_submit() - put descriptors into the ring
 * @hdev: the device
 * @sub: what to submit
 *
 * All of @sub is contiguous in the ring: the fence's status is about nothing
 * but these descriptors (and the notes that go first). Rings the doorbell if
 * the engine sleeps.
 *
 * Context: Process context, may sleep until there is room. May be called under
 * mmap_lock.
 * Return: 0, -ENODEV if the device is lost, -ETIMEDOUT if it just became so.
 */
int hmmgpu_ring_submit(struct hmmgpu_device *hdev,
		       const struct hmmgpu_submission *sub)
{
	struct hmmgpu_ring *ring = &hdev->ring;
	u32 need = sub->nr_notes + sub->nr_descs + !!sub->fence;
	u32 from;
	int ret;

	ret = hmmgpu_ring_reserve(hdev, need, sub->fence);
	if (ret)
		return ret;
	from = ring->producer;
	hmmgpu_ring_put_notes(hdev, hmmgpu_ring_room(ring) - need);
	hmmgpu_ring_put(ring, sub->notes, sub->nr_notes);
	hmmgpu_ring_put(ring, sub->descs, sub->nr_descs);
	if (sub->fence)
		hmmgpu_ring_put_fence(ring, sub->fence->slot,
				      sub->fence->sequence, 0);
	hmmgpu_ring_publish(hdev, from);
	spin_unlock(&ring->lock);
	return 0;
}

/**
 * hmmgpu_ring_flush_notes() - give the device all notes of the VRAM allocator
 * @hdev: the device
 * @wait: wait until the device has seen them
 *
 * VRAM that was freed can be allocated again afterwards.
 *
 * Context: Process context, may sleep.
 * Return: 0 or a negative errno.
 */
int hmmgpu_ring_flush_notes(struct hmmgpu_device *hdev, bool wait)
{
	struct hmmgpu_fence fence;
	struct hmmgpu_submission sub = { .fence = wait ? &fence : NULL };
	int ret;

	while (hmmgpu_vram_has_notes(hdev)) {
		struct hmmgpu_ring *ring = &hdev->ring;
		u32 from;

		ret = hmmgpu_ring_reserve(hdev, HMMGPU_NOTES_PER_SUBMIT, NULL);
		if (ret)
			return ret;
		from = ring->producer;
		hmmgpu_ring_put_notes(hdev, HMMGPU_NOTES_PER_SUBMIT);
		hmmgpu_ring_publish(hdev, from);
		spin_unlock(&ring->lock);
	}
	if (!wait)
		return 0;
	ret = hmmgpu_ring_submit(hdev, &sub);
	return ret ?: hmmgpu_fence_wait(hdev, &fence);
}

/**
 * hmmgpu_ring_wake_later() - ask for an interrupt behind all that is submitted
 * @hdev: the device
 *
 * Fences carry no interrupt, since nearly all are seen by polling. Who is about
 * to sleep puts one more fence into the ring, which does. If the ring is full
 * there is none: sleepers look again by themselves now and then.
 *
 * Context: Process context.
 */
void hmmgpu_ring_wake_later(struct hmmgpu_device *hdev)
{
	struct hmmgpu_ring *ring = &hdev->ring;

	spin_lock(&ring->lock);
	if (hmmgpu_ring_room(ring)) {
		u32 from = ring->producer;

		hmmgpu_ring_put_fence(ring, 0, ring->next_sequence++,
				      HMMGPU_FLAG_INTERRUPT);
		hmmgpu_ring_publish(hdev, from);
	}
	spin_unlock(&ring->lock);
}

static void hmmgpu_ring_write_queue(struct hmmgpu_device *hdev, u32 reg,
				    u32 value)
{
	hmmgpu_write(hdev, HMMGPU_QUEUE_REG(0, reg), value);
}

static void hmmgpu_ring_free(struct hmmgpu_device *hdev)
{
	struct hmmgpu_ring *ring = &hdev->ring;

	if (ring->fences)
		dma_free_coherent(hdev->dev,
				  HMMGPU_FENCE_SLOTS * sizeof(*ring->fences),
				  ring->fences, ring->fences_dma);
	if (ring->entries)
		dma_free_coherent(hdev->dev,
				  ring->size * sizeof(*ring->entries),
				  ring->entries, ring->entries_dma);
	if (ring->header)
		dma_free_coherent(hdev->dev, HMMGPU_QUEUE_ALIGN, ring->header,
				  ring->header_dma);
}

/**
 * hmmgpu_ring_init() - allocate the queue's memory and enable the queue
 * @hdev: the device, ready after a reset
 *
 * Rings usually land above 4 GiB: the DMA mask must be 64 bits wide.
 *
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_ring_init(struct hmmgpu_device *hdev)
{
	struct hmmgpu_ring *ring = &hdev->ring;
	u32 log2 = min_t(u32, HMMGPU_RING_LOG2,
			 hmmgpu_read(hdev, HMMGPU_REG_MAX_RING_LOG2));

	BUILD_BUG_ON(sizeof(struct hmmgpu_desc) != 32);
	BUILD_BUG_ON(sizeof(struct hmmgpu_fence_record) != 32);
	BUILD_BUG_ON(offsetof(struct hmmgpu_queue_header, need_kick) != 64);
	BUILD_BUG_ON(offsetof(struct hmmgpu_queue_header, consumer) != 128);

	/* A batch of scattered pages: a note and a copy each, and its fence. */
	if (BIT(log2) < 2 * HMMGPU_BATCH_PAGES + 1)
		return dev_err_probe(hdev->dev, -EOPNOTSUPP,
				     "rings of %lu entries are too short\n",
				     BIT(log2));
	ring->size = BIT(log2);
	spin_lock_init(&ring->lock);
	init_waitqueue_head(&ring->wait);
	ring->next_sequence = 1;
	__set_bit(0, ring->slots);

	ring->header = dma_alloc_coherent(hdev->dev, HMMGPU_QUEUE_ALIGN,
					  &ring->header_dma, GFP_KERNEL);
	ring->entries = dma_alloc_coherent(hdev->dev,
					   ring->size * sizeof(*ring->entries),
					   &ring->entries_dma, GFP_KERNEL);
	ring->fences = dma_alloc_coherent(hdev->dev,
					  HMMGPU_FENCE_SLOTS *
					  sizeof(*ring->fences),
					  &ring->fences_dma, GFP_KERNEL);
	if (!ring->header || !ring->entries || !ring->fences) {
		hmmgpu_ring_free(hdev);
		return dev_err_probe(hdev->dev, -ENOMEM,
				     "no memory for the ring\n");
	}

	hmmgpu_ring_write_queue(hdev, HMMGPU_QUEUE_HEADER_LO,
				lower_32_bits(ring->header_dma));
	hmmgpu_ring_write_queue(hdev, HMMGPU_QUEUE_HEADER_HI,
				upper_32_bits(ring->header_dma));
	hmmgpu_ring_write_queue(hdev, HMMGPU_QUEUE_RING_LO,
				lower_32_bits(ring->entries_dma));
	hmmgpu_ring_write_queue(hdev, HMMGPU_QUEUE_RING_HI,
				upper_32_bits(ring->entries_dma));
	hmmgpu_ring_write_queue(hdev, HMMGPU_QUEUE_RING_LOG2, log2);
	hmmgpu_ring_write_queue(hdev, HMMGPU_QUEUE_VECTOR,
				HMMGPU_VECTOR_QUEUE0);
	hmmgpu_ring_write_queue(hdev, HMMGPU_QUEUE_CTRL,
				HMMGPU_QUEUE_CTRL_ENABLE);
	if (hmmgpu_read(hdev, HMMGPU_QUEUE_REG(0, HMMGPU_QUEUE_STATUS)) !=
	    HMMGPU_QUEUE_STATUS_RUNNING) {
		u32 status = hmmgpu_read(hdev, HMMGPU_REG_ERROR_STATUS);

		hmmgpu_ring_free(hdev);
		return dev_err_probe(hdev->dev, -EIO,
				     "queue 0 does not start: %s\n",
				     hmmgpu_status_name(status));
	}
	return 0;
}

/**
 * hmmgpu_ring_exit() - stop the device and free the queue's memory
 * @hdev: the device
 *
 * The device is reset, so that it forgets the ring before it is freed. The ring
 * of a device that does not reset is not freed: it may still be written to.
 */
void hmmgpu_ring_exit(struct hmmgpu_device *hdev)
{
	if (hdev->lost && !hdev->quiesced)
		return;
	if (!hdev->lost) {
		hmmgpu_ring_write_queue(hdev, HMMGPU_QUEUE_CTRL, 0);
		if (hmmgpu_device_reset(hdev) == -ETIMEDOUT) {
			dev_err(hdev->dev, "does not reset\n");
			return;
		}
	}
	hmmgpu_ring_free(hdev);
}
