/* SPDX-License-Identifier: GPL-2.0 */
/*
 * EMM notifier: the VM tells a driver before and after it unmaps or re-protects pages, so that the
 * driver drops its references instead of pinning. The words are those of Christoph Lameter's RFC
 * "EMM Notifier V3" (2008).
 *
 * Ranges are user addresses [start, end).
 */
#ifndef _EMM_H
#define _EMM_H

#include <linux/types.h>

struct mm_struct;
struct emm_notifier;

/**
 * struct emm_notifier_operations - what a driver is told
 * @release: the address space goes away. Later faults must fail. May sleep. Starts and ends of
 *	invalidations may follow.
 * @invalidate_start: the VM is about to unmap or re-protect pages of the range. On return nothing
 *	accesses them through the driver, and until the matching @invalidate_end no access to them
 *	is established. May sleep only if @blockable. Cannot fail. Runs inside reclaim: must not
 *	allocate, and must not take a lock that is ever held over an allocation.
 * @invalidate_end: the invalidation is over; one call for each @invalidate_start, with the same
 *	range. Must not sleep where its start must not.
 * @referenced: whether a page of the range was used through the driver since the last call with
 *	@clear. Must not sleep.
 *
 * Ranges of different invalidations may overlap and nest; each is counted by itself. @release,
 * @invalidate_end and @referenced may be NULL.
 */
struct emm_notifier_operations {
	void (*release)(struct emm_notifier *emm);
	void (*invalidate_start)(struct emm_notifier *emm, unsigned long start,
				 unsigned long end, bool blockable);
	void (*invalidate_end)(struct emm_notifier *emm, unsigned long start,
			       unsigned long end);
	bool (*referenced)(struct emm_notifier *emm, unsigned long start,
			   unsigned long end, bool clear);
};

/**
 * struct emm_notifier - one subscription
 * @ops: set by the driver before registration
 * @registration: owned by ib_emm; NULL before the first registration
 */
struct emm_notifier {
	const struct emm_notifier_operations *ops;
	void *registration;
};

/*
 * Subscribes to the whole of @mm, or to @length bytes at @start of it. The caller holds a reference
 * on @mm (mm_users) and not its mmap_lock. An invalidation that is under way is told at once, with
 * @blockable false. Returns 0, -EINVAL (empty or wrapping range, no operations), -EBUSY
 * (registered already), -ENOMEM or -EINTR.
 */
int emm_notifier_register(struct emm_notifier *emm, struct mm_struct *mm);
int emm_notifier_register_range(struct emm_notifier *emm, struct mm_struct *mm,
				unsigned long start, unsigned long length);

/* Ends a subscription. No callback of it runs when this returns. May sleep. */
void emm_notifier_unregister(struct emm_notifier *emm);

#endif /* _EMM_H */
