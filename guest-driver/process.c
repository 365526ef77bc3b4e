// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whose memory it is that moves: what the device tells people who look at it from
 * outside of the guest.
 */
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "hmmgpu_drv.h"

static struct task_struct *hmmgpu_mm_task(const struct mm_struct *mm)
{
	/* A kernel thread that borrows an mm is not whose memory it is. */
	if (current->mm == mm && !(current->flags & PF_KTHREAD))
		return current;
#ifdef CONFIG_MEMCG
	return rcu_dereference(mm->owner);
#else
	return NULL;
#endif
}

/**
 * hmmgpu_process_of() - whose memory is in an mm?
 * @hdev: the device
 * @mm: the mm, which does not go meanwhile
 * @process: gets the process; an id of zero if it is not known, or if the device
 *           has no use for it
 *
 * The name is what the process is called now: it may change at any time.
 *
 * Context: Any process context.
 */
void hmmgpu_process_of(struct hmmgpu_device *hdev, const struct mm_struct *mm,
		       struct hmmgpu_process *process)
{
	struct task_struct *task;

	*process = (struct hmmgpu_process) { };
	if (!hmmgpu_takes_notes(hdev))
		return;
	rcu_read_lock();
	task = hmmgpu_mm_task(mm);
	if (task) {
		process->id = task_tgid_nr(task);
		strscpy_pad(process->name, task->group_leader->comm);
	}
	rcu_read_unlock();
}

/**
 * hmmgpu_process_announce() - tell the device of a process
 * @hdev: the device
 * @mm: its mm, which does not go meanwhile
 *
 * Who uses the device is known then before any memory moves.
 *
 * Context: Process context, may sleep while the ring is full.
 */
void hmmgpu_process_announce(struct hmmgpu_device *hdev,
			     const struct mm_struct *mm)
{
	struct hmmgpu_process process;
	struct hmmgpu_submission sub = { .process = &process };

	hmmgpu_process_of(hdev, mm, &process);
	/* The only error is a lost device, which has no use for it. */
	if (process.id)
		hmmgpu_ring_submit(&hdev->ring, &sub);
}
