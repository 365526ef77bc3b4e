// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device as a whole: who it is, its reset, its interrupts, its loss.
 */
#include <linux/delay.h>
#include <linux/interrupt.h>

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

static u64 hmmgpu_read64(struct hmmgpu_device *hdev, u32 reg_lo, u32 reg_hi)
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
	int ret;

	hmmgpu_write(hdev, HMMGPU_REG_RESET_CTRL, HMMGPU_RESET_CTRL_RESET);
	ret = hmmgpu_device_wait_ready(hdev);
	if (!ret)
		hmmgpu_count(hdev, resets, 1);
	return ret;
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
	if (!hmmgpu_read(hdev, HMMGPU_REG_COPY_QUEUES))
		return dev_err_probe(hdev->dev, -EOPNOTSUPP,
				     "device has no copy queue\n");
	return 0;
}

/**
 * hmmgpu_device_check() - may a user operation begin or go on?
 * @hdev: the device
 *
 * Return: 0, or -ENODEV if the device is being removed or is lost.
 */
int hmmgpu_device_check(struct hmmgpu_device *hdev)
{
	return READ_ONCE(hdev->removing) || READ_ONCE(hdev->lost) ? -ENODEV : 0;
}

/**
 * hmmgpu_device_lose() - give the device up
 * @hdev: the device
 * @why: what happened, for the log
 *
 * Copies that are under way may still write to memory, so the device is reset;
 * &hmmgpu_device.quiesced tells if that worked. Later callers wait for the
 * first one.
 *
 * Context: Process context, may sleep.
 */
void hmmgpu_device_lose(struct hmmgpu_device *hdev, const char *why)
{
	u32 state, generation;

	mutex_lock(&hdev->lost_lock);
	if (hdev->lost)
		goto out;

	state = hmmgpu_read(hdev, HMMGPU_REG_STATE);
	generation = hmmgpu_read(hdev, HMMGPU_REG_GENERATION);
	dev_err(hdev->dev,
		"%s: queue 0 state %#x, device state %#x, generation %u (was %u); what is in VRAM is lost, unbind and bind the driver to go on\n",
		why,
		hmmgpu_read(hdev, HMMGPU_QUEUE_REG(0, HMMGPU_QUEUE_STATUS)),
		state, generation, hdev->generation);
	WRITE_ONCE(hdev->lost, true);
	if (state == HMMGPU_GONE)
		/* Without a device there is no DMA. */
		hdev->quiesced = true;
	else
		hdev->quiesced = !hmmgpu_device_reset(hdev);
	if (!hdev->quiesced)
		dev_err(hdev->dev,
			"does not reset; memory that it may still write to is not used again\n");
	wake_up_all(&hdev->ring.wait);
out:
	mutex_unlock(&hdev->lost_lock);
}

static irqreturn_t hmmgpu_queue_irq(int irq, void *data)
{
	struct hmmgpu_device *hdev = data;

	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE, HMMGPU_INT_QUEUE0);
	hmmgpu_count(hdev, interrupts, 1);
	wake_up_all(&hdev->ring.wait);
	return IRQ_HANDLED;
}

static irqreturn_t hmmgpu_error_irq(int irq, void *data)
{
	struct hmmgpu_device *hdev = data;
	u32 status = hmmgpu_read(hdev, HMMGPU_REG_ERROR_STATUS);

	hmmgpu_count(hdev, interrupts, 1);
	if (status != HMMGPU_GONE && status != HMMGPU_STATUS_OK)
		dev_err_ratelimited(hdev->dev,
				    "%s at queue %u, index %u, address %#llx (%u errors)\n",
				    hmmgpu_status_name(status),
				    hmmgpu_read(hdev, HMMGPU_REG_ERROR_QUEUE),
				    hmmgpu_read(hdev, HMMGPU_REG_ERROR_INDEX),
				    hmmgpu_read64(hdev,
						  HMMGPU_REG_ERROR_ADDR_LO,
						  HMMGPU_REG_ERROR_ADDR_HI),
				    hmmgpu_read(hdev, HMMGPU_REG_ERROR_COUNT));
	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE, HMMGPU_INT_ERROR);
	hmmgpu_write(hdev, HMMGPU_REG_ERROR_STATUS, 0);
	return IRQ_HANDLED;
}

/**
 * hmmgpu_device_irqs() - set the interrupts up
 * @hdev: the device
 *
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_device_irqs(struct hmmgpu_device *hdev)
{
	int ret;

	ret = pci_alloc_irq_vectors(hdev->pdev, HMMGPU_VECTOR_QUEUE0 + 1,
				    HMMGPU_VECTOR_QUEUE0 + 1, PCI_IRQ_MSIX);
	if (ret < 0)
		return dev_err_probe(hdev->dev, ret, "no MSI-X vectors\n");

	ret = request_irq(pci_irq_vector(hdev->pdev, HMMGPU_VECTOR_QUEUE0),
			  hmmgpu_queue_irq, 0, hdev->name, hdev);
	if (ret) {
		dev_err_probe(hdev->dev, ret, "no interrupt for fences\n");
		goto err_vectors;
	}
	ret = request_threaded_irq(pci_irq_vector(hdev->pdev,
						  HMMGPU_VECTOR_ERROR),
				   NULL, hmmgpu_error_irq, IRQF_ONESHOT,
				   hdev->name, hdev);
	if (ret) {
		dev_err_probe(hdev->dev, ret, "no interrupt for errors\n");
		goto err_queue;
	}
	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE, ~0U);
	hmmgpu_write(hdev, HMMGPU_REG_INT_MASK, 0);
	return 0;

err_queue:
	free_irq(pci_irq_vector(hdev->pdev, HMMGPU_VECTOR_QUEUE0), hdev);
err_vectors:
	pci_free_irq_vectors(hdev->pdev);
	return ret;
}

/**
 * hmmgpu_device_free_irqs() - undo hmmgpu_device_irqs()
 * @hdev: the device
 */
void hmmgpu_device_free_irqs(struct hmmgpu_device *hdev)
{
	hmmgpu_write(hdev, HMMGPU_REG_INT_MASK, ~0U);
	free_irq(pci_irq_vector(hdev->pdev, HMMGPU_VECTOR_ERROR), hdev);
	free_irq(pci_irq_vector(hdev->pdev, HMMGPU_VECTOR_QUEUE0), hdev);
	pci_free_irq_vectors(hdev->pdev);
}
