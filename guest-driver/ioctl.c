// SPDX-License-Identifier: GPL-2.0-only
/*
 * The character device /dev/hmmgpuN.
 */
#include <linux/fs.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "context.h"

static atomic64_t hmmgpu_clients;

static int hmmgpu_open(struct inode *inode, struct file *file)
{
	/* misc_open() excludes misc_deregister(), so the device is alive. */
	struct hmmgpu_device *hdev = container_of(file->private_data,
						  struct hmmgpu_device, misc);
	struct hmmgpu_file *hfile = kzalloc_obj(*hfile);

	if (!hfile)
		return -ENOMEM;
	kref_get(&hdev->kref);
	hfile->hdev = hdev;
	/* Only the struct is held: an open file does not keep memory alive. */
	mmgrab(current->mm);
	hfile->mm = current->mm;
	hfile->client = atomic64_inc_return(&hmmgpu_clients);
	mutex_init(&hfile->lock);
	spin_lock(&hdev->files_lock);
	list_add(&hfile->link, &hdev->files);
	spin_unlock(&hdev->files_lock);
	file->private_data = hfile;
	return 0;
}

static int hmmgpu_release(struct inode *inode, struct file *file)
{
	struct hmmgpu_file *hfile = file->private_data;
	struct hmmgpu_device *hdev = hfile->hdev;

	hmmgpu_context_destroy(hfile->ctx);
	spin_lock(&hdev->files_lock);
	list_del(&hfile->link);
	spin_unlock(&hdev->files_lock);
	mmdrop(hfile->mm);
	mutex_destroy(&hfile->lock);
	kfree(hfile);
	hmmgpu_device_put(hdev);
	return 0;
}

static int hmmgpu_ioctl_query(struct hmmgpu_device *hdev,
			      struct hmmgpu_query *query)
{
	*query = (struct hmmgpu_query) {
		.abi_version = HMMGPU_ABI_VERSION,
		.contract_version = hdev->version,
		.vram_bytes = hdev->vram_bytes,
		.vram_free_bytes = hdev->vram_bytes -
			((u64)hmmgpu_vram_used(hdev) << PAGE_SHIFT),
		.folio_orders = hdev->folio_orders,
		.generation = hdev->generation,
	};
	return 0;
}

/**
 * hmmgpu_range_valid() - is this a range of pages that a process may have?
 * @addr: first address
 * @size: length in bytes
 *
 * Its end can be aligned upwards without an overflow, however coarsely.
 *
 * Return: true if it is, and not an empty one.
 */
bool hmmgpu_range_valid(u64 addr, u64 size)
{
	u64 end;

	return size && PAGE_ALIGNED(addr) && PAGE_ALIGNED(size) &&
	       !check_add_overflow(addr, size, &end) && end <= TASK_SIZE_MAX;
}

static int hmmgpu_ioctl_migrate(struct hmmgpu_file *hfile,
				unsigned int direction,
				struct hmmgpu_migrate *arg)
{
	struct hmmgpu_move move = {
		.mm = hfile->mm,
		.direction = direction,
		.trigger = HMMGPU_TRIGGER_PREFETCH,
	};
	int ret = -ESRCH;

	if (arg->flags || arg->reserved ||
	    !hmmgpu_range_valid(arg->addr, arg->size))
		return -EINVAL;
	move.start = arg->addr;
	move.end = arg->addr + arg->size;

	if (mmget_not_zero(hfile->mm)) {
		ret = hmmgpu_move(hfile->hdev, &move);
		mmput(hfile->mm);
	}
	arg->moved_bytes = PFN_PHYS(move.moved);
	arg->present_bytes = PFN_PHYS(move.present);
	arg->skipped_bytes = PFN_PHYS(move.skipped);
	return ret;
}

static int hmmgpu_ioctl_stats(struct hmmgpu_device *hdev, void *arg)
{
	u64 *stats = arg;
	unsigned int i;

	for (i = 0; i < HMMGPU_NR_COUNTERS; i++)
		stats[i] = atomic64_read(&hdev->counters[i]);
	return 0;
}

static int hmmgpu_ioctl_mark(struct hmmgpu_device *hdev,
			     const struct hmmgpu_mark *mark)
{
	struct hmmgpu_fence fence;
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_NOTE,
		.flags = cpu_to_le16(HMMGPU_NOTE_MARK),
		.arg = cpu_to_le64(mark->cookie),
	};
	struct hmmgpu_submission sub = {
		.descs = &desc,
		.nr_descs = 1,
		.fence = &fence,
	};
	int ret;

	/* What was freed before the mark belongs in front of it. */
	ret = hmmgpu_ring_flush_notes(hdev);
	if (ret)
		return ret;
	ret = hmmgpu_ring_submit(&hdev->ring, &sub);
	return ret ?: hmmgpu_fence_wait(&hdev->ring, &fence);
}

static int hmmgpu_ioctl_do(struct hmmgpu_file *hfile, unsigned int cmd,
			   void *arg)
{
	struct hmmgpu_device *hdev = hfile->hdev;

	switch (cmd) {
	case HMMGPU_IOC_QUERY:
		return hmmgpu_ioctl_query(hdev, arg);
	case HMMGPU_IOC_MIGRATE_TO_DEVICE:
		return hmmgpu_ioctl_migrate(hfile, HMMGPU_DIR_SYS_TO_DEV, arg);
	case HMMGPU_IOC_MIGRATE_TO_SYSTEM:
		return hmmgpu_ioctl_migrate(hfile, HMMGPU_DIR_DEV_TO_SYS, arg);
	case HMMGPU_IOC_STATS:
		return hmmgpu_ioctl_stats(hdev, arg);
	case HMMGPU_IOC_MARK:
		return hmmgpu_ioctl_mark(hdev, arg);
	default:
		return hmmgpu_compute_ioctl(hfile, cmd, arg);
	}
}

/* An argument of any ioctl. */
union hmmgpu_arg {
	struct hmmgpu_query query;
	struct hmmgpu_migrate migrate;
	struct hmmgpu_stats stats;
	struct hmmgpu_mark mark;
	struct hmmgpu_submit submit;
	struct hmmgpu_wait wait;
	struct hmmgpu_advise advise;
	struct hmmgpu_prefetch prefetch;
};

/* Numbers hold direction and size, so what is listed fits into the union. */
static bool hmmgpu_ioctl_known(unsigned int cmd)
{
	switch (cmd) {
	case HMMGPU_IOC_QUERY:
	case HMMGPU_IOC_MIGRATE_TO_DEVICE:
	case HMMGPU_IOC_MIGRATE_TO_SYSTEM:
	case HMMGPU_IOC_STATS:
	case HMMGPU_IOC_MARK:
	case HMMGPU_IOC_SUBMIT:
	case HMMGPU_IOC_WAIT:
	case HMMGPU_IOC_ADVISE:
	case HMMGPU_IOC_PREFETCH:
		return true;
	default:
		return false;
	}
}

/* What tells how far it came is valid on nearly all errors, too. */
static bool hmmgpu_ioctl_answers(unsigned int cmd, int ret)
{
	switch (cmd) {
	case HMMGPU_IOC_MIGRATE_TO_DEVICE:
	case HMMGPU_IOC_MIGRATE_TO_SYSTEM:
	case HMMGPU_IOC_PREFETCH:
		return ret != -EINVAL;
	default:
		return !ret && _IOC_DIR(cmd) & _IOC_READ;
	}
}

/* In case that nothing is done at all. */
static void hmmgpu_ioctl_clear(unsigned int cmd, union hmmgpu_arg *arg)
{
	switch (cmd) {
	case HMMGPU_IOC_MIGRATE_TO_DEVICE:
	case HMMGPU_IOC_MIGRATE_TO_SYSTEM:
		arg->migrate.moved_bytes = 0;
		arg->migrate.present_bytes = 0;
		arg->migrate.skipped_bytes = 0;
		break;
	case HMMGPU_IOC_PREFETCH:
		arg->prefetch.mapped_bytes = 0;
		arg->prefetch.moved_bytes = 0;
		break;
	}
}

/*
 * The caller's memory may itself wait for user space, for as long as that likes.
 * Removal waits for the gate, so it is not held while that memory is accessed.
 */
static long hmmgpu_ioctl(struct file *file, unsigned int cmd,
			 unsigned long address)
{
	void __user *argp = (void __user *)address;
	struct hmmgpu_file *hfile = file->private_data;
	struct hmmgpu_device *hdev = hfile->hdev;
	union hmmgpu_arg arg = { };
	int ret;

	if (!hmmgpu_ioctl_known(cmd))
		return -ENOTTY;
	if (_IOC_DIR(cmd) & _IOC_WRITE &&
	    copy_from_user(&arg, argp, _IOC_SIZE(cmd)))
		return -EFAULT;
	hmmgpu_ioctl_clear(cmd, &arg);

	ret = hmmgpu_device_enter(hdev);
	if (ret)
		return ret;
	ret = hmmgpu_device_leave(hdev, hmmgpu_ioctl_do(hfile, cmd, &arg));

	if (hmmgpu_ioctl_answers(cmd, ret) &&
	    copy_to_user(argp, &arg, _IOC_SIZE(cmd)))
		return -EFAULT;
	return ret;
}

/* Of a device that is being removed nothing is looked at: its pages go away. */
static int hmmgpu_file_resident(struct hmmgpu_file *hfile, unsigned long *pages)
{
	int ret;

	*pages = 0;
	if (hmmgpu_device_check(hfile->hdev) || !mmget_not_zero(hfile->mm))
		return 0;
	ret = hmmgpu_mm_resident(hfile->hdev, hfile->mm, pages);
	mmput(hfile->mm);
	return ret;
}

/*
 * The keys of Documentation/gpu/drm-usage-stats.rst. A file means the memory of who
 * opened it: files of one process show the same VRAM. There are no buffers that are
 * requested and not there, so total and resident are one.
 */
static void hmmgpu_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct hmmgpu_file *hfile = file->private_data;
	struct hmmgpu_device *hdev = hfile->hdev;
	unsigned long pages;
	u64 busy_ns = 0;
	int ret;

	/* Nobody reads on who is being killed. */
	if (down_read_killable(&hdev->gate))
		return;
	if (mutex_lock_killable(&hfile->lock)) {
		up_read(&hdev->gate);
		return;
	}
	if (hfile->ctx)
		busy_ns = hmmgpu_jobs_busy_ns(hfile->ctx);
	mutex_unlock(&hfile->lock);
	ret = hmmgpu_file_resident(hfile, &pages);
	up_read(&hdev->gate);

	seq_puts(m, "drm-driver:\thmmgpu\n");
	seq_printf(m, "drm-client-id:\t%llu\n", hfile->client);
	seq_printf(m, "drm-pdev:\t%s\n", hdev->pci_name);
	if (hdev->nr_engines) {
		seq_printf(m, "drm-engine-compute:\t%llu ns\n", busy_ns);
		seq_printf(m, "drm-engine-capacity-compute:\t%u\n",
			   hdev->nr_engines);
	}
	if (!ret) {
		u64 kib = PFN_PHYS(pages) >> 10;

		seq_printf(m, "drm-total-vram:\t%llu KiB\n", kib);
		seq_printf(m, "drm-resident-vram:\t%llu KiB\n", kib);
	}
}

/* An open file holds the module, but not the device: that may be unbound. */
static const struct file_operations hmmgpu_fops = {
	.owner = THIS_MODULE,
	.open = hmmgpu_open,
	.release = hmmgpu_release,
	.unlocked_ioctl = hmmgpu_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.show_fdinfo = hmmgpu_show_fdinfo,
};

/**
 * hmmgpu_node_init() - make the node
 * @hdev: the device, ready to work
 *
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_node_init(struct hmmgpu_device *hdev)
{
	int ret;

	hdev->misc = (struct miscdevice) {
		.minor = MISC_DYNAMIC_MINOR,
		.name = hdev->name,
		.fops = &hmmgpu_fops,
		.parent = hdev->dev,
		.mode = 0666,
	};
	ret = misc_register(&hdev->misc);
	if (ret)
		return dev_err_probe(hdev->dev, ret, "no node /dev/%s\n",
				     hdev->name);
	return 0;
}

/**
 * hmmgpu_node_exit() - remove the node
 * @hdev: the device
 *
 * Files that are open stay so.
 */
void hmmgpu_node_exit(struct hmmgpu_device *hdev)
{
	misc_deregister(&hdev->misc);
}
