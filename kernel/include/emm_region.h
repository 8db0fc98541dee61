/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory regions without pinned pages: what an RDMA driver uses of ib_emm.
 *
 * A region is a range of the registering process's address space with a table of translations. The
 * table starts empty, is filled by faults, and loses its entries when the VM invalidates them. All
 * offsets and lengths are bytes from the region's start, whatever iova the driver gives it.
 */
#ifndef _EMM_REGION_H
#define _EMM_REGION_H

#include <linux/types.h>

struct emm_region;

/**
 * struct emm_region_stats - counts since registration
 * @page_faults: pages brought in by accesses, read-ahead included
 * @page_invalidations: translations taken away by the VM
 * @page_prefetch: pages brought in by emm_region_prefetch()
 * @resident: translations in the table now
 * @table_bytes: memory of the table now
 */
struct emm_region_stats {
	u64 page_faults;
	u64 page_invalidations;
	u64 page_prefetch;
	u64 resident;
	u64 table_bytes;
};

/*
 * A region of @length bytes at @start of current's address space; of all of it, now and later, if
 * they are 0 and U64_MAX. No page is touched. Returns an ERR_PTR: -EINVAL (empty, wrapping, or
 * beyond user space), -ENOMEM, -EINTR.
 */
struct emm_region *emm_region_create(u64 start, u64 length);

/*
 * From now on every access fails with -ESRCH, also one without a cookie that waits. What is parked for
 * the region ends: its @done is called. To be called before waiting for a region's last user. May
 * sleep.
 */
void emm_region_stop(struct emm_region *region);

/*
 * Ends a region. The caller guarantees that no access of it runs or begins. May sleep, but does not
 * wait for a fault that is under way: its worker is told to end, and keeps what it needs until then.
 */
void emm_region_destroy(struct emm_region *region);

/**
 * struct emm_fault - what an access that misses is parked in; a driver's cookie
 * @done: what was parked is to be tried again, from where it was. Called once for each access that
 *	was parked, unless it is cancelled first, with interrupts off and locks held: it schedules the
 *	thread of control that the access belongs to, and does not call ib_emm. Locks that it takes
 *	are not held over calls of ib_emm.
 * @cookie: owned by ib_emm; NULL in a zeroed structure, which may be cancelled and destroyed too
 *
 * A driver has one for each of its threads of control: a queue pair of a software HCA has three
 * (requester, responder, completer), an advice has one. One access at a time uses it. An access that
 * returned -EAGAIN is tried again with the same cookie, after @done; earlier does no harm. What the
 * fault ended with is returned to that access, and to no other. Cancel before another access is made
 * with the cookie instead.
 *
 * Faults are done by workers of the owner of the region, of which there are a bounded number: an
 * owner whose faults wait makes nobody else wait. They try again what may pass: no memory, for some
 * seconds, and pages that are taken away before they are used.
 */
struct emm_fault {
	void (*done)(struct emm_fault *fault);
	void *cookie;
};

/* Nothing is parked yet. @fault must not move from here on. May sleep. Returns 0 or -ENOMEM. */
int emm_fault_init(struct emm_fault *fault, void (*done)(struct emm_fault *fault));

/*
 * What is parked is forgotten: on return @done does not run, and is not called. Waits for nothing,
 * in any context; a fault that nobody waits for any more is told to end. The cookie can be used
 * again.
 */
void emm_fault_cancel(struct emm_fault *fault);

/* The same, and gives the cookie back. In any context. */
void emm_fault_destroy(struct emm_fault *fault);

/*
 * Calls @fn for each page piece of @length bytes at @offset, in order. @fn gets the piece's kernel
 * address and bytes. It runs with the page held off from invalidation: it must not sleep, nor call
 * back into ib_emm.
 *
 * @reach says how many bytes from @offset on the whole operation is going to access in this way (the
 * length of the RETH, the rest of the work request), at least @length; less counts as @length. A
 * fault may bring in all of that at once. Nothing else is ever allocated, copied, dirtied, or faulted
 * in for writing.
 *
 * With @fault it never sleeps, and can be called in softirqs: what would have to wait is parked. If the bytes lie in two pages at
 * most, nothing was done before -EAGAIN; of longer ones first pieces may have been done. Without, the
 * thread sleeps while a worker does the fault: until the access is done, the region is stopped, or the
 * thread is killed.
 *
 * Returns 0; -EAGAIN (parked; never without @fault); -EBUSY (the VM took the page away as often as it
 * was brought in, ten thousand times); -EINVAL (out of bounds, or no @fn); -EFAULT (no such memory, or not with this access; pieces before
 * it may have been done); -ESRCH (the owner has exited, or the region was stopped); -EINTR (without
 * @fault: the thread was killed); -ENOMEM.
 */
int emm_region_apply(struct emm_region *region, u64 offset, size_t length, u64 reach, bool write,
		     void (*fn)(void *kaddr, size_t bytes, void *arg), void *arg,
		     struct emm_fault *fault);

/* Copies between @buf and the region. Returns as emm_region_apply(). */
int emm_region_read(struct emm_region *region, u64 offset, void *buf, size_t length, u64 reach,
		    struct emm_fault *fault);
int emm_region_write(struct emm_region *region, u64 offset, const void *buf, size_t length,
		     u64 reach, struct emm_fault *fault);

/**
 * enum emm_prefetch - what emm_region_prefetch() brings in
 * @EMM_PREFETCH_READ: all pages, to be read
 * @EMM_PREFETCH_WRITE: all pages, to be written
 * @EMM_PREFETCH_PRESENT: the pages that the owner has already, to be read. Others are passed over:
 *	nothing is faulted in, and nobody waited for.
 */
enum emm_prefetch {
	EMM_PREFETCH_READ,
	EMM_PREFETCH_WRITE,
	EMM_PREFETCH_PRESENT,
};

/*
 * Brings in the translations of @length bytes at @offset. With @fault it never sleeps: it is parked,
 * and the same call after @done returns what became of it. Without, the thread sleeps meanwhile.
 * Returns as emm_region_apply().
 */
int emm_region_prefetch(struct emm_region *region, u64 offset, u64 length,
			enum emm_prefetch what, struct emm_fault *fault);

void emm_region_get_stats(const struct emm_region *region, struct emm_region_stats *stats);

#endif /* _EMM_REGION_H */
