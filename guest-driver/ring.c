// SPDX-License-Identifier: GPL-2.0-only
/*
 * Queues of descriptors, for copies and for invalidations: their memory, and
 * putting descriptors into them.
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
static void hmmgpu_ring_put_notes(struct hmmgpu_ring *ring, u32 room)
{
	struct hmmgpu_desc notes[HMMGPU_NOTES_AT_ONCE];
	unsigned int left = min(room, HMMGPU_NOTES_PER_SUBMIT);
	unsigned int nr;

	if (ring != &ring->hdev->ring)
		return;
	do {
		nr = min(left, HMMGPU_NOTES_AT_ONCE);
		nr = hmmgpu_vram_take_notes(ring->hdev, notes, nr);
		hmmgpu_ring_put(ring, notes, nr);
		left -= nr;
	} while (nr);
}

static void hmmgpu_ring_put_process(struct hmmgpu_ring *ring,
				    const struct hmmgpu_process *process)
{
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_NOTE,
		.flags = cpu_to_le16(HMMGPU_NOTE_PROCESS),
		.count = cpu_to_le32(process->id),
	};
	struct hmmgpu_process *named;

	BUILD_BUG_ON(sizeof(process->name) != sizeof(desc.dst) +
					      sizeof(desc.src));

	lockdep_assert_held(&ring->lock);
	named = &ring->hdev->named[process->id % HMMGPU_NAMED_PROCESSES];
	if (named->id == process->id &&
	    !memcmp(named->name, process->name, sizeof(named->name)))
		return;
	*named = *process;
	memcpy(&desc.dst, process->name, sizeof(desc.dst));
	memcpy(&desc.src, process->name + sizeof(desc.dst), sizeof(desc.src));
	hmmgpu_ring_put(ring, &desc, 1);
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
	hmmgpu_count(ring->hdev, fences, 1);
}

static void hmmgpu_ring_publish(struct hmmgpu_ring *ring, u32 from)
{
	struct hmmgpu_device *hdev = ring->hdev;

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
			     HMMGPU_QUEUE_REG(ring->queue,
					      HMMGPU_QUEUE_DOORBELL), 1);
		hmmgpu_count(hdev, doorbells, 1);
	}
}

/* Returns with the lock held if it returns 0. */
static int hmmgpu_ring_reserve(struct hmmgpu_ring *ring, u32 need,
			       struct hmmgpu_fence *fence)
{
	struct hmmgpu_device *hdev = ring->hdev;
	u32 epoch = READ_ONCE(hdev->epoch);
	unsigned long end = jiffies +
			    msecs_to_jiffies(hmmgpu_fence_timeout_ms());

	might_sleep();
	for (;;) {
		unsigned int slot = 0;

		spin_lock(&ring->lock);
		/* Under the lock: recovery restarts the ring under it. */
		if (READ_ONCE(hdev->lost) || hdev->epoch != epoch) {
			spin_unlock(&ring->lock);
			return -ENODEV;
		}
		if (fence)
			slot = find_first_zero_bit(ring->slots,
						   HMMGPU_FENCE_SLOTS);
		if (hmmgpu_ring_room(ring) >= need &&
		    slot < HMMGPU_FENCE_SLOTS) {
			if (fence) {
				__set_bit(slot, ring->slots);
				fence->slot = slot;
				fence->sequence = ring->next_sequence++;
				fence->epoch = epoch;
				fence->passed_ns = 0;
			}
			return 0;
		}
		spin_unlock(&ring->lock);
		if (time_after(jiffies, end)) {
			hmmgpu_device_lose(hdev, epoch, "ring stays full");
			return -ETIMEDOUT;
		}
		usleep_range(50, 200);
	}
}

/**
 * hmmgpu_ring_submit() - put descriptors into the ring
 * @ring: the ring
 * @sub: what to submit
 *
 * All of @sub is contiguous in the ring: the fence's status is about nothing
 * but these descriptors (and the notes that go first). Rings the doorbell if
 * the engine sleeps.
 *
 * Context: Process context, may sleep until there is room. May be called under
 * mmap_lock.
 * Return: 0; -ENODEV if the device is lost, whether or not it will be recovered;
 * -ETIMEDOUT if it just became so.
 */
int hmmgpu_ring_submit(struct hmmgpu_ring *ring,
		       const struct hmmgpu_submission *sub)
{
	u32 need = !!sub->process + sub->nr_notes + sub->nr_descs +
		   !!sub->fence;
	u32 from;
	int ret;

	ret = hmmgpu_ring_reserve(ring, need, sub->fence);
	if (ret)
		return ret;
	from = ring->producer;
	hmmgpu_ring_put_notes(ring, hmmgpu_ring_room(ring) - need);
	if (sub->process)
		hmmgpu_ring_put_process(ring, sub->process);
	hmmgpu_ring_put(ring, sub->notes, sub->nr_notes);
	hmmgpu_ring_put(ring, sub->descs, sub->nr_descs);
	if (sub->fence)
		hmmgpu_ring_put_fence(ring, sub->fence->slot,
				      sub->fence->sequence, 0);
	if (sub->fence)
		sub->fence->end = ring->producer;
	hmmgpu_ring_publish(ring, from);
	spin_unlock(&ring->lock);
	return 0;
}

/**
 * hmmgpu_ring_flush_notes() - give the device all notes of the VRAM allocator
 * @hdev: the device
 *
 * VRAM that was freed can be allocated again afterwards.
 *
 * Context: Process context, may sleep.
 * Return: 0 or a negative errno.
 */
int hmmgpu_ring_flush_notes(struct hmmgpu_device *hdev)
{
	struct hmmgpu_ring *ring = &hdev->ring;
	int ret;

	while (hmmgpu_vram_has_notes(hdev)) {
		u32 from;

		ret = hmmgpu_ring_reserve(ring, HMMGPU_NOTES_PER_SUBMIT, NULL);
		if (ret)
			return ret;
		from = ring->producer;
		hmmgpu_ring_put_notes(ring, HMMGPU_NOTES_PER_SUBMIT);
		hmmgpu_ring_publish(ring, from);
		spin_unlock(&ring->lock);
	}
	return 0;
}

/**
 * hmmgpu_ring_say_unload() - tell the device that the driver uses no VRAM any more
 * @hdev: the device
 *
 * It takes what is in use still, by all that it was told, for forgotten. Returns
 * when it has seen that, and all notes.
 *
 * Context: Process context, may sleep.
 */
void hmmgpu_ring_say_unload(struct hmmgpu_device *hdev)
{
	const struct hmmgpu_desc note = {
		.opcode = HMMGPU_OP_NOTE,
		.flags = cpu_to_le16(HMMGPU_NOTE_UNLOAD),
	};
	struct hmmgpu_fence fence;
	struct hmmgpu_submission sub = {
		.notes = &note,
		.nr_notes = hmmgpu_takes_unload(hdev),
		.fence = &fence,
	};
	struct hmmgpu_ring *ring = &hdev->ring;

	/* If it fails the device is lost, and so is its need to know. */
	if (!hmmgpu_ring_flush_notes(hdev) && !hmmgpu_ring_submit(ring, &sub))
		hmmgpu_fence_wait(ring, &fence);
}

/**
 * hmmgpu_ring_wake_later() - ask for an interrupt behind all that is submitted
 * @ring: the ring
 *
 * Fences carry no interrupt, since nearly all are seen by polling. Who is about
 * to sleep puts one more fence into the ring, which does. If the ring is full
 * there is none: sleepers look again by themselves now and then.
 *
 * Context: Process context.
 */
void hmmgpu_ring_wake_later(struct hmmgpu_ring *ring)
{
	spin_lock(&ring->lock);
	if (!READ_ONCE(ring->hdev->lost) && hmmgpu_ring_room(ring)) {
		u32 from = ring->producer;

		hmmgpu_ring_put_fence(ring, 0, ring->next_sequence++,
				      HMMGPU_FLAG_INTERRUPT);
		hmmgpu_ring_publish(ring, from);
	}
	spin_unlock(&ring->lock);
}

static void hmmgpu_ring_free(struct hmmgpu_ring *ring)
{
	struct device *dev = ring->hdev->dev;

	if (ring->fences)
		dma_free_coherent(dev,
				  HMMGPU_FENCE_SLOTS * sizeof(*ring->fences),
				  ring->fences, ring->fences_dma);
	if (ring->entries)
		dma_free_coherent(dev, ring->size * sizeof(*ring->entries),
				  ring->entries, ring->entries_dma);
	if (ring->header)
		dma_free_coherent(dev, HMMGPU_QUEUE_ALIGN, ring->header,
				  ring->header_dma);
}

/**
 * hmmgpu_queue_start() - tell the device of a queue and enable it
 * @hdev: the device
 * @base: offset of the registers of the queue or context
 * @header: DMA address of the queue header, zeroed
 * @ring: DMA address of the ring
 * @log2: log2 of the number of entries
 * @vector: interrupt vector
 *
 * Context: Process context.
 * Return: 0 or -EIO, with the reason in the log.
 */
int hmmgpu_queue_start(struct hmmgpu_device *hdev, u32 base, dma_addr_t header,
		       dma_addr_t ring, u32 log2, unsigned int vector)
{
	hmmgpu_write(hdev, base + HMMGPU_QUEUE_HEADER_LO,
		     lower_32_bits(header));
	hmmgpu_write(hdev, base + HMMGPU_QUEUE_HEADER_HI,
		     upper_32_bits(header));
	hmmgpu_write(hdev, base + HMMGPU_QUEUE_RING_LO, lower_32_bits(ring));
	hmmgpu_write(hdev, base + HMMGPU_QUEUE_RING_HI, upper_32_bits(ring));
	hmmgpu_write(hdev, base + HMMGPU_QUEUE_RING_LOG2, log2);
	hmmgpu_write(hdev, base + HMMGPU_QUEUE_VECTOR, vector);
	hmmgpu_write(hdev, base + HMMGPU_QUEUE_CTRL, HMMGPU_QUEUE_CTRL_ENABLE);
	if (hmmgpu_read(hdev, base + HMMGPU_QUEUE_STATUS) ==
	    HMMGPU_QUEUE_STATUS_RUNNING)
		return 0;
	dev_err(hdev->dev, "queue at %#x does not start: %s\n", base,
		hmmgpu_status_name(hmmgpu_read(hdev, HMMGPU_REG_ERROR_STATUS)));
	return -EIO;
}

/**
 * hmmgpu_ring_init() - allocate a queue's memory and enable the queue
 * @ring: the ring
 * @hdev: the device, ready after a reset
 * @queue: number of the queue
 * @log2: log2 of the number of descriptors wanted; it may become less
 * @vector: interrupt vector
 *
 * Rings usually land above 4 GiB: the DMA mask must be 64 bits wide.
 *
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_ring_init(struct hmmgpu_ring *ring, struct hmmgpu_device *hdev,
		     unsigned int queue, u32 log2, unsigned int vector)
{
	int ret;

	BUILD_BUG_ON(sizeof(struct hmmgpu_desc) != 32);
	BUILD_BUG_ON(sizeof(struct hmmgpu_fence_record) != 32);
	BUILD_BUG_ON(offsetof(struct hmmgpu_queue_header, need_kick) != 64);
	BUILD_BUG_ON(offsetof(struct hmmgpu_queue_header, consumer) != 128);

	log2 = min(log2, hmmgpu_read(hdev, HMMGPU_REG_MAX_RING_LOG2));
	/* A batch of scattered pages: a note and a copy each, and its fence. */
	if (queue == 0 && BIT(log2) < 2 * HMMGPU_BATCH_PAGES + 1)
		return dev_err_probe(hdev->dev, -EOPNOTSUPP,
				     "rings of %lu entries are too short\n",
				     BIT(log2));
	ring->hdev = hdev;
	ring->queue = queue;
	ring->vector = vector;
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
		hmmgpu_ring_free(ring);
		return dev_err_probe(hdev->dev, -ENOMEM,
				     "no memory for a ring\n");
	}
	ret = hmmgpu_queue_start(hdev, HMMGPU_QUEUE_REG(queue, 0),
				 ring->header_dma, ring->entries_dma, log2,
				 vector);
	if (ret)
		hmmgpu_ring_free(ring);
	return ret;
}

/**
 * hmmgpu_ring_restart() - enable a queue again after a reset
 * @ring: the ring; the device is ready, and still marked as lost
 *
 * What was in it is forgotten. Sequence numbers go on, so that no fence record
 * of before is taken for a new one.
 *
 * Return: 0 or -EIO, with the reason in the log.
 */
int hmmgpu_ring_restart(struct hmmgpu_ring *ring)
{
	struct hmmgpu_device *hdev = ring->hdev;

	spin_lock(&ring->lock);
	memset(ring->header, 0, HMMGPU_QUEUE_ALIGN);
	ring->producer = 0;
	bitmap_zero(ring->slots, HMMGPU_FENCE_SLOTS);
	__set_bit(0, ring->slots);
	if (ring == &hdev->ring)
		memset(hdev->named, 0, sizeof(hdev->named));
	spin_unlock(&ring->lock);
	return hmmgpu_queue_start(hdev, HMMGPU_QUEUE_REG(ring->queue, 0),
				  ring->header_dma, ring->entries_dma,
				  ilog2(ring->size), ring->vector);
}

/**
 * hmmgpu_ring_announce() - put notes into a ring of a device that is marked lost
 * @ring: the ring, restarted
 * @notes: the notes
 * @nr: their number, at most that of the ring's entries
 *
 * Nobody else can put anything there.
 *
 * Context: Process context, sleeps until there is room.
 * Return: 0 or -ETIMEDOUT.
 */
int hmmgpu_ring_announce(struct hmmgpu_ring *ring,
			 const struct hmmgpu_desc *notes, unsigned int nr)
{
	unsigned long end = jiffies +
			    msecs_to_jiffies(hmmgpu_fence_timeout_ms());

	for (;;) {
		u32 from;

		spin_lock(&ring->lock);
		from = ring->producer;
		if (hmmgpu_ring_room(ring) >= nr) {
			hmmgpu_ring_put(ring, notes, nr);
			hmmgpu_ring_publish(ring, from);
			spin_unlock(&ring->lock);
			return 0;
		}
		spin_unlock(&ring->lock);
		if (time_after(jiffies, end))
			return -ETIMEDOUT;
		usleep_range(50, 200);
	}
}

/**
 * hmmgpu_ring_exit() - free a queue's memory
 * @ring: the ring; hmmgpu_device_stop() was called
 *
 * The ring of a device that does not reset is not freed: it may still be
 * written to.
 */
void hmmgpu_ring_exit(struct hmmgpu_ring *ring)
{
	if (ring->hdev->quiesced)
		hmmgpu_ring_free(ring);
}
