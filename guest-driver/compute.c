// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ioctls that work on a context: submit, wait, advise, prefetch.
 */
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/sched/mm.h>

#include "context.h"

static_assert(HMMGPU_COMPUTE_FILL == HMMGPU_JOB_FILL);
static_assert(HMMGPU_COMPUTE_COPY == HMMGPU_JOB_COPY);
static_assert(HMMGPU_COMPUTE_COMPARE == HMMGPU_JOB_COMPARE);
static_assert(HMMGPU_COMPUTE_CHECKSUM == HMMGPU_JOB_CHECKSUM);
static_assert(HMMGPU_COMPUTE_REDUCE == HMMGPU_JOB_REDUCE);
static_assert(HMMGPU_COMPUTE_SAXPY == HMMGPU_JOB_SAXPY);
static_assert(HMMGPU_COMPUTE_GATHER == HMMGPU_JOB_GATHER);
static_assert(HMMGPU_COMPUTE_SCATTER == HMMGPU_JOB_SCATTER);
static_assert(HMMGPU_COMPUTE_CHASE == HMMGPU_JOB_CHASE);
static_assert(HMMGPU_COMPUTE_ATOMIC_ADD == HMMGPU_JOB_ATOMIC_ADD);

#define HMMGPU_USES_DST	BIT(0)
#define HMMGPU_USES_SRC	BIT(1)
#define HMMGPU_USES_AUX	BIT(2)

/**
 * struct hmmgpu_kernel - what a kernel does with the fields of a job
 * @uses: addresses and offsets that it uses
 * @dst: bytes of an element at dst, if these follow each other
 * @src: bytes of an element at src, likewise
 * @aux: bytes of an element at aux, likewise
 * @max_arg: largest argument
 */
struct hmmgpu_kernel {
	unsigned int uses;
	u8 dst;
	u8 src;
	u8 aux;
	u64 max_arg;
};

static const struct hmmgpu_kernel hmmgpu_kernels[] = {
	[HMMGPU_COMPUTE_FILL] = {
		.uses = HMMGPU_USES_DST, .dst = 1, .max_arg = U64_MAX,
	},
	[HMMGPU_COMPUTE_COPY] = {
		.uses = HMMGPU_USES_DST | HMMGPU_USES_SRC, .dst = 1, .src = 1,
	},
	[HMMGPU_COMPUTE_COMPARE] = {
		.uses = HMMGPU_USES_DST | HMMGPU_USES_SRC, .dst = 1, .src = 1,
	},
	[HMMGPU_COMPUTE_CHECKSUM] = {
		.uses = HMMGPU_USES_SRC, .src = 8,
	},
	[HMMGPU_COMPUTE_REDUCE] = {
		.uses = HMMGPU_USES_SRC, .src = 8,
		.max_arg = HMMGPU_REDUCE_MAX,
	},
	[HMMGPU_COMPUTE_SAXPY] = {
		.uses = HMMGPU_USES_DST | HMMGPU_USES_SRC, .dst = 4, .src = 4,
		.max_arg = U32_MAX,
	},
	[HMMGPU_COMPUTE_GATHER] = {
		.uses = HMMGPU_USES_DST | HMMGPU_USES_SRC | HMMGPU_USES_AUX,
		.dst = 8, .aux = 4,
	},
	[HMMGPU_COMPUTE_SCATTER] = {
		.uses = HMMGPU_USES_DST | HMMGPU_USES_SRC | HMMGPU_USES_AUX,
		.src = 8, .aux = 4,
	},
	[HMMGPU_COMPUTE_CHASE] = {
		.uses = HMMGPU_USES_SRC | HMMGPU_USES_AUX, .max_arg = U64_MAX,
	},
	[HMMGPU_COMPUTE_ATOMIC_ADD] = {
		.uses = HMMGPU_USES_DST, .max_arg = U64_MAX,
	},
};

static bool hmmgpu_elements_valid(u64 addr, bool used, u64 count, u8 size)
{
	u64 bytes, end;

	if (!used)
		return !addr;
	return !check_mul_overflow(count, (u64)size, &bytes) &&
	       !check_add_overflow(addr, bytes, &end);
}

static bool hmmgpu_submit_valid(const struct hmmgpu_submit *arg)
{
	const struct hmmgpu_kernel *kernel;

	if (!arg->kernel || arg->kernel >= ARRAY_SIZE(hmmgpu_kernels) ||
	    arg->flags)
		return false;
	kernel = &hmmgpu_kernels[arg->kernel];
	return arg->arg <= kernel->max_arg &&
	       hmmgpu_elements_valid(arg->dst, kernel->uses & HMMGPU_USES_DST,
				     arg->count, kernel->dst) &&
	       hmmgpu_elements_valid(arg->src, kernel->uses & HMMGPU_USES_SRC,
				     arg->count, kernel->src) &&
	       hmmgpu_elements_valid(arg->aux, kernel->uses & HMMGPU_USES_AUX,
				     arg->count, kernel->aux);
}

/* The context, made if there is none yet; of no use once the process has gone. */
static struct hmmgpu_context *hmmgpu_file_context(struct hmmgpu_file *hfile)
{
	struct hmmgpu_context *ctx = ERR_PTR(-EINTR);

	if (!mmget_not_zero(hfile->mm))
		return ERR_PTR(-ESRCH);
	if (!mutex_lock_killable(&hfile->lock)) {
		ctx = hfile->ctx;
		if (!ctx) {
			ctx = hmmgpu_context_create(hfile->hdev, hfile->mm);
			if (!IS_ERR(ctx))
				hfile->ctx = ctx;
		}
		mutex_unlock(&hfile->lock);
	}
	mmput(hfile->mm);
	return ctx;
}

static int hmmgpu_ioctl_submit(struct hmmgpu_file *hfile,
			       struct hmmgpu_submit *arg)
{
	struct hmmgpu_context *ctx;
	struct hmmgpu_job job;

	if (!hmmgpu_submit_valid(arg))
		return -EINVAL;
	ctx = hmmgpu_file_context(hfile);
	if (IS_ERR(ctx))
		return PTR_ERR(ctx);

	job = (struct hmmgpu_job) {
		.opcode = arg->kernel,
		.dst = cpu_to_le64(arg->dst),
		.src = cpu_to_le64(arg->src),
		.aux = cpu_to_le64(arg->aux),
		.count = cpu_to_le64(arg->count),
		.arg = cpu_to_le64(arg->arg),
	};
	return hmmgpu_job_submit(ctx, &job, &arg->job);
}

static int hmmgpu_job_errno(const struct hmmgpu_job_record *record)
{
	switch (le32_to_cpu(record->status)) {
	case HMMGPU_STATUS_OK:
		return 0;
	case HMMGPU_STATUS_CANCELLED:
		return -le32_to_cpu(record->detail);
	case HMMGPU_STATUS_BAD_FIELD:
	case HMMGPU_STATUS_BAD_COUNT:
	case HMMGPU_STATUS_MISALIGNED:
	case HMMGPU_STATUS_OVERLAP:
		return -EINVAL;
	default:
		return -EIO;
	}
}

static int hmmgpu_ioctl_wait(struct hmmgpu_file *hfile,
			     struct hmmgpu_wait *arg)
{
	struct hmmgpu_job_record record;
	struct hmmgpu_context *ctx;
	int ret;

	if (mutex_lock_killable(&hfile->lock))
		return -EINTR;
	ctx = hfile->ctx;
	mutex_unlock(&hfile->lock);
	if (!ctx)
		return -ENOENT;
	ret = hmmgpu_job_wait(ctx, arg->job, arg->timeout_ns, true, &record);
	if (ret)
		return ret;
	arg->error = -hmmgpu_job_errno(&record);
	arg->faults = le32_to_cpu(record.faults);
	arg->value = le64_to_cpu(record.value);
	arg->done = le64_to_cpu(record.done);
	arg->fault_address = le64_to_cpu(record.fault_address);
	arg->device_ns = le64_to_cpu(record.end_ns) -
			 le64_to_cpu(record.begin_ns);
	arg->reserved = 0;
	return 0;
}

static int hmmgpu_ioctl_advise(struct hmmgpu_file *hfile,
			       const struct hmmgpu_advise *arg)
{
	struct hmmgpu_context *ctx;

	if (arg->flags || arg->policy > HMMGPU_POLICY_ACCESS_IN_PLACE ||
	    !hmmgpu_range_valid(arg->addr, arg->size))
		return -EINVAL;
	ctx = hmmgpu_file_context(hfile);
	if (IS_ERR(ctx))
		return PTR_ERR(ctx);
	return hmmgpu_policy_set(ctx, arg->addr, arg->addr + arg->size,
				 arg->policy);
}

static int hmmgpu_ioctl_prefetch(struct hmmgpu_file *hfile,
				 struct hmmgpu_prefetch *arg)
{
	struct hmmgpu_context *ctx;

	if (arg->flags & ~HMMGPU_PREFETCH_WRITE || arg->reserved ||
	    !hmmgpu_range_valid(arg->addr, arg->size))
		return -EINVAL;
	ctx = hmmgpu_file_context(hfile);
	return IS_ERR(ctx) ? PTR_ERR(ctx) : hmmgpu_service_prefetch(ctx, arg);
}

/**
 * hmmgpu_compute_ioctl() - the ioctls that work on a context
 * @hfile: the open file
 * @cmd: the ioctl
 * @arg: a copy of its argument, which gets the outputs
 *
 * Context: Process context, &hmmgpu_device.gate is held for reading.
 * Return: 0 or a negative errno.
 */
int hmmgpu_compute_ioctl(struct hmmgpu_file *hfile, unsigned int cmd, void *arg)
{
	switch (cmd) {
	case HMMGPU_IOC_SUBMIT:
		return hmmgpu_ioctl_submit(hfile, arg);
	case HMMGPU_IOC_WAIT:
		return hmmgpu_ioctl_wait(hfile, arg);
	case HMMGPU_IOC_ADVISE:
		return hmmgpu_ioctl_advise(hfile, arg);
	case HMMGPU_IOC_PREFETCH:
		return hmmgpu_ioctl_prefetch(hfile, arg);
	default:
		return -ENOTTY;
	}
}
