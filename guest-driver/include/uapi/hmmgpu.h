/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * User interface of the hmmgpu driver: ioctls of /dev/hmmgpuN.
 *
 * Generated from the Rust definitions; HMMGPU_BLESS=1 cargo test writes it
 * anew.
 */
#ifndef _UAPI_HMMGPU_H
#define _UAPI_HMMGPU_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Version of this interface. */
#define HMMGPU_ABI_VERSION		4
/* Folio orders that statistics tell apart. */
#define HMMGPU_ORDERS			10

/* Fill bytes with a pattern. */
#define HMMGPU_COMPUTE_FILL		1
/* Copy bytes. */
#define HMMGPU_COMPUTE_COPY		2
/* Compare bytes. */
#define HMMGPU_COMPUTE_COMPARE		3
/* Checksum of words. */
#define HMMGPU_COMPUTE_CHECKSUM		4
/* Sum, minimum or maximum of words. */
#define HMMGPU_COMPUTE_REDUCE		5
/* a * x + y. */
#define HMMGPU_COMPUTE_SAXPY		6
/* Read words from where indices say. */
#define HMMGPU_COMPUTE_GATHER		7
/* Write words to where indices say. */
#define HMMGPU_COMPUTE_SCATTER		8
/* Follow a linked list and add up its payloads. */
#define HMMGPU_COMPUTE_CHASE		9
/* Add to one word, atomically. */
#define HMMGPU_COMPUTE_ATOMIC_ADD	10

/*
 * A fault of the GPU migrates anonymous memory into VRAM, 2 MiB at a time
 * where possible, and makes room there if need be; other memory is accessed in
 * place. So it is without advice.
 */
#define HMMGPU_POLICY_DEFAULT		0
/*
 * As the default, and what is in VRAM is the last to make room for something
 * else.
 */
#define HMMGPU_POLICY_PREFER_DEVICE	1
/*
 * A fault of the GPU brings memory home that is in VRAM, and has it accessed
 * there.
 */
#define HMMGPU_POLICY_PREFER_SYSTEM	2
/* Memory is accessed where it is. */
#define HMMGPU_POLICY_ACCESS_IN_PLACE	3

/* The GPU will write. */
#define HMMGPU_PREFETCH_WRITE		1

/**
 * struct hmmgpu_query - HMMGPU_IOC_QUERY: what the device is.
 * @abi_version: Out: version of this interface.
 * @contract_version: Out: version of the hardware contract.
 * @vram_bytes: Out: size of VRAM in bytes.
 * @vram_free_bytes: Out: bytes of VRAM that are not allocated.
 * @folio_orders: Out: bitmask of the folio orders that the device accepts.
 * @generation: Out: device generation, one more after every reset.
 * @reserved: Zero.
 */
struct hmmgpu_query {
	__u32 abi_version;
	__u32 contract_version;
	__u64 vram_bytes;
	__u64 vram_free_bytes;
	__u64 folio_orders;
	__u32 generation;
	__u32 reserved;
};

/**
 * struct hmmgpu_migrate - HMMGPU_IOC_MIGRATE_TO_DEVICE and
 * HMMGPU_IOC_MIGRATE_TO_SYSTEM: move a range of anonymous memory.
 * @addr: In: first address.
 * @size: In: length in bytes.
 * @flags: In: zero.
 * @reserved: Zero.
 * @moved_bytes: Out: bytes that moved, zero-filled holes among them.
 * @present_bytes: Out: bytes that were already there.
 * @skipped_bytes: Out: bytes that did not move: not anonymous, pinned, or gone
 *        meanwhile.
 *
 * The outputs are valid on success and on every error but EINVAL and EFAULT.
 *
 * Errors: EINVAL, `addr` or `size` not page-aligned, `size` zero, the range
 * ends beyond user addresses, or `flags` not zero. ENOSPC, VRAM is full (to
 * device). ESRCH, the process has gone. ENOMEM, no system memory (to system).
 * EIO, a copy failed and the pages stayed where they were. ETIMEDOUT, the
 * device did not answer. EINTR, a fatal signal. ENODEV, the device has gone.
 *
 * EIO also tells, here and elsewhere, that the device was lost meanwhile, or
 * that a reset has taken pages that should come home. What begins later waits
 * until the device is recovered.
 */
struct hmmgpu_migrate {
	__u64 addr;
	__u64 size;
	__u32 flags;
	__u32 reserved;
	__u64 moved_bytes;
	__u64 present_bytes;
	__u64 skipped_bytes;
};

/**
 * struct hmmgpu_stats - HMMGPU_IOC_STATS: the driver's counters since it was
 * loaded.
 * @sys_to_dev_folios: Folios copied to the device, by order.
 * @dev_to_sys_folios: Folios copied home, by order.
 * @filled_folios: Folios filled on the device instead of copied, by order.
 * @vram_folios: Folios now allocated in VRAM, by order.
 * @splits: Device folios that were split, by order.
 * @spans: Migrations that ended.
 * @pages_asked: Pages that were asked to move.
 * @pages_moved: Pages that moved: of those that were copied or filled, the
 *        ones that the core then accepted.
 * @phase_ns: Time in the phases collect, alloc, copy, commit and finish, in
 *        ns.
 * @fallbacks: Large folios that did not move whole, by FALLBACK value of the
 *        hardware contract.
 * @cpu_faults: CPU faults on device-private memory.
 * @cpu_fault_pages: Pages that CPU faults brought home.
 * @refused_pages: Pages that the core refused to migrate.
 * @failed_pages: Pages whose copy failed.
 * @evicted_pages: Pages evicted from VRAM.
 * @fences: Fences submitted.
 * @fence_sleeps: Fences that were awaited by sleeping.
 * @fence_timeouts: Fences that did not come in time.
 * @doorbells: Doorbell writes.
 * @descriptors: Descriptors submitted, but for jobs.
 * @resets: Resets by the driver.
 * @interrupts: Interrupts received: several that come at the same time may be
 *        received as one.
 * @code_pages_scrubbed: Destination pages that the CPU wrote first because
 *        translated code may be stale.
 * @contexts: Contexts that are in use now.
 * @jobs: Jobs submitted.
 * @gpu_faults_replayed: Faults of the GPU that were served, by migration or in
 *        place, so that the job went on.
 * @gpu_faults_in_place: Faults of the GPU that were resolved without a
 *        migration.
 * @gpu_faults_cancelled: Faults of the GPU that ended their job.
 * @gpu_maps_large: Entries of 2 MiB that were written to GPU page tables.
 * @gpu_maps_small: Entries of 4 KiB that were written to GPU page tables.
 * @invalidations: Invalidations of the GPU's TLB.
 * @exclusive_pages: Pages that were made exclusive to the GPU for atomic
 *        operations.
 * @copy_retries: Batches whose copies failed and were made again.
 * @fences_missed: Fences that the device was done with, but did not write.
 * @recoveries: Times that a lost device was taken into use again.
 * @lost_pages: Pages of VRAM whose content resets have taken.
 * @contexts_given_up: Contexts whose jobs got no further and were given up.
 * @collected_again: Ranges that were collected again, as the kernel told of
 *        more entries than they have pages.
 *
 * Those that the device counts, too, are the same there as soon as nothing is
 * under way.
 *
 * Spans are kept by direction and trigger: at DIR * 4 + TRIGGER, with the
 * values of the hardware contract.
 */
struct hmmgpu_stats {
	__u64 sys_to_dev_folios[10];
	__u64 dev_to_sys_folios[10];
	__u64 filled_folios[10];
	__u64 vram_folios[10];
	__u64 splits[10];
	__u64 spans[8];
	__u64 pages_asked[8];
	__u64 pages_moved[8];
	__u64 phase_ns[5];
	__u64 fallbacks[6];
	__u64 cpu_faults;
	__u64 cpu_fault_pages;
	__u64 refused_pages;
	__u64 failed_pages;
	__u64 evicted_pages;
	__u64 fences;
	__u64 fence_sleeps;
	__u64 fence_timeouts;
	__u64 doorbells;
	__u64 descriptors;
	__u64 resets;
	__u64 interrupts;
	__u64 code_pages_scrubbed;
	__u64 contexts;
	__u64 jobs;
	__u64 gpu_faults_replayed;
	__u64 gpu_faults_in_place;
	__u64 gpu_faults_cancelled;
	__u64 gpu_maps_large;
	__u64 gpu_maps_small;
	__u64 invalidations;
	__u64 exclusive_pages;
	__u64 copy_retries;
	__u64 fences_missed;
	__u64 recoveries;
	__u64 lost_pages;
	__u64 contexts_given_up;
	__u64 collected_again;
};

/**
 * struct hmmgpu_mark - HMMGPU_IOC_MARK: open a window of that name in the
 * device's telemetry (and close the one before).
 * @cookie: In: cookie; zero only closes.
 *
 * Returns when the device has seen it.
 */
struct hmmgpu_mark {
	__u64 cookie;
};

/**
 * struct hmmgpu_submit - HMMGPU_IOC_SUBMIT: put a job into the descriptor's
 * compute queue.
 * @kernel: In: COMPUTE value.
 * @flags: In: zero.
 * @dst: In: destination.
 * @src: In: source.
 * @aux: In: indices, or an offset.
 * @count: In: number of elements.
 * @arg: In: argument of the kernel.
 * @job: Out: the job, for WAIT.
 *
 * The jobs of a descriptor are done in order. Addresses are those of the
 * process; memory that the GPU cannot access yet is made accessible when it
 * comes to it. The process may go on, and may also free, remap or fork the
 * memory: the job then finds what the process would find.
 *
 * Errors: EINVAL, the kernel is not defined, a field that it does not use is
 * not zero, or a range overflows. EAGAIN, too many jobs are waiting: wait for
 * one. ENOSPC, all contexts of the device are in use. ENOMEM, no system
 * memory. ESRCH, the process has gone. EOPNOTSUPP, the device has no contexts.
 * EINTR, a signal. EIO, the device does not begin. ENODEV, the device has
 * gone.
 */
struct hmmgpu_submit {
	__u32 kernel;
	__u32 flags;
	__u64 dst;
	__u64 src;
	__u64 aux;
	__u64 count;
	__u64 arg;
	__u64 job;
};

/**
 * struct hmmgpu_wait - HMMGPU_IOC_WAIT: wait for a job, and get its result.
 * @job: In: the job.
 * @timeout_ns: In: nanoseconds to wait at most; 0: look only; all-ones: no
 *        limit.
 * @error: Out: how the job ended: 0, or an errno. EFAULT: memory is not
 *        mapped, or not with this permission. EINVAL: an address is
 *        misaligned, or ranges overlap. EOPNOTSUPP: atomic operations are not
 *        possible on this memory. ENOMEM: no system memory. EIO: the device
 *        failed, or got no further with it.
 * @faults: Out: faults of this job that were resolved.
 * @value: Out: result.
 * @done: Out: elements that are done.
 * @fault_address: Out: address that the job could not access, or zero.
 * @device_ns: Out: nanoseconds from the begin of the job to its end, on the
 *        device's clock.
 * @reserved: Zero.
 *
 * A result can be had until 64 more jobs have been submitted to this
 * descriptor.
 *
 * Errors: ETIME, the job has not ended in time. EINTR, a signal. ENOENT, there
 * is no such job, or its result is gone. EIO, the device was lost, and the job
 * with it. ENODEV, the device has gone.
 */
struct hmmgpu_wait {
	__u64 job;
	__u64 timeout_ns;
	__u32 error;
	__u32 faults;
	__u64 value;
	__u64 done;
	__u64 fault_address;
	__u64 device_ns;
	__u64 reserved;
};

/**
 * struct hmmgpu_advise - HMMGPU_IOC_ADVISE: what a fault of the GPU does about
 * memory in a range.
 * @addr: In: first address.
 * @size: In: length in bytes.
 * @policy: In: POLICY value.
 * @flags: In: zero.
 *
 * Advice stays with the addresses of this descriptor, whatever is mapped
 * there, until other advice is given.
 *
 * Errors: EINVAL, `addr` or `size` not page-aligned, `size` zero, the range
 * overflows, or the policy is not defined. Otherwise as SUBMIT, but for
 * EAGAIN.
 */
struct hmmgpu_advise {
	__u64 addr;
	__u64 size;
	__u32 policy;
	__u32 flags;
};

/**
 * struct hmmgpu_prefetch - HMMGPU_IOC_PREFETCH: do for a range what faults of
 * the GPU would do, so that there are none.
 * @addr: In: first address.
 * @size: In: length in bytes.
 * @flags: In: PREFETCH flags.
 * @reserved: Zero.
 * @mapped_bytes: Out: bytes that the GPU can access now.
 * @moved_bytes: Out: bytes that moved, each time that they did: what is shared
 *        by a fork comes home to be written to, and goes to VRAM again.
 *
 * Memory that the process cannot access is left out. The outputs are valid on
 * success and on every error but EINVAL and EFAULT.
 *
 * Errors: as SUBMIT, and EINVAL, `addr` or `size` not page-aligned or `size`
 * zero. EINTR, a fatal signal.
 */
struct hmmgpu_prefetch {
	__u64 addr;
	__u64 size;
	__u32 flags;
	__u32 reserved;
	__u64 mapped_bytes;
	__u64 moved_bytes;
};

/* What the device is. */
#define HMMGPU_IOC_QUERY \
	_IOR('J', 0x00, struct hmmgpu_query)
/* Move a range of anonymous memory into VRAM. */
#define HMMGPU_IOC_MIGRATE_TO_DEVICE \
	_IOWR('J', 0x01, struct hmmgpu_migrate)
/* Bring a range of memory home. */
#define HMMGPU_IOC_MIGRATE_TO_SYSTEM \
	_IOWR('J', 0x02, struct hmmgpu_migrate)
/* The driver's counters. */
#define HMMGPU_IOC_STATS \
	_IOR('J', 0x03, struct hmmgpu_stats)
/* Open a named window in the device's telemetry. */
#define HMMGPU_IOC_MARK \
	_IOW('J', 0x04, struct hmmgpu_mark)
/* Submit a job. */
#define HMMGPU_IOC_SUBMIT \
	_IOWR('J', 0x05, struct hmmgpu_submit)
/* Wait for a job. */
#define HMMGPU_IOC_WAIT \
	_IOWR('J', 0x06, struct hmmgpu_wait)
/* Say where memory should be. */
#define HMMGPU_IOC_ADVISE \
	_IOW('J', 0x07, struct hmmgpu_advise)
/* Make memory accessible to the GPU ahead of its faults. */
#define HMMGPU_IOC_PREFETCH \
	_IOWR('J', 0x08, struct hmmgpu_prefetch)

#endif /* _UAPI_HMMGPU_H */
