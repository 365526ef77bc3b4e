// SPDX-License-Identifier: GPL-2.0-only
/*
 * The character device /dev/hmmgpuN.
 */
#include <linux/fs.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>

#include "hmmgpu_drv.h"

static int hmmgpu_open(struct inode *inode, struct file *file)
{
	/* misc_open() excludes misc_deregister(), so the device is alive. */
	struct hmmgpu_device *hdev = container_of(file->private_data,
						  struct hmmgpu_device, misc);

	kref_get(&hdev->kref);
	file->private_data = hdev;
	return 0;
}

static int hmmgpu_release(struct inode *inode, struct file *file)
{
	hmmgpu_device_put(file->private_data);
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

static int hmmgpu_ioctl_migrate(struct hmmgpu_device *hdev,
				unsigned int direction, void __user *argp)
{
	struct hmmgpu_migrate arg;
	u64 end;
	int ret;

	if (copy_from_user(&arg, argp, sizeof(arg)))
		return -EFAULT;
	if (arg.flags || arg.reserved || !arg.size ||
	    !PAGE_ALIGNED(arg.addr) || !PAGE_ALIGNED(arg.size) ||
	    check_add_overflow(arg.addr, arg.size, &end) || end > ULONG_MAX)
		return -EINVAL;
	arg.moved_bytes = 0;
	arg.present_bytes = 0;
	arg.skipped_bytes = 0;

	/* A kernel thread has no mm, and cannot come here. */
	ret = hmmgpu_migrate(hdev, current->mm, direction, &arg);
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
	ret = hmmgpu_ring_submit(hdev, &sub);
	return ret ?: hmmgpu_fence_wait(hdev, &fence);
}

static long hmmgpu_ioctl_do(struct hmmgpu_device *hdev, unsigned int cmd,
			    void __user *argp)
{
	switch (cmd) {
	case HMMGPU_IOC_QUERY:
		return hmmgpu_ioctl_query(hdev, argp);
	case HMMGPU_IOC_MIGRATE_TO_DEVICE:
		return hmmgpu_ioctl_migrate(hdev, HMMGPU_DIR_SYS_TO_DEV, argp);
	case HMMGPU_IOC_MIGRATE_TO_SYSTEM:
		return hmmgpu_ioctl_migrate(hdev, HMMGPU_DIR_DEV_TO_SYS, argp);
	case HMMGPU_IOC_STATS:
		return hmmgpu_ioctl_stats(hdev, argp);
	case HMMGPU_IOC_MARK:
		return hmmgpu_ioctl_mark(hdev, argp);
	default:
		return -ENOTTY;
	}
}

static long hmmgpu_ioctl(struct file *file, unsigned int cmd,
			 unsigned long arg)
{
	struct hmmgpu_device *hdev = file->private_data;
	long ret;

	if (down_read_killable(&hdev->gate))
		return -EINTR;
	ret = hmmgpu_device_check(hdev);
	if (!ret)
		ret = hmmgpu_ioctl_do(hdev, cmd, (void __user *)arg);
	up_read(&hdev->gate);
	return ret;
}

/* An open file holds the module, but not the device: that may be unbound. */
static const struct file_operations hmmgpu_fops = {
	.owner = THIS_MODULE,
	.open = hmmgpu_open,
	.release = hmmgpu_release,
	.unlocked_ioctl = hmmgpu_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
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
