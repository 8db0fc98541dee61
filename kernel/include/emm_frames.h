/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Regions (emm_region.h) for drivers that map pages themselves, by page tables or tables of a device,
 * instead of copying: of any process's memory, with operations of the driver's own.
 *
 * What holds between the region and such a driver:
 *
 * - The driver enters a frame in its own tables only in the function that emm_region_frame(),
 *   emm_region_frame_at_hand() or emm_region_frame_beside() calls.
 *   The region's translation stands meanwhile, and no invalidation of it has begun.
 * - Its invalidate_start takes out of its tables what lies in the range. The page is still the owner's,
 *   and the region's translation still stands, but no frame of the range is given out any more until
 *   invalidate_end. What the driver's tables know of the page (it was used, it was written) is handed
 *   in by emm_region_mark() then: it is passed on to the VM when invalidate_start has returned 0.
 * - No reference on a page is taken, by either.
 */
#ifndef _EMM_FRAMES_H
#define _EMM_FRAMES_H

#include <linux/types.h>

#include "emm.h"
#include "emm_region.h"

/**
 * struct emm_region_operations - what such a driver is told
 *
 * They are those of struct emm_notifier_operations, with the driver's pointer in place of the
 * subscription, and with the same promises. Ranges may reach beyond the region. @invalidate_start may
 * be called before emm_region_create_for() returns. All but @invalidate_start may be NULL.
 */
struct emm_region_operations {
	void (*release)(void *private);
	int (*invalidate_start)(void *private, const struct emm_invalidation *invalidation);
	void (*invalidate_end)(void *private, const struct emm_invalidation *invalidation);
	bool (*referenced)(void *private, unsigned long start, unsigned long end, bool clear);
	bool may_refuse;
};

/*
 * A region of @length bytes at @start of @mm, as emm_region_create() makes them of current's. The
 * caller holds a reference on @mm (mm_users), and not its mmap_lock; it is not kept. Memory and faults
 * are the owner's. @ops are called with @private until emm_region_destroy() returns.
 */
struct emm_region *emm_region_create_for(struct mm_struct *mm, u64 start, u64 length,
					 const struct emm_region_operations *ops, void *private);

/**
 * struct emm_page - what a region has at an offset
 * @pfn: of the page at the offset
 * @order: that page lies in a block of 2^@order, aligned in the frames and in the owner's addresses
 *	alike, which is all one translation
 * @writable: it may be written. Only then may the driver's own entry be writable
 */
struct emm_page {
	u64 pfn;
	unsigned int order;
	bool writable;
};

/*
 * Calls @fn for the page at @offset, faulted in if it is not there: to be written if @write, which
 * also marks it as written. @fn runs with the page held off from invalidation: it must not sleep, nor
 * call back into ib_emm. Returns what it returns; else as emm_region_apply(), or -EBUSY (an
 * invalidation of the page begins; @fault, if any, is not used: call again).
 */
int emm_region_frame(struct emm_region *region, u64 offset, bool write,
		     int (*fn)(const struct emm_page *frame, void *arg), void *arg,
		     struct emm_fault *fault);

/*
 * The same of what the region has translated already. It asks nobody and waits for nobody, and may be
 * called with locks of page tables held: a driver that enters frames under such a lock asks here, and
 * if there is nothing lets go of the lock, has the page brought in by emm_region_frame(), and tries
 * again. Returns what @fn returns, -EAGAIN (not translated, or not for this access, or an invalidation
 * of the page begins), or -EINVAL.
 */
int emm_region_frame_at_hand(struct emm_region *region, u64 offset, bool write,
			     int (*fn)(const struct emm_page *frame, void *arg), void *arg);

/*
 * The same for a page that nobody uses now, to be read: to fill the driver's tables around one that
 * was asked for. The region does not note it as used; the driver's own table says when it is.
 */
int emm_region_frame_beside(struct emm_region *region, u64 offset,
			    int (*fn)(const struct emm_page *frame, void *arg), void *arg);

/*
 * What the driver's own tables know: of the @length bytes at @offset each translated page was used
 * and, if @dirty, written. In any context, but not in a function that ib_emm calls under its lock.
 */
void emm_region_mark(struct emm_region *region, u64 offset, u64 length, bool dirty);

/*
 * One reference more, or less: the structure stays. emm_region_destroy() ends the region for all of
 * them, and gives back the one of its creation; calls between that and the last put fail with -ESRCH.
 * emm_region_put() may sleep.
 */
void emm_region_get(struct emm_region *region);
void emm_region_put(struct emm_region *region);

#endif /* _EMM_FRAMES_H */
