// SPDX-License-Identifier: GPL-2.0-only
/*
 * Room in VRAM for what the GPU wants now: what has been there longest goes home.
 */
#include <linux/sched/mm.h>

#include "context.h"

/*
 * Blocks of a kind that one call tries. Some have nobody any more who could be asked: a
 * fork has inherited them.
 */
#define HMMGPU_RECLAIM_TRIES	16

static unsigned long hmmgpu_reclaim_block(struct hmmgpu_device *hdev,
					  const struct hmmgpu_owner *owner,
					  bool own)
{
	struct mm_struct *mm = hmmgpu_mm_get(hdev, owner->mm);
	struct hmmgpu_move move = {
		.mm = mm,
		.start = owner->addr,
		.end = owner->addr + HPAGE_PMD_SIZE,
		.direction = HMMGPU_DIR_DEV_TO_SYS,
		.trigger = HMMGPU_TRIGGER_EVICT,
		.any_vma = true,
		/* A process that is stuck must not get another one stuck. */
		.try_lock = !own,
	};

	if (!mm)
		return 0;
	hmmgpu_move(hdev, &move);
	mmput(mm);
	hmmgpu_count(hdev, evicted_pages, move.moved);
	return move.moved;
}

static bool hmmgpu_reclaim_some(struct hmmgpu_device *hdev,
				const struct hmmgpu_owner *wanted, bool kept)
{
	unsigned int tries;

	for (tries = 0; tries < HMMGPU_RECLAIM_TRIES; tries++) {
		struct hmmgpu_owner owner;

		if (hmmgpu_device_check(hdev) ||
		    !hmmgpu_vram_oldest(hdev, kept, &owner))
			return false;
		if (owner.mm == wanted->mm && owner.addr == wanted->addr)
			continue;
		if (hmmgpu_reclaim_block(hdev, &owner, owner.mm == wanted->mm))
			return true;
	}
	return false;
}

/**
 * hmmgpu_reclaim() - make room in VRAM
 * @hdev: the device
 * @wanted: what the room is for; that stays
 *
 * Who has a block is only remembered as a hint. A hint may be out of date, and
 * then another block is tried.
 *
 * Context: Process context, no mmap_lock is held.
 * Return: true if something went home.
 */
bool hmmgpu_reclaim(struct hmmgpu_device *hdev,
		    const struct hmmgpu_owner *wanted)
{
	return hmmgpu_reclaim_some(hdev, wanted, false) ||
	       hmmgpu_reclaim_some(hdev, wanted, true);
}
