// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the bus and the system do to the device: it is reset, or put to sleep. Both
 * take what it holds.
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/pci.h>
#include <linux/pm.h>

#include "context.h"

/* What is under way may take so long; then the device does not sleep. */
#define HMMGPU_SUSPEND_WAIT_S	10

/*
 * The bus is about to reset it. There is no time to bring anything home: what is in
 * VRAM is lost, as with any other reset.
 */
static void hmmgpu_reset_prepare(struct pci_dev *pdev)
{
	struct hmmgpu_device *hdev = pci_get_drvdata(pdev);

	hmmgpu_recover_hold(hdev);
	hmmgpu_device_lose(hdev, READ_ONCE(hdev->epoch), "reset by the bus");
}

static void hmmgpu_reset_done(struct pci_dev *pdev)
{
	hmmgpu_recover_release(pci_get_drvdata(pdev));
}

/* For &pci_driver.err_handler. */
const struct pci_error_handlers hmmgpu_err_handlers = {
	.reset_prepare = hmmgpu_reset_prepare,
	.reset_done = hmmgpu_reset_done,
};

/*
 * Jobs end by themselves: whose memory they work on is frozen, but the threads that
 * serve their faults are not. What a reset would end is not started again by anyone.
 */
static int hmmgpu_finish_jobs(struct hmmgpu_device *hdev, unsigned long end)
{
	for (;;) {
		bool pending = false;
		unsigned int i;

		for (i = 0; i < hdev->nr_contexts; i++) {
			struct hmmgpu_context *ctx = hdev->contexts[i];

			if (!ctx || !hmmgpu_jobs_pending(ctx))
				continue;
			pending = true;
			hmmgpu_gpu_fault_nudge(ctx);
		}
		if (!pending || !hmmgpu_device_alive(hdev))
			return 0;
		if (time_after(jiffies, end)) {
			dev_notice(hdev->dev,
				   "does not sleep: jobs are under way for %u s\n",
				   HMMGPU_SUSPEND_WAIT_S);
			return -EBUSY;
		}
		/* The interrupt of a fault may be lost. */
		hmmgpu_fault_ring_drain(hdev);
		usleep_range(1000, 2000);
	}
}

/* What a reset took before is not missed: it could not be brought home ever. */
static int hmmgpu_empty(struct hmmgpu_device *hdev, unsigned long end)
{
	int ret;

	ret = hmmgpu_finish_jobs(hdev, end);
	if (ret || hdev->lost)
		return ret;
	ret = hmmgpu_evict_all(hdev, false);
	if (!ret)
		ret = hmmgpu_ring_flush_notes(hdev);
	if (ret)
		dev_err(hdev->dev, "VRAM could not be emptied: %d\n", ret);
	return ret;
}

/* No process runs any more, but works may hold the gate for a while. */
static bool hmmgpu_close_gate(struct hmmgpu_device *hdev, unsigned long end)
{
	while (!down_write_trylock(&hdev->gate)) {
		if (time_after(jiffies, end)) {
			dev_notice(hdev->dev, "does not sleep: it is in use\n");
			return false;
		}
		usleep_range(1000, 2000);
	}
	return true;
}

/* Everything comes home, for a device without power has no VRAM. */
static int hmmgpu_suspend(struct device *dev)
{
	struct hmmgpu_device *hdev = dev_get_drvdata(dev);
	unsigned long end = jiffies + HMMGPU_SUSPEND_WAIT_S * HZ;
	int ret = -EBUSY;

	hmmgpu_recover_hold(hdev);
	if (hmmgpu_close_gate(hdev, end)) {
		ret = hmmgpu_empty(hdev, end);
		if (!ret)
			hmmgpu_device_park(hdev);
		up_write(&hdev->gate);
	}
	if (ret)
		hmmgpu_recover_release(hdev);
	return ret;
}

static int hmmgpu_resume(struct device *dev)
{
	hmmgpu_recover_release(dev_get_drvdata(dev));
	return 0;
}

/* For &device_driver.pm: to sleep, and to hibernate. */
const struct dev_pm_ops hmmgpu_pm_ops = {
	SYSTEM_SLEEP_PM_OPS(hmmgpu_suspend, hmmgpu_resume)
};
