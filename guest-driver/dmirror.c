// SPDX-License-Identifier: GPL-2.0-only
/*
 * The nodes /dev/hmm_dmirrorN, with which programs written for the kernel's HMM
 * test module work on this device: open, commands, mmap.
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "dmirror.h"

/* How often pages are asked to migrate to the device. */
#define HMMGPU_DMIRROR_TRIES	3

/**
 * struct hmmgpu_dmirror - one node
 * @hdev: the device
 * @misc: the node
 * @name: its name
 */
struct hmmgpu_dmirror {
	struct hmmgpu_device *hdev;
	struct miscdevice misc;
	char name[24];
};

/* Whatever a command does with a range, it has to be one. */
static int hmmgpu_cmd_check(const struct hmmgpu_dmirror_cmd *cmd)
{
	if (cmd->npages > U64_MAX >> PAGE_SHIFT ||
	    !hmmgpu_range_valid(cmd->addr, hmmgpu_cmd_bytes(cmd)))
		return -EINVAL;
	return 0;
}

/* What the core would migrate, and a process could read. */
static int hmmgpu_migrate_check(struct mm_struct *mm, u64 start, u64 end)
{
	struct vm_area_struct *vma;
	u64 addr;
	int ret = 0;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for (addr = start; !ret && addr < end; addr = vma->vm_end) {
		vma = vma_lookup(mm, addr);
		if (!vma || !(vma->vm_flags & VM_READ) ||
		    vma->vm_flags & VM_SPECIAL || is_vm_hugetlb_page(vma)) {
			ret = -EINVAL;
			break;
		}
	}
	mmap_read_unlock(mm);
	return ret;
}

/*
 * Now and then someone else has a reference to a page at the wrong moment, and it
 * stays. On the way to the device that would be an error for the caller, so such
 * pages are asked again; what has moved is left alone then.
 */
static int hmmgpu_dmirror_migrate(struct hmmgpu_context *ctx,
				  struct hmmgpu_dmirror_cmd *cmd,
				  unsigned int direction)
{
	unsigned int tries = direction == HMMGPU_DIR_SYS_TO_DEV ?
			     HMMGPU_DMIRROR_TRIES : 1;
	struct hmmgpu_move move = {
		.mm = ctx->mm,
		.start = cmd->addr,
		.end = hmmgpu_cmd_end(cmd),
		.direction = direction,
		.trigger = HMMGPU_TRIGGER_PREFETCH,
		.any_vma = true,
	};
	int ret;

	if (!mmget_not_zero(ctx->mm))
		return -EINVAL;
	ret = hmmgpu_migrate_check(ctx->mm, move.start, move.end);
	while (!ret && tries--) {
		ret = hmmgpu_move(ctx->hdev, &move);
		if (!move.skipped)
			break;
		if (tries)
			usleep_range(100, 1000);
	}
	mmput(ctx->mm);
	if (direction == HMMGPU_DIR_DEV_TO_SYS)
		cmd->cpages = move.moved;
	return ret;
}

static int hmmgpu_dmirror_to_dev(struct hmmgpu_context *ctx,
				 struct hmmgpu_dmirror_cmd *cmd)
{
	return hmmgpu_dmirror_migrate(ctx, cmd, HMMGPU_DIR_SYS_TO_DEV) ?:
	       hmmgpu_mirror_map_present(ctx, cmd->addr, hmmgpu_cmd_end(cmd));
}

static int hmmgpu_dmirror_exclusive(struct hmmgpu_context *ctx,
				    struct hmmgpu_dmirror_cmd *cmd)
{
	int ret;

	if (hmmgpu_cmd_exceeds_ram(cmd))
		return -ENOMEM;
	if (!mmget_not_zero(ctx->mm))
		return -EINVAL;
	ret = hmmgpu_mirror_exclusive(ctx, cmd->addr, hmmgpu_cmd_end(cmd));
	mmput(ctx->mm);
	return ret;
}

static int hmmgpu_dmirror_check_exclusive(struct hmmgpu_context *ctx,
					  struct hmmgpu_dmirror_cmd *cmd)
{
	if (hmmgpu_mirror_is_exclusive(ctx, cmd->addr, hmmgpu_cmd_end(cmd)))
		return -EPERM;
	return 0;
}

static int hmmgpu_dmirror_flags(struct hmmgpu_context *ctx,
				const struct hmmgpu_dmirror_cmd *cmd)
{
	atomic_set(&ctx->hdev->fail_large,
		   !!(cmd->npages & HMMGPU_DMIRROR_FLAG_FAIL_ALLOC));
	return 0;
}

/* What a command does without the caller's buffer; the gate is held. */
static int hmmgpu_dmirror_prepare(struct hmmgpu_context *ctx, unsigned int nr,
				  struct hmmgpu_dmirror_cmd *cmd)
{
	switch (nr) {
	case HMMGPU_DMIRROR_READ:
	case HMMGPU_DMIRROR_WRITE:
	case HMMGPU_DMIRROR_READ_UNLOCKED:
	case HMMGPU_DMIRROR_SNAPSHOT:
		return 0;
	case HMMGPU_DMIRROR_MIGRATE_TO_DEV:
		return hmmgpu_dmirror_to_dev(ctx, cmd);
	case HMMGPU_DMIRROR_MIGRATE_TO_SYS:
		return hmmgpu_dmirror_migrate(ctx, cmd, HMMGPU_DIR_DEV_TO_SYS);
	case HMMGPU_DMIRROR_EXCLUSIVE:
		return hmmgpu_dmirror_exclusive(ctx, cmd);
	case HMMGPU_DMIRROR_CHECK_EXCLUSIVE:
		return hmmgpu_dmirror_check_exclusive(ctx, cmd);
	case HMMGPU_DMIRROR_RELEASE:
		return hmmgpu_evict_all(ctx->hdev, false);
	case HMMGPU_DMIRROR_FLAGS:
		return hmmgpu_dmirror_flags(ctx, cmd);
	default:
		return -EINVAL;
	}
}

/*
 * What a command does with the caller's buffer, for which it takes the gate itself
 * now and then. What was to migrate, or to become exclusive, but is not in the page
 * tables of the device ends the read-back with ENOENT.
 */
static int hmmgpu_dmirror_finish(struct hmmgpu_context *ctx, unsigned int nr,
				 struct hmmgpu_dmirror_cmd *cmd)
{
	switch (nr) {
	case HMMGPU_DMIRROR_READ:
		return hmmgpu_dmirror_transfer(ctx, cmd, false,
					       HMMGPU_POPULATE_LOCKED);
	case HMMGPU_DMIRROR_WRITE:
		return hmmgpu_dmirror_transfer(ctx, cmd, true,
					       HMMGPU_POPULATE_LOCKED);
	case HMMGPU_DMIRROR_READ_UNLOCKED:
		return hmmgpu_dmirror_transfer(ctx, cmd, false,
					       HMMGPU_POPULATE_UNLOCKED);
	case HMMGPU_DMIRROR_MIGRATE_TO_DEV:
	case HMMGPU_DMIRROR_EXCLUSIVE:
		return hmmgpu_dmirror_transfer(ctx, cmd, false,
					       HMMGPU_POPULATE_NOT);
	case HMMGPU_DMIRROR_SNAPSHOT:
		return hmmgpu_dmirror_snapshot(ctx, cmd);
	default:
		return 0;
	}
}

/**
 * hmmgpu_dmirror_enter() - begin to use the device
 * @ctx: the context of the file
 *
 * Removal waits until hmmgpu_dmirror_leave(). The caller's memory is not accessed
 * until then, as that may itself wait for user space.
 *
 * Return: 0; -EINTR, a fatal signal; -ENODEV, the device has gone or goes.
 */
int hmmgpu_dmirror_enter(struct hmmgpu_context *ctx)
{
	return hmmgpu_device_enter(ctx->hdev);
}

/**
 * hmmgpu_dmirror_leave() - end to use the device
 * @ctx: the context of the file
 * @ret: what came of it
 *
 * Return: what the caller is told.
 */
int hmmgpu_dmirror_leave(struct hmmgpu_context *ctx, int ret)
{
	return hmmgpu_device_leave(ctx->hdev, ret);
}

static int hmmgpu_dmirror_do(struct hmmgpu_context *ctx, unsigned int nr,
			     struct hmmgpu_dmirror_cmd *cmd)
{
	int ret = hmmgpu_dmirror_enter(ctx);

	if (ret)
		return ret;
	ret = hmmgpu_dmirror_leave(ctx, hmmgpu_dmirror_prepare(ctx, nr, cmd));
	return ret ?: hmmgpu_dmirror_finish(ctx, nr, cmd);
}

static long hmmgpu_dmirror_ioctl(struct file *file, unsigned int nr,
				 unsigned long arg)
{
	struct hmmgpu_dmirror_cmd __user *argp = (void __user *)arg;
	struct hmmgpu_context *ctx = file->private_data;
	struct hmmgpu_dmirror_cmd cmd;
	int ret;

	if (copy_from_user(&cmd, argp, sizeof(cmd)))
		return -EFAULT;
	ret = hmmgpu_cmd_check(&cmd);
	if (ret)
		return ret;
	cmd.cpages = 0;
	cmd.faults = 0;
	ret = hmmgpu_dmirror_do(ctx, nr, &cmd);
	if (ret)
		return ret;
	return copy_to_user(argp, &cmd, sizeof(cmd)) ? -EFAULT : 0;
}

/* Pages that are no anonymous memory and of no file, for SNAPSHOT to find. */
static int hmmgpu_dmirror_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long addr;

	if (vma_pages(vma) > totalram_pages())
		return -ENOMEM;
	for (addr = vma->vm_start; addr < vma->vm_end; addr += PAGE_SIZE) {
		struct page *page;
		int ret;

		if (fatal_signal_pending(current))
			return -EINTR;
		page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!page)
			return -ENOMEM;
		ret = vm_insert_page(vma, addr, page);
		/* If it is mapped, the mapping holds it. */
		put_page(page);
		if (ret)
			return ret;
	}
	return 0;
}

static int hmmgpu_dmirror_open(struct inode *inode, struct file *file)
{
	/* misc_open() excludes misc_deregister(), so the device is alive. */
	struct hmmgpu_dmirror *node = container_of(file->private_data,
						   struct hmmgpu_dmirror, misc);
	struct hmmgpu_device *hdev = node->hdev;
	struct hmmgpu_context *ctx;
	int ret;

	/* Removal has to remove the node, for which this waits, before the gate. */
	ret = hmmgpu_device_enter(hdev);
	if (ret)
		return ret;
	ctx = hmmgpu_context_create(hdev, current->mm);
	ret = hmmgpu_device_leave(hdev, PTR_ERR_OR_ZERO(ctx));
	if (ret)
		return ret;
	kref_get(&hdev->kref);
	file->private_data = ctx;
	return 0;
}

static int hmmgpu_dmirror_release(struct inode *inode, struct file *file)
{
	struct hmmgpu_context *ctx = file->private_data;
	struct hmmgpu_device *hdev = ctx->hdev;

	hmmgpu_context_destroy(ctx);
	hmmgpu_device_put(hdev);
	return 0;
}

static const struct file_operations hmmgpu_dmirror_fops = {
	.owner = THIS_MODULE,
	.open = hmmgpu_dmirror_open,
	.release = hmmgpu_dmirror_release,
	.unlocked_ioctl = hmmgpu_dmirror_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = hmmgpu_dmirror_mmap,
};

/**
 * hmmgpu_dmirror_init() - make the node
 * @hdev: the device, ready to work
 *
 * For root only: RELEASE and FLAGS concern all users of the device.
 *
 * Return: 0 or a negative errno, with the reason in the log.
 */
int hmmgpu_dmirror_init(struct hmmgpu_device *hdev)
{
	struct hmmgpu_dmirror *node = kzalloc(sizeof(*node), GFP_KERNEL);
	int ret;

	if (!node)
		return -ENOMEM;
	node->hdev = hdev;
	snprintf(node->name, sizeof(node->name), "hmm_dmirror%d", hdev->id);
	node->misc = (struct miscdevice) {
		.minor = MISC_DYNAMIC_MINOR,
		.name = node->name,
		.fops = &hmmgpu_dmirror_fops,
		.parent = hdev->dev,
		.mode = 0600,
	};
	ret = misc_register(&node->misc);
	if (ret) {
		dev_err_probe(hdev->dev, ret, "no node /dev/%s\n", node->name);
		kfree(node);
		return ret;
	}
	hdev->dmirror = node;
	return 0;
}

/**
 * hmmgpu_dmirror_exit() - remove the node, if there is one
 * @hdev: the device
 *
 * Files that are open stay so.
 */
void hmmgpu_dmirror_exit(struct hmmgpu_device *hdev)
{
	if (!hdev->dmirror)
		return;
	misc_deregister(&hdev->dmirror->misc);
	kfree(hdev->dmirror);
	hdev->dmirror = NULL;
}
