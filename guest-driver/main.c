// SPDX-License-Identifier: GPL-2.0-only
/*
 * Driver of the hmmgpu virtual GPU: probe, removal, module.
 */
#include <linux/dma-mapping.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "batch.h"
#include "context.h"

static bool dmirror;
module_param(dmirror, bool, 0444);
MODULE_PARM_DESC(dmirror, "Make /dev/hmm_dmirrorN, the interface of the kernel's HMM test module, for each device (default off)");

static DEFINE_IDA(hmmgpu_ids);

static void hmmgpu_device_release(struct kref *kref)
{
	struct hmmgpu_device *hdev = container_of(kref, struct hmmgpu_device,
						  kref);

	ida_destroy(&hdev->context_ids);
	ida_free(&hmmgpu_ids, hdev->id);
	kvfree(hdev);
}

/**
 * hmmgpu_device_put() - drop a reference to a device
 * @hdev: the device
 */
void hmmgpu_device_put(struct hmmgpu_device *hdev)
{
	kref_put(&hdev->kref, hmmgpu_device_release);
}

static void hmmgpu_note_work(struct work_struct *work)
{
	struct hmmgpu_device *hdev = container_of(to_delayed_work(work),
						  struct hmmgpu_device,
						  note_work);

	/* If it fails the device is lost, and so is its need to know. */
	hmmgpu_ring_flush_notes(hdev);
}

static struct hmmgpu_device *hmmgpu_device_alloc(struct pci_dev *pdev)
{
	struct hmmgpu_device *hdev = kvzalloc(sizeof(*hdev), GFP_KERNEL);
	int id;

	if (!hdev)
		return NULL;
	id = ida_alloc(&hmmgpu_ids, GFP_KERNEL);
	if (id < 0) {
		kvfree(hdev);
		return NULL;
	}
	hdev->pdev = pdev;
	hdev->dev = &pdev->dev;
	hdev->id = id;
	snprintf(hdev->name, sizeof(hdev->name), "hmmgpu%d", id);
	strscpy(hdev->pci_name, pci_name(pdev));
	kref_init(&hdev->kref);
	init_rwsem(&hdev->gate);
	mutex_init(&hdev->lost_lock);
	hmmgpu_recover_init(hdev);
	ida_init(&hdev->context_ids);
	spin_lock_init(&hdev->context_lock);
	spin_lock_init(&hdev->files_lock);
	INIT_LIST_HEAD(&hdev->files);
	init_waitqueue_head(&hdev->job_wait);
	spin_lock_init(&hdev->batch_lock);
	INIT_LIST_HEAD(&hdev->batches);
	INIT_DELAYED_WORK(&hdev->note_work, hmmgpu_note_work);
	hdev->scrub_code = hmmgpu_on_tcg();
	return hdev;
}

static int hmmgpu_queues_init(struct hmmgpu_device *hdev)
{
	int ret;

	ret = hmmgpu_ring_init(&hdev->ring, hdev, 0, HMMGPU_RING_LOG2,
			       HMMGPU_VECTOR_COPY);
	if (ret || !hdev->nr_contexts)
		return ret;
	ret = hmmgpu_ring_init(&hdev->invalidations, hdev,
			       HMMGPU_INVALIDATION_QUEUE,
			       HMMGPU_INVALIDATION_RING_LOG2,
			       HMMGPU_VECTOR_INVALIDATION);
	if (ret)
		goto err_ring;
	ret = hmmgpu_fault_ring_init(hdev);
	if (ret)
		goto err_invalidations;
	return 0;

err_invalidations:
	hmmgpu_device_stop(hdev);
	hmmgpu_ring_exit(&hdev->invalidations);
err_ring:
	hmmgpu_device_stop(hdev);
	hmmgpu_ring_exit(&hdev->ring);
	return ret;
}

static void hmmgpu_queues_exit(struct hmmgpu_device *hdev)
{
	hmmgpu_device_stop(hdev);
	if (hdev->nr_contexts) {
		hmmgpu_fault_ring_exit(hdev);
		hmmgpu_ring_exit(&hdev->invalidations);
	}
	hmmgpu_ring_exit(&hdev->ring);
}

static int hmmgpu_pci_init(struct hmmgpu_device *hdev)
{
	struct pci_dev *pdev = hdev->pdev;
	int ret;

	ret = pci_enable_device_mem(pdev);
	if (ret)
		return dev_err_probe(hdev->dev, ret, "cannot be enabled\n");
	ret = pci_request_mem_regions(pdev, "hmmgpu");
	if (ret) {
		dev_err_probe(hdev->dev, ret, "BARs are in use\n");
		goto err_disable;
	}
	ret = -ENODEV;
	if (pci_resource_len(pdev, HMMGPU_BAR_REGISTERS) <
	    HMMGPU_BAR_REGISTERS_SIZE) {
		dev_err_probe(hdev->dev, ret, "register BAR is too small\n");
		goto err_regions;
	}
	hdev->regs = pci_iomap(pdev, HMMGPU_BAR_REGISTERS, 0);
	if (!hdev->regs) {
		dev_err_probe(hdev->dev, ret, "registers cannot be mapped\n");
		goto err_regions;
	}
	ret = dma_set_mask_and_coherent(hdev->dev, DMA_BIT_MASK(64));
	if (ret) {
		dev_err_probe(hdev->dev, ret, "no 64-bit DMA\n");
		goto err_regs;
	}
	/* One mapping per folio, up to 2 MiB. */
	dma_set_max_seg_size(hdev->dev, UINT_MAX);
	pci_set_master(pdev);
	return 0;

err_regs:
	pci_iounmap(pdev, hdev->regs);
err_regions:
	pci_release_mem_regions(pdev);
err_disable:
	pci_disable_device(pdev);
	return ret;
}

static void hmmgpu_pci_exit(struct hmmgpu_device *hdev)
{
	pci_clear_master(hdev->pdev);
	pci_iounmap(hdev->pdev, hdev->regs);
	pci_release_mem_regions(hdev->pdev);
	pci_disable_device(hdev->pdev);
}

/*
 * Other processes may still have memory in VRAM. No migration to it begins any
 * more, all that is there comes home, and only then does it go away; CPU faults
 * work to the end. No folio holds the module: unloading it is what brings them
 * home, see hmmgpu_pagemap_exit().
 *
 * Who waits for a job holds the gate, and opens of nodes exclude their removal:
 * so all are told first, and no wait for either of them lasts.
 */
static void hmmgpu_retire(struct hmmgpu_device *hdev)
{
	WRITE_ONCE(hdev->removing, true);
	wake_up_all(&hdev->job_wait);
	hmmgpu_recover_exit(hdev);
	hmmgpu_node_exit(hdev);
	hmmgpu_dmirror_exit(hdev);
	down_write(&hdev->gate);
	hmmgpu_contexts_stop(hdev);
	hmmgpu_evict_all(hdev, true);
	up_write(&hdev->gate);

	hmmgpu_pagemap_exit(hdev);
	cancel_delayed_work_sync(&hdev->note_work);
	if (!hdev->lost)
		hmmgpu_ring_say_unload(hdev);
	hmmgpu_debugfs_remove(hdev);
	hmmgpu_vram_exit(hdev);
	hmmgpu_irqs_exit(hdev);
	hmmgpu_queues_exit(hdev);
	destroy_workqueue(hdev->wq);
	hmmgpu_batch_free_all(hdev);
	hmmgpu_pci_exit(hdev);
	hmmgpu_device_put(hdev);
}

static int hmmgpu_probe(struct pci_dev *pdev, const struct pci_device_id *ent)
{
	struct hmmgpu_device *hdev = hmmgpu_device_alloc(pdev);
	int ret;

	if (!hdev)
		return -ENOMEM;
	pci_set_drvdata(pdev, hdev);

	ret = hmmgpu_pci_init(hdev);
	if (ret)
		goto err_put;
	ret = hmmgpu_device_identify(hdev);
	if (ret)
		goto err_pci;
	hdev->wq = alloc_workqueue("%s", WQ_UNBOUND, 0, hdev->name);
	if (!hdev->wq) {
		ret = -ENOMEM;
		goto err_pci;
	}
	ret = hmmgpu_queues_init(hdev);
	if (ret)
		goto err_wq;
	ret = hmmgpu_irqs_init(hdev);
	if (ret)
		goto err_queues;
	ret = hmmgpu_vram_init(hdev);
	if (ret)
		goto err_irqs;
	ret = hmmgpu_pagemap_init(hdev);
	if (ret)
		goto err_vram;
	ret = hmmgpu_node_init(hdev);
	if (ret)
		goto err_pagemap;
	hmmgpu_debugfs_add(hdev);
	ret = dmirror ? hmmgpu_dmirror_init(hdev) : 0;
	if (ret) {
		/* There is a node already, and with it there may be users. */
		hmmgpu_retire(hdev);
		return ret;
	}

	dev_info(hdev->dev,
		 "%s: %llu MiB of VRAM, folio orders %#x, %u contexts%s\n",
		 hdev->name, hdev->vram_bytes >> 20, hdev->folio_orders,
		 hdev->nr_contexts,
		 hdev->scrub_code ? ", emulated CPU" : "");
	return 0;

err_pagemap:
	hmmgpu_pagemap_exit(hdev);
err_vram:
	hmmgpu_vram_exit(hdev);
err_irqs:
	hmmgpu_irqs_exit(hdev);
err_queues:
	hmmgpu_queues_exit(hdev);
err_wq:
	destroy_workqueue(hdev->wq);
err_pci:
	hmmgpu_pci_exit(hdev);
err_put:
	hmmgpu_device_put(hdev);
	return ret;
}

static void hmmgpu_remove(struct pci_dev *pdev)
{
	hmmgpu_retire(pci_get_drvdata(pdev));
}

static const struct pci_device_id hmmgpu_pci_ids[] = {
	{ PCI_DEVICE(HMMGPU_PCI_VENDOR_ID, HMMGPU_PCI_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, hmmgpu_pci_ids);

static struct pci_driver hmmgpu_driver = {
	.name = "hmmgpu",
	.id_table = hmmgpu_pci_ids,
	.probe = hmmgpu_probe,
	.remove = hmmgpu_remove,
	.err_handler = &hmmgpu_err_handlers,
	.driver.pm = pm_sleep_ptr(&hmmgpu_pm_ops),
};

static int __init hmmgpu_init(void)
{
	int ret;

	hmmgpu_debugfs_init();
	ret = pci_register_driver(&hmmgpu_driver);
	if (ret)
		hmmgpu_debugfs_exit();
	return ret;
}
module_init(hmmgpu_init);

static void __exit hmmgpu_exit(void)
{
	pci_unregister_driver(&hmmgpu_driver);
	hmmgpu_debugfs_exit();
	ida_destroy(&hmmgpu_ids);
}
module_exit(hmmgpu_exit);

MODULE_DESCRIPTION("Virtual GPU with device-private memory");
MODULE_LICENSE("GPL");
