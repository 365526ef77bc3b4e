// SPDX-License-Identifier: GPL-2.0-only
/*
 * Contexts: making them, and taking them away.
 */
#include <linux/kthread.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "context.h"

static int hmmgpu_context_enable(struct hmmgpu_context *ctx)
{
	struct hmmgpu_device *hdev = ctx->hdev;
	dma_addr_t root = hmmgpu_pt_root(&ctx->mirror.pt);
	int ret;

	hmmgpu_write(hdev, HMMGPU_CONTEXT_REG(ctx->number,
					      HMMGPU_CONTEXT_ROOT_LO),
		     lower_32_bits(root));
	hmmgpu_write(hdev, HMMGPU_CONTEXT_REG(ctx->number,
					      HMMGPU_CONTEXT_ROOT_HI),
		     upper_32_bits(root));
	ret = hmmgpu_queue_start(hdev, HMMGPU_CONTEXT_REG(ctx->number, 0),
				 ctx->jobs.header_dma, ctx->jobs.entries_dma,
				 HMMGPU_JOB_RING_LOG2, HMMGPU_VECTOR_COMPUTE);
	if (!ret)
		WRITE_ONCE(ctx->running, true);
	return ret;
}

static void hmmgpu_context_disable(struct hmmgpu_context *ctx)
{
	struct hmmgpu_device *hdev = ctx->hdev;

	if (!hdev->lost) {
		hmmgpu_write(hdev, HMMGPU_CONTEXT_REG(ctx->number,
						      HMMGPU_QUEUE_CTRL), 0);
		/* The write is posted; an answer tells that it was carried out. */
		hmmgpu_read(hdev, HMMGPU_CONTEXT_REG(ctx->number,
						     HMMGPU_QUEUE_STATUS));
	}
	/* It ignores that while it is being reset. Wait until it has been. */
	if (READ_ONCE(hdev->lost))
		hmmgpu_device_wait_quiet(hdev);
	WRITE_ONCE(ctx->running, false);
}

static void hmmgpu_context_publish(struct hmmgpu_context *ctx,
				   struct hmmgpu_context *value)
{
	struct hmmgpu_device *hdev = ctx->hdev;

	spin_lock(&hdev->context_lock);
	hdev->contexts[ctx->number] = value;
	spin_unlock(&hdev->context_lock);
}

/* Waits that its thread may be in can be killed. */
static void hmmgpu_context_stop_thread(struct hmmgpu_context *ctx)
{
	WRITE_ONCE(ctx->dead, true);
	send_sig(SIGKILL, ctx->thread, 1);
	kthread_stop(ctx->thread);
}

/**
 * hmmgpu_context_create() - make a context
 * @hdev: the device
 * @mm: the mm; the caller holds a reference
 *
 * Context: Process context, &hmmgpu_device.gate is held for reading.
 * Return: the context, or an error pointer: -EOPNOTSUPP, the device has none;
 * -ENOSPC, all are in use; -ENOMEM; -EINTR; -EIO.
 */
struct hmmgpu_context *hmmgpu_context_create(struct hmmgpu_device *hdev,
					     struct mm_struct *mm)
{
	struct hmmgpu_context *ctx;
	int ret;

	lockdep_assert_held_read(&hdev->gate);
	if (!hdev->nr_contexts)
		return ERR_PTR(-EOPNOTSUPP);
	ctx = kzalloc_obj(*ctx);
	if (!ctx)
		return ERR_PTR(-ENOMEM);
	ctx->hdev = hdev;
	ctx->mm = mm;
	mt_init(&ctx->policies);
	init_waitqueue_head(&ctx->fault_wait);
	spin_lock_init(&ctx->fault_lock);
	hmmgpu_watch_init(ctx);
	ctx->serving = U64_MAX;
	ret = ida_alloc_max(&hdev->context_ids, hdev->nr_contexts - 1,
			    GFP_KERNEL);
	if (ret < 0)
		goto err_free;
	ctx->number = ret;
	ret = hmmgpu_jobs_init(ctx);
	if (ret)
		goto err_number;
	ret = hmmgpu_mirror_init(ctx);
	if (ret)
		goto err_jobs;
	ctx->thread = kthread_run(hmmgpu_gpu_fault_thread, ctx, "%s-ctx%u",
				  hdev->name, ctx->number);
	if (IS_ERR(ctx->thread)) {
		ret = PTR_ERR(ctx->thread);
		goto err_mirror;
	}
	hmmgpu_context_publish(ctx, ctx);
	ret = hmmgpu_context_enable(ctx);
	if (ret)
		goto err_thread;
	mmgrab(mm);
	hmmgpu_count(hdev, contexts, 1);
	hmmgpu_process_announce(hdev, mm);
	return ctx;

err_thread:
	hmmgpu_context_disable(ctx);
	hmmgpu_context_publish(ctx, NULL);
	hmmgpu_context_stop_thread(ctx);
err_mirror:
	hmmgpu_mirror_exit(ctx);
err_jobs:
	hmmgpu_jobs_exit(ctx);
err_number:
	ida_free(&hdev->context_ids, ctx->number);
err_free:
	kfree(ctx);
	return ERR_PTR(ret);
}

/*
 * The device first, then who serves its faults, then what both used. A fault
 * that is being served is given up.
 */
static void hmmgpu_context_kill(struct hmmgpu_context *ctx)
{
	struct hmmgpu_device *hdev = ctx->hdev;

	/* It may be about to let the device begin anew. */
	hmmgpu_watch_exit(ctx);
	hmmgpu_context_disable(ctx);
	hmmgpu_context_publish(ctx, NULL);
	hmmgpu_context_stop_thread(ctx);
	hmmgpu_mirror_exit(ctx);
	hmmgpu_jobs_exit(ctx);
	mtree_destroy(&ctx->policies);
	ida_free(&hdev->context_ids, ctx->number);
	mmdrop(ctx->mm);
	hmmgpu_count(hdev, contexts, -1);
}

/*
 * The jobs of a context that is not running end with an error, what it had mapped
 * is mapped anew at the next fault. A fault of before is forgotten.
 */
static int hmmgpu_context_begin_anew(struct hmmgpu_context *ctx)
{
	int ret;

	mutex_lock(&ctx->mirror.lock);
	hmmgpu_mirror_zap(ctx, 0, ULONG_MAX);
	mutex_unlock(&ctx->mirror.lock);
	spin_lock(&ctx->fault_lock);
	ctx->fault_pending = false;
	spin_unlock(&ctx->fault_lock);
	/* No job begins before all know that invalidations have to be told. */
	mutex_lock(&ctx->jobs.lock);
	hmmgpu_jobs_abort(ctx);
	ret = hmmgpu_context_enable(ctx);
	mutex_unlock(&ctx->jobs.lock);
	return ret;
}

/**
 * hmmgpu_context_recover() - enable a context again after a reset
 * @ctx: the context; the device is ready, and still marked as lost
 *
 * Context: Process context, &hmmgpu_device.gate is held for writing.
 * Return: 0 or -EIO, with the reason in the log.
 */
int hmmgpu_context_recover(struct hmmgpu_context *ctx)
{
	WRITE_ONCE(ctx->running, false);
	return hmmgpu_context_begin_anew(ctx);
}

/**
 * hmmgpu_context_give_up() - end the jobs of a context, which get no further
 * @ctx: the context
 *
 * The device is made to leave it, which it does whatever a job waits for, and it
 * begins anew. No other context is concerned.
 *
 * Context: Process context, sleeps, &hmmgpu_device.gate is held for reading.
 */
void hmmgpu_context_give_up(struct hmmgpu_context *ctx)
{
	struct hmmgpu_device *hdev = ctx->hdev;
	u32 epoch = READ_ONCE(hdev->epoch);

	hmmgpu_context_disable(ctx);
	if (READ_ONCE(hdev->lost))
		return;
	dev_err(hdev->dev, "context %u: its jobs get no further and are given up\n",
		ctx->number);
	hmmgpu_count(hdev, contexts_given_up, 1);
	if (hmmgpu_context_begin_anew(ctx))
		hmmgpu_device_lose(hdev, epoch, "a context does not start");
	wake_up_all(&hdev->job_wait);
}

/**
 * hmmgpu_context_destroy() - take a context away
 * @ctx: the context, or NULL
 *
 * Jobs that are not done end here, without a result.
 *
 * Context: Process context, sleeps, takes &hmmgpu_device.gate.
 */
void hmmgpu_context_destroy(struct hmmgpu_context *ctx)
{
	struct hmmgpu_device *hdev;

	if (!ctx)
		return;
	hdev = ctx->hdev;
	down_read(&hdev->gate);
	if (!ctx->dead)
		hmmgpu_context_kill(ctx);
	up_read(&hdev->gate);
	kfree(ctx);
}

/**
 * hmmgpu_contexts_stop() - take all contexts away but their structures
 * @hdev: the device, which is being removed
 *
 * Context: Process context, sleeps, &hmmgpu_device.gate is held for writing.
 */
void hmmgpu_contexts_stop(struct hmmgpu_device *hdev)
{
	unsigned int i;

	lockdep_assert_held_write(&hdev->gate);
	for (i = 0; i < hdev->nr_contexts; i++)
		if (hdev->contexts[i])
			hmmgpu_context_kill(hdev->contexts[i]);
}

/**
 * hmmgpu_mm_get() - get a reference to an mm that is known here
 * @hdev: the device
 * @mm: the mm, which may have gone
 *
 * Context: Process context.
 * Return: the mm, or NULL if nobody here has it, or if it has no users.
 */
struct mm_struct *hmmgpu_mm_get(struct hmmgpu_device *hdev,
				const struct mm_struct *mm)
{
	struct mm_struct *found = NULL;
	struct hmmgpu_file *hfile;
	unsigned int i;

	spin_lock(&hdev->files_lock);
	list_for_each_entry(hfile, &hdev->files, link) {
		if (hfile->mm == mm) {
			found = hfile->mm;
			break;
		}
	}
	if (found && !mmget_not_zero(found))
		found = NULL;
	spin_unlock(&hdev->files_lock);
	if (found)
		return found;

	spin_lock(&hdev->context_lock);
	for (i = 0; i < hdev->nr_contexts && !found; i++)
		if (hdev->contexts[i] && hdev->contexts[i]->mm == mm)
			found = hdev->contexts[i]->mm;
	if (found && !mmget_not_zero(found))
		found = NULL;
	spin_unlock(&hdev->context_lock);
	return found;
}
