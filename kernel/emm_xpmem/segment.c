// SPDX-License-Identifier: GPL-2.0
/*
 * A segment as the VM knows it: a region of the owner's memory, and an inode whose address_space has
 * the mappings of all attachments. What the owner's VM takes from the region is taken out of these.
 */

#include <linux/fs.h>
#include <linux/hashtable.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>
#include <linux/sched.h>
#include <linux/spinlock.h>

#include "attach.h"
#include "glue.h"

#define EMM_XPMEM_MAGIC 0x58504d45

static struct vfsmount *emm_xpmem_mnt;

static int emm_xpmem_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, EMM_XPMEM_MAGIC) ? 0 : -ENOMEM;
}

/* Not owned by the module, which has it mounted all the time: what keeps that are files. */
static struct file_system_type emm_xpmem_fs = {
	.name = "emm_xpmem",
	.init_fs_context = emm_xpmem_init_fs_context,
	.kill_sb = kill_anon_super,
};

int emm_xpmem_init(void)
{
	emm_xpmem_faults_init();
	emm_xpmem_mnt = kern_mount(&emm_xpmem_fs);
	return PTR_ERR_OR_ZERO(emm_xpmem_mnt);
}

void emm_xpmem_exit(void)
{
	kern_unmount(emm_xpmem_mnt);
}

/* A file of @segment, which may be mapped with these open flags. It holds the inode. */
struct file *emm_xpmem_segment_file(struct emm_xpmem_segment *segment, int flags,
				    const struct file_operations *fops)
{
	struct file *file;

	ihold(segment->inode);
	file = alloc_file_pseudo(segment->inode, emm_xpmem_mnt, "xpmem", flags, fops);
	if (IS_ERR(file))
		iput(segment->inode);
	return file;
}

/*
 * Threads that take pages out of attachments now.
 *
 * The VM tells the attachers' own subscribers of that, one level deeper, in the same thread: somebody
 * may have a secondary MMU there (KVM does). Among them are segments, of an attacher who shares all of
 * its address space. They have nothing in that range: what lies there is an attachment, of which no
 * region gives out frames. So there they do nothing, and processes that attach each other's attachments
 * in a circle end here, not at the end of the stack.
 */
struct emm_xpmem_zap {
	struct hlist_node node;
	const struct task_struct *task;
};

static DEFINE_SPINLOCK(emm_xpmem_zaps_lock);
static DEFINE_HASHTABLE(emm_xpmem_zaps, 6);

static bool emm_xpmem_zaps_already(void)
{
	struct emm_xpmem_zap *zap;
	bool found = false;

	spin_lock(&emm_xpmem_zaps_lock);
	hash_for_each_possible(emm_xpmem_zaps, zap, node, (unsigned long)current)
		found |= zap->task == current;
	spin_unlock(&emm_xpmem_zaps_lock);
	return found;
}

/* Takes the pages of [@start, @end) of the owner, which lie in @segment, out of all attachments. */
static void emm_xpmem_zap(struct emm_xpmem_segment *segment, u64 start, u64 end)
{
	struct emm_xpmem_zap zap = { .task = current };

	spin_lock(&emm_xpmem_zaps_lock);
	hash_add(emm_xpmem_zaps, &zap.node, (unsigned long)current);
	spin_unlock(&emm_xpmem_zaps_lock);
	/*
	 * An invalidation of the owner's address space that begins one of the attachers', where it ends
	 * as said above: the two can't wait for each other. lockdep knows one class for all address
	 * spaces, and that class is not exported to be taken off.
	 */
	lockdep_off();
	unmap_mapping_range(segment->inode->i_mapping, start, end - start, 1);
	lockdep_on();
	spin_lock(&emm_xpmem_zaps_lock);
	hash_del(&zap.node);
	spin_unlock(&emm_xpmem_zaps_lock);
}

/*
 * Frames of the range are given out no more when this is called. A mapping of an attachment that has
 * one was made before that frame was entered, so it is seen here.
 */
static int emm_xpmem_invalidate_start(void *private, const struct emm_invalidation *invalidation)
{
	struct emm_xpmem_segment *segment = private;
	u64 start = max_t(u64, invalidation->start, segment->start);
	u64 end = min_t(u64, invalidation->end, segment->end);

	if (start >= end || !mapping_mapped(segment->inode->i_mapping) || emm_xpmem_zaps_already())
		return 0;
	if (!invalidation->blockable)
		return -EAGAIN;
	emm_xpmem_zap(segment, start, end);
	return 0;
}

static void emm_xpmem_release(void *segment)
{
	emm_xpmem_segment_zap(segment);
}

static const struct emm_region_operations emm_xpmem_region_ops = {
	.release = emm_xpmem_release,
	.invalidate_start = emm_xpmem_invalidate_start,
	.referenced = emm_xpmem_referenced,
	.may_refuse = true,
};

int emm_xpmem_segment_init(struct emm_xpmem_segment *segment, struct mm_struct *mm, u64 start,
			   u64 length)
{
	struct emm_region *region;

	segment->inode = alloc_anon_inode(emm_xpmem_mnt->mnt_sb);
	if (IS_ERR(segment->inode))
		return PTR_ERR(segment->inode);
	segment->start = start;
	segment->end = length == U64_MAX ? TASK_SIZE : start + length;

	region = emm_region_create_for(mm, start, length, &emm_xpmem_region_ops, segment);
	if (IS_ERR(region)) {
		iput(segment->inode);
		return PTR_ERR(region);
	}
	emm_region_get(region);
	segment->region = region;
	return 0;
}

void emm_xpmem_segment_zap(struct emm_xpmem_segment *segment)
{
	if (mapping_mapped(segment->inode->i_mapping))
		emm_xpmem_zap(segment, segment->start, segment->end);
}

void emm_xpmem_segment_end(struct emm_xpmem_segment *segment)
{
	/* No frame is given out any more; of those that were, we hear until they are taken out, too. */
	emm_region_stop(segment->region);
	emm_xpmem_segment_zap(segment);
	emm_region_destroy(segment->region);
}

void emm_xpmem_segment_free(struct emm_xpmem_segment *segment)
{
	emm_region_put(segment->region);
	iput(segment->inode);
}

u64 emm_xpmem_task_size(void)
{
	return TASK_SIZE;
}
