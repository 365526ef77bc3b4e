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
#define HMMGPU_CONTRACT_VERSION		0x10000
#define HMMGPU_MAX_ORDER		0x12
#define HMMGPU_MAX_TRANSFER_BYTES	0x40000000
#define HMMGPU_VRAM_BLOCK_BYTES		0x200000

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

/* Registers of a queue */
#define HMMGPU_QUEUE_HEADER_LO		0x0
#define HMMGPU_QUEUE_HEADER_HI		0x4
#define HMMGPU_QUEUE_RING_LO		0x8
#define HMMGPU_QUEUE_RING_HI		0xc
#define HMMGPU_QUEUE_RING_LOG2		0x10
#define HMMGPU_QUEUE_VECTOR		0x14
#define HMMGPU_QUEUE_CTRL		0x18
#define HMMGPU_QUEUE_STATUS		0x1c
#define HMMGPU_QUEUE_DOORBELL		0x20

/* Values of registers */
#define HMMGPU_MAGIC_VALUE		0x48474d48
#define HMMGPU_RESET_CTRL_RESET		0x1
#define HMMGPU_STATE_READY		0x0
#define HMMGPU_STATE_RESETTING		0x1
#define HMMGPU_STATE_FAILED		0x2
#define HMMGPU_QUEUE_BASE		0x1000
#define HMMGPU_QUEUE_STRIDE		0x100
#define HMMGPU_MAX_QUEUES		0x10
#define HMMGPU_QUEUE_CTRL_ENABLE	0x1
#define HMMGPU_QUEUE_STATUS_OFF		0x0
#define HMMGPU_QUEUE_STATUS_RUNNING	0x1
#define HMMGPU_QUEUE_STATUS_ERROR	0x2
#define HMMGPU_INT_ERROR		0x1
#define HMMGPU_INT_QUEUE0		0x2

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

/* Offset in BAR 0 of register @reg of queue @queue. */
#define HMMGPU_QUEUE_REG(queue, reg) \
	(HMMGPU_QUEUE_BASE + (queue) * HMMGPU_QUEUE_STRIDE + (reg))

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

#endif /* HMMGPU_HW_H */
