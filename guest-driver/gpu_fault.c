// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults of the GPU: each context has a thread that serves its own, so that one
 * that waits, for user space or for a lock, stops no other. A thread, and not a
 * work, because a thread can be killed: when the context goes, whatever it waits
 * for is given up.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "context.h"
#include "hmmgpu_trace.h"

static void hmmgpu_fault_answer(struct hmmgpu_context *ctx, u8 opcode,
				u32 detail, struct hmmgpu_fence *fence)
{
	struct hmmgpu_desc desc = {
		.opcode = opcode,
		.count = cpu_to_le32(ctx->number),
		.src = cpu_to_le64(detail),
		.arg = ctx->served.sequence,
	};
	struct hmmgpu_submission sub = {
		.descs = &desc,
		.nr_descs = 1,
		.fence = fence,
	};
	struct hmmgpu_device *hdev = ctx->hdev;

	/* After a reset, another fault may have the same sequence number. */
	down_read(&hdev->flight);
	if (ctx->served_epoch == hdev->epoch &&
	    /* The only error is a lost device, which ends all jobs. */
	    !hmmgpu_ring_submit(&hdev->invalidations, &sub) && fence)
		hmmgpu_fence_wait(&hdev->invalidations, fence);
	up_read(&hdev->flight);
}

/*
 * A page that is exclusive is taken back as soon as its lock is let go and the
 * CPU waits for it. Let the job get at it first, or CPU and GPU could take it
 * from each other forever without using it.
 */
static void hmmgpu_fault_replay_exclusive(struct hmmgpu_context *ctx)
{
	struct hmmgpu_fence fence;

	hmmgpu_fault_answer(ctx, HMMGPU_OP_REPLAY, 0, &fence);
	ctx->replayed = true;
	usleep_range(HMMGPU_EXCLUSIVE_US, 2 * HMMGPU_EXCLUSIVE_US);
}

/**
 * hmmgpu_gpu_fault_nudge() - have the device tell of a fault that got lost
 * @ctx: the context
 *
 * For when jobs have got no further for long. If one waits for a fault that nobody
 * knows of here, the device tries again, and tells anew.
 *
 * Context: Process context, &hmmgpu_device.gate is held.
 */
void hmmgpu_gpu_fault_nudge(struct hmmgpu_context *ctx)
{
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_REPLAY,
		.count = cpu_to_le32(ctx->number),
	};
	struct hmmgpu_submission sub = { .descs = &desc, .nr_descs = 1 };
	bool due;

	if (!hmmgpu_replays_any(ctx->hdev))
		return;
	spin_lock(&ctx->fault_lock);
	due = !ctx->fault_pending && time_after(jiffies, ctx->nudge_at);
	if (READ_ONCE(ctx->serving) != U64_MAX)
		due = false;
	if (due)
		ctx->nudge_at = jiffies + HMMGPU_NUDGE_S * HZ;
	spin_unlock(&ctx->fault_lock);
	if (due)
		hmmgpu_ring_submit(&ctx->hdev->invalidations, &sub);
}

static int hmmgpu_fault_errno(struct hmmgpu_context *ctx)
{
	const struct hmmgpu_fault_record *fault = &ctx->served;
	int ret;

	switch (fault->reason) {
	case HMMGPU_FAULT_NOT_PRESENT:
	case HMMGPU_FAULT_NOT_WRITABLE:
	case HMMGPU_FAULT_NOT_ATOMIC:
		break;
	case HMMGPU_FAULT_VIRTUAL_ADDRESS:
		return -EFAULT;
	default:
		dev_err_ratelimited(ctx->hdev->dev,
				    "context %u: fault at %#llx for reason %u, level %u\n",
				    ctx->number, le64_to_cpu(fault->address),
				    fault->reason, fault->level);
		return -EIO;
	}
	if (!mmget_not_zero(ctx->mm))
		return -EFAULT;
	ret = hmmgpu_service_fault(ctx, le64_to_cpu(fault->address),
				   fault->access,
				   hmmgpu_fault_replay_exclusive);
	mmput(ctx->mm);
	return ret;
}

static void hmmgpu_fault_serve(struct hmmgpu_context *ctx)
{
	struct hmmgpu_device *hdev = ctx->hdev;
	int ret;

	ctx->replayed = false;
	WRITE_ONCE(ctx->serving, le64_to_cpu(ctx->served.address));
	ret = hmmgpu_fault_errno(ctx);
	WRITE_ONCE(ctx->serving, U64_MAX);
	trace_hmmgpu_gpu_fault(hdev->id, ctx->number,
			       le64_to_cpu(ctx->served.address),
			       ctx->served.access, ctx->served.reason, ret);
	if (ret == -EINTR && READ_ONCE(ctx->dead))
		return;
	/* It is being unmapped, or is never at rest: the GPU will fault again. */
	if (ret == -EINTR || ret == -EBUSY)
		ret = 0;
	if (ret) {
		hmmgpu_count(hdev, gpu_faults_cancelled, 1);
		/* No permission and no memory are one to the job. */
		if (ret != -EOPNOTSUPP && ret != -EIO && ret != -ENOMEM)
			ret = -EFAULT;
		hmmgpu_fault_answer(ctx, HMMGPU_OP_CANCEL, -ret, NULL);
		return;
	}
	hmmgpu_count(hdev, gpu_faults_replayed, 1);
	if (!ctx->replayed)
		hmmgpu_fault_answer(ctx, HMMGPU_OP_REPLAY, 0, NULL);
}

static bool hmmgpu_fault_take(struct hmmgpu_context *ctx)
{
	bool ret;

	spin_lock(&ctx->fault_lock);
	ret = ctx->fault_pending;
	ctx->fault_pending = false;
	ctx->served = ctx->fault;
	ctx->served_epoch = ctx->fault_epoch;
	ctx->nudge_at = jiffies + HMMGPU_NUDGE_S * HZ;
	spin_unlock(&ctx->fault_lock);
	return ret;
}

/**
 * hmmgpu_gpu_fault_unmap() - memory is being unmapped
 * @ctx: the context
 * @start: first address
 * @end: end of the range
 *
 * A fault there may wait for user space to provide it, and nobody will tell it
 * that this has become pointless.
 *
 * Context: &hmmgpu_mirror.lock is held.
 */
void hmmgpu_gpu_fault_unmap(struct hmmgpu_context *ctx, unsigned long start,
			    unsigned long end)
{
	u64 addr = READ_ONCE(ctx->serving);

	if (addr >= start && addr < end)
		send_sig(SIGKILL, ctx->thread, 1);
}

/**
 * hmmgpu_gpu_fault_thread() - serve the faults of a context
 * @data: the context
 *
 * Return: 0.
 */
int hmmgpu_gpu_fault_thread(void *data)
{
	struct hmmgpu_context *ctx = data;

	allow_kernel_signal(SIGKILL);
	for (;;) {
		wait_event_interruptible(ctx->fault_wait,
					 READ_ONCE(ctx->fault_pending));
		/*
		 * A signal ends one fault, or all: then the context was marked
		 * before it was sent.
		 */
		flush_signals(current);
		if (READ_ONCE(ctx->dead))
			break;
		if (hmmgpu_fault_take(ctx))
			hmmgpu_fault_serve(ctx);
	}
	for (;;) {
		set_current_state(TASK_IDLE);
		if (kthread_should_stop())
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}
