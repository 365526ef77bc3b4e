// SPDX-License-Identifier: GPL-2.0-only
/*
 * Recovery: a device that was lost, and that resets, is taken into use again.
 *
 * What was in its VRAM is gone. That is remembered page by page, so that whoever
 * has such a page, and nobody else, gets an error: see hmmgpu_vram_is_lost().
 * Jobs end with an error, contexts begin anew with nothing mapped.
 *
 * Nobody uses the device meanwhile: user operations hold the gate, and all that
 * has memory in flight holds &hmmgpu_device.flight. Recovery only tries for both,
 * so nobody ever waits behind it while it waits: those who still use the device
 * notice that it is lost, and end.
 */
#include <linux/slab.h>

#include "context.h"

#define HMMGPU_RECOVER_AGAIN	(HZ / 100 + 1)

/* What is allocated in VRAM: its content is gone, that it is allocated is not. */
static int hmmgpu_recover_vram(struct hmmgpu_device *hdev, unsigned long *lost)
{
	unsigned long position = 0;
	struct hmmgpu_desc *descs;
	unsigned int nr;
	int ret = 0;

	descs = kvmalloc_array(HMMGPU_LARGE_PAGES, sizeof(*descs), GFP_KERNEL);
	if (!descs)
		return -ENOMEM;
	*lost = 0;
	while (!ret && position < hdev->vram.nr_blocks) {
		nr = hmmgpu_vram_lose(hdev, &position, descs,
				      HMMGPU_LARGE_PAGES, lost);
		ret = hmmgpu_ring_announce(&hdev->ring, descs, nr);
	}
	kvfree(descs);
	return ret;
}

static int hmmgpu_recover_queues(struct hmmgpu_device *hdev)
{
	int ret;

	ret = hmmgpu_ring_restart(&hdev->ring);
	if (!ret && hdev->nr_contexts)
		ret = hmmgpu_ring_restart(&hdev->invalidations) ?:
		      hmmgpu_fault_ring_restart(hdev);
	if (ret)
		return ret;
	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE, ~0U);
	hmmgpu_write(hdev, HMMGPU_REG_INT_MASK, 0);
	return 0;
}

static int hmmgpu_recover_contexts(struct hmmgpu_device *hdev)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < hdev->nr_contexts; i++)
		if (hdev->contexts[i])
			ret = hmmgpu_context_recover(hdev->contexts[i]);
	return ret;
}

/*
 * Nobody else uses the device, and it is marked as lost until all is done. VRAM
 * goes first: what is mapped for a context from then on is not what was lost.
 */
static void hmmgpu_recover(struct hmmgpu_device *hdev)
{
	unsigned long lost = 0;
	int ret;

	/* Who found it lost has reset it; it may have been reset again since. */
	ret = hmmgpu_device_reset(hdev);
	if (!ret) {
		hdev->generation = hmmgpu_read(hdev, HMMGPU_REG_GENERATION);
		ret = hmmgpu_recover_queues(hdev) ?:
		      hmmgpu_recover_vram(hdev, &lost) ?:
		      hmmgpu_recover_contexts(hdev);
	}

	mutex_lock(&hdev->lost_lock);
	if (ret) {
		hdev->quiesced = hmmgpu_device_reset(hdev) != -ETIMEDOUT;
		WRITE_ONCE(hdev->dead, true);
		dev_err(hdev->dev,
			"cannot be recovered (%d): unbind and bind the driver to go on\n",
			ret);
	} else {
		hmmgpu_count(hdev, recoveries, 1);
		WRITE_ONCE(hdev->epoch, hdev->epoch + 1);
		hdev->quiesced = false;
		WRITE_ONCE(hdev->lost, false);
		dev_notice(hdev->dev,
			   "works again, generation %u; %lu pages of VRAM were lost\n",
			   hdev->generation, lost);
	}
	mutex_unlock(&hdev->lost_lock);
	/* Notes that gathered meanwhile have nobody else to take them. */
	if (!ret)
		queue_delayed_work(hdev->wq, &hdev->note_work, 0);
}

static void hmmgpu_recover_work(struct work_struct *work)
{
	struct hmmgpu_device *hdev = container_of(to_delayed_work(work),
						  struct hmmgpu_device,
						  recover_work);
	bool done = false;

	if (READ_ONCE(hdev->removing) || READ_ONCE(hdev->held))
		return;
	if (down_write_trylock(&hdev->gate)) {
		if (down_write_trylock(&hdev->flight)) {
			if (hdev->lost && !hdev->dead)
				hmmgpu_recover(hdev);
			done = true;
			up_write(&hdev->flight);
		}
		up_write(&hdev->gate);
	}
	if (done)
		wake_up_all(&hdev->recover_wait);
	else
		queue_delayed_work(hdev->wq, &hdev->recover_work,
				   HMMGPU_RECOVER_AGAIN);
}

/**
 * hmmgpu_recover_init() - set recovery up
 * @hdev: the device
 */
void hmmgpu_recover_init(struct hmmgpu_device *hdev)
{
	init_rwsem(&hdev->flight);
	init_waitqueue_head(&hdev->recover_wait);
	INIT_DELAYED_WORK(&hdev->recover_work, hmmgpu_recover_work);
}

/**
 * hmmgpu_recover_start() - the device is lost: recover it
 * @hdev: the device
 *
 * Does not wait for that. Does nothing if it cannot be done, or not now.
 *
 * Context: Any.
 */
void hmmgpu_recover_start(struct hmmgpu_device *hdev)
{
	if (READ_ONCE(hdev->lost) && !READ_ONCE(hdev->dead) &&
	    !READ_ONCE(hdev->held) && !READ_ONCE(hdev->removing))
		queue_delayed_work(hdev->wq, &hdev->recover_work, 0);
}

/**
 * hmmgpu_recover_hold() - no recovery for now
 * @hdev: the device
 *
 * One that is under way ends first.
 *
 * Context: Process context, sleeps; &hmmgpu_device.gate is not held.
 */
void hmmgpu_recover_hold(struct hmmgpu_device *hdev)
{
	WRITE_ONCE(hdev->held, true);
	cancel_delayed_work_sync(&hdev->recover_work);
}

/**
 * hmmgpu_recover_release() - undo hmmgpu_recover_hold()
 * @hdev: the device, which is recovered if it is lost
 *
 * Context: Any.
 */
void hmmgpu_recover_release(struct hmmgpu_device *hdev)
{
	WRITE_ONCE(hdev->held, false);
	hmmgpu_recover_start(hdev);
}

/**
 * hmmgpu_recover_exit() - no recovery any more
 * @hdev: the device, marked as being removed
 *
 * Context: Process context, sleeps; &hmmgpu_device.gate is not held.
 */
void hmmgpu_recover_exit(struct hmmgpu_device *hdev)
{
	wake_up_all(&hdev->recover_wait);
	cancel_delayed_work_sync(&hdev->recover_work);
}
