// SPDX-License-Identifier: GPL-2.0-only
/*
 * Interrupts: one vector for each kind of news.
 */
#include <linux/interrupt.h>

#include "hmmgpu_drv.h"

static irqreturn_t hmmgpu_copy_irq(int irq, void *data)
{
	struct hmmgpu_device *hdev = data;

	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE, HMMGPU_INT_QUEUE0);
	hmmgpu_count(hdev, interrupts, 1);
	wake_up_all(&hdev->ring.wait);
	return IRQ_HANDLED;
}

static irqreturn_t hmmgpu_invalidation_irq(int irq, void *data)
{
	struct hmmgpu_device *hdev = data;

	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE,
		     HMMGPU_INT_QUEUE0 << HMMGPU_INVALIDATION_QUEUE);
	hmmgpu_count(hdev, interrupts, 1);
	wake_up_all(&hdev->invalidations.wait);
	return IRQ_HANDLED;
}

static irqreturn_t hmmgpu_fault_irq(int irq, void *data)
{
	struct hmmgpu_device *hdev = data;

	/* First, so that a fault that comes while draining is told of anew. */
	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE,
		     HMMGPU_INT_QUEUE0 << HMMGPU_FAULT_QUEUE);
	hmmgpu_count(hdev, interrupts, 1);
	hmmgpu_fault_ring_drain(hdev);
	return IRQ_HANDLED;
}

static irqreturn_t hmmgpu_compute_irq(int irq, void *data)
{
	struct hmmgpu_device *hdev = data;

	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE, HMMGPU_INT_COMPUTE);
	hmmgpu_count(hdev, interrupts, 1);
	wake_up_all(&hdev->job_wait);
	return IRQ_HANDLED;
}

/* What is wrong with a job is told to who submitted it, and is its own affair. */
static irqreturn_t hmmgpu_error_irq(int irq, void *data)
{
	struct hmmgpu_device *hdev = data;
	u32 status = hmmgpu_read(hdev, HMMGPU_REG_ERROR_STATUS);
	u32 queue = hmmgpu_read(hdev, HMMGPU_REG_ERROR_QUEUE);

	hmmgpu_count(hdev, interrupts, 1);
	if (status != ~0U && status != HMMGPU_STATUS_OK &&
	    queue < HMMGPU_ERROR_CONTEXT0)
		dev_err_ratelimited(hdev->dev,
				    "%s at queue %u, index %u, address %#llx (%u errors)\n",
				    hmmgpu_status_name(status), queue,
				    hmmgpu_read(hdev, HMMGPU_REG_ERROR_INDEX),
				    hmmgpu_read64(hdev,
						  HMMGPU_REG_ERROR_ADDR_LO,
						  HMMGPU_REG_ERROR_ADDR_HI),
				    hmmgpu_read(hdev, HMMGPU_REG_ERROR_COUNT));
	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE, HMMGPU_INT_ERROR);
	hmmgpu_write(hdev, HMMGPU_REG_ERROR_STATUS, 0);
	return IRQ_HANDLED;
}

/* By vector. What reads registers or takes long has a thread. */
static const struct {
	irq_handler_t handler;
	irq_handler_t thread;
} hmmgpu_handlers[HMMGPU_VECTORS] = {
	[HMMGPU_VECTOR_ERROR] = { .thread = hmmgpu_error_irq },
	[HMMGPU_VECTOR_COPY] = { .handler = hmmgpu_copy_irq },
	[HMMGPU_VECTOR_INVALIDATION] = { .handler = hmmgpu_invalidation_irq },
	[HMMGPU_VECTOR_FAULT] = { .thread = hmmgpu_fault_irq },
	[HMMGPU_VECTOR_COMPUTE] = { .handler = hmmgpu_compute_irq },
};

static unsigned int hmmgpu_nr_vectors(struct hmmgpu_device *hdev)
{
	return hdev->nr_contexts ? HMMGPU_VECTORS : HMMGPU_VECTOR_COPY + 1;
}

static void hmmgpu_free_irqs(struct hmmgpu_device *hdev, unsigned int nr)
{
	while (nr--)
		free_irq(pci_irq_vector(hdev->pdev, nr), hdev);
	pci_free_irq_vectors(hdev->pdev);
}

/**
 * hmmgpu_irqs_init() - set the interrupts up
 * @hdev: the device, its queues initialised
 *
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_irqs_init(struct hmmgpu_device *hdev)
{
	unsigned int i, nr = hmmgpu_nr_vectors(hdev);
	int ret;

	ret = pci_alloc_irq_vectors(hdev->pdev, nr, nr, PCI_IRQ_MSIX);
	if (ret < 0)
		return dev_err_probe(hdev->dev, ret, "no MSI-X vectors\n");

	for (i = 0; i < nr; i++) {
		unsigned long flags = hmmgpu_handlers[i].thread ?
				      IRQF_ONESHOT : 0;

		ret = request_threaded_irq(pci_irq_vector(hdev->pdev, i),
					   hmmgpu_handlers[i].handler,
					   hmmgpu_handlers[i].thread, flags,
					   hdev->name, hdev);
		if (ret) {
			dev_err_probe(hdev->dev, ret, "no interrupt %u\n", i);
			hmmgpu_free_irqs(hdev, i);
			return ret;
		}
	}
	hmmgpu_write(hdev, HMMGPU_REG_INT_CAUSE, ~0U);
	hmmgpu_write(hdev, HMMGPU_REG_INT_MASK, 0);
	return 0;
}

/**
 * hmmgpu_irqs_exit() - undo hmmgpu_irqs_init()
 * @hdev: the device
 */
void hmmgpu_irqs_exit(struct hmmgpu_device *hdev)
{
	hmmgpu_write(hdev, HMMGPU_REG_INT_MASK, ~0U);
	hmmgpu_free_irqs(hdev, hmmgpu_nr_vectors(hdev));
}
