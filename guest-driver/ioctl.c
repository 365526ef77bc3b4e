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

static int hmmgpu_ioctl_query(struct hmmgpu_device *hdev, void __user *argp)
{
	struct hmmgpu_query query = {
		.abi_version = HMMGPU_ABI_VERSION,
		.contract_version = hdev->version,
		.vram_bytes = hdev->vram_bytes,
		.vram_free_bytes = hdev->vram_bytes -
			((u64)hmmgpu_vram_used(hdev) << PAGE_SHIFT),
		.folio_orders = hdev->folio_orders,
		.generation = hdev->generation,
	};

	return copy_to_user(argp, &query, sizeof(query)) ? -EFAULT : 0;
}

/**
 * hmmgpu_range_valid() - is this a range of pages?
 * @addr: first address
 * @size: length in bytes
 *
 * Return: true if it is, and not an empty one.
 */
bool hmmgpu_range_valid(u64 addr, u64 size)
{
	u64 end;

	return size && PAGE_ALIGNED(addr) && PAGE_ALIGNED(size) &&
	       !check_add_overflow(addr, size, &end) && end <= ULONG_MAX;
}

static int hmmgpu_ioctl_migrate(struct hmmgpu_file *hfile,
				unsigned int direction, void __user *argp)
{
	struct hmmgpu_move move = {
		.mm = hfile->mm,
		.direction = direction,
		.trigger = HMMGPU_TRIGGER_PREFETCH,
	};
	struct hmmgpu_migrate arg;
	int ret;

	if (copy_from_user(&arg, argp, sizeof(arg)))
		return -EFAULT;
	if (arg.flags || arg.reserved || !hmmgpu_range_valid(arg.addr, arg.size))
		return -EINVAL;
	move.start = arg.addr;
	move.end = arg.addr + arg.size;

	ret = -ESRCH;
	if (mmget_not_zero(hfile->mm)) {
		ret = hmmgpu_move(hfile->hdev, &move);
		mmput(hfile->mm);
	}
	arg.moved_bytes = PFN_PHYS(move.moved);
	arg.present_bytes = PFN_PHYS(move.present);
	arg.skipped_bytes = PFN_PHYS(move.skipped);
	if (copy_to_user(argp, &arg, sizeof(arg)))
		return -EFAULT;
	return ret;
}

static int hmmgpu_ioctl_stats(struct hmmgpu_device *hdev, void __user *argp)
{
	u64 stats[HMMGPU_NR_COUNTERS];
	unsigned int i;

	BUILD_BUG_ON(sizeof(stats) != sizeof(struct hmmgpu_stats));
	for (i = 0; i < ARRAY_SIZE(stats); i++)
		stats[i] = atomic64_read(&hdev->counters[i]);
	return copy_to_user(argp, stats, sizeof(stats)) ? -EFAULT : 0;
}

static int hmmgpu_ioctl_mark(struct hmmgpu_device *hdev, void __user *argp)
{
	struct hmmgpu_mark mark;
	struct hmmgpu_fence fence;
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_NOTE,
		.flags = cpu_to_le16(HMMGPU_NOTE_MARK),
	};
	struct hmmgpu_submission sub = {
		.descs = &desc,
		.nr_descs = 1,
		.fence = &fence,
	};
	int ret;

	if (copy_from_user(&mark, argp, sizeof(mark)))
		return -EFAULT;
	desc.arg = cpu_to_le64(mark.cookie);
	/* What was freed before the mark belongs in front of it. */
	ret = hmmgpu_ring_flush_notes(hdev, false);
	if (ret)
		return ret;
	ret = hmmgpu_ring_submit(&hdev->ring, &sub);
	return ret ?: hmmgpu_fence_wait(&hdev->ring, &fence);
}

static long hmmgpu_ioctl_do(struct hmmgpu_file *hfile, unsigned int cmd,
			    void __user *argp)
{
	struct hmmgpu_device *hdev = hfile->hdev;

	switch (cmd) {
	case HMMGPU_IOC_QUERY:
		return hmmgpu_ioctl_query(hdev, argp);
	case HMMGPU_IOC_MIGRATE_TO_DEVICE:
		return hmmgpu_ioctl_migrate(hfile, HMMGPU_DIR_SYS_TO_DEV, argp);
	case HMMGPU_IOC_MIGRATE_TO_SYSTEM:
		return hmmgpu_ioctl_migrate(hfile, HMMGPU_DIR_DEV_TO_SYS, argp);
	case HMMGPU_IOC_STATS:
		return hmmgpu_ioctl_stats(hdev, argp);
	case HMMGPU_IOC_MARK:
		return hmmgpu_ioctl_mark(hdev, argp);
	default:
		return hmmgpu_compute_ioctl(hfile, cmd, argp);
	}
}

static long hmmgpu_ioctl(struct file *file, unsigned int cmd,
			 unsigned long arg)
{
	struct hmmgpu_file *hfile = file->private_data;
	struct hmmgpu_device *hdev = hfile->hdev;
	long ret;

	if (down_read_killable(&hdev->gate))
		return -EINTR;
	ret = hmmgpu_device_check(hdev);
	if (!ret)
		ret = hmmgpu_ioctl_do(hfile, cmd, (void __user *)arg);
	up_read(&hdev->gate);
	return ret;
}

/*
 * Only what is true: VRAM is not counted by file, so there are no keys for it.
 */
static void hmmgpu_show_fdinfo(struct seq_file *m, struct file *file)
{
	struct hmmgpu_file *hfile = file->private_data;
	struct hmmgpu_device *hdev = hfile->hdev;
	u64 busy_ns = 0;

	down_read(&hdev->gate);
	mutex_lock(&hfile->lock);
	if (hfile->ctx)
		busy_ns = hmmgpu_jobs_busy_ns(hfile->ctx);
	mutex_unlock(&hfile->lock);
	up_read(&hdev->gate);

	seq_puts(m, "drm-driver:\thmmgpu\n");
	seq_printf(m, "drm-client-id:\t%llu\n", hfile->client);
	seq_printf(m, "drm-pdev:\t%s\n", hdev->pci_name);
	seq_printf(m, "drm-engine-compute:\t%llu ns\n", busy_ns);
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
