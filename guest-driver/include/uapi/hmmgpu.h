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
#define HMMGPU_ABI_VERSION		1
/* Folio orders that statistics tell apart. */
#define HMMGPU_ORDERS			10

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
 * HMMGPU_IOC_MIGRATE_TO_SYSTEM: move a range of the caller's anonymous memory.
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
 * overflows, or `flags` not zero. ENOSPC, VRAM is full (to device). ENOMEM, no
 * system memory (to system). EIO, a copy failed and the pages stayed where
 * they were. ETIMEDOUT, the device did not answer. EINTR, a fatal signal.
 * ENODEV, the device has gone.
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
 * @cpu_faults: CPU faults on device-private memory.
 * @cpu_fault_pages: Pages that CPU faults brought home.
 * @splits: Large device folios that were split.
 * @fallbacks: Migrations of 2 MiB that fell back to single pages.
 * @refused_pages: Pages that the core refused to migrate.
 * @failed_pages: Pages whose copy failed.
 * @evicted_pages: Pages evicted from VRAM.
 * @fences: Fences awaited.
 * @fence_sleeps: Fences that were awaited by sleeping.
 * @fence_timeouts: Fences that did not come in time.
 * @doorbells: Doorbell writes.
 * @descriptors: Descriptors submitted.
 * @resets: Resets that the driver has seen.
 * @interrupts: Interrupts received.
 * @code_pages_scrubbed: Destination pages that the CPU wrote first because
 *        translated code may be stale.
 * @reserved: Zero.
 */
struct hmmgpu_stats {
	__u64 sys_to_dev_folios[10];
	__u64 dev_to_sys_folios[10];
	__u64 filled_folios[10];
	__u64 vram_folios[10];
	__u64 cpu_faults;
	__u64 cpu_fault_pages;
	__u64 splits;
	__u64 fallbacks;
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
	__u64 reserved[3];
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

/* What the device is. */
#define HMMGPU_IOC_QUERY \
	_IOR('J', 0x00, struct hmmgpu_query)
/* Move a range of the caller's anonymous memory into VRAM. */
#define HMMGPU_IOC_MIGRATE_TO_DEVICE \
	_IOWR('J', 0x01, struct hmmgpu_migrate)
/* Bring a range of the caller's memory home. */
#define HMMGPU_IOC_MIGRATE_TO_SYSTEM \
	_IOWR('J', 0x02, struct hmmgpu_migrate)
/* The driver's counters. */
#define HMMGPU_IOC_STATS \
	_IOR('J', 0x03, struct hmmgpu_stats)
/* Open a named window in the device's telemetry. */
#define HMMGPU_IOC_MARK \
	_IOW('J', 0x04, struct hmmgpu_mark)

#endif /* _UAPI_HMMGPU_H */
