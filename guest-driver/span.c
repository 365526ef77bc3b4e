// SPDX-License-Identifier: GPL-2.0-only
/*
 * Spans: one migration each, seen from the device. With it go what only the driver
 * knows: whose memory it is, where the time went, and what did not move whole.
 */
#include <linux/ktime.h>

#include "batch.h"
#include "hmmgpu_trace.h"

/* Phases, and each reason once. */
#define HMMGPU_SPAN_NOTES	(1 + HMMGPU_NR_FALLBACKS)

static u16 hmmgpu_span_flags(const struct hmmgpu_span *span)
{
	return span->direction << HMMGPU_FLAG_DIRECTION_SHIFT |
	       span->trigger << HMMGPU_FLAG_TRIGGER_SHIFT;
}

static unsigned int hmmgpu_span_kind(const struct hmmgpu_span *span)
{
	return span->direction * HMMGPU_NR_TRIGGERS + span->trigger;
}

/**
 * hmmgpu_span_begin() - a migration begins
 * @hdev: the device
 * @span: the span
 * @mm: whose memory moves, or NULL if it is that of several
 * @addr: first address, for the trace
 * @pages: number of pages that are asked to move
 *
 * Also wakes the engine up, so that it is ready when the copies come.
 *
 * Context: Process context, may sleep while the ring is full.
 */
void hmmgpu_span_begin(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
		       const struct mm_struct *mm, unsigned long addr,
		       unsigned long pages)
{
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_SPAN,
		.flags = cpu_to_le16(hmmgpu_span_flags(span)),
	};
	struct hmmgpu_submission sub = { .descs = &desc, .nr_descs = 1 };

	span->id = atomic64_inc_return(&hdev->span_ids);
	span->asked = min_t(unsigned long, pages, U32_MAX);
	span->start_ns = ktime_get_ns();
	if (mm)
		hmmgpu_process_of(hdev, mm, &span->process);
	if (span->process.id)
		sub.process = &span->process;
	trace_hmmgpu_migrate_begin(hdev->id, span->id, span->direction,
				   span->trigger, span->process.id, addr,
				   pages);
	desc.count = cpu_to_le32(span->asked);
	desc.dst = cpu_to_le64(span->process.id);
	desc.arg = cpu_to_le64(span->id);
	/* The only error is a lost device, which the copies will tell of. */
	hmmgpu_ring_submit(&hdev->ring, &sub);
}

/**
 * hmmgpu_span_fallback() - a large folio does not move whole
 * @hdev: the device
 * @span: the span
 * @addr: where it is mapped, or zero if that is not known; for the trace
 * @reason: FALLBACK value
 */
void hmmgpu_span_fallback(struct hmmgpu_device *hdev, struct hmmgpu_span *span,
			  unsigned long addr, unsigned int reason)
{
	span->fallbacks[reason]++;
	trace_hmmgpu_fallback(hdev->id, span->id, span->direction,
			      span->trigger, addr, HMMGPU_LARGE_ORDER, reason);
}

static u32 hmmgpu_phase_units(const struct hmmgpu_span *span,
			      enum hmmgpu_phase phase)
{
	return min_t(u64, span->phase_ns[phase] / HMMGPU_PHASE_UNIT_NS,
		     U32_MAX);
}

static unsigned int hmmgpu_span_notes(const struct hmmgpu_span *span,
				      struct hmmgpu_desc *notes)
{
	unsigned int reason, nr = 0;
	u32 units[HMMGPU_NR_PHASES];
	enum hmmgpu_phase phase;

	for (phase = 0; phase < HMMGPU_NR_PHASES; phase++)
		units[phase] = hmmgpu_phase_units(span, phase);
	notes[nr++] = (struct hmmgpu_desc) {
		.opcode = HMMGPU_OP_NOTE,
		.flags = cpu_to_le16(HMMGPU_NOTE_PHASES),
		.count = cpu_to_le32(units[HMMGPU_PHASE_FINISH]),
		.dst = cpu_to_le64((u64)units[HMMGPU_PHASE_ALLOC] << 32 |
				   units[HMMGPU_PHASE_COLLECT]),
		.src = cpu_to_le64((u64)units[HMMGPU_PHASE_COMMIT] << 32 |
				   units[HMMGPU_PHASE_COPY]),
		.arg = cpu_to_le64(span->id),
	};
	for (reason = 0; reason < HMMGPU_NR_FALLBACKS; reason++) {
		if (!span->fallbacks[reason])
			continue;
		notes[nr++] = (struct hmmgpu_desc) {
			.opcode = HMMGPU_OP_NOTE,
			.order = HMMGPU_LARGE_ORDER,
			.flags = cpu_to_le16(HMMGPU_NOTE_FALLBACK |
					     hmmgpu_span_flags(span)),
			.count = cpu_to_le32(span->fallbacks[reason]),
			.arg = cpu_to_le64(reason),
		};
	}
	return nr;
}

static void hmmgpu_span_count(struct hmmgpu_device *hdev,
			      const struct hmmgpu_span *span, u32 moved)
{
	unsigned int kind = hmmgpu_span_kind(span), reason;
	enum hmmgpu_phase phase;

	static_assert(ARRAY_SIZE(((struct hmmgpu_stats *)0)->phase_ns) ==
		      HMMGPU_NR_PHASES);
	static_assert(ARRAY_SIZE(((struct hmmgpu_stats *)0)->fallbacks) ==
		      HMMGPU_NR_FALLBACKS);
	static_assert(ARRAY_SIZE(((struct hmmgpu_stats *)0)->spans) ==
		      2 * HMMGPU_NR_TRIGGERS);

	hmmgpu_count_at(hdev, spans, kind, 1);
	hmmgpu_count_at(hdev, pages_asked, kind, span->asked);
	hmmgpu_count_at(hdev, pages_moved, kind, moved);
	for (phase = 0; phase < HMMGPU_NR_PHASES; phase++)
		hmmgpu_count_at(hdev, phase_ns, phase,
				(u64)hmmgpu_phase_units(span, phase) *
				HMMGPU_PHASE_UNIT_NS);
	for (reason = 0; reason < HMMGPU_NR_FALLBACKS; reason++)
		if (span->fallbacks[reason])
			hmmgpu_count_at(hdev, fallbacks, reason,
					span->fallbacks[reason]);
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
	u32 moved = min_t(unsigned long, pages, U32_MAX);
	struct hmmgpu_desc notes[HMMGPU_SPAN_NOTES];
	struct hmmgpu_desc desc = {
		.opcode = HMMGPU_OP_SPAN,
		.order = order,
		.flags = cpu_to_le16(HMMGPU_FLAG_SPAN_END |
				     hmmgpu_span_flags(span)),
		.count = cpu_to_le32(moved),
		.arg = cpu_to_le64(span->id),
	};
	struct hmmgpu_submission sub = {
		.notes = notes,
		.descs = &desc,
		.nr_descs = 1,
	};

	if (hmmgpu_takes_notes(hdev))
		sub.nr_notes = hmmgpu_span_notes(span, notes);
	/* Only a lost device does not get to know; nor is it counted then. */
	if (!hmmgpu_ring_submit(&hdev->ring, &sub))
		hmmgpu_span_count(hdev, span, moved);
	trace_hmmgpu_migrate_end(hdev->id, span->id, span->direction,
				 span->trigger, order, (u64)pages << PAGE_SHIFT,
				 ktime_get_ns() - span->start_ns);
}
