/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The interface of the nodes /dev/hmm_dmirrorN: the one that the kernel's HMM
 * test module has, because programs written for that module are to run here.
 * Numbers and values are theirs to fix; what is not listed is not answered.
 */
#ifndef HMMGPU_DMIRROR_ABI_H
#define HMMGPU_DMIRROR_ABI_H

#include <linux/bits.h>
#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct hmmgpu_dmirror_cmd - argument of every command
 * @addr: in: first address of the range that the device works on
 * @ptr: in: buffer of the caller: data, or one byte a page for SNAPSHOT
 * @npages: in: pages of the range; the flags for FLAGS
 * @cpages: out: pages that are done
 * @faults: out: passes that made missing pages accessible
 *
 * The outputs are valid on success only.
 */
struct hmmgpu_dmirror_cmd {
	__u64 addr;
	__u64 ptr;
	__u64 npages;
	__u64 cpages;
	__u64 faults;
};

#define HMMGPU_DMIRROR_IOC(nr) _IOWR('H', nr, struct hmmgpu_dmirror_cmd)

/* The device reads the range into @ptr, faulting in what is missing. */
#define HMMGPU_DMIRROR_READ		HMMGPU_DMIRROR_IOC(0)
/* The device writes the range from @ptr, likewise. */
#define HMMGPU_DMIRROR_WRITE		HMMGPU_DMIRROR_IOC(1)
/* The range moves to the device, which then reads it into @ptr. */
#define HMMGPU_DMIRROR_MIGRATE_TO_DEV	HMMGPU_DMIRROR_IOC(2)
/* The range comes home. */
#define HMMGPU_DMIRROR_MIGRATE_TO_SYS	HMMGPU_DMIRROR_IOC(3)
/* How the device would see each page now. */
#define HMMGPU_DMIRROR_SNAPSHOT		HMMGPU_DMIRROR_IOC(4)
/* The device alone may access the range until a CPU does; then as READ. */
#define HMMGPU_DMIRROR_EXCLUSIVE	HMMGPU_DMIRROR_IOC(5)
/* EPERM while a page of the range is exclusive. */
#define HMMGPU_DMIRROR_CHECK_EXCLUSIVE	HMMGPU_DMIRROR_IOC(6)
/* Everything that is on the device comes home, whosever it is. */
#define HMMGPU_DMIRROR_RELEASE		HMMGPU_DMIRROR_IOC(7)
/* Sets flags. */
#define HMMGPU_DMIRROR_FLAGS		HMMGPU_DMIRROR_IOC(8)
/* READ that lets go of mmap_lock while a page is awaited. */
#define HMMGPU_DMIRROR_READ_UNLOCKED	HMMGPU_DMIRROR_IOC(9)

/* FLAGS: the next allocation of 2 MiB fails, on either side. */
#define HMMGPU_DMIRROR_FLAG_FAIL_ALLOC	BIT_ULL(0)

/* SNAPSHOT: no memory that a device could access. */
#define HMMGPU_DMIRROR_PROT_ERROR	0xff
/* SNAPSHOT: not there now. */
#define HMMGPU_DMIRROR_PROT_NONE	0x00
/* SNAPSHOT: may be read. */
#define HMMGPU_DMIRROR_PROT_READ	0x01
/* SNAPSHOT: may be read and written. */
#define HMMGPU_DMIRROR_PROT_WRITE	0x02
/* SNAPSHOT, besides: part of a mapping of 2 MiB. */
#define HMMGPU_DMIRROR_PROT_PMD		0x04
/* SNAPSHOT, besides: part of a mapping of 1 GiB. */
#define HMMGPU_DMIRROR_PROT_PUD		0x08
/* SNAPSHOT, besides: the zero page. */
#define HMMGPU_DMIRROR_PROT_ZERO	0x10
/* SNAPSHOT, besides: in the VRAM of this device. */
#define HMMGPU_DMIRROR_PROT_LOCAL	0x20

#endif /* HMMGPU_DMIRROR_ABI_H */
