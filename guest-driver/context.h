/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Contexts: one address space of the GPU each, a mirror of one mm, with a queue
 * of jobs that work on it.
 */
#ifndef HMMGPU_CONTEXT_H
#define HMMGPU_CONTEXT_H

#include <linux/completion.h>
#include <linux/dma-direction.h>
#include <linux/maple_tree.h>
#include <linux/mmu_notifier.h>
#include <linux/workqueue.h>

#include "hmmgpu_drv.h"

#define HMMGPU_JOB_SLOTS	64
/* No job is ever waiting for room: its record is what there are few of. */
#define HMMGPU_JOB_RING_LOG2	7
#define HMMGPU_NO_TIMEOUT	U64_MAX
/* How long others may change an mm again and again before we give up. */
#define HMMGPU_MIRROR_RETRY_MS	1000
/* How long a job at least has a page that was made exclusive for it, in us. */
#define HMMGPU_EXCLUSIVE_US	50
/* How long a job may take before the device is asked for a fault that got lost, in s. */
#define HMMGPU_NUDGE_S	1

struct hmmgpu_table;

/**
 * struct hmmgpu_pagetable - page table of a context
 * @hdev: the device
 * @grow: serialises adding and removing tables; allocations are made under it
 * @root: table of the highest level
 * @nr_tables: number of tables
 * @prune_at: with so many tables, those that are empty are looked for
 *
 * Entries are protected by &hmmgpu_mirror.lock, as is taking tables away.
 */
struct hmmgpu_pagetable {
	struct hmmgpu_device *hdev;
	struct mutex grow; /* serialises adding and removing tables */
	struct hmmgpu_table *root;
	unsigned long nr_tables;
	unsigned long prune_at;
};

/**
 * struct hmmgpu_mirror - what a context has of its mm
 * @notifier: tells of changes, anywhere in the mm
 * @lock: protects the entries of @pt and @changes; taken by the notifier, so
 *        nothing is allocated under it that may have to reclaim memory
 * @pt: the page table
 * @changes: number of invalidations that someone else than
 *           hmmgpu_mirror_exclusive() caused
 */
struct hmmgpu_mirror {
	struct mmu_interval_notifier notifier;
	struct mutex lock; /* see above */
	struct hmmgpu_pagetable pt;
	u64 changes;
};

/**
 * struct hmmgpu_job_queue - the jobs of a context
 * @run: held by hmmgpu_job_run() until it has the result
 * @lock: protects all but what the device writes
 * @header: queue header, shared with the device
 * @header_dma: its DMA address
 * @entries: jobs, shared with the device
 * @entries_dma: their DMA address
 * @records: job records, written by the device; that of job n is n modulo
 *           HMMGPU_JOB_SLOTS
 * @records_dma: their DMA address
 * @past_ns: time that the device worked on jobs whose records are gone
 * @last: sequence number of the last job submitted; zero if there was none
 * @base: sequence number of the last job before the device was reset
 */
struct hmmgpu_job_queue {
	struct mutex run; /* serialises hmmgpu_job_run() */
	struct mutex lock; /* see above */
	struct hmmgpu_queue_header *header;
	dma_addr_t header_dma;
	struct hmmgpu_job *entries;
	dma_addr_t entries_dma;
	struct hmmgpu_job_record *records;
	dma_addr_t records_dma;
	u64 past_ns;
	u64 last;
	u64 base;
};

/**
 * struct hmmgpu_job_progress - how far the jobs of a context are
 * @ended: how many have ended since the ring began
 * @left: how many have not
 * @fault: sequence number of the last fault that was taken
 * @address: its address
 * @serving: one is being served, or waits for that
 */
struct hmmgpu_job_progress {
	u32 ended;
	u32 left;
	u64 fault;
	u64 address;
	bool serving;
};

/**
 * struct hmmgpu_job_watch - the watch over the jobs of a context; its work's own
 * @work: looks how far they are
 * @active: there were some when it looked last
 * @state: how far they were then
 * @since: when they last got any further, in jiffies
 */
struct hmmgpu_job_watch {
	struct delayed_work work;
	bool active;
	struct hmmgpu_job_progress state;
	unsigned long since;
};

/**
 * struct hmmgpu_context - a context
 * @hdev: the device
 * @mm: the mm, of which the struct is held
 * @number: number of the context
 * @running: the device works on it
 * @dead: all but this structure is gone; &hmmgpu_device.gate is held when it
 *        changes
 * @mirror: what it has of @mm
 * @jobs: its jobs
 * @watch: watches them
 * @policies: policy by address; nothing is the default
 * @thread: serves its faults
 * @fault_wait: where @thread waits for faults
 * @fault_lock: protects @fault, @fault_epoch, @fault_pending, @nudge_at and, against
 *              others than @thread, @served
 * @fault: the last fault
 * @fault_epoch: &hmmgpu_device.epoch in which it happened
 * @fault_pending: @thread has not taken it yet
 * @nudge_at: when to ask the device for a fault that got lost, in jiffies
 * @served: the fault that @thread serves
 * @served_epoch: &hmmgpu_device.epoch in which that happened
 * @replayed: @thread has answered it
 * @serving: address of the fault that @thread serves, or all-ones
 */
struct hmmgpu_context {
	struct hmmgpu_device *hdev;
	struct mm_struct *mm;
	unsigned int number;
	bool running;
	bool dead;
	struct hmmgpu_mirror mirror;
	struct hmmgpu_job_queue jobs;
	struct hmmgpu_job_watch watch;
	struct maple_tree policies;
	struct task_struct *thread;
	wait_queue_head_t fault_wait;
	spinlock_t fault_lock; /* see above */
	struct hmmgpu_fault_record fault;
	u32 fault_epoch;
	bool fault_pending;
	unsigned long nudge_at;
	struct hmmgpu_fault_record served;
	u32 served_epoch;
	bool replayed;
	u64 serving;
};

/**
 * struct hmmgpu_file - an open file
 * @link: in &hmmgpu_device.files
 * @hdev: the device
 * @mm: the mm of who opened it, of which the struct is held
 * @client: its number
 * @lock: serialises making @ctx
 * @ctx: its context, or NULL; made when it is first needed
 */
struct hmmgpu_file {
	struct list_head link;
	struct hmmgpu_device *hdev;
	struct mm_struct *mm;
	u64 client;
	struct mutex lock; /* serialises making ctx */
	struct hmmgpu_context *ctx;
};

/* ioctl.c */
bool hmmgpu_range_valid(u64 addr, u64 size);

/* compute.c */
int hmmgpu_compute_ioctl(struct hmmgpu_file *hfile, unsigned int cmd,
			 void *arg);

/* context.c */
void hmmgpu_contexts_stop(struct hmmgpu_device *hdev);
struct mm_struct *hmmgpu_mm_get(struct hmmgpu_device *hdev,
				const struct mm_struct *mm);
struct hmmgpu_context *hmmgpu_context_create(struct hmmgpu_device *hdev,
					     struct mm_struct *mm);
void hmmgpu_context_destroy(struct hmmgpu_context *ctx);

int hmmgpu_context_recover(struct hmmgpu_context *ctx);
void hmmgpu_context_give_up(struct hmmgpu_context *ctx);

/*
 * How the memory behind an entry is mapped for DMA. What is only read may be mapped
 * any number of times, as the zero page and merged pages are.
 */
static inline enum dma_data_direction hmmgpu_pte_direction(u64 entry)
{
	return entry & HMMGPU_PTE_WRITE ? DMA_BIDIRECTIONAL : DMA_TO_DEVICE;
}

/* pagetable.c */
int hmmgpu_pt_init(struct hmmgpu_pagetable *pt, struct hmmgpu_device *hdev);
void hmmgpu_pt_exit(struct hmmgpu_pagetable *pt);
dma_addr_t hmmgpu_pt_root(const struct hmmgpu_pagetable *pt);
bool hmmgpu_pt_ready(struct hmmgpu_pagetable *pt, unsigned long addr,
		     bool small);
int hmmgpu_pt_grow(struct hmmgpu_pagetable *pt, unsigned long addr,
		   bool small);
bool hmmgpu_pt_crowded(const struct hmmgpu_pagetable *pt);
struct hmmgpu_table *hmmgpu_pt_prune(struct hmmgpu_pagetable *pt);
void hmmgpu_pt_free_pruned(struct hmmgpu_pagetable *pt,
			   struct hmmgpu_table *list);
u64 hmmgpu_pt_entry(struct hmmgpu_pagetable *pt, unsigned long addr,
		    bool *large);
void hmmgpu_pt_set(struct hmmgpu_pagetable *pt, unsigned long addr, u64 entry,
		   bool large);
bool hmmgpu_pt_any(struct hmmgpu_pagetable *pt, unsigned long start,
		   unsigned long end);
bool hmmgpu_pt_any_exclusive(struct hmmgpu_pagetable *pt, unsigned long start,
			     unsigned long end);
bool hmmgpu_pt_revoke(struct hmmgpu_pagetable *pt, unsigned long *start,
		      unsigned long *end);
void hmmgpu_pt_release(struct hmmgpu_pagetable *pt, unsigned long start,
		       unsigned long end);

/* mirror.c */
int hmmgpu_mirror_init(struct hmmgpu_context *ctx);
void hmmgpu_mirror_exit(struct hmmgpu_context *ctx);
void hmmgpu_mirror_zap(struct hmmgpu_context *ctx, unsigned long start,
		       unsigned long end);
int hmmgpu_mirror_grow(struct hmmgpu_context *ctx, unsigned long addr,
		       bool small);

/* map.c */
int hmmgpu_mirror_fault_in(struct hmmgpu_context *ctx, unsigned long start,
			   unsigned long end, bool write, bool unlocked,
			   unsigned long *pfns);
int hmmgpu_mirror_look(struct hmmgpu_context *ctx, unsigned long addr,
		       unsigned long *pfns);
long hmmgpu_mirror_map(struct hmmgpu_context *ctx, unsigned long start,
		       unsigned long end, bool local_only,
		       unsigned long *pfns);
unsigned int hmmgpu_mirror_allowed(struct hmmgpu_context *ctx,
				   unsigned long start, unsigned long end,
				   u64 bits);

/* populate.c */
typedef int (*hmmgpu_part_fn)(struct hmmgpu_context *ctx, unsigned long start,
			      unsigned long end, unsigned long *pfns,
			      void *data);
int hmmgpu_mirror_each(struct hmmgpu_context *ctx, unsigned long start,
		       unsigned long end, hmmgpu_part_fn fn, void *data);
int hmmgpu_mirror_fault(struct hmmgpu_context *ctx, unsigned long start,
			unsigned long end, bool write, bool unlocked);
int hmmgpu_mirror_map_present(struct hmmgpu_context *ctx, unsigned long start,
			      unsigned long end);

/* exclusive.c */
int hmmgpu_mirror_exclusive_page(struct hmmgpu_context *ctx,
				 unsigned long addr,
				 void (*mapped)(struct hmmgpu_context *ctx));
int hmmgpu_mirror_exclusive(struct hmmgpu_context *ctx, unsigned long start,
			    unsigned long end);
bool hmmgpu_mirror_is_exclusive(struct hmmgpu_context *ctx,
				unsigned long start, unsigned long end);

/* job.c */
int hmmgpu_jobs_init(struct hmmgpu_context *ctx);
void hmmgpu_jobs_exit(struct hmmgpu_context *ctx);
void hmmgpu_jobs_abort(struct hmmgpu_context *ctx);
bool hmmgpu_jobs_pending(struct hmmgpu_context *ctx);
u64 hmmgpu_jobs_busy_ns(struct hmmgpu_context *ctx);
int hmmgpu_job_submit(struct hmmgpu_context *ctx, const struct hmmgpu_job *job,
		      u64 *sequence);
int hmmgpu_job_wait(struct hmmgpu_context *ctx, u64 sequence, u64 timeout_ns,
		    bool interruptible, struct hmmgpu_job_record *result);
int hmmgpu_job_run(struct hmmgpu_context *ctx, const struct hmmgpu_job *job,
		   struct hmmgpu_job_record *result);

/* watch.c */
void hmmgpu_watch_init(struct hmmgpu_context *ctx);
void hmmgpu_watch_jobs(struct hmmgpu_context *ctx);
void hmmgpu_watch_exit(struct hmmgpu_context *ctx);

/* gpu_fault.c */
int hmmgpu_gpu_fault_thread(void *data);
void hmmgpu_gpu_fault_nudge(struct hmmgpu_context *ctx);
void hmmgpu_gpu_fault_unmap(struct hmmgpu_context *ctx, unsigned long start,
			    unsigned long end);

/* service.c */
int hmmgpu_service_migrate(struct hmmgpu_context *ctx, unsigned long start,
			   unsigned long end, unsigned int policy,
			   unsigned int trigger, unsigned long *moved);
int hmmgpu_service_fault(struct hmmgpu_context *ctx, unsigned long addr,
			 unsigned int access,
			 void (*mapped)(struct hmmgpu_context *ctx));
int hmmgpu_service_prefetch(struct hmmgpu_context *ctx,
			    struct hmmgpu_prefetch *arg);

/* policy.c */
int hmmgpu_policy_set(struct hmmgpu_context *ctx, unsigned long start,
		      unsigned long end, unsigned int policy);
unsigned int hmmgpu_policy_get(struct hmmgpu_context *ctx, unsigned long addr,
			       unsigned long *start, unsigned long *end);

#endif /* HMMGPU_CONTEXT_H */
