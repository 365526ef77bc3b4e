// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device as a whole: who it is, its reset, its loss.
 */
#include <linux/delay.h>

#include "hmmgpu_drv.h"

/* A reset drains the engines and scrubs VRAM before it reports ready. */
#define HMMGPU_RESET_TIMEOUT_MS	30000
#define HMMGPU_GONE		(~0U)

static const char * const hmmgpu_status_names[] = {
	[HMMGPU_STATUS_OK] = "OK",
	[HMMGPU_STATUS_BAD_OPCODE] = "BAD_OPCODE",
	[HMMGPU_STATUS_BAD_FIELD] = "BAD_FIELD",
	[HMMGPU_STATUS_BAD_ORDER] = "BAD_ORDER",
	[HMMGPU_STATUS_BAD_COUNT] = "BAD_COUNT",
	[HMMGPU_STATUS_MISALIGNED] = "MISALIGNED",
	[HMMGPU_STATUS_VRAM_RANGE] = "VRAM_RANGE",
	[HMMGPU_STATUS_DMA_UNMAPPED] = "DMA_UNMAPPED",
	[HMMGPU_STATUS_DMA_PERMISSION] = "DMA_PERMISSION",
	[HMMGPU_STATUS_OVERLAP] = "OVERLAP",
	[HMMGPU_STATUS_ABORTED] = "ABORTED",
	[HMMGPU_STATUS_BAD_PRODUCER] = "BAD_PRODUCER",
	[HMMGPU_STATUS_QUEUE_UNREACHABLE] = "QUEUE_UNREACHABLE",
	[HMMGPU_STATUS_BAD_CONTEXT] = "BAD_CONTEXT",
	[HMMGPU_STATUS_FAULT] = "FAULT",
	[HMMGPU_STATUS_CANCELLED] = "CANCELLED",
	[HMMGPU_STATUS_HARDWARE] = "HARDWARE",
	[HMMGPU_STATUS_NO_VRAM] = "NO_VRAM",
};

/**
 * hmmgpu_status_name() - name of a descriptor's status
 * @status: STATUS value
 *
 * Return: the name in the contract.
 */
const char *hmmgpu_status_name(u32 status)
{
	if (status >= ARRAY_SIZE(hmmgpu_status_names) ||
	    !hmmgpu_status_names[status])
		return "unknown status";
	return hmmgpu_status_names[status];
}

/**
 * hmmgpu_read64() - read a register of two words
 * @hdev: the device
 * @reg_lo: offset of the low word
 * @reg_hi: offset of the high word
 *
 * Return: the value.
 */
u64 hmmgpu_read64(struct hmmgpu_device *hdev, u32 reg_lo, u32 reg_hi)
{
	u32 lo = hmmgpu_read(hdev, reg_lo);

	return (u64)hmmgpu_read(hdev, reg_hi) << 32 | lo;
}

static int hmmgpu_device_wait_ready(struct hmmgpu_device *hdev)
{
	unsigned long end = jiffies + msecs_to_jiffies(HMMGPU_RESET_TIMEOUT_MS);

	for (;;) {
		u32 state = hmmgpu_read(hdev, HMMGPU_REG_STATE);

		switch (state) {
		case HMMGPU_STATE_READY:
			return 0;
		case HMMGPU_STATE_RESETTING:
			break;
		case HMMGPU_GONE:
			return -ENODEV;
		default:
			return -EIO;
		}
		if (time_after(jiffies, end))
			return -ETIMEDOUT;
		usleep_range(200, 1000);
	}
}

/**
 * hmmgpu_device_reset() - reset the device and wait until it is ready
 * @hdev: the device
 *
 * Afterwards nothing that was submitted before can touch memory.
 *
 * Context: Process context, may sleep.
 * Return: 0, -ENODEV if the device has gone, -EIO if it failed, -ETIMEDOUT.
 */
int hmmgpu_device_reset(struct hmmgpu_device *hdev)
{
	hmmgpu_write(hdev, HMMGPU_REG_RESET_CTRL, HMMGPU_RESET_CTRL_RESET);
	hmmgpu_count(hdev, resets, 1);
	return hmmgpu_device_wait_ready(hdev);
}

/**
 * hmmgpu_device_identify() - check that this driver and the device agree
 * @hdev: the device, its registers mapped
 *
 * Resets the device, so that nothing of a driver before is left in it.
 *
 * Context: Process context, may sleep.
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_device_identify(struct hmmgpu_device *hdev)
{
	u32 magic = hmmgpu_read(hdev, HMMGPU_REG_MAGIC);
	int ret;

	if (magic != HMMGPU_MAGIC_VALUE)
		return dev_err_probe(hdev->dev, -ENODEV,
				     "magic is %#x, not %#x: not this device, or its server has gone\n",
				     magic, HMMGPU_MAGIC_VALUE);

	hdev->version = hmmgpu_read(hdev, HMMGPU_REG_VERSION);
	if (hdev->version >> 16 != HMMGPU_CONTRACT_VERSION >> 16)
		return dev_err_probe(hdev->dev, -EPROTONOSUPPORT,
				     "device speaks contract %u.%u, this driver %u.x: use the driver that came with the device\n",
				     hdev->version >> 16,
				     hdev->version & 0xffff,
				     HMMGPU_CONTRACT_VERSION >> 16);

	ret = hmmgpu_device_reset(hdev);
	if (ret)
		return dev_err_probe(hdev->dev, ret,
				     "not ready after a reset, state %#x\n",
				     hmmgpu_read(hdev, HMMGPU_REG_STATE));

	hdev->generation = hmmgpu_read(hdev, HMMGPU_REG_GENERATION);
	hdev->folio_orders = hmmgpu_read(hdev, HMMGPU_REG_FOLIO_ORDERS);
	hdev->vram_bytes = hmmgpu_read64(hdev, HMMGPU_REG_VRAM_SIZE_LO,
					 HMMGPU_REG_VRAM_SIZE_HI);
	if (!(hdev->folio_orders & BIT(0)))
		return dev_err_probe(hdev->dev, -EOPNOTSUPP,
				     "device cannot copy single pages (orders %#x)\n",
				     hdev->folio_orders);
	if (!hdev->vram_bytes || hdev->vram_bytes % HMMGPU_VRAM_BLOCK_BYTES)
		return dev_err_probe(hdev->dev, -EINVAL,
				     "VRAM of %llu bytes is not a whole number of 2 MiB blocks\n",
				     hdev->vram_bytes);
	if (hmmgpu_read(hdev, HMMGPU_REG_FEATURES_LO) &
	    HMMGPU_FEATURE_CONTEXTS) {
		hdev->nr_contexts = min(hmmgpu_read(hdev, HMMGPU_REG_CONTEXTS),
					HMMGPU_MAX_CONTEXTS);
		hdev->nr_engines = hmmgpu_read(hdev,
					       HMMGPU_REG_COMPUTE_ENGINES);
	}
	if (!hmmgpu_read(hdev, HMMGPU_REG_COPY_QUEUES))
		return dev_err_probe(hdev->dev, -EOPNOTSUPP,
				     "device has no copy queue\n");
	return 0;
}

/**
 * hmmgpu_device_check() - may a user operation begin or go on?
 * @hdev: the device
 *
 * Return: 0; -ENODEV if the device is being removed, or lost for good; -EIO if it is
 * lost and will be recovered.
 */
int hmmgpu_device_check(struct hmmgpu_device *hdev)
{
	if (READ_ONCE(hdev->removing) || READ_ONCE(hdev->dead))
		return -ENODEV;
	return READ_ONCE(hdev->lost) ? -EIO : 0;
}

/**
 * hmmgpu_device_enter() - begin a user operation
 * @hdev: the device
 *
 * Waits while the device is recovered. If it returns 0, &hmmgpu_device.gate is
 * held for reading.
 *
 * Context: Process context, sleeps.
 * Return: 0; -EINTR, a fatal signal; -ENODEV, the device has gone or goes.
 */
int hmmgpu_device_enter(struct hmmgpu_device *hdev)
{
	int ret;

	for (;;) {
		if (down_read_killable(&hdev->gate))
			return -EINTR;
		ret = hmmgpu_device_check(hdev);
		if (!ret)
			return 0;
		up_read(&hdev->gate);
		if (ret != -EIO)
			return ret;
		if (wait_event_killable(hdev->recover_wait,
					hmmgpu_device_check(hdev) != -EIO))
			return -EINTR;
	}
}

/**
 * hmmgpu_device_leave() - end a user operation
 * @hdev: the device, as hmmgpu_device_enter() left it
 * @ret: what came of the operation
 *
 * Return: @ret; but -EIO instead of -ENODEV if the device is lost only for now.
 */
int hmmgpu_device_leave(struct hmmgpu_device *hdev, int ret)
{
	if (ret == -ENODEV)
		ret = hmmgpu_device_check(hdev) ?: -EIO;
	up_read(&hdev->gate);
	return ret;
}

/*
 * Copies that are under way may still write to memory, so the device is reset;
 * &hmmgpu_device.quiesced tells if that worked.
 */
static void hmmgpu_device_take_down(struct hmmgpu_device *hdev)
{
	int ret;

	lockdep_assert_held(&hdev->lost_lock);
	WRITE_ONCE(hdev->lost, true);
	ret = hmmgpu_device_reset(hdev);
	/* Without a device there is no DMA. */
	hdev->quiesced = !ret || ret == -ENODEV;
	if (!hdev->quiesced) {
		/* The bus may still keep it from doing harm. */
		pci_clear_master(hdev->pdev);
		dev_err(hdev->dev,
			"does not reset; memory that it may still write to is not used again\n");
	}
	if (ret)
		WRITE_ONCE(hdev->dead, true);
	wake_up_all(&hdev->recover_wait);
	wake_up_all(&hdev->ring.wait);
	if (hdev->nr_contexts)
		wake_up_all(&hdev->invalidations.wait);
	wake_up_all(&hdev->job_wait);
}

/**
 * hmmgpu_device_lose() - give the device up
 * @hdev: the device
 * @epoch: the epoch that it happened in: if that is over, so is what happened
 * @why: what happened, for the log
 *
 * It is reset, and recovered as soon as nobody uses it any more. Later callers
 * wait for the reset that the first one does.
 *
 * Context: Process context, may sleep.
 */
void hmmgpu_device_lose(struct hmmgpu_device *hdev, u32 epoch, const char *why)
{
	u32 state, generation;

	mutex_lock(&hdev->lost_lock);
	if (hdev->lost || hdev->epoch != epoch)
		goto out;

	state = hmmgpu_read(hdev, HMMGPU_REG_STATE);
	generation = hmmgpu_read(hdev, HMMGPU_REG_GENERATION);
	dev_err(hdev->dev,
		"%s: queue 0 state %#x, device state %#x, generation %u (was %u); what is in VRAM is lost\n",
		why,
		hmmgpu_read(hdev, HMMGPU_QUEUE_REG(0, HMMGPU_QUEUE_STATUS)),
		state, generation, hdev->generation);
	hmmgpu_device_take_down(hdev);
	hmmgpu_recover_start(hdev);
out:
	mutex_unlock(&hdev->lost_lock);
}

/**
 * hmmgpu_device_wait_quiet() - wait until a lost device is quiet
 * @hdev: the device
 *
 * Whoever found it lost resets it. After this nothing of before writes to memory
 * any more, unless &hmmgpu_device.quiesced says that this is not sure.
 *
 * Context: Process context, may sleep.
 */
void hmmgpu_device_wait_quiet(struct hmmgpu_device *hdev)
{
	mutex_lock(&hdev->lost_lock);
	mutex_unlock(&hdev->lost_lock);
}

/**
 * hmmgpu_device_park() - nobody uses the device until it is recovered
 * @hdev: the device, its VRAM empty
 *
 * Context: Process context, may sleep, &hmmgpu_device.gate is held for writing.
 */
void hmmgpu_device_park(struct hmmgpu_device *hdev)
{
	mutex_lock(&hdev->lost_lock);
	if (!hdev->lost)
		hmmgpu_device_take_down(hdev);
	mutex_unlock(&hdev->lost_lock);
}

/**
 * hmmgpu_device_alive() - has the device been reset, or has it gone?
 * @hdev: the device
 *
 * Who waits for the device asks now and then. If it is not what it was any more
 * it is given up.
 *
 * Context: Process context, may sleep.
 * Return: true if it is there and works.
 */
bool hmmgpu_device_alive(struct hmmgpu_device *hdev)
{
	u32 generation, epoch = READ_ONCE(hdev->epoch);

	if (READ_ONCE(hdev->lost))
		return false;
	generation = hmmgpu_read(hdev, HMMGPU_REG_GENERATION);
	if (generation == hdev->generation)
		return true;
	hmmgpu_device_lose(hdev, epoch, generation == HMMGPU_GONE ?
				 "device has gone" : "device was reset");
	return false;
}

/**
 * hmmgpu_device_stop() - make the device forget its queues
 * @hdev: the device
 *
 * It is reset. If it does not reset, &hmmgpu_device.quiesced stays false, and
 * memory that it may still write to must not be freed.
 *
 * Context: Process context, may sleep.
 */
void hmmgpu_device_stop(struct hmmgpu_device *hdev)
{
	if (hdev->lost)
		return;
	hdev->quiesced = hmmgpu_device_reset(hdev) != -ETIMEDOUT;
	if (!hdev->quiesced)
		dev_err(hdev->dev, "does not reset\n");
}
