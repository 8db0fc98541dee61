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
 * enum emm_event - why the VM takes pages, or rights to them
 * @EMM_UNMAP: the range is unmapped, or moves (munmap, mremap)
 * @EMM_CLEAR: pages go or are replaced by others (madvise, reclaim, migration, copy on write, KSM);
 *	the mapping stays
 * @EMM_PROTECTION_VMA: the rights of the mapping change (mprotect)
 * @EMM_PROTECTION_PAGE: the rights of single pages change (fork)
 * @EMM_SOFT_DIRTY: from now on it is noted who writes; same pages, same rights to read. A driver that
 *	goes on writing through what it has is not seen
 * @EMM_MIGRATE: pages move from or to the memory of a device: @owner's
 * @EMM_EXCLUSIVE: pages are to be used by one device alone: @owner's
 */
enum emm_event {
	EMM_UNMAP,
	EMM_CLEAR,
	EMM_PROTECTION_VMA,
	EMM_PROTECTION_PAGE,
	EMM_SOFT_DIRTY,
	EMM_MIGRATE,
	EMM_EXCLUSIVE,
};

/**
 * struct emm_invalidation - what a driver is told of an invalidation, at its start and at its end
 * @start: first user address
 * @end: the one behind the last; for the last byte there is, ULONG_MAX
 * @event: why. An invalidation that was under way when the driver subscribed has EMM_CLEAR at its
 *	start, whatever it is
 * @blockable: whether the driver may sleep in its start
 * @owner: of EMM_MIGRATE and EMM_EXCLUSIVE, else NULL: as the pgmap's owner of a driver with memory
 *	of its own. To be compared, not followed: such a driver may let pass what it does itself
 */
struct emm_invalidation {
	unsigned long start;
	unsigned long end;
	enum emm_event event;
	bool blockable;
	const void *owner;
};

/**
 * struct emm_notifier_operations - what a driver is told
 * @release: the address space goes away (exit, exec). Later faults must fail. May sleep. It is the
 *	last word: when it has returned, no call of this subscription begins any more. So ends of
 *	starts before it may be missing.
 * @invalidate_start: the VM is about to unmap or re-protect pages of the range. When it returns 0,
 *	nothing accesses them through the driver, and until the matching @invalidate_end no access
 *	to them is established. May sleep only if @blockable. Runs inside reclaim: must not
 *	allocate, and must not take a lock that is ever held over an allocation. Others may wait
 *	meanwhile: exits of any process do.
 *	If @may_refuse and not @blockable it may return -EAGAIN, "not now": pages may be accessed as
 *	before. The VM gives up what it was about to do (the OOM reaper tries ten times, the kernel
 *	says so in its log each time), and @invalidate_end follows all the same.
 *	At registration it is told of each invalidation that is under way, not @blockable and under
 *	a spinlock. What it returns then does not matter: nothing is established yet.
 * @invalidate_end: the invalidation is over; one call for each @invalidate_start, with the same
 *	range, whatever that returned. Must not sleep where its start must not.
 * @referenced: whether a page of the range was used through the driver since the last call with
 *	@clear. Must not sleep.
 * @may_refuse: @invalidate_start can return -EAGAIN. Such drivers have a notifier of their own in the
 *	VM's list, of two parts, which costs twice as much when the first of them subscribes to an
 *	address space.
 *
 * Ranges of different invalidations may overlap and nest; each is counted by itself. Calls of one
 * subscription run at once on several CPUs. @release, @invalidate_end and @referenced may be NULL.
 */
struct emm_notifier_operations {
	void (*release)(struct emm_notifier *emm);
	int (*invalidate_start)(struct emm_notifier *emm,
				const struct emm_invalidation *invalidation);
	void (*invalidate_end)(struct emm_notifier *emm,
			       const struct emm_invalidation *invalidation);
	bool (*referenced)(struct emm_notifier *emm, unsigned long start,
			   unsigned long end, bool clear);
	bool may_refuse;
};

/**
 * struct emm_notifier - one subscription
 * @ops: set by the driver before registration
 * @mm: owned by ib_emm: the address space, in all calls and until emm_notifier_unregister() returns.
 *	Only the structure is kept (mm_count): what needs its memory, asks mmget_not_zero() first
 * @registration: owned by ib_emm; NULL before the first registration
 */
struct emm_notifier {
	const struct emm_notifier_operations *ops;
	struct mm_struct *mm;
	void *registration;
};

/*
 * Subscribes to the whole of @mm, or to @length bytes at @start of it. @mm may be any process's: the
 * caller holds a reference on it (mm_users), and not its mmap_lock. The reference is not kept: the
 * process's end is told by release. Returns 0, -EINVAL (empty or wrapping range, no operations),
 * -EBUSY (registered already), -ENOMEM, or -EINTR (killed while it waited for the mmap_lock, or for a
 * flood of invalidations to pass).
 *
 * What it costs does not depend on the process's mappings, but for its first subscription for long.
 */
int emm_notifier_register(struct emm_notifier *emm, struct mm_struct *mm);
int emm_notifier_register_range(struct emm_notifier *emm, struct mm_struct *mm,
				unsigned long start, unsigned long length);

/*
 * Ends a subscription. No call of it begins any more, not even the end of a start that it heard, and
 * none runs when this returns. So nothing may be accessed through the driver any more when it is
 * called. May sleep; not to be called by its own operations.
 */
void emm_notifier_unregister(struct emm_notifier *emm);

#endif /* _EMM_H */
