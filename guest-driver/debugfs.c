// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counters in /sys/kernel/debug/hmmgpu/hmmgpuN/. The kernel's own do not tell:
 * smaps shows memory on the device as huge pages in RAM, no migration is counted
 * as one, and a filled hole counts as a fault that allocated a huge page.
 *
 * The device counts, too. What both count has the name that it has in the host's
 * telemetry, path and all, and the same value when nothing is under way; what
 * only the driver can know begins with "driver.".
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

#define HMMGPU_SCALAR(path, field) \
	{ .name = path, .counter = HMMGPU_COUNTER(field) }
#define HMMGPU_ELEMENT(path, field, index) \
	{ .name = path, .counter = HMMGPU_COUNTER(field) + (index) }
#define HMMGPU_BY_ORDER(path, field) \
	{ .name = path, .counter = HMMGPU_COUNTER(field), .by_order = true }
#define HMMGPU_DRIVER(field)	HMMGPU_SCALAR("driver." #field, field)
#define HMMGPU_PHASE(path, phase) \
	HMMGPU_ELEMENT("spans.phases." path, phase_ns, HMMGPU_PHASE_ ## phase)
#define HMMGPU_FALLBACK(path, reason) \
	HMMGPU_ELEMENT("fallbacks." path, fallbacks, HMMGPU_FALLBACK_ ## reason)

static const struct hmmgpu_counter_file hmmgpu_counter_files[] = {
	HMMGPU_BY_ORDER("transfers.sys_to_dev.folios", sys_to_dev_folios),
	HMMGPU_BY_ORDER("transfers.sys_to_dev.filled_folios", filled_folios),
	HMMGPU_BY_ORDER("transfers.dev_to_sys.folios", dev_to_sys_folios),
	HMMGPU_PHASE("collect_ns", COLLECT),
	HMMGPU_PHASE("alloc_ns", ALLOC),
	HMMGPU_PHASE("copy_ns", COPY),
	HMMGPU_PHASE("commit_ns", COMMIT),
	HMMGPU_PHASE("finish_ns", FINISH),
	HMMGPU_FALLBACK("no_vram", NO_VRAM),
	HMMGPU_FALLBACK("no_memory", NO_MEMORY),
	HMMGPU_FALLBACK("shared", SHARED),
	HMMGPU_FALLBACK("split_failed", SPLIT_FAILED),
	HMMGPU_FALLBACK("partial", PARTIAL),
	HMMGPU_FALLBACK("injected", INJECTED),
	HMMGPU_BY_ORDER("vram.folios", vram_folios),
	HMMGPU_BY_ORDER("events.splits", splits),
	HMMGPU_SCALAR("events.descriptors", descriptors),
	HMMGPU_SCALAR("events.fences", fences),
	HMMGPU_SCALAR("events.doorbells", doorbells),
	HMMGPU_SCALAR("events.resets.register", resets),
	HMMGPU_SCALAR("mmu.invalidations", invalidations),
	HMMGPU_SCALAR("mmu.faults.replayed", gpu_faults_replayed),
	HMMGPU_SCALAR("mmu.faults.cancelled", gpu_faults_cancelled),
	HMMGPU_SCALAR("compute.jobs", jobs),
	HMMGPU_SCALAR("compute.contexts", contexts),
	HMMGPU_DRIVER(cpu_faults),
	HMMGPU_DRIVER(cpu_fault_pages),
	HMMGPU_DRIVER(refused_pages),
	HMMGPU_DRIVER(failed_pages),
	HMMGPU_DRIVER(evicted_pages),
	HMMGPU_DRIVER(fence_sleeps),
	HMMGPU_DRIVER(fence_timeouts),
	HMMGPU_DRIVER(interrupts),
	HMMGPU_DRIVER(code_pages_scrubbed),
	HMMGPU_DRIVER(gpu_faults_in_place),
	HMMGPU_DRIVER(gpu_maps_large),
	HMMGPU_DRIVER(gpu_maps_small),
	HMMGPU_DRIVER(exclusive_pages),
	HMMGPU_DRIVER(copy_retries),
	HMMGPU_DRIVER(fences_missed),
	HMMGPU_DRIVER(recoveries),
	HMMGPU_DRIVER(lost_pages),
	HMMGPU_DRIVER(contexts_given_up),
	HMMGPU_DRIVER(collected_again),
};

/* Of spans, one of each for each direction and trigger. */
static const struct hmmgpu_counter_file hmmgpu_span_files[] = {
	HMMGPU_SCALAR("count", spans),
	HMMGPU_SCALAR("pages_asked", pages_asked),
	HMMGPU_SCALAR("pages_moved", pages_moved),
};

static const char * const hmmgpu_directions[] = {
	[HMMGPU_DIR_SYS_TO_DEV] = "sys_to_dev",
	[HMMGPU_DIR_DEV_TO_SYS] = "dev_to_sys",
};

static const char * const hmmgpu_triggers[] = {
	[HMMGPU_TRIGGER_PREFETCH] = "prefetch",
	[HMMGPU_TRIGGER_GPU_FAULT] = "gpu_fault",
	[HMMGPU_TRIGGER_CPU_FAULT] = "cpu_fault",
	[HMMGPU_TRIGGER_EVICT] = "evict",
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

static int hmmgpu_vram_used_show(struct seq_file *m, void *unused)
{
	struct hmmgpu_device *hdev = m->private;

	seq_printf(m, "%llu\n", (u64)hmmgpu_vram_used(hdev) << PAGE_SHIFT);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(hmmgpu_vram_used);

static void hmmgpu_debugfs_add_spans(struct hmmgpu_device *hdev,
				     unsigned int direction,
				     unsigned int trigger)
{
	unsigned int i, kind = direction * HMMGPU_NR_TRIGGERS + trigger;
	char name[64];

	for (i = 0; i < ARRAY_SIZE(hmmgpu_span_files); i++) {
		atomic64_t *counters =
			&hdev->counters[hmmgpu_span_files[i].counter];

		snprintf(name, sizeof(name), "spans.%s.%s.%s",
			 hmmgpu_directions[direction], hmmgpu_triggers[trigger],
			 hmmgpu_span_files[i].name);
		debugfs_create_file(name, 0444, hdev->debugfs, &counters[kind],
				    &hmmgpu_scalar_fops);
	}
}

/**
 * hmmgpu_debugfs_add() - add a device's directory
 * @hdev: the device
 */
void hmmgpu_debugfs_add(struct hmmgpu_device *hdev)
{
	unsigned int i, direction, trigger;

	hdev->debugfs = debugfs_create_dir(hdev->name, hmmgpu_debugfs_root);
	debugfs_create_u64("vram.bytes", 0444, hdev->debugfs,
			   &hdev->vram_bytes);
	debugfs_create_file("vram.used_bytes", 0444, hdev->debugfs, hdev,
			    &hmmgpu_vram_used_fops);
	for (i = 0; i < ARRAY_SIZE(hmmgpu_counter_files); i++) {
		const struct hmmgpu_counter_file *file =
			&hmmgpu_counter_files[i];

		debugfs_create_file(file->name, 0444, hdev->debugfs,
				    &hdev->counters[file->counter],
				    file->by_order ? &hmmgpu_by_order_fops :
						     &hmmgpu_scalar_fops);
	}
	for (direction = 0; direction < ARRAY_SIZE(hmmgpu_directions);
	     direction++)
		for (trigger = 0; trigger < HMMGPU_NR_TRIGGERS; trigger++)
			hmmgpu_debugfs_add_spans(hdev, direction, trigger);
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
