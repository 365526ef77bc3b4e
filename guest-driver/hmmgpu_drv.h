/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the driver share.
 */
#ifndef HMMGPU_DRV_H
#define HMMGPU_DRV_H

#include <linux/atomic.h>
#include <linux/idr.h>
#include <linux/io.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pm.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include <uapi/hmmgpu.h>

#include "compat.h"
#include "hmmgpu_hw.h"

/**
 * DOC: Locking
 *
 * From the outside in:
 *
 * * &hmmgpu_device.gate: user operations hold it for reading, and removal, which
 *   nothing ends, for writing. Recovery and suspending only try for that: a writer
 *   that waits also stops readers. Memory of the caller is not accessed under it:
 *   arguments and data may be on pages that wait for user space. CPU faults do not
 *   take it: they must go on while removal brings everything home. Nor do the
 *   threads that serve faults of the GPU: removal ends them before it does that.
 * * &hmmgpu_file.lock, &hmmgpu_pagetable.grow, &hmmgpu_job_queue.run,
 *   &hmmgpu_job_queue.lock: each for what its structure says, with nothing but
 *   allocations, registers and the wait for a job inside.
 * * mmap_lock of the mm in question, held from collect to finish: by the CPU
 *   fault path's caller and by migrations to the device for reading, by
 *   requests to bring something home for writing, together with the lock of the
 *   VMA (hmmgpu_request_lock() says why). Nothing that is held inside may be
 *   waited for by someone who then takes mmap_lock. Both locks may have to wait
 *   for a CPU fault, and that for the pages of some migration: no batch is in
 *   flight when they are taken.
 * * &hmmgpu_device.flight: held for reading by migrations and CPU faults while they
 *   have memory in flight, and around the answer to a fault of the GPU. Recovery
 *   holds it for writing, and only tries for it: so readers never wait for each
 *   other, and it is no matter what they hold. Of what is further out, recovery
 *   takes &hmmgpu_job_queue.lock, under which nobody asks for this one.
 * * &hmmgpu_mirror.lock: the entries of one context's page table. The notifier
 *   takes it, under whatever those who change an mm hold, reclaim included: inside
 *   it no memory is allocated that may have to be reclaimed, and neither
 *   mmap_lock nor a folio lock is taken. Held while the notifier waits for the
 *   device to be done with what is taken away. That ends: an invalidation waits
 *   for no fault, and a device that does not answer is reset. Never two of them.
 * * &hmmgpu_device.lost_lock: serialises giving a device up.
 * * &hmmgpu_ring.lock: the producer index, the ring's slots, the fence slots.
 *   Process context only: whatever may run elsewhere (folio_free, folio_split)
 *   submits nothing and leaves its notes with the VRAM allocator. Held around
 *   one submission, never while anything is waited for.
 * * &hmmgpu_vram.lock: blocks, bitmaps and lists of VRAM, and the notes that
 *   the device has yet to get. Innermost, and with interrupts off, because
 *   folio_free runs under page-table locks and in interrupt context.
 * * &hmmgpu_device.context_lock, and inside it &hmmgpu_context.fault_lock: contexts
 *   by number, and the fault that one has. &hmmgpu_device.files_lock: open files.
 *   &hmmgpu_device.batch_lock: the spare batches. Leaves.
 *
 * A device that is lost (hmmgpu_device_lose()) has been reset, and everyone who
 * uses it notices soon: whoever waits for it looks at &hmmgpu_device.lost, and
 * nothing is put into a ring any more, for which that is looked at under the ring's
 * lock. When the last one has let go of the gate and of &hmmgpu_device.flight, it is
 * recovered (recover.c). Who holds neither may still find out late that it was lost:
 * notifiers, note_work, waits for fences. So what one of these has seen is worth
 * nothing if &hmmgpu_device.epoch has changed since.
 *
 * Each context has a thread for its faults. It takes locks as a user operation
 * does, but the gate. Most of what it waits for without a limit can be killed:
 * mmap_lock, user space that a fault needs (userfaultfd), a page to make
 * exclusive. Two waits cannot: mmu_interval_read_begin() waits until changes of
 * the mm that are under way are over, vma_start_write() for the CPU faults in that
 * VMA. Neither of these takes the gate or waits for a thread of this kind, so
 * they end without us; if the storage that they wait for is slow, so is taking
 * the context away. It waits for no other context: while it makes room in VRAM,
 * it holds no mmap_lock and gives up if that of another mm is taken. So a context
 * can be taken away at any time, in this order: the device is told, the thread is
 * killed, the notifier is removed, the page table is freed. Who does that holds
 * the gate and nothing else, and no thread waits for who does.
 *
 * Removal first says that it comes and wakes those who wait for jobs, for they
 * hold the gate, then removes the nodes, takes the gate for writing, ends all
 * contexts, and only then brings home what is in VRAM. It has to wait for user
 * operations that are under way: one that faults memory in for the GPU waits for
 * whoever provides that memory, and ends early only if its process is killed.
 *
 * Folio locks, which a batch holds from collect to finish, are tried by the
 * core's collect, with one exception: it waits for the lock of a large folio
 * that it meets mapped by single pages, in order to split it. Another task may
 * hold that lock, through a mapping in a fork. No circle of such waits can close:
 *
 * * A batch lies within one 2 MiB unit. So a collect that waits holds no large
 *   folio of its own: one that it had collected would have been all of the unit.
 * * A large folio in flight was unmapped in all mms before its collect returned.
 *   Whoever waits for it has met it before that.
 * * So, in a circle, each task met the next one's folio before that one was in
 *   flight, and the next one began to wait after that: each would have begun to
 *   wait before the next, all around.
 *
 * Who waits for a folio to split it also holds a reference, so that nobody else
 * can split it meanwhile, and the lock never becomes that of a single page. With
 * batches of two units, two tasks that each collected a large folio and then met
 * the other's would wait for good.
 */

#define HMMGPU_LARGE_ORDER	9
#define HMMGPU_LARGE_PAGES	512U
/* Pages in one batch: one folio of 2 MiB. More could deadlock: DOC: Locking. */
#define HMMGPU_BATCH_PAGES	HMMGPU_LARGE_PAGES
/* Entries of the ring: room for several batches of scattered pages. */
#define HMMGPU_RING_LOG2	14
#define HMMGPU_FENCE_SLOTS	128
#define HMMGPU_SPARE_BATCHES	4
/*
 * Entries of the invalidation queue. Whoever invalidates waits for it, so few are
 * in it at a time.
 */
#define HMMGPU_INVALIDATION_RING_LOG2	9
/* Entries of the fault queue: a context has one fault at a time. */
#define HMMGPU_FAULT_RING_LOG2	8

#define HMMGPU_VECTOR_COPY	1
#define HMMGPU_VECTOR_INVALIDATION	2
#define HMMGPU_VECTOR_FAULT	3
#define HMMGPU_VECTOR_COMPUTE	4
#define HMMGPU_VECTORS		5

/* Processes that the device is not told the names of again. */
#define HMMGPU_NAMED_PROCESSES	64

/* The phases of a batch, in the order in which they run, see batch.h. */
enum hmmgpu_phase {
	HMMGPU_PHASE_COLLECT,
	HMMGPU_PHASE_ALLOC,
	HMMGPU_PHASE_COPY,
	HMMGPU_PHASE_COMMIT,
	HMMGPU_PHASE_FINISH,
	HMMGPU_NR_PHASES,
};

#define HMMGPU_NR_FALLBACKS	(HMMGPU_FALLBACK_INJECTED + 1)
#define HMMGPU_NR_TRIGGERS	(HMMGPU_TRIGGER_EVICT + 1)

#define HMMGPU_NR_COUNTERS	(sizeof(struct hmmgpu_stats) / sizeof(u64))
/* Index of a counter: the place of its field in struct hmmgpu_stats. */
#define HMMGPU_COUNTER(field) \
	(offsetof(struct hmmgpu_stats, field) / sizeof(u64))
#define hmmgpu_count(hdev, field, n) \
	atomic64_add((n), &(hdev)->counters[HMMGPU_COUNTER(field)])
/* The same of a field that is an array, by order or otherwise. */
#define hmmgpu_count_at(hdev, field, index, n) \
	atomic64_add((n), &(hdev)->counters[HMMGPU_COUNTER(field) + (index)])

struct hmmgpu_device;

/**
 * struct hmmgpu_ring - a queue of descriptors: copies, or invalidations
 * @hdev: the device
 * @queue: number of the queue
 * @lock: protects @producer, @next_sequence, @slots and the ring's slots
 * @header: queue header, shared with the device
 * @header_dma: its DMA address
 * @entries: descriptors, shared with the device
 * @entries_dma: their DMA address
 * @fences: fence records, written by the device
 * @fences_dma: their DMA address
 * @size: number of descriptors, a power of two
 * @producer: index after the last descriptor written
 * @next_sequence: sequence number of the next fence
 * @slots: fence records in use; record 0 is for wake-ups
 * @wait: sleepers for fences and for free fence records
 * @vector: interrupt vector
 */
struct hmmgpu_ring {
	struct hmmgpu_device *hdev;
	unsigned int queue;
	unsigned int vector;
	spinlock_t lock; /* protects producer, next_sequence, slots, entries */
	struct hmmgpu_queue_header *header;
	dma_addr_t header_dma;
	struct hmmgpu_desc *entries;
	dma_addr_t entries_dma;
	struct hmmgpu_fence_record *fences;
	dma_addr_t fences_dma;
	u32 size;
	u32 producer;
	u64 next_sequence;
	DECLARE_BITMAP(slots, HMMGPU_FENCE_SLOTS);
	wait_queue_head_t wait;
};

/**
 * struct hmmgpu_fence - a fence that was submitted
 * @sequence: its sequence number
 * @slot: its fence record
 * @epoch: &hmmgpu_device.epoch in which it was submitted
 * @end: index after it in the ring
 * @passed_ns: when the device was first seen to be done with it, or zero
 */
struct hmmgpu_fence {
	u64 sequence;
	unsigned int slot;
	u32 epoch;
	u32 end;
	u64 passed_ns;
};

/**
 * struct hmmgpu_process - a process, as the device gets to know it
 * @id: its number in the initial PID namespace; zero for none
 * @name: what it is called, padded with zeros
 */
struct hmmgpu_process {
	u32 id;
	char name[TASK_COMM_LEN];
};

/**
 * struct hmmgpu_submission - descriptors that go into the ring together
 * @process: a process that they are about, or NULL; the device is told its name
 *           first, if it has not been
 * @notes: descriptors that go first
 * @nr_notes: their number
 * @descs: descriptors that go next
 * @nr_descs: their number
 * @fence: the fence after them, or NULL for none
 */
struct hmmgpu_submission {
	const struct hmmgpu_process *process;
	const struct hmmgpu_desc *notes;
	unsigned int nr_notes;
	const struct hmmgpu_desc *descs;
	unsigned int nr_descs;
	struct hmmgpu_fence *fence;
};

/**
 * struct hmmgpu_fault_ring - the fault queue
 * @lock: serialises taking records; protects @consumer
 * @header: queue header, shared with the device
 * @header_dma: its DMA address
 * @records: fault records, written by the device
 * @records_dma: their DMA address
 * @size: number of records, a power of two
 * @consumer: index after the last record that was taken
 */
struct hmmgpu_fault_ring {
	struct mutex lock; /* serialises taking records */
	struct hmmgpu_queue_header *header;
	dma_addr_t header_dma;
	struct hmmgpu_fault_record *records;
	dma_addr_t records_dma;
	u32 size;
	u32 consumer;
};

/**
 * struct hmmgpu_owner - who got a block of VRAM: a hint, nothing holds the mm
 * @mm: the mm, to be compared only
 * @addr: address in @mm of the 2 MiB that it is for
 * @keep: it should be the last to make room for something else
 */
struct hmmgpu_owner {
	const struct mm_struct *mm;
	unsigned long addr;
	bool keep;
};

/**
 * struct hmmgpu_vram_run - single pages of VRAM that were taken ahead of need
 * @first: index of the first one in VRAM
 * @nr: number of pages, in one block
 */
struct hmmgpu_vram_run {
	unsigned long first;
	unsigned int nr;
};

/**
 * struct hmmgpu_move - migration of a range of an mm
 * @mm: the mm; the caller holds a reference
 * @start: first address, page-aligned
 * @end: end of the range, page-aligned
 * @direction: HMMGPU_DIR_SYS_TO_DEV or HMMGPU_DIR_DEV_TO_SYS
 * @trigger: TRIGGER value
 * @any_vma: whatever the core can migrate, not only anonymous memory
 * @try_lock: home only: do not wait long for mmap_lock
 * @keep: what moves to the device should be the last to be evicted
 * @whole: to the device only: where there is no room for a large folio, end with
 *         -ENOSPC instead of moving single pages
 * @moved: out: pages that moved, zero-filled holes among them
 * @present: out: pages that were already there
 * @skipped: out: pages that did not move
 * @max_order: out: largest order that moved
 */
struct hmmgpu_move {
	struct mm_struct *mm;
	unsigned long start;
	unsigned long end;
	unsigned int direction;
	unsigned int trigger;
	bool any_vma;
	bool try_lock;
	bool keep;
	bool whole;
	unsigned long moved;
	unsigned long present;
	unsigned long skipped;
	unsigned int max_order;
};

struct hmmgpu_block;
struct hmmgpu_context;
struct hmmgpu_dmirror;

/**
 * struct hmmgpu_vram - the VRAM allocator
 * @lock: protects everything here
 * @blocks: all blocks of 2 MiB
 * @nr_blocks: their number
 * @free: blocks of which nothing is allocated
 * @partial: split blocks that have free pages
 * @noted: blocks with notes that the device has not got yet
 * @used: blocks of which something is allocated; the first is the next to make
 *        room for something else
 * @kept: the same for blocks that should be the last to make room
 * @used_pages: pages that are allocated
 * @lost_pages: pages of these whose content a reset has taken
 */
struct hmmgpu_vram {
	spinlock_t lock; /* protects everything here */
	struct hmmgpu_block *blocks;
	unsigned long nr_blocks;
	struct list_head free;
	struct list_head partial;
	struct list_head noted;
	struct list_head used;
	struct list_head kept;
	unsigned long used_pages;
	unsigned long lost_pages;
};

/**
 * struct hmmgpu_device - one device
 * @pdev: PCI function
 * @dev: its device
 * @regs: registers
 * @kref: held by probe and by every open file
 * @gate: see DOC: Locking
 * @removing: no new migration may begin
 * @lost: the device does not answer, or was reset by someone else: what was
 *        in its VRAM is gone
 * @quiesced: a device that is lost cannot write to memory any more
 * @dead: a device that is lost and cannot be recovered
 * @held: recovery waits: the device is being reset by the bus, or sleeps
 * @epoch: number of recoveries
 * @flight: see DOC: Locking
 * @lost_lock: see DOC: Locking
 * @recover_work: recovers the device
 * @recover_wait: sleepers until the device is recovered or dead
 * @id: N of /dev/hmmgpuN
 * @name: name of the node
 * @pci_name: name of the PCI function, which may go before the last open file
 * @misc: the node
 * @dmirror: the node /dev/hmm_dmirrorN, or NULL
 * @debugfs: directory of the counters
 * @version: contract version of the device
 * @folio_orders: bitmask of the orders that the device copies
 * @generation: generation at probe
 * @vram_bytes: size of VRAM
 * @scrub_code: executable memory needs a CPU write before the device's
 * @nr_contexts: number of contexts of the device; zero if it cannot compute
 * @nr_engines: number of its compute engines, each as good as any other
 * @ring: the copy queue
 * @invalidations: the invalidation queue
 * @fault_ring: the fault queue
 * @context_ids: numbers of contexts that are in use
 * @context_lock: protects @contexts
 * @contexts: contexts, by number
 * @files_lock: protects @files
 * @files: open files, for what they know of an mm
 * @job_wait: sleepers for jobs
 * @fail_large: fail the next allocation of a large folio, once
 * @vram: the VRAM allocator
 * @pagemap: struct pages for VRAM
 * @region: the physical addresses that they have
 * @first_pfn: first pfn of VRAM
 * @named: processes that the device knows by this name, by id; protected by the
 *         lock of @ring
 * @span_ids: last span id
 * @batch_lock: protects @batches and @nr_batches
 * @batches: spare batches
 * @nr_batches: their number
 * @wq: carries @note_work
 * @note_work: gives the device its notes when no migration does
 * @counters: see HMMGPU_COUNTER()
 */
struct hmmgpu_device {
	struct pci_dev *pdev;
	struct device *dev;
	void __iomem *regs;
	struct kref kref;
	struct rw_semaphore gate;
	bool removing;
	bool lost;
	bool quiesced;
	bool dead;
	bool held;
	u32 epoch;
	struct rw_semaphore flight;
	struct delayed_work recover_work;
	wait_queue_head_t recover_wait;
	struct mutex lost_lock; /* serialises hmmgpu_device_lose() */
	int id;
	char name[24];
	char pci_name[24];
	struct miscdevice misc;
	struct hmmgpu_dmirror *dmirror;
	struct dentry *debugfs;
	u32 version;
	u32 folio_orders;
	u32 generation;
	u64 vram_bytes;
	bool scrub_code;
	unsigned int nr_contexts;
	unsigned int nr_engines;
	struct hmmgpu_ring ring;
	struct hmmgpu_ring invalidations;
	struct hmmgpu_fault_ring fault_ring;
	struct ida context_ids;
	spinlock_t context_lock; /* protects contexts */
	struct hmmgpu_context *contexts[HMMGPU_MAX_CONTEXTS];
	spinlock_t files_lock; /* protects files */
	struct list_head files;
	wait_queue_head_t job_wait;
	atomic_t fail_large;
	struct hmmgpu_vram vram;
	struct dev_pagemap pagemap;
	struct resource *region;
	unsigned long first_pfn;
	struct hmmgpu_process named[HMMGPU_NAMED_PROCESSES];
	atomic64_t span_ids;
	spinlock_t batch_lock; /* protects batches, nr_batches */
	struct list_head batches;
	unsigned int nr_batches;
	struct workqueue_struct *wq;
	struct delayed_work note_work;
	atomic64_t counters[HMMGPU_NR_COUNTERS];
};

static inline u32 hmmgpu_read(struct hmmgpu_device *hdev, u32 reg)
{
	return readl(hdev->regs + reg);
}

static inline void hmmgpu_write(struct hmmgpu_device *hdev, u32 reg, u32 value)
{
	writel(value, hdev->regs + reg);
}

static inline bool hmmgpu_has_large(struct hmmgpu_device *hdev)
{
	return hdev->folio_orders & BIT(HMMGPU_LARGE_ORDER);
}

/* Does the device take notes of processes, phases and fallbacks? */
static inline bool hmmgpu_takes_notes(struct hmmgpu_device *hdev)
{
	return (hdev->version & 0xffff) >= 2;
}

/* Does it take the note of unloading? */
static inline bool hmmgpu_takes_unload(struct hmmgpu_device *hdev)
{
	return (hdev->version & 0xffff) >= 3;
}

/* Does REPLAY with a sequence of 0 replay any fault? */
static inline bool hmmgpu_replays_any(struct hmmgpu_device *hdev)
{
	return (hdev->version & 0xffff) >= 3;
}

static inline u64 hmmgpu_page_to_vram(struct hmmgpu_device *hdev,
				      struct page *page)
{
	return (u64)(page_to_pfn(page) - hdev->first_pfn) << PAGE_SHIFT;
}

static inline struct hmmgpu_device *hmmgpu_from_pagemap(struct dev_pagemap *map)
{
	return container_of(map, struct hmmgpu_device, pagemap);
}

/* main.c */
void hmmgpu_device_put(struct hmmgpu_device *hdev);

/* device.c */
int hmmgpu_device_identify(struct hmmgpu_device *hdev);
int hmmgpu_device_reset(struct hmmgpu_device *hdev);
int hmmgpu_device_check(struct hmmgpu_device *hdev);
bool hmmgpu_device_alive(struct hmmgpu_device *hdev);
void hmmgpu_device_stop(struct hmmgpu_device *hdev);
void hmmgpu_device_lose(struct hmmgpu_device *hdev, u32 epoch, const char *why);
void hmmgpu_device_wait_quiet(struct hmmgpu_device *hdev);
void hmmgpu_device_park(struct hmmgpu_device *hdev);
int hmmgpu_device_enter(struct hmmgpu_device *hdev);
int hmmgpu_device_leave(struct hmmgpu_device *hdev, int ret);
u64 hmmgpu_read64(struct hmmgpu_device *hdev, u32 reg_lo, u32 reg_hi);
const char *hmmgpu_status_name(u32 status);

/* recover.c */
void hmmgpu_recover_init(struct hmmgpu_device *hdev);
void hmmgpu_recover_start(struct hmmgpu_device *hdev);
void hmmgpu_recover_hold(struct hmmgpu_device *hdev);
void hmmgpu_recover_release(struct hmmgpu_device *hdev);
void hmmgpu_recover_exit(struct hmmgpu_device *hdev);

/* power.c */
extern const struct pci_error_handlers hmmgpu_err_handlers;
extern const struct dev_pm_ops hmmgpu_pm_ops;

/* irq.c */
int hmmgpu_irqs_init(struct hmmgpu_device *hdev);
void hmmgpu_irqs_exit(struct hmmgpu_device *hdev);

/* fault_queue.c */
int hmmgpu_fault_ring_init(struct hmmgpu_device *hdev);
void hmmgpu_fault_ring_exit(struct hmmgpu_device *hdev);
int hmmgpu_fault_ring_restart(struct hmmgpu_device *hdev);
void hmmgpu_fault_ring_drain(struct hmmgpu_device *hdev);

/* ring.c */
int hmmgpu_ring_init(struct hmmgpu_ring *ring, struct hmmgpu_device *hdev,
		     unsigned int queue, u32 log2, unsigned int vector);
void hmmgpu_ring_exit(struct hmmgpu_ring *ring);
int hmmgpu_ring_restart(struct hmmgpu_ring *ring);
int hmmgpu_ring_announce(struct hmmgpu_ring *ring,
			 const struct hmmgpu_desc *notes, unsigned int nr);
int hmmgpu_ring_submit(struct hmmgpu_ring *ring,
		       const struct hmmgpu_submission *sub);
void hmmgpu_ring_say_unload(struct hmmgpu_device *hdev);
int hmmgpu_ring_flush_notes(struct hmmgpu_device *hdev);
void hmmgpu_ring_wake_later(struct hmmgpu_ring *ring);
int hmmgpu_queue_start(struct hmmgpu_device *hdev, u32 base,
		       dma_addr_t header, dma_addr_t ring, u32 log2,
		       unsigned int vector);

/* fence.c */
int hmmgpu_fence_wait(struct hmmgpu_ring *ring, struct hmmgpu_fence *fence);
int hmmgpu_fence_timeout_ms(void);

/* process.c */
void hmmgpu_process_of(struct hmmgpu_device *hdev, const struct mm_struct *mm,
		       struct hmmgpu_process *process);
void hmmgpu_process_announce(struct hmmgpu_device *hdev,
			     const struct mm_struct *mm);

/* look.c */
int hmmgpu_mm_resident(struct hmmgpu_device *hdev, struct mm_struct *mm,
		       unsigned long *pages);

/* vram.c */
int hmmgpu_vram_init(struct hmmgpu_device *hdev);
void hmmgpu_vram_exit(struct hmmgpu_device *hdev);
struct page *hmmgpu_vram_alloc_large(struct hmmgpu_device *hdev,
				     const struct hmmgpu_owner *owner);
struct page *hmmgpu_vram_alloc_page(struct hmmgpu_device *hdev,
				    const struct hmmgpu_owner *owner,
				    struct hmmgpu_vram_run *run,
				    unsigned int want);
void hmmgpu_vram_put_run(struct hmmgpu_device *hdev,
			 struct hmmgpu_vram_run *run);
void hmmgpu_vram_free(struct hmmgpu_device *hdev, unsigned long page,
		      unsigned int order);
void hmmgpu_vram_split(struct hmmgpu_device *hdev, unsigned long page);
unsigned int hmmgpu_vram_take_notes(struct hmmgpu_device *hdev,
				    struct hmmgpu_desc *descs,
				    unsigned int room);
bool hmmgpu_vram_has_notes(struct hmmgpu_device *hdev);
unsigned long hmmgpu_vram_used(struct hmmgpu_device *hdev);
unsigned long hmmgpu_vram_alive(struct hmmgpu_device *hdev);
bool hmmgpu_vram_oldest(struct hmmgpu_device *hdev, bool kept,
			struct hmmgpu_owner *owner);
unsigned int hmmgpu_vram_lose(struct hmmgpu_device *hdev,
			      unsigned long *position,
			      struct hmmgpu_desc *descs, unsigned int room,
			      unsigned long *lost);
bool hmmgpu_vram_is_lost(struct hmmgpu_device *hdev, struct page *page);
unsigned int hmmgpu_vram_list(struct hmmgpu_device *hdev,
			      unsigned long *position, unsigned long *pfns,
			      unsigned int room);

/* pagemap.c */
int hmmgpu_pagemap_init(struct hmmgpu_device *hdev);
void hmmgpu_pagemap_exit(struct hmmgpu_device *hdev);

/* fault.c */
vm_fault_t hmmgpu_fault(struct vm_fault *vmf);

/* migrate.c */
int hmmgpu_move(struct hmmgpu_device *hdev, struct hmmgpu_move *move);

/* evict.c */
int hmmgpu_evict_all(struct hmmgpu_device *hdev, bool removal);

/* reclaim.c */
bool hmmgpu_reclaim(struct hmmgpu_device *hdev,
		    const struct hmmgpu_owner *wanted);

/* ioctl.c */
int hmmgpu_node_init(struct hmmgpu_device *hdev);
void hmmgpu_node_exit(struct hmmgpu_device *hdev);

/* dmirror.c */
int hmmgpu_dmirror_init(struct hmmgpu_device *hdev);
void hmmgpu_dmirror_exit(struct hmmgpu_device *hdev);

/* debugfs.c */
void hmmgpu_debugfs_init(void);
void hmmgpu_debugfs_exit(void);
void hmmgpu_debugfs_add(struct hmmgpu_device *hdev);
void hmmgpu_debugfs_remove(struct hmmgpu_device *hdev);

#endif /* HMMGPU_DRV_H */
