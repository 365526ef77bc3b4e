/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT */
/*
 * The hmmgpu hardware contract.
 *
 * Generated from the Rust definitions; HMMGPU_BLESS=1 cargo test writes it
 * anew.
 */
#ifndef HMMGPU_HW_H
#define HMMGPU_HW_H

#include <linux/types.h>

/* Version and limits */
#define HMMGPU_CONTRACT_VERSION		0x10003
#define HMMGPU_MAX_ORDER		0x12
#define HMMGPU_MAX_TRANSFER_BYTES	0x40000000
#define HMMGPU_VRAM_BLOCK_BYTES		0x200000
#define HMMGPU_PHASE_UNIT_NS		0x40

/* PCI function */
#define HMMGPU_PCI_VENDOR_ID		0x1234
#define HMMGPU_PCI_DEVICE_ID		0x4847
#define HMMGPU_PCI_REVISION		0x1
#define HMMGPU_PCI_CLASS		0x30200
#define HMMGPU_BAR_REGISTERS		0x0
#define HMMGPU_BAR_APERTURE		0x2
#define HMMGPU_BAR_MSIX			0x4
#define HMMGPU_BAR_REGISTERS_SIZE	0x10000
#define HMMGPU_BAR_MSIX_SIZE		0x2000
#define HMMGPU_MSIX_TABLE_OFFSET	0x0
#define HMMGPU_MSIX_PBA_OFFSET		0x1000
#define HMMGPU_MSIX_VECTORS		0x10
#define HMMGPU_VECTOR_ERROR		0x0

/* Registers in BAR 0 */
#define HMMGPU_REG_MAGIC		0x0
#define HMMGPU_REG_VERSION		0x4
#define HMMGPU_REG_FEATURES_LO		0x8
#define HMMGPU_REG_FEATURES_HI		0xc
#define HMMGPU_REG_VRAM_SIZE_LO		0x10
#define HMMGPU_REG_VRAM_SIZE_HI		0x14
#define HMMGPU_REG_FOLIO_ORDERS		0x18
#define HMMGPU_REG_COPY_QUEUES		0x1c
#define HMMGPU_REG_MAX_RING_LOG2	0x20
#define HMMGPU_REG_CONTEXTS		0x24
#define HMMGPU_REG_COMPUTE_ENGINES	0x28
#define HMMGPU_REG_RESET_CTRL		0x40
#define HMMGPU_REG_STATE		0x44
#define HMMGPU_REG_GENERATION		0x48
#define HMMGPU_REG_TIME_LO		0x50
#define HMMGPU_REG_TIME_HI		0x54
#define HMMGPU_REG_INT_CAUSE		0x60
#define HMMGPU_REG_INT_MASK		0x64
#define HMMGPU_REG_ERROR_STATUS		0x80
#define HMMGPU_REG_ERROR_QUEUE		0x84
#define HMMGPU_REG_ERROR_INDEX		0x88
#define HMMGPU_REG_ERROR_ADDR_LO	0x8c
#define HMMGPU_REG_ERROR_ADDR_HI	0x90
#define HMMGPU_REG_ERROR_COUNT		0x94

/* Registers of a queue or context */
#define HMMGPU_QUEUE_HEADER_LO		0x0
#define HMMGPU_QUEUE_HEADER_HI		0x4
#define HMMGPU_QUEUE_RING_LO		0x8
#define HMMGPU_QUEUE_RING_HI		0xc
#define HMMGPU_QUEUE_RING_LOG2		0x10
#define HMMGPU_QUEUE_VECTOR		0x14
#define HMMGPU_QUEUE_CTRL		0x18
#define HMMGPU_QUEUE_STATUS		0x1c
#define HMMGPU_QUEUE_DOORBELL		0x20
#define HMMGPU_CONTEXT_ROOT_LO		0x24
#define HMMGPU_CONTEXT_ROOT_HI		0x28

/* Values of registers */
#define HMMGPU_MAGIC_VALUE		0x48474d48
#define HMMGPU_RESET_CTRL_RESET		0x1
#define HMMGPU_STATE_READY		0x0
#define HMMGPU_STATE_RESETTING		0x1
#define HMMGPU_STATE_FAILED		0x2
#define HMMGPU_QUEUE_BASE		0x1000
#define HMMGPU_QUEUE_STRIDE		0x100
#define HMMGPU_MAX_COPY_QUEUES		0x10
#define HMMGPU_INVALIDATION_QUEUE	0x10
#define HMMGPU_FAULT_QUEUE		0x11
#define HMMGPU_CONTEXT_BASE		0x8000
#define HMMGPU_CONTEXT_STRIDE		0x80
#define HMMGPU_MAX_CONTEXTS		0x100
#define HMMGPU_FEATURE_CONTEXTS		0x1
#define HMMGPU_FEATURE_CHECKSUM		0x2
#define HMMGPU_ERROR_CONTEXT0		0x100
#define HMMGPU_QUEUE_CTRL_ENABLE	0x1
#define HMMGPU_QUEUE_STATUS_OFF		0x0
#define HMMGPU_QUEUE_STATUS_RUNNING	0x1
#define HMMGPU_QUEUE_STATUS_ERROR	0x2
#define HMMGPU_INT_ERROR		0x1
#define HMMGPU_INT_QUEUE0		0x2
#define HMMGPU_INT_COMPUTE		0x80000

/* Limits of queues */
#define HMMGPU_MIN_RING_LOG2		2
#define HMMGPU_MAX_RING_LOG2		16
#define HMMGPU_QUEUE_ALIGN		4096
#define HMMGPU_FENCE_ALIGN		32

/* Opcodes */
#define HMMGPU_OP_COPY			1
#define HMMGPU_OP_FILL			2
#define HMMGPU_OP_FENCE			3
#define HMMGPU_OP_SPAN			4
#define HMMGPU_OP_NOTE			5

/* Flags */
#define HMMGPU_FLAG_SRC_VRAM		0x1
#define HMMGPU_FLAG_DST_VRAM		0x2
#define HMMGPU_FLAG_CHECKSUM		0x4
#define HMMGPU_FLAG_INTERRUPT		0x1
#define HMMGPU_FLAG_SPAN_END		0x1
#define HMMGPU_FLAG_DIRECTION_SHIFT	0x4
#define HMMGPU_FLAG_DIRECTION_MASK	0x30
#define HMMGPU_FLAG_TRIGGER_SHIFT	0x8
#define HMMGPU_FLAG_TRIGGER_MASK	0x700
#define HMMGPU_FLAG_NOTE_MASK		0xf

/* Directions */
#define HMMGPU_DIR_SYS_TO_DEV		0
#define HMMGPU_DIR_DEV_TO_SYS		1
#define HMMGPU_DIR_DEV_TO_DEV		2
#define HMMGPU_DIR_SYS_TO_SYS		3

/* Triggers */
#define HMMGPU_TRIGGER_PREFETCH		0
#define HMMGPU_TRIGGER_GPU_FAULT	1
#define HMMGPU_TRIGGER_CPU_FAULT	2
#define HMMGPU_TRIGGER_EVICT		3

/* Kinds of notes */
#define HMMGPU_NOTE_ALLOC		1
#define HMMGPU_NOTE_FREE		2
#define HMMGPU_NOTE_SPLIT		3
#define HMMGPU_NOTE_MARK		4
#define HMMGPU_NOTE_PROCESS		5
#define HMMGPU_NOTE_PHASES		6
#define HMMGPU_NOTE_FALLBACK		7
#define HMMGPU_NOTE_UNLOAD		8

/* Why large folios did not move whole */
#define HMMGPU_FALLBACK_NO_VRAM		0
#define HMMGPU_FALLBACK_NO_MEMORY	1
#define HMMGPU_FALLBACK_SHARED		2
#define HMMGPU_FALLBACK_SPLIT_FAILED	3
#define HMMGPU_FALLBACK_PARTIAL		4
#define HMMGPU_FALLBACK_INJECTED	5

/* Status of descriptors */
#define HMMGPU_STATUS_OK		0
#define HMMGPU_STATUS_BAD_OPCODE	1
#define HMMGPU_STATUS_BAD_FIELD		2
#define HMMGPU_STATUS_BAD_ORDER		3
#define HMMGPU_STATUS_BAD_COUNT		4
#define HMMGPU_STATUS_MISALIGNED	5
#define HMMGPU_STATUS_VRAM_RANGE	6
#define HMMGPU_STATUS_DMA_UNMAPPED	7
#define HMMGPU_STATUS_DMA_PERMISSION	8
#define HMMGPU_STATUS_OVERLAP		9
#define HMMGPU_STATUS_ABORTED		10
#define HMMGPU_STATUS_BAD_PRODUCER	11
#define HMMGPU_STATUS_QUEUE_UNREACHABLE	12
#define HMMGPU_STATUS_BAD_CONTEXT	13
#define HMMGPU_STATUS_FAULT		14
#define HMMGPU_STATUS_CANCELLED		15
#define HMMGPU_STATUS_HARDWARE		16
#define HMMGPU_STATUS_NO_VRAM		17

/* Address spaces */
#define HMMGPU_VA_BITS			48
#define HMMGPU_PT_LEVELS		4
#define HMMGPU_PT_BITS			9
#define HMMGPU_PT_LARGE_SHIFT		21

/* Bits of page-table entries */
#define HMMGPU_PTE_VALID		0x1
#define HMMGPU_PTE_WRITE		0x2
#define HMMGPU_PTE_ATOMIC		0x4
#define HMMGPU_PTE_VRAM			0x8
#define HMMGPU_PTE_LEAF			0x10
#define HMMGPU_PTE_ADDRESS		0xffffffffff000ULL

/* Opcodes of the invalidation queue */
#define HMMGPU_OP_INVALIDATE		16
#define HMMGPU_OP_REPLAY		17
#define HMMGPU_OP_CANCEL		18

/* What faulted */
#define HMMGPU_FAULT_READ		0
#define HMMGPU_FAULT_WRITE		1
#define HMMGPU_FAULT_ATOMIC		2

/* Reasons of faults */
#define HMMGPU_FAULT_NONE		0
#define HMMGPU_FAULT_NOT_PRESENT	1
#define HMMGPU_FAULT_NOT_WRITABLE	2
#define HMMGPU_FAULT_NOT_ATOMIC		3
#define HMMGPU_FAULT_MALFORMED		4
#define HMMGPU_FAULT_TABLE_UNREACHABLE	5
#define HMMGPU_FAULT_ADDRESS_UNREACHABLE	6
#define HMMGPU_FAULT_VIRTUAL_ADDRESS	7

/* Opcodes of jobs */
#define HMMGPU_JOB_FILL			1
#define HMMGPU_JOB_COPY			2
#define HMMGPU_JOB_COMPARE		3
#define HMMGPU_JOB_CHECKSUM		4
#define HMMGPU_JOB_REDUCE		5
#define HMMGPU_JOB_SAXPY		6
#define HMMGPU_JOB_GATHER		7
#define HMMGPU_JOB_SCATTER		8
#define HMMGPU_JOB_CHASE		9
#define HMMGPU_JOB_ATOMIC_ADD		10

/* Flags of jobs */
#define HMMGPU_JOB_INTERRUPT		0x1
#define HMMGPU_JOB_NO_REPLAY		0x2
#define HMMGPU_JOB_SRC_DMA		0x4
#define HMMGPU_JOB_DST_DMA		0x8

/* Values of jobs */
#define HMMGPU_REDUCE_SUM		0x0
#define HMMGPU_REDUCE_MIN		0x1
#define HMMGPU_REDUCE_MAX		0x2
#define HMMGPU_CHECKSUM_BASIS		0xcbf29ce484222325ULL
#define HMMGPU_CHECKSUM_PRIME		0x100000001b3ULL
#define HMMGPU_JOB_RECORD_ALIGN		0x40

/* Offset in BAR 0 of register @reg of queue @queue. */
#define HMMGPU_QUEUE_REG(queue, reg) \
	(HMMGPU_QUEUE_BASE + (queue) * HMMGPU_QUEUE_STRIDE + (reg))

/* Offset in BAR 0 of register @reg of context @context. */
#define HMMGPU_CONTEXT_REG(context, reg) \
	(HMMGPU_CONTEXT_BASE + (context) * HMMGPU_CONTEXT_STRIDE + (reg))

/**
 * struct hmmgpu_desc - A descriptor.
 * @opcode: OP value.
 * @order: Folio order.
 * @flags: Flags of the opcode.
 * @count: Number of folios or pages.
 * @dst: Destination.
 * @src: Source.
 * @arg: Argument of the opcode.
 */
struct hmmgpu_desc {
	__u8 opcode;
	__u8 order;
	__le16 flags;
	__le32 count;
	__le64 dst;
	__le64 src;
	__le64 arg;
};

/**
 * struct hmmgpu_queue_header - Queue header.
 * @producer: Written by the driver: index after the last descriptor that is
 *        ready.
 * @reserved0: Zero.
 * @need_kick: Written by the device: not zero while the engine sleeps and
 *        wants a doorbell write.
 * @reserved1: Zero.
 * @consumer: Written by the device: index after the last descriptor that is
 *        done with.
 * @reserved2: Zero.
 *
 * Each word that one side writes and the other polls has a cache line of its
 * own.
 */
struct hmmgpu_queue_header {
	__le32 producer;
	__le32 reserved0[15];
	__le32 need_kick;
	__le32 reserved1[15];
	__le32 consumer;
	__le32 reserved2[15];
};

/**
 * struct hmmgpu_fence_record - Fence record, written by a FENCE descriptor.
 * @sequence: Sequence number from the FENCE descriptor.
 * @status: STATUS of the first descriptor that failed, or STATUS_OK.
 * @errors: Number of descriptors that failed.
 * @error_index: Ring index of the first descriptor that failed; zero if none
 *        did.
 * @reserved: Zero.
 * @time_ns: Host's monotonic clock in nanoseconds when the fence was reached.
 *
 * It covers the descriptors of its queue after the fence before it. The device
 * writes `sequence` last (release); a driver that has read the awaited value
 * there (acquire) may read the rest.
 */
struct hmmgpu_fence_record {
	__le64 sequence;
	__le32 status;
	__le32 errors;
	__le32 error_index;
	__le32 reserved;
	__le64 time_ns;
};

/**
 * struct hmmgpu_fault_record - An entry of the fault queue.
 * @sequence: Number of the fault, from 1, unique until the device is reset.
 * @address: Virtual address of the first byte that could not be accessed.
 * @context: Context.
 * @access: FAULT access.
 * @reason: FAULT reason.
 * @level: Level of the entry that it is about.
 * @reserved0: Zero.
 * @job: Sequence number of the job.
 * @time_ns: Host's monotonic clock in nanoseconds.
 * @reserved1: Zero.
 */
struct hmmgpu_fault_record {
	__le64 sequence;
	__le64 address;
	__le32 context;
	__u8 access;
	__u8 reason;
	__u8 level;
	__u8 reserved0;
	__le64 job;
	__le64 time_ns;
	__le64 reserved1[3];
};

/**
 * struct hmmgpu_job - A job.
 * @opcode: JOB opcode.
 * @reserved0: Zero.
 * @flags: Flags.
 * @reserved1: Zero.
 * @dst: Destination.
 * @src: Source.
 * @aux: Indices, or an offset.
 * @count: Number of elements.
 * @arg: Argument of the opcode.
 * @record: DMA address of the job record, 64-byte aligned.
 * @sequence: Sequence number for the job record; not zero.
 */
struct hmmgpu_job {
	__u8 opcode;
	__u8 reserved0;
	__le16 flags;
	__le32 reserved1;
	__le64 dst;
	__le64 src;
	__le64 aux;
	__le64 count;
	__le64 arg;
	__le64 record;
	__le64 sequence;
};

/**
 * struct hmmgpu_job_record - Job record, written when a job has ended.
 * @sequence: Sequence number of the job.
 * @status: STATUS.
 * @detail: What CANCEL gave, or zero.
 * @value: Result.
 * @done: Elements that are done.
 * @fault_address: Virtual address of the fault that ended the job, or zero.
 * @fault_reason: FAULT reason of the fault that ended the job, or zero.
 * @faults: Faults that were replayed.
 * @begin_ns: Host's monotonic clock in nanoseconds when the job was begun.
 * @end_ns: The same when it ended.
 *
 * The device writes `sequence` last (release); a driver that has read the
 * awaited value there (acquire) may read the rest.
 */
struct hmmgpu_job_record {
	__le64 sequence;
	__le32 status;
	__le32 detail;
	__le64 value;
	__le64 done;
	__le64 fault_address;
	__le32 fault_reason;
	__le32 faults;
	__le64 begin_ns;
	__le64 end_ns;
};

#endif /* HMMGPU_HW_H */
