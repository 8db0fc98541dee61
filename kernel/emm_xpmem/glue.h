/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust and C have in common, seen by both: a segment and a grant as the VM needs them, and what
 * the kernel crate has no words for: inodes, mappings, faults. glue.rs is made of it.
 */
#ifndef _EMM_XPMEM_GLUE_H
#define _EMM_XPMEM_GLUE_H

#include <linux/spinlock_types.h>
#include <linux/types.h>

#include "emm_frames.h"

struct cred;
struct inode;
struct mm_struct;

/**
 * struct emm_xpmem_segment - what is shared, as the VM knows it; part of a Segment (segment.rs)
 * @inode: all mappings of all attachments are in its address_space, at the owner's addresses: the
 *	address of a byte in the owner's memory is its offset in the file
 * @region: the owner's memory. Its table has what attachments may have in their page tables
 * @start: first user address of the owner
 * @end: the one behind the last
 */
struct emm_xpmem_segment {
	struct inode *inode;
	struct emm_region *region;
	u64 start;
	u64 end;
};

/* Once, when the module is loaded, and when it goes. */
int emm_xpmem_init(void);
void emm_xpmem_exit(void);

/*
 * Makes @segment that of @length bytes at @start of @mm; all of it is 0 and U64_MAX. The caller holds
 * a reference on @mm (mm_users), and not its mmap_lock. @segment stays where it is until
 * emm_xpmem_segment_free(). Sleeps. Returns 0, or as emm_region_create_for().
 */
int emm_xpmem_segment_init(struct emm_xpmem_segment *segment, struct mm_struct *mm, u64 start,
			   u64 length);
/* Nobody reaches the memory any more; who touches an attachment gets SIGBUS. Once. Sleeps. */
void emm_xpmem_segment_end(struct emm_xpmem_segment *segment);
/* It was ended, and has no attachments. Sleeps. */
void emm_xpmem_segment_free(struct emm_xpmem_segment *segment);
/* Takes out what attachments have of it, all of it. They fault anew. Sleeps. */
void emm_xpmem_segment_zap(struct emm_xpmem_segment *segment);

/* What a wait for the owner's VM ended with, for the thread that waited: fault.c. */
struct emm_xpmem_told {
	const void *task;	/* compared only */
	unsigned long page;
	int err;
};

#define EMM_XPMEM_TOLD_BITS 4

/**
 * struct emm_xpmem_grant - a permission to attach, as the VM knows it; part of a Grant (grant.rs)
 * @segment: outlives it
 * @writable: not XPMEM_RDONLY
 * @released: nothing is attached with it any more; set once
 * @lock: of @told, a leaf
 */
struct emm_xpmem_grant {
	struct emm_xpmem_segment *segment;
	bool writable;
	bool released;
	spinlock_t lock;
	struct emm_xpmem_told told[1 << EMM_XPMEM_TOLD_BITS];
};

void emm_xpmem_grant_init(struct emm_xpmem_grant *grant, struct emm_xpmem_segment *segment,
			  bool writable);
/* One reference less; given by Rust. */
void emm_xpmem_grant_put(struct emm_xpmem_grant *grant);

/*
 * Maps @length bytes at @address of the owner into current's address space: where the kernel likes, or
 * at @at if that is not 0. Takes over a reference on @grant. Sleeps; takes the mmap_lock. Returns the
 * address, or a negative errno: -EINVAL (over another attachment), or as mmap(2).
 */
long emm_xpmem_attach(struct emm_xpmem_grant *grant, u64 address, u64 length, u64 at);
/* Unmaps the attachment that is at @at of current. Returns 0, -EINVAL (none is), or as munmap(2). */
int emm_xpmem_detach(u64 at);
/* Unmaps what current has attached with @grant, which is released: no more is attached. */
void emm_xpmem_detach_all(struct emm_xpmem_grant *grant);
/* Whether some of @length bytes at @start of current is an attachment. Takes the mmap_lock. */
bool emm_xpmem_is_attached(u64 start, u64 length);

/* As a region's: whether a page of the range was used through an attachment. */
bool emm_xpmem_referenced(void *segment, unsigned long start, unsigned long end, bool clear);

/* The first address behind user space. */
u64 emm_xpmem_task_size(void);

/*
 * Whether current may have a segment of @mm, whose owner was @owner when it made it, and whose mode
 * is @mode, for what @wants says (4 read, 6 also write).
 */
bool emm_xpmem_permits(const struct cred *owner, const struct mm_struct *mm, unsigned int mode,
		       unsigned int wants);
const struct cred *emm_xpmem_current_cred(void);

#endif /* _EMM_XPMEM_GLUE_H */
