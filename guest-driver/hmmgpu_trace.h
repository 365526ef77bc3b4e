/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM hmmgpu

#if !defined(HMMGPU_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define HMMGPU_TRACE_H

#include <linux/tracepoint.h>

#include "hmmgpu_hw.h"

#define show_hmmgpu_direction(value) \
	__print_symbolic(value, \
			 { HMMGPU_DIR_SYS_TO_DEV, "sys_to_dev" }, \
			 { HMMGPU_DIR_DEV_TO_SYS, "dev_to_sys" })

#define show_hmmgpu_trigger(value) \
	__print_symbolic(value, \
			 { HMMGPU_TRIGGER_PREFETCH, "prefetch" }, \
			 { HMMGPU_TRIGGER_GPU_FAULT, "gpu_fault" }, \
			 { HMMGPU_TRIGGER_CPU_FAULT, "cpu_fault" }, \
			 { HMMGPU_TRIGGER_EVICT, "evict" })

#define show_hmmgpu_fallback(value) \
	__print_symbolic(value, \
			 { HMMGPU_FALLBACK_NO_VRAM, "no_vram" }, \
			 { HMMGPU_FALLBACK_NO_MEMORY, "no_memory" }, \
			 { HMMGPU_FALLBACK_SHARED, "shared" }, \
			 { HMMGPU_FALLBACK_SPLIT_FAILED, "split_failed" }, \
			 { HMMGPU_FALLBACK_PARTIAL, "partial" }, \
			 { HMMGPU_FALLBACK_INJECTED, "injected" })

#define show_hmmgpu_access(value) \
	__print_symbolic(value, \
			 { HMMGPU_FAULT_READ, "read" }, \
			 { HMMGPU_FAULT_WRITE, "write" }, \
			 { HMMGPU_FAULT_ATOMIC, "atomic" })

TRACE_EVENT(hmmgpu_migrate_begin,
	TP_PROTO(int id, u64 span, unsigned int direction,
		 unsigned int trigger, unsigned int process,
		 unsigned long addr, unsigned long pages),
	TP_ARGS(id, span, direction, trigger, process, addr, pages),
	TP_STRUCT__entry(
		__field(int, id)
		__field(u64, span)
		__field(unsigned int, direction)
		__field(unsigned int, trigger)
		__field(unsigned int, process)
		__field(unsigned long, addr)
		__field(unsigned long, pages)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->span = span;
		__entry->direction = direction;
		__entry->trigger = trigger;
		__entry->process = process;
		__entry->addr = addr;
		__entry->pages = pages;
	),
	TP_printk("hmmgpu%d span=%llu %s %s process=%u addr=%#lx pages=%lu",
		  __entry->id, __entry->span,
		  show_hmmgpu_direction(__entry->direction),
		  show_hmmgpu_trigger(__entry->trigger),
		  __entry->process, __entry->addr, __entry->pages)
);

TRACE_EVENT(hmmgpu_migrate_end,
	TP_PROTO(int id, u64 span, unsigned int direction,
		 unsigned int trigger, unsigned int order, u64 bytes, u64 ns),
	TP_ARGS(id, span, direction, trigger, order, bytes, ns),
	TP_STRUCT__entry(
		__field(int, id)
		__field(u64, span)
		__field(unsigned int, direction)
		__field(unsigned int, trigger)
		__field(unsigned int, order)
		__field(u64, bytes)
		__field(u64, ns)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->span = span;
		__entry->direction = direction;
		__entry->trigger = trigger;
		__entry->order = order;
		__entry->bytes = bytes;
		__entry->ns = ns;
	),
	TP_printk("hmmgpu%d span=%llu %s %s order=%u bytes=%llu ns=%llu",
		  __entry->id, __entry->span,
		  show_hmmgpu_direction(__entry->direction),
		  show_hmmgpu_trigger(__entry->trigger),
		  __entry->order, __entry->bytes, __entry->ns)
);

TRACE_EVENT(hmmgpu_fallback,
	TP_PROTO(int id, u64 span, unsigned int direction,
		 unsigned int trigger, unsigned long addr, unsigned int order,
		 unsigned int reason),
	TP_ARGS(id, span, direction, trigger, addr, order, reason),
	TP_STRUCT__entry(
		__field(int, id)
		__field(u64, span)
		__field(unsigned int, direction)
		__field(unsigned int, trigger)
		__field(unsigned long, addr)
		__field(unsigned int, order)
		__field(unsigned int, reason)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->span = span;
		__entry->direction = direction;
		__entry->trigger = trigger;
		__entry->addr = addr;
		__entry->order = order;
		__entry->reason = reason;
	),
	TP_printk("hmmgpu%d span=%llu %s %s addr=%#lx order=%u %s",
		  __entry->id, __entry->span,
		  show_hmmgpu_direction(__entry->direction),
		  show_hmmgpu_trigger(__entry->trigger), __entry->addr,
		  __entry->order, show_hmmgpu_fallback(__entry->reason))
);

TRACE_EVENT(hmmgpu_split,
	TP_PROTO(int id, u64 vram, unsigned int from_order,
		 unsigned int to_order),
	TP_ARGS(id, vram, from_order, to_order),
	TP_STRUCT__entry(
		__field(int, id)
		__field(u64, vram)
		__field(unsigned int, from_order)
		__field(unsigned int, to_order)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->vram = vram;
		__entry->from_order = from_order;
		__entry->to_order = to_order;
	),
	TP_printk("hmmgpu%d vram=%#llx order=%u->%u",
		  __entry->id, __entry->vram, __entry->from_order,
		  __entry->to_order)
);

TRACE_EVENT(hmmgpu_gpu_fault,
	TP_PROTO(int id, unsigned int context, u64 addr, unsigned int access,
		 unsigned int reason, int outcome),
	TP_ARGS(id, context, addr, access, reason, outcome),
	TP_STRUCT__entry(
		__field(int, id)
		__field(unsigned int, context)
		__field(u64, addr)
		__field(unsigned int, access)
		__field(unsigned int, reason)
		__field(int, outcome)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->context = context;
		__entry->addr = addr;
		__entry->access = access;
		__entry->reason = reason;
		__entry->outcome = outcome;
	),
	TP_printk("hmmgpu%d context=%u addr=%#llx %s reason=%u outcome=%d",
		  __entry->id, __entry->context, __entry->addr,
		  show_hmmgpu_access(__entry->access), __entry->reason,
		  __entry->outcome)
);

TRACE_EVENT(hmmgpu_map,
	TP_PROTO(int id, unsigned int context, unsigned long start,
		 unsigned long end, long pages),
	TP_ARGS(id, context, start, end, pages),
	TP_STRUCT__entry(
		__field(int, id)
		__field(unsigned int, context)
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(long, pages)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->context = context;
		__entry->start = start;
		__entry->end = end;
		__entry->pages = pages;
	),
	TP_printk("hmmgpu%d context=%u %#lx-%#lx pages=%ld",
		  __entry->id, __entry->context, __entry->start, __entry->end,
		  __entry->pages)
);

TRACE_EVENT(hmmgpu_invalidate,
	TP_PROTO(int id, unsigned int context, unsigned long start,
		 unsigned long end),
	TP_ARGS(id, context, start, end),
	TP_STRUCT__entry(
		__field(int, id)
		__field(unsigned int, context)
		__field(unsigned long, start)
		__field(unsigned long, end)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->context = context;
		__entry->start = start;
		__entry->end = end;
	),
	TP_printk("hmmgpu%d context=%u %#lx-%#lx",
		  __entry->id, __entry->context, __entry->start, __entry->end)
);

#endif /* HMMGPU_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE hmmgpu_trace
#include <trace/define_trace.h>
