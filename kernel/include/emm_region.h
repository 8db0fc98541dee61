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

#include <linux/list.h>
#include <linux/types.h>

struct emm_region;
struct work_struct;

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
 * From now on every access fails with -ESRCH, and one that waits for the VM in a work item is woken
 * and fails with -EINTR; a user thread is not woken. To be called before waiting for a region's last
 * user. May sleep.
 */
void emm_region_stop(struct emm_region *region);

/* Ends a region. The caller guarantees that no access of it runs or begins. May sleep. */
void emm_region_destroy(struct emm_region *region);

/*
 * Calls @fn for each page piece of @length bytes at @offset, in order, faulting pages in as needed.
 * @fn gets the piece's kernel address and bytes. It runs with the page held off from invalidation:
 * it must not sleep, nor call back into ib_emm. May sleep between pieces.
 *
 * Returns 0; -EINVAL (out of bounds, or no @fn); -EFAULT (no such memory, or not with this access; pieces
 * before it were done); -ESRCH (the owner has exited); -EAGAIN (the VM takes the page away faster
 * than it can be used); -EINTR (cancelled); -ENOMEM.
 */
int emm_region_apply(struct emm_region *region, u64 offset, size_t length, bool write,
		     void (*fn)(void *kaddr, size_t bytes, void *arg), void *arg);

/* Copies between @buf and the region. Returns as emm_region_apply(). */
int emm_region_read(struct emm_region *region, u64 offset, void *buf, size_t length);
int emm_region_write(struct emm_region *region, u64 offset, const void *buf, size_t length);

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
 * Brings in the translations of @length bytes at @offset. Returns as emm_region_apply(), and -EINTR
 * if the caller was killed. To be called from a work item where the region must be able to go.
 */
int emm_region_prefetch(struct emm_region *region, u64 offset, u64 length,
			enum emm_prefetch what);

void emm_region_get_stats(const struct emm_region *region, struct emm_region_stats *stats);

/**
 * struct emm_cancel - accesses that must not wait
 * @node: owned by ib_emm
 * @work: the work item that they run in
 *
 * Between emm_cancel_begin() and emm_cancel_end() an access that runs in @work does not wait for
 * the VM: it fails with -EINTR, also one that waits already. For a driver that takes down a queue
 * pair and must not wait for somebody's userfaultfd handler.
 */
struct emm_cancel {
	struct list_head node;
	struct work_struct *work;
};

void emm_cancel_begin(struct emm_cancel *cancel, struct work_struct *work);
void emm_cancel_end(struct emm_cancel *cancel);

#endif /* _EMM_REGION_H */
