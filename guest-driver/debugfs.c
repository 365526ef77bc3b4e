// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counters in /sys/kernel/debug/hmmgpu/hmmgpuN/. The kernel's own do not tell:
 * smaps shows memory on the device as huge pages in RAM, no migration is counted
 * as one, and a filled hole counts as a fault that allocated a huge page.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "hmmgpu_drv.h"

static struct dentry *hmmgpu_debugfs_root;

struct hmmgpu_counter_file {
	const char *name;
	unsigned int counter;
	bool by_order;
};

#define HMMGPU_SCALAR(field) \
	{ .name = #field, .counter = HMMGPU_COUNTER(field) }
#define HMMGPU_BY_ORDER(field) \
	{ .name = #field, .counter = HMMGPU_COUNTER(field), .by_order = true }

static const struct hmmgpu_counter_file hmmgpu_counter_files[] = {
	HMMGPU_BY_ORDER(sys_to_dev_folios),
	HMMGPU_BY_ORDER(dev_to_sys_folios),
	HMMGPU_BY_ORDER(filled_folios),
	HMMGPU_BY_ORDER(vram_folios),
	HMMGPU_SCALAR(cpu_faults),
	HMMGPU_SCALAR(cpu_fault_pages),
	HMMGPU_SCALAR(splits),
	HMMGPU_SCALAR(fallbacks),
	HMMGPU_SCALAR(refused_pages),
	HMMGPU_SCALAR(failed_pages),
	HMMGPU_SCALAR(evicted_pages),
	HMMGPU_SCALAR(fences),
	HMMGPU_SCALAR(fence_sleeps),
	HMMGPU_SCALAR(fence_timeouts),
	HMMGPU_SCALAR(doorbells),
	HMMGPU_SCALAR(descriptors),
	HMMGPU_SCALAR(resets),
	HMMGPU_SCALAR(interrupts),
	HMMGPU_SCALAR(code_pages_scrubbed),
	HMMGPU_SCALAR(contexts),
	HMMGPU_SCALAR(jobs),
	HMMGPU_SCALAR(gpu_faults),
	HMMGPU_SCALAR(gpu_faults_in_place),
	HMMGPU_SCALAR(gpu_faults_cancelled),
	HMMGPU_SCALAR(gpu_maps_large),
	HMMGPU_SCALAR(gpu_maps_small),
	HMMGPU_SCALAR(invalidations),
	HMMGPU_SCALAR(exclusive_pages),
};

static int hmmgpu_scalar_show(struct seq_file *m, void *unused)
{
	atomic64_t *counter = m->private;

	seq_printf(m, "%lld\n", atomic64_read(counter));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(hmmgpu_scalar);

static int hmmgpu_by_order_show(struct seq_file *m, void *unused)
{
	atomic64_t *counters = m->private;
	unsigned int order;

	for (order = 0; order < HMMGPU_ORDERS; order++)
		seq_printf(m, "%u %lld\n", order,
			   atomic64_read(&counters[order]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(hmmgpu_by_order);

static int hmmgpu_vram_show(struct seq_file *m, void *unused)
{
	struct hmmgpu_device *hdev = m->private;

	seq_printf(m, "bytes %llu\nused_bytes %llu\n", hdev->vram_bytes,
		   (u64)hmmgpu_vram_used(hdev) << PAGE_SHIFT);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(hmmgpu_vram);

/**
 * hmmgpu_debugfs_add() - add a device's directory
 * @hdev: the device
 */
void hmmgpu_debugfs_add(struct hmmgpu_device *hdev)
{
	unsigned int i;

	hdev->debugfs = debugfs_create_dir(hdev->name, hmmgpu_debugfs_root);
	debugfs_create_file("vram", 0444, hdev->debugfs, hdev,
			    &hmmgpu_vram_fops);
	for (i = 0; i < ARRAY_SIZE(hmmgpu_counter_files); i++) {
		const struct hmmgpu_counter_file *file =
			&hmmgpu_counter_files[i];

		debugfs_create_file(file->name, 0444, hdev->debugfs,
				    &hdev->counters[file->counter],
				    file->by_order ? &hmmgpu_by_order_fops :
						     &hmmgpu_scalar_fops);
	}
}

/**
 * hmmgpu_debugfs_remove() - remove a device's directory
 * @hdev: the device
 *
 * Waits for readers.
 */
void hmmgpu_debugfs_remove(struct hmmgpu_device *hdev)
{
	debugfs_remove_recursive(hdev->debugfs);
}

/**
 * hmmgpu_debugfs_init() - make the driver's directory
 */
void hmmgpu_debugfs_init(void)
{
	hmmgpu_debugfs_root = debugfs_create_dir("hmmgpu", NULL);
}

/**
 * hmmgpu_debugfs_exit() - remove the driver's directory
 */
void hmmgpu_debugfs_exit(void)
{
	debugfs_remove_recursive(hmmgpu_debugfs_root);
}
