// SPDX-License-Identifier: GPL-2.0-only
/*
 * Spans: begin and end of one migration, seen from the device.
 */
#include <linux/ktime.h>

#include "batch.h"
#include "hmmgpu_trace.h"

static void hmmgpu_span_submit(struct hmmgpu_device *hdev,
			       const struct hmmgpu_span *span, u16 flags,
			       unsigned int order, unsigned long pages)
{
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_SPAN,
		.order = order,
		.flags = cpu_to_le16(flags |
			span->direction << HMMGPU_FLAG_DIRECTION_SHIFT |
			span->trigger << HMMGPU_FLAG_TRIGGER_SHIFT),
		.count = cpu_to_le32(min_t(unsigned long, pages, U32_MAX)),
		.arg = cpu_to_le64(span->id),
	};
	struct hmmgpu_submission sub = { .descs = &desc, .nr_descs = 1 };

	/* The only error is a lost device, which the copies will tell of. */
	hmmgpu_ring_submit(&hdev->ring, &sub);
}

/**
 * hmmgpu_span_begin() - a migration begins
 * @hdev: the device
 * @span: the span
 * @direction: DIR value
 * @trigger: TRIGGER value
 * @addr: first address, for the trace
 * @pages: number of pages that are asked to move
 *
 * Also wakes the engine up, so that it is ready when the copies come.
 *
 * Context: Process context, may sleep while the ring is full.
 */
void hmmgpu_span_begin(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
		       unsigned int direction, unsigned int trigger,
		       unsigned long addr, unsigned long pages)
{
	span->id = atomic64_inc_return(&hdev->span_ids);
	span->direction = direction;
	span->trigger = trigger;
	span->start_ns = ktime_get_ns();
	trace_hmmgpu_migrate_begin(hdev->id, span->id, direction, trigger, addr,
				   pages);
	hmmgpu_span_submit(hdev, span, 0, 0, pages);
}

/**
 * hmmgpu_span_end() - a migration is over
 * @hdev: the device
 * @span: the span
 * @order: largest order that moved
 * @pages: number of pages that moved
 *
 * Context: Process context, may sleep while the ring is full.
 */
void hmmgpu_span_end(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
		     unsigned int order, unsigned long pages)
{
	hmmgpu_span_submit(hdev, span, HMMGPU_FLAG_SPAN_END, order, pages);
	trace_hmmgpu_migrate_end(hdev->id, span->id, span->direction,
				 span->trigger, order, (u64)pages << PAGE_SHIFT,
				 ktime_get_ns() - span->start_ns);
}
