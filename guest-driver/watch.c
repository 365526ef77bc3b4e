// SPDX-License-Identifier: GPL-2.0-only
/*
 * Watching the jobs of a context, whether or not anybody waits for them. Where the
 * device tells of nothing any more it is asked for a fault that got lost, and in
 * the end the context begins anew, without its jobs.
 */
#include <linux/moduleparam.h>

#include "context.h"

static unsigned int job_timeout_ms = 60000;
module_param(job_timeout_ms, uint, 0644);
MODULE_PARM_DESC(job_timeout_ms, "Time after which a context whose jobs get no further begins anew, without them, in ms; 0: never (default 60000)");

#define HMMGPU_WATCH_MS	250

/* What can be seen of a context from outside. */
static void hmmgpu_watch_look(struct hmmgpu_context *ctx,
			      struct hmmgpu_job_progress *now)
{
	struct hmmgpu_job_queue *jobs = &ctx->jobs;

	mutex_lock(&jobs->lock);
	now->ended = le32_to_cpu(READ_ONCE(jobs->header->consumer));
	now->left = lower_32_bits(jobs->last - jobs->base) - now->ended;
	mutex_unlock(&jobs->lock);
	spin_lock(&ctx->fault_lock);
	now->fault = le64_to_cpu(ctx->served.sequence);
	now->address = le64_to_cpu(ctx->served.address);
	now->serving = ctx->fault_pending ||
		       READ_ONCE(ctx->serving) != U64_MAX;
	spin_unlock(&ctx->fault_lock);
}

/*
 * A job has ended, or one has come to another address. A fault that is served for
 * long is none of the device's doing: user space may have to provide the memory. But
 * one that comes again and again at the same address gets nobody further.
 */
static bool hmmgpu_watch_moves(const struct hmmgpu_job_progress *before,
			       const struct hmmgpu_job_progress *now)
{
	return now->ended != before->ended || now->address != before->address ||
	       (now->serving && now->fault == before->fault);
}

static bool hmmgpu_watch_late(const struct hmmgpu_job_watch *watch)
{
	unsigned int timeout_ms = READ_ONCE(job_timeout_ms);

	return timeout_ms && time_after(jiffies, watch->since +
						 msecs_to_jiffies(timeout_ms));
}

/* Returns false if there is nothing left to watch. */
static bool hmmgpu_watch_context(struct hmmgpu_context *ctx)
{
	struct hmmgpu_job_watch *watch = &ctx->watch;
	struct hmmgpu_job_progress now;

	/* Its fault may be told already, and only the interrupt be lost. */
	hmmgpu_fault_ring_drain(ctx->hdev);
	hmmgpu_watch_look(ctx, &now);
	if (!now.left) {
		watch->active = false;
		return false;
	}
	if (!watch->active || hmmgpu_watch_moves(&watch->state, &now))
		watch->since = jiffies;
	watch->active = true;
	watch->state = now;
	if (hmmgpu_watch_late(watch)) {
		hmmgpu_context_give_up(ctx);
		watch->active = false;
	} else {
		hmmgpu_gpu_fault_nudge(ctx);
	}
	return true;
}

static void hmmgpu_watch_work(struct work_struct *work)
{
	struct hmmgpu_context *ctx = container_of(to_delayed_work(work),
						  struct hmmgpu_context,
						  watch.work);
	struct hmmgpu_device *hdev = ctx->hdev;
	bool again = true;

	/* Who has the gate for writing ends all jobs, or the context. */
	if (down_read_trylock(&hdev->gate)) {
		if (hmmgpu_device_alive(hdev))
			again = hmmgpu_watch_context(ctx);
		again &= hmmgpu_device_check(hdev) != -ENODEV;
		up_read(&hdev->gate);
	}
	if (again)
		hmmgpu_watch_jobs(ctx);
}

/**
 * hmmgpu_watch_init() - set up the watch over a context
 * @ctx: the context
 */
void hmmgpu_watch_init(struct hmmgpu_context *ctx)
{
	INIT_DELAYED_WORK(&ctx->watch.work, hmmgpu_watch_work);
}

/**
 * hmmgpu_watch_jobs() - a job was submitted
 * @ctx: the context
 *
 * It is watched until none is left.
 *
 * Context: Any.
 */
void hmmgpu_watch_jobs(struct hmmgpu_context *ctx)
{
	queue_delayed_work(ctx->hdev->wq, &ctx->watch.work,
			   msecs_to_jiffies(HMMGPU_WATCH_MS));
}

/**
 * hmmgpu_watch_exit() - nobody watches any more
 * @ctx: the context, to which nothing is submitted any more
 *
 * Context: Process context, sleeps.
 */
void hmmgpu_watch_exit(struct hmmgpu_context *ctx)
{
	cancel_delayed_work_sync(&ctx->watch.work);
}
