// SPDX-License-Identifier: GPL-2.0-only
/*
 * Everything home: what removal does before VRAM goes away, and anyone who asks
 * for it through /dev/hmm_dmirrorN.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "batch.h"

/* Rounds without progress before pages are taken that no living mm maps. */
#define HMMGPU_EVICT_PATIENCE	5
/* Rounds without progress, but with copies that failed, before what is left is lost. */
#define HMMGPU_EVICT_HOPELESS	3
#define HMMGPU_EVICT_WARN_S	10
/* Rounds on request: faults of the GPU may send back what has come home. */
#define HMMGPU_EVICT_ROUNDS	40

/**
 * struct hmmgpu_eviction - one eviction of everything
 * @hdev: the device
 * @removal: VRAM is about to go
 * @batch: the batch of this round
 * @moved: pages that came home in this round
 * @max_order: largest order among them
 * @failed: copies failed in this round
 * @lost: pages that were found whose content a reset has taken
 */
struct hmmgpu_eviction {
	struct hmmgpu_device *hdev;
	bool removal;
	struct hmmgpu_batch *batch;
	unsigned long moved;
	unsigned int max_order;
	bool failed;
	unsigned long lost;
};

static void hmmgpu_evict_batch(struct hmmgpu_eviction *ev)
{
	struct hmmgpu_batch *batch = ev->batch;

	hmmgpu_batch_alloc(batch);
	hmmgpu_batch_copy(batch);
	if (hmmgpu_batch_commit(batch))
		ev->failed = true;
	hmmgpu_batch_finish(batch);
	ev->lost += batch->lost;
	ev->moved += batch->moved;
	ev->max_order = max(ev->max_order, batch->max_order);
	hmmgpu_count(ev->hdev, evicted_pages, batch->moved);
}

/* Something to end for at any time, unless VRAM is about to go. */
static int hmmgpu_evict_stop(const struct hmmgpu_eviction *ev)
{
	if (ev->removal)
		return 0;
	if (fatal_signal_pending(current))
		return -EINTR;
	return READ_ONCE(ev->hdev->removing) ? -ENODEV : 0;
}

/*
 * By an explicit list of what is allocated: any mm, any order. Puts migration
 * entries into mms that it does not know and cannot keep from exiting.
 */
static void hmmgpu_evict_listed(struct hmmgpu_eviction *ev)
{
	unsigned long position = 0;
	unsigned int nr;

	while (!hmmgpu_evict_stop(ev) &&
	       (nr = hmmgpu_vram_list(ev->hdev, &position, ev->batch->src,
				      HMMGPU_BATCH_PAGES))) {
		hmmgpu_batch_collect_pfns(ev->batch, nr);
		hmmgpu_evict_batch(ev);
		cond_resched();
	}
}

/* As single pages, which splits a large folio that may be shared, see below. */
static void hmmgpu_evict_range(struct hmmgpu_eviction *ev,
			       struct vm_area_struct *vma, unsigned long start,
			       unsigned long end)
{
	struct hmmgpu_batch *batch = ev->batch;
	bool large, shared = false;

	large = hmmgpu_find_large(ev->hdev, vma, start, true, &shared);
	if (hmmgpu_batch_collect(batch, vma, start, end,
				 MIGRATE_VMA_SELECT_DEVICE_PRIVATE, NULL))
		return;
	if (large && !batch->src[0])
		hmmgpu_span_fallback(ev->hdev, batch->span, start,
				     HMMGPU_FALLBACK_SPLIT_FAILED);
	else if (large && shared)
		hmmgpu_span_fallback(ev->hdev, batch->span, start,
				     HMMGPU_FALLBACK_SHARED);
	hmmgpu_evict_batch(ev);
}

/*
 * Brings what one mm has in VRAM home as single pages, or, if the device is
 * lost, only looks for it. Returns true if it has something there that is lost.
 */
static bool hmmgpu_evict_mm(struct hmmgpu_eviction *ev, struct mm_struct *mm)
{
	struct hmmgpu_batch *batch = ev->batch;
	bool gone = ev->hdev->lost, found = false;
	unsigned long addr = 0, before = ev->lost;
	struct vm_area_struct *vma;

	/* Removal goes on even if who asked for it is being killed. */
	if (ev->removal)
		mmap_read_lock(mm);
	else if (mmap_read_lock_killable(mm))
		return false;
	while (!(found && gone) && !hmmgpu_evict_stop(ev) &&
	       (vma = find_vma(mm, addr))) {
		unsigned long end;

		addr = max(addr, vma->vm_start);
		end = min(vma->vm_end, ALIGN(addr + 1, HPAGE_PMD_SIZE));
		/* Private mappings of files have anonymous pages, too. */
		if (!vma->anon_vma || is_vm_hugetlb_page(vma) ||
		    vma->vm_flags & VM_SPECIAL) {
			addr = vma->vm_end;
			continue;
		}
		if (hmmgpu_batch_find(batch, vma, addr, end)) {
			found = true;
			if (!gone)
				hmmgpu_evict_range(ev, vma, addr, end);
		}
		addr = end;
		cond_resched();
	}
	mmap_read_unlock(mm);
	return gone ? found : ev->lost != before;
}

/*
 * The mm of a process, which its main thread may have left while others go on.
 * An mm that is got cannot be taken down before it is put.
 */
static struct mm_struct *hmmgpu_process_mm(struct task_struct *process)
{
	struct mm_struct *mm = NULL;
	struct task_struct *thread;

	rcu_read_lock();
	for_each_thread(process, thread) {
		mm = get_task_mm(thread);
		if (mm)
			break;
	}
	rcu_read_unlock();
	return mm;
}

/*
 * Forks share folios with mms that never saw this device, so all processes are
 * asked. While an mm is walked it cannot exit, and its large folios are split
 * when they are collected: this needs no large destinations, and no large
 * migration entries, which the kernel mistakes for mappings when another mm
 * that shares them exits (see hmmgpu_request_lock()).
 *
 * What is lost, with the device or by an earlier reset, cannot come home. Whoever
 * has it would get SIGBUS at the next touch, but may never touch it again, and
 * VRAM cannot go while it is mapped: in removal it is killed.
 */
static void hmmgpu_evict_processes(struct hmmgpu_eviction *ev)
{
	struct task_struct *task, *next;

	rcu_read_lock();
	task = &init_task;
	get_task_struct(task);
	do {
		struct mm_struct *mm;

		rcu_read_unlock();
		mm = hmmgpu_process_mm(task);
		if (mm) {
			if (hmmgpu_evict_mm(ev, mm) && ev->removal) {
				dev_err(ev->hdev->dev,
					"killing %s (pid %d): its memory was in VRAM and is lost\n",
					task->comm, task_pid_nr(task));
				send_sig(SIGKILL, task, 1);
			}
			mmput(mm);
		}
		rcu_read_lock();
		/* A task that has left the list leads nowhere: end the round. */
		next = pid_alive(task) ? next_task(task) : &init_task;
		get_task_struct(next);
		put_task_struct(task);
		task = next;
	} while (task != &init_task);
	put_task_struct(task);
	rcu_read_unlock();
}

/* One round. Returns false if nothing could be tried. */
static bool hmmgpu_evict_round(struct hmmgpu_eviction *ev, unsigned long used,
			       bool listed)
{
	struct hmmgpu_device *hdev = ev->hdev;
	struct hmmgpu_span span = {
		.direction = HMMGPU_DIR_DEV_TO_SYS,
		.trigger = HMMGPU_TRIGGER_EVICT,
	};

	ev->batch = hmmgpu_batch_get(hdev, &span);
	if (!ev->batch)
		return false;
	ev->moved = 0;
	ev->max_order = 0;
	ev->failed = false;
	hmmgpu_span_begin(hdev, &span, NULL, 0, used);
	hmmgpu_evict_processes(ev);
	if (!hdev->lost && listed)
		hmmgpu_evict_listed(ev);
	hmmgpu_span_end(hdev, &span, ev->max_order, ev->moved);
	hmmgpu_batch_put(ev->batch);
	return true;
}

/* In removal it has to be empty; otherwise, what is lost may stay. */
static unsigned long hmmgpu_evict_left(const struct hmmgpu_eviction *ev)
{
	return ev->removal ? hmmgpu_vram_used(ev->hdev) :
			     hmmgpu_vram_alive(ev->hdev);
}

/**
 * hmmgpu_evict_all() - bring everything home
 * @hdev: the device
 * @removal: VRAM is about to go
 *
 * In removal it does not return before VRAM is empty: memunmap_pages() would only
 * wait in a worse place. Nothing can go to VRAM any more then. What the device
 * fails to copy again and again is lost with the device.
 *
 * Otherwise it does what can be done: jobs run on meanwhile, and their faults, as
 * other requests, bring memory to VRAM again, maybe faster than it leaves. So the
 * number of rounds is limited, and a fatal signal ends it, as does removal.
 *
 * Folios that are locked or referenced for a moment come with a later round. An
 * mm that is being taken down is left to do so: only when that gets nowhere is
 * what remains collected page by page.
 *
 * Context: Process context, sleeps. &hmmgpu_device.gate is held, in removal for
 * writing; no mmap_lock is held.
 * Return: 0 if nothing is in VRAM, or only what is lost, but for removal; otherwise
 * -EBUSY, -EINTR or -ENODEV.
 */
int hmmgpu_evict_all(struct hmmgpu_device *hdev, bool removal)
{
	struct hmmgpu_eviction ev = { .hdev = hdev, .removal = removal };
	unsigned long warn = jiffies + HMMGPU_EVICT_WARN_S * HZ;
	unsigned int idle = 0, round = 0;
	unsigned long used;

	while ((used = hmmgpu_evict_left(&ev))) {
		int ret = hmmgpu_evict_stop(&ev);

		if (ret)
			return ret;
		if (!removal && (round++ == HMMGPU_EVICT_ROUNDS ||
				 idle > HMMGPU_EVICT_PATIENCE + 1))
			return -EBUSY;
		if (!hmmgpu_evict_round(&ev, used,
					idle >= HMMGPU_EVICT_PATIENCE)) {
			msleep(100);
			continue;
		}
		if (hmmgpu_evict_left(&ev) < used) {
			idle = 0;
			continue;
		}
		if (hdev->lost && !removal)
			return -ENODEV;
		idle++;
		if (removal && ev.failed && idle >= HMMGPU_EVICT_HOPELESS)
			hmmgpu_device_lose(hdev, hdev->epoch,
					   "memory cannot be copied home");
		msleep(min(10 * idle, 500U));
		if (removal && time_after(jiffies, warn)) {
			dev_warn(hdev->dev,
				 "%lu pages are still in VRAM: waiting for whoever holds them\n",
				 used);
			warn = jiffies + HMMGPU_EVICT_WARN_S * HZ;
		}
	}
	return 0;
}
