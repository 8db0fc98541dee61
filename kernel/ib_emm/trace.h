/* SPDX-License-Identifier: GPL-2.0 */
/* Trace events. Addresses are user addresses; errors are 0 or negative errno values. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ib_emm

#if !defined(_IB_EMM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _IB_EMM_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(emm_register,
	TP_PROTO(u64 start, u64 length, int error),
	TP_ARGS(start, length, error),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, length)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->length = length;
		__entry->error = error;
	),
	TP_printk("start=%#llx length=%llu error=%d",
		  __entry->start, __entry->length, __entry->error)
);

TRACE_EVENT(emm_fault,
	TP_PROTO(u64 address, u64 pages, bool write, bool huge, int error),
	TP_ARGS(address, pages, write, huge, error),
	TP_STRUCT__entry(
		__field(u64, address)
		__field(u64, pages)
		__field(bool, write)
		__field(bool, huge)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->address = address;
		__entry->pages = pages;
		__entry->write = write;
		__entry->huge = huge;
		__entry->error = error;
	),
	TP_printk("address=%#llx pages=%llu write=%d huge=%d error=%d",
		  __entry->address, __entry->pages, __entry->write, __entry->huge,
		  __entry->error)
);

TRACE_EVENT(emm_fault_lost,
	TP_PROTO(u64 address, u32 losses),
	TP_ARGS(address, losses),
	TP_STRUCT__entry(
		__field(u64, address)
		__field(u32, losses)
	),
	TP_fast_assign(
		__entry->address = address;
		__entry->losses = losses;
	),
	TP_printk("address=%#llx losses=%u", __entry->address, __entry->losses)
);

TRACE_EVENT(emm_invalidate,
	TP_PROTO(u64 start, u64 end, u64 pages, bool blockable),
	TP_ARGS(start, end, pages, blockable),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, end)
		__field(u64, pages)
		__field(bool, blockable)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
		__entry->pages = pages;
		__entry->blockable = blockable;
	),
	TP_printk("start=%#llx end=%#llx pages=%llu blockable=%d",
		  __entry->start, __entry->end, __entry->pages, __entry->blockable)
);

TRACE_EVENT(emm_release,
	TP_PROTO(u64 start, u64 length),
	TP_ARGS(start, length),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, length)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->length = length;
	),
	TP_printk("start=%#llx length=%llu", __entry->start, __entry->length)
);

#endif /* _IB_EMM_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
