// SPDX-License-Identifier: GPL-2.0-only
/*
 * Waiting for fences.
 */
#include <linux/ktime.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>

#include "hmmgpu_drv.h"

static unsigned int fence_spin_us = 20;
module_param(fence_spin_us, uint, 0644);
MODULE_PARM_DESC(fence_spin_us, "Time to spin for a fence, in us (default 20)");

static unsigned int fence_yield_us = 2000;
module_param(fence_yield_us, uint, 0644);
MODULE_PARM_DESC(fence_yield_us, "Time to poll for a fence while letting others run, before sleeping, in us (default 2000)");

static unsigned int fence_timeout_ms = 10000;
module_param(fence_timeout_ms, uint, 0644);
MODULE_PARM_DESC(fence_timeout_ms, "Time after which a device that does not answer is given up, in ms (default 10000)");

/* Sleepers look for a reset or a vanished device this often. */
#define HMMGPU_FENCE_LOOK_MS	50
/* After this time, the record of a fence that the device is done with is lost. */
#define HMMGPU_FENCE_LATE_MS	(2 * HMMGPU_FENCE_LOOK_MS)

/**
 * hmmgpu_fence_timeout_ms() - time after which the device is given up
 *
 * Return: milliseconds, at least 100.
 */
int hmmgpu_fence_timeout_ms(void)
{
	return clamp(READ_ONCE(fence_timeout_ms), 100U, 3600000U);
}

static bool hmmgpu_fence_done(struct hmmgpu_ring *ring,
			      const struct hmmgpu_fence *fence)
{
	struct hmmgpu_fence_record *record = &ring->fences[fence->slot];

	if (le64_to_cpu(READ_ONCE(record->sequence)) != fence->sequence)
		return false;
	/* The record, and what was copied, is read after its sequence. */
	dma_rmb();
	return true;
}

/* The device that it was submitted to is lost; there may be a new one. */
static bool hmmgpu_fence_lost(struct hmmgpu_ring *ring,
			      const struct hmmgpu_fence *fence)
{
	return READ_ONCE(ring->hdev->lost) ||
	       READ_ONCE(ring->hdev->epoch) != fence->epoch;
}

/*
 * The device has been done with the fence, and with all in front of it, for a
 * while: its record does not come any more.
 */
static bool hmmgpu_fence_missed(struct hmmgpu_ring *ring,
				struct hmmgpu_fence *fence)
{
	u32 consumer = le32_to_cpu(READ_ONCE(ring->header->consumer));

	if ((s32)(consumer - fence->end) < 0)
		return false;
	if (!fence->passed_ns)
		fence->passed_ns = ktime_get_ns();
	return ktime_get_ns() - fence->passed_ns >
	       HMMGPU_FENCE_LATE_MS * NSEC_PER_MSEC;
}

static int hmmgpu_fence_poll(struct hmmgpu_ring *ring,
			     const struct hmmgpu_fence *fence)
{
	u64 start = ktime_get_ns();
	u64 spin = start + READ_ONCE(fence_spin_us) * NSEC_PER_USEC;
	u64 end = spin + READ_ONCE(fence_yield_us) * NSEC_PER_USEC;
	u64 now;

	do {
		if (hmmgpu_fence_done(ring, fence))
			return 0;
		if (hmmgpu_fence_lost(ring, fence))
			return -ENODEV;
		cpu_relax();
		now = ktime_get_ns();
		if (now > spin)
			cond_resched();
	} while (now < end);
	return -EAGAIN;
}

static int hmmgpu_fence_sleep(struct hmmgpu_ring *ring,
			      struct hmmgpu_fence *fence)
{
	struct hmmgpu_device *hdev = ring->hdev;
	unsigned long end = jiffies +
			    msecs_to_jiffies(hmmgpu_fence_timeout_ms());
	char why[80];

	hmmgpu_count(hdev, fence_sleeps, 1);
	hmmgpu_ring_wake_later(ring);
	for (;;) {
		wait_event_timeout(ring->wait,
				   hmmgpu_fence_done(ring, fence) ||
				   hmmgpu_fence_lost(ring, fence),
				   msecs_to_jiffies(HMMGPU_FENCE_LOOK_MS));
		if (hmmgpu_fence_done(ring, fence))
			return 0;
		if (!hmmgpu_device_alive(hdev) ||
		    hmmgpu_fence_lost(ring, fence))
			return -ENODEV;
		if (hmmgpu_fence_missed(ring, fence)) {
			hmmgpu_count(hdev, fences_missed, 1);
			dev_err_ratelimited(hdev->dev,
					    "queue %u: fence %llu was lost\n",
					    ring->queue, fence->sequence);
			return -EIO;
		}
		if (time_after(jiffies, end))
			break;
	}
	hmmgpu_count(hdev, fence_timeouts, 1);
	snprintf(why, sizeof(why),
		 "queue %u: no answer to fence %llu within %d ms",
		 ring->queue, fence->sequence, hmmgpu_fence_timeout_ms());
	hmmgpu_device_lose(hdev, fence->epoch, why);
	return -ETIMEDOUT;
}

/**
 * hmmgpu_fence_wait() - wait until the device has reached a fence
 * @ring: the ring
 * @fence: a fence that was submitted to @ring; it is used up
 *
 * A fence usually comes within microseconds, an interrupt takes about a hundred
 * under emulation: so spin briefly, then poll and let others run, and only then
 * sleep. The wait has an end even if the device has none.
 *
 * Context: Process context, may sleep. May be called under mmap_lock.
 * Return: 0; -EIO if a descriptor before the fence failed, or if the device is
 * done with all of them but nobody knows how; -ETIMEDOUT if it did not answer and
 * was given up; -ENODEV if it is lost, whether or not it will be recovered.
 */
int hmmgpu_fence_wait(struct hmmgpu_ring *ring, struct hmmgpu_fence *fence)
{
	struct hmmgpu_device *hdev = ring->hdev;
	struct hmmgpu_fence_record *record = &ring->fences[fence->slot];
	int ret;

	ret = hmmgpu_fence_poll(ring, fence);
	if (ret == -EAGAIN)
		ret = hmmgpu_fence_sleep(ring, fence);
	/* Its record stays taken until a reset: it may be written to yet. */
	if (ret == -EIO)
		return ret;
	if (ret) {
		hmmgpu_device_wait_quiet(hdev);
		return ret;
	}

	if (record->errors) {
		dev_err_ratelimited(hdev->dev,
				    "%u descriptors failed, the first with %s at index %u\n",
				    le32_to_cpu(record->errors),
				    hmmgpu_status_name(le32_to_cpu(record->status)),
				    le32_to_cpu(record->error_index));
		ret = -EIO;
	}
	spin_lock(&ring->lock);
	/* After a recovery somebody else may have it. */
	if (!hmmgpu_fence_lost(ring, fence))
		__clear_bit(fence->slot, ring->slots);
	spin_unlock(&ring->lock);
	return ret;
}
