// SPDX-License-Identifier: GPL-2.0-only
/*
 * Jobs: putting them into a context's queue, and waiting for their records.
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/ktime.h>
#include <linux/sched/signal.h>

#include "context.h"

#define HMMGPU_JOB_RING_SIZE	BIT(HMMGPU_JOB_RING_LOG2)
#define HMMGPU_JOB_RING_BYTES	(HMMGPU_JOB_RING_SIZE * \
				 sizeof(struct hmmgpu_job))
#define HMMGPU_JOB_RECORD_BYTES	(HMMGPU_JOB_SLOTS * \
				 sizeof(struct hmmgpu_job_record))
/* A short job is over before a sleeper would be awake. */
#define HMMGPU_JOB_SPIN_US	20
/* Sleepers look for a reset or a vanished device this often. */
#define HMMGPU_JOB_LOOK_MS	50

/**
 * hmmgpu_jobs_init() - allocate what a context's queue of jobs needs
 * @ctx: the context
 *
 * Return: 0 or -ENOMEM.
 */
int hmmgpu_jobs_init(struct hmmgpu_context *ctx)
{
	struct hmmgpu_job_queue *jobs = &ctx->jobs;
	struct device *dev = ctx->hdev->dev;

	BUILD_BUG_ON(sizeof(struct hmmgpu_job) != 64);
	BUILD_BUG_ON(sizeof(struct hmmgpu_job_record) !=
		     HMMGPU_JOB_RECORD_ALIGN);

	mutex_init(&jobs->run);
	mutex_init(&jobs->lock);
	jobs->header = dma_alloc_coherent(dev, HMMGPU_QUEUE_ALIGN,
					  &jobs->header_dma, GFP_KERNEL);
	jobs->entries = dma_alloc_coherent(dev, HMMGPU_JOB_RING_BYTES,
					   &jobs->entries_dma, GFP_KERNEL);
	jobs->records = dma_alloc_coherent(dev, HMMGPU_JOB_RECORD_BYTES,
					   &jobs->records_dma, GFP_KERNEL);
	if (jobs->header && jobs->entries && jobs->records)
		return 0;
	hmmgpu_jobs_exit(ctx);
	return -ENOMEM;
}

/**
 * hmmgpu_jobs_exit() - undo hmmgpu_jobs_init()
 * @ctx: the context, which is disabled
 */
void hmmgpu_jobs_exit(struct hmmgpu_context *ctx)
{
	struct hmmgpu_job_queue *jobs = &ctx->jobs;
	struct device *dev = ctx->hdev->dev;

	jobs->past_ns = hmmgpu_jobs_busy_ns(ctx);
	mutex_destroy(&jobs->run);
	mutex_destroy(&jobs->lock);
	/* A device that does not reset may still write to it. */
	if (ctx->hdev->lost && !ctx->hdev->quiesced) {
		jobs->records = NULL;
		return;
	}
	if (jobs->records)
		dma_free_coherent(dev, HMMGPU_JOB_RECORD_BYTES, jobs->records,
				  jobs->records_dma);
	if (jobs->entries)
		dma_free_coherent(dev, HMMGPU_JOB_RING_BYTES, jobs->entries,
				  jobs->entries_dma);
	if (jobs->header)
		dma_free_coherent(dev, HMMGPU_QUEUE_ALIGN, jobs->header,
				  jobs->header_dma);
	jobs->records = NULL;
}

static struct hmmgpu_job_record *hmmgpu_job_record(struct hmmgpu_job_queue *jobs,
						   u64 sequence)
{
	return &jobs->records[sequence % HMMGPU_JOB_SLOTS];
}

static u64 hmmgpu_job_recorded(struct hmmgpu_job_queue *jobs, u64 sequence)
{
	struct hmmgpu_job_record *record = hmmgpu_job_record(jobs, sequence);

	return le64_to_cpu(READ_ONCE(record->sequence));
}

static u64 hmmgpu_job_ns(const struct hmmgpu_job_record *record)
{
	return le64_to_cpu(record->end_ns) - le64_to_cpu(record->begin_ns);
}

/* Jobs end in order: with the last one's record, those before have theirs. */
static bool hmmgpu_jobs_full(struct hmmgpu_job_queue *jobs)
{
	u64 sequence = jobs->last + 1;

	lockdep_assert_held(&jobs->lock);
	return sequence > HMMGPU_JOB_SLOTS &&
	       hmmgpu_job_recorded(jobs, sequence) !=
	       sequence - HMMGPU_JOB_SLOTS;
}

/**
 * hmmgpu_jobs_busy_ns() - time that the device worked on jobs that have ended
 * @ctx: the context
 *
 * Context: Process context, &hmmgpu_device.gate is held.
 * Return: nanoseconds.
 */
u64 hmmgpu_jobs_busy_ns(struct hmmgpu_context *ctx)
{
	struct hmmgpu_job_queue *jobs = &ctx->jobs;
	u64 sequence, ns;

	if (!jobs->records)
		return jobs->past_ns;
	mutex_lock(&jobs->lock);
	ns = jobs->past_ns;
	sequence = jobs->last - min_t(u64, jobs->last, HMMGPU_JOB_SLOTS);
	while (sequence++ < jobs->last) {
		if (hmmgpu_job_recorded(jobs, sequence) != sequence)
			break;
		dma_rmb();
		ns += hmmgpu_job_ns(hmmgpu_job_record(jobs, sequence));
	}
	mutex_unlock(&jobs->lock);
	return ns;
}

/**
 * hmmgpu_jobs_pending() - is there a job that has not ended?
 * @ctx: the context
 *
 * Context: Process context, &hmmgpu_device.gate is held for writing.
 * Return: true if so.
 */
bool hmmgpu_jobs_pending(struct hmmgpu_context *ctx)
{
	struct hmmgpu_job_queue *jobs = &ctx->jobs;

	return jobs->last && hmmgpu_job_recorded(jobs, jobs->last) != jobs->last;
}

/**
 * hmmgpu_jobs_abort() - jobs that had not ended never will
 * @ctx: the context, which the device has been made to leave
 *
 * They get the record that a device would write which ends them. The ring begins
 * anew.
 *
 * Context: Process context, &hmmgpu_job_queue.lock is held; the device works on none.
 */
void hmmgpu_jobs_abort(struct hmmgpu_context *ctx)
{
	struct hmmgpu_job_queue *jobs = &ctx->jobs;
	u64 sequence;

	lockdep_assert_held(&jobs->lock);
	sequence = jobs->last - min_t(u64, jobs->last, HMMGPU_JOB_SLOTS);
	while (sequence++ < jobs->last) {
		struct hmmgpu_job_record *record =
			hmmgpu_job_record(jobs, sequence);

		if (hmmgpu_job_recorded(jobs, sequence) == sequence)
			continue;
		*record = (struct hmmgpu_job_record) {
			.status = cpu_to_le32(HMMGPU_STATUS_ABORTED),
			.sequence = cpu_to_le64(sequence),
		};
	}
	memset(jobs->header, 0, HMMGPU_QUEUE_ALIGN);
	jobs->base = jobs->last;
}

/**
 * hmmgpu_job_submit() - put a job into the queue of a context
 * @ctx: the context
 * @job: the job; its record and sequence number are filled in here
 * @sequence: gets its sequence number
 *
 * Context: Process context, &hmmgpu_device.gate is held for reading.
 * Return: 0, or -EAGAIN if the oldest job that has a record has not ended.
 */
int hmmgpu_job_submit(struct hmmgpu_context *ctx, const struct hmmgpu_job *job,
		      u64 *sequence)
{
	struct hmmgpu_job_queue *jobs = &ctx->jobs;
	struct hmmgpu_device *hdev = ctx->hdev;
	struct hmmgpu_job *entry;
	u64 record;

	spin_lock(&ctx->fault_lock);
	ctx->nudge_at = jiffies + HMMGPU_NUDGE_S * HZ;
	spin_unlock(&ctx->fault_lock);
	mutex_lock(&jobs->lock);
	if (hmmgpu_jobs_full(jobs)) {
		mutex_unlock(&jobs->lock);
		return -EAGAIN;
	}
	if (jobs->last >= HMMGPU_JOB_SLOTS)
		jobs->past_ns += hmmgpu_job_ns(hmmgpu_job_record(jobs,
								 jobs->last + 1));
	/* Indices count from zero, sequence numbers from one. */
	entry = &jobs->entries[(jobs->last - jobs->base) %
			       HMMGPU_JOB_RING_SIZE];
	*sequence = ++jobs->last;
	record = *sequence % HMMGPU_JOB_SLOTS * sizeof(*jobs->records);
	*entry = *job;
	entry->flags |= cpu_to_le16(HMMGPU_JOB_INTERRUPT);
	entry->record = cpu_to_le64(jobs->records_dma + record);
	entry->sequence = cpu_to_le64(*sequence);

	/* The job is seen before the index that covers it. */
	dma_wmb();
	WRITE_ONCE(jobs->header->producer,
		   cpu_to_le32(lower_32_bits(jobs->last - jobs->base)));
	/* See hmmgpu_ring_publish(). */
	mb();
	if (READ_ONCE(jobs->header->need_kick)) {
		hmmgpu_write(hdev, HMMGPU_CONTEXT_REG(ctx->number,
						      HMMGPU_QUEUE_DOORBELL),
			     1);
		hmmgpu_count(hdev, doorbells, 1);
	}
	mutex_unlock(&jobs->lock);
	hmmgpu_watch_jobs(ctx);
	hmmgpu_count(hdev, jobs, 1);
	return 0;
}

/* While the lock is held nothing is submitted that would overwrite the record. */
static int hmmgpu_job_result(struct hmmgpu_job_queue *jobs, u64 sequence,
			     struct hmmgpu_job_record *result)
{
	int ret = -EAGAIN;

	mutex_lock(&jobs->lock);
	if (!sequence || sequence > jobs->last ||
	    jobs->last - sequence >= HMMGPU_JOB_SLOTS) {
		ret = -ENOENT;
	} else if (hmmgpu_job_recorded(jobs, sequence) == sequence) {
		/* The record, and what the job wrote, is read after that. */
		dma_rmb();
		*result = *hmmgpu_job_record(jobs, sequence);
		ret = 0;
	}
	mutex_unlock(&jobs->lock);
	return ret;
}

static bool hmmgpu_job_over(struct hmmgpu_context *ctx, u64 sequence)
{
	return hmmgpu_job_recorded(&ctx->jobs, sequence) >= sequence ||
	       hmmgpu_device_check(ctx->hdev);
}

static int hmmgpu_job_sleep(struct hmmgpu_context *ctx, u64 sequence,
			    u64 end_ns, bool interruptible)
{
	struct hmmgpu_device *hdev = ctx->hdev;
	u64 now = ktime_get_ns();
	long slice = msecs_to_jiffies(HMMGPU_JOB_LOOK_MS);
	long ret = 0;

	if (now >= end_ns)
		return -ETIME;
	/* No more than a slice, so this cannot overflow. */
	slice = min_t(u64, slice, nsecs_to_jiffies64(end_ns - now) + 1);
	if (interruptible)
		ret = wait_event_interruptible_timeout(hdev->job_wait,
						       hmmgpu_job_over(ctx, sequence),
						       slice);
	else
		wait_event_timeout(hdev->job_wait,
				   hmmgpu_job_over(ctx, sequence), slice);
	if (ret < 0)
		return -EINTR;
	/* Its fault may be told already, and only the interrupt be lost. */
	hmmgpu_fault_ring_drain(hdev);
	hmmgpu_device_alive(hdev);
	return hmmgpu_device_check(hdev);
}

/**
 * hmmgpu_job_wait() - wait until a job has ended
 * @ctx: the context
 * @sequence: its sequence number
 * @timeout_ns: nanoseconds to wait at most; 0: only look; HMMGPU_NO_TIMEOUT
 * @interruptible: signals end the wait
 * @result: gets its record
 *
 * Context: Process context, &hmmgpu_device.gate is held for reading. Ends when
 * the device is removed.
 * Return: 0, the job has ended, well or not; -ETIME; -EINTR; -ENOENT, there is no
 * such job, or its record is gone; -EIO, the device is lost for now; -ENODEV, it has
 * gone or goes.
 */
int hmmgpu_job_wait(struct hmmgpu_context *ctx, u64 sequence, u64 timeout_ns,
		    bool interruptible, struct hmmgpu_job_record *result)
{
	u64 start = ktime_get_ns(), end, spin;
	int ret;

	if (check_add_overflow(start, timeout_ns, &end))
		end = U64_MAX;
	spin = min(end, start + HMMGPU_JOB_SPIN_US * NSEC_PER_USEC);
	while ((ret = hmmgpu_job_result(&ctx->jobs, sequence, result)) ==
	       -EAGAIN) {
		if (ktime_get_ns() < spin) {
			cpu_relax();
			continue;
		}
		ret = hmmgpu_job_sleep(ctx, sequence, end, interruptible);
		if (ret)
			break;
	}
	return ret;
}

/**
 * hmmgpu_job_run() - do a job and wait for it
 * @ctx: the context; nothing else is submitted to it
 * @job: the job
 * @result: gets its record
 *
 * One at a time, so that no record is overwritten before it is read. A fault
 * ends the job, so the wait is a short one, and nothing interrupts it:
 * whatever the job works on may be freed afterwards.
 *
 * Context: Process context, &hmmgpu_device.gate is held for reading.
 * Return: 0, the job has ended, well or not; -EAGAIN; -EIO or -ENODEV, the device is
 * lost, which includes that it did not end the job in time; it is reset then.
 */
int hmmgpu_job_run(struct hmmgpu_context *ctx, const struct hmmgpu_job *job,
		   struct hmmgpu_job_record *result)
{
	u64 timeout_ns = hmmgpu_fence_timeout_ms() * (u64)NSEC_PER_MSEC;
	u64 end_ns = ktime_get_ns() + timeout_ns;
	struct hmmgpu_job run = *job;
	u64 sequence;
	int ret;

	run.flags |= cpu_to_le16(HMMGPU_JOB_NO_REPLAY);
	mutex_lock(&ctx->jobs.run);
	ret = hmmgpu_job_submit(ctx, &run, &sequence);
	if (ret)
		goto out;
	do {
		ret = hmmgpu_job_wait(ctx, sequence, timeout_ns, false, result);
		/* That it is being removed is no reason to leave a job alone. */
		if (ret == -ENODEV && !READ_ONCE(ctx->hdev->lost))
			usleep_range(50, 200);
	} while (ret == -ENODEV && !READ_ONCE(ctx->hdev->lost) &&
		 ktime_get_ns() < end_ns);
	if (ret)
		hmmgpu_device_lose(ctx->hdev, ctx->hdev->epoch,
				   "a job does not end");
	ret = ret ? hmmgpu_device_check(ctx->hdev) : 0;
out:
	mutex_unlock(&ctx->jobs.run);
	return ret;
}
