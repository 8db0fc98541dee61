// SPDX-License-Identifier: GPL-2.0
/*
 * Attachments: mappings of files of a segment, one file for each call of ATTACH. The file goes with the
 * last mapping of it, whoever ends that (DETACH, munmap, exec, exit), and a grant with the last file.
 */

#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/sched.h>

#include "attach.h"
#include "glue.h"

static bool emm_xpmem_is_attachment(const struct vm_area_struct *vma)
{
	return vma->vm_ops == &emm_xpmem_vm_ops;
}

void emm_xpmem_grant_init(struct emm_xpmem_grant *grant, struct emm_xpmem_segment *segment,
			  bool writable)
{
	memset(grant, 0, sizeof(*grant));
	grant->segment = segment;
	grant->writable = writable;
	spin_lock_init(&grant->lock);
}

/*
 * Nobody but emm_xpmem_attach() has the file, and it maps it shared.
 *
 * VM_PFNMAP: what is mapped is the owner's. No page is referenced, by these page tables or by way of
 * them: the kernel does not take pages out of them (get_user_pages()).
 * VM_DONTCOPY: a fork's child has no attachments. madvise(2) can't change that of such a mapping.
 */
static int emm_xpmem_mmap(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_mod(vma, VM_PFNMAP | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	vma->vm_ops = &emm_xpmem_vm_ops;
	return 0;
}

static int emm_xpmem_close(struct inode *inode, struct file *file)
{
	emm_xpmem_grant_put(file->private_data);
	return 0;
}

static const struct file_operations emm_xpmem_attachment_fops = {
	.owner = THIS_MODULE,
	.mmap = emm_xpmem_mmap,
	.release = emm_xpmem_close,
	/* Where the owner has a huge page, one can be mapped here. */
	.get_unmapped_area = thp_get_unmapped_area,
};

/* Whether an attachment lies in [@start, @end). Called with the mmap_lock held. */
static bool emm_xpmem_some_attached(struct mm_struct *mm, u64 start, u64 end)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, start);

	for_each_vma_range(vmi, vma, end) {
		if (emm_xpmem_is_attachment(vma))
			return true;
	}
	return false;
}

bool emm_xpmem_is_attached(u64 start, u64 length)
{
	struct mm_struct *mm = current->mm;
	bool found;

	mmap_read_lock(mm);
	found = emm_xpmem_some_attached(mm, start, start + length);
	mmap_read_unlock(mm);
	return found;
}

/* Takes over a reference on @grant. */
static struct file *emm_xpmem_open_attachment(struct emm_xpmem_grant *grant)
{
	struct file *file;

	file = emm_xpmem_segment_file(grant->segment, grant->writable ? O_RDWR : O_RDONLY,
				      &emm_xpmem_attachment_fops);
	if (IS_ERR(file)) {
		emm_xpmem_grant_put(grant);
		return file;
	}
	/* The last put of the file gives it back. */
	__module_get(THIS_MODULE);
	file->private_data = grant;
	return file;
}

long emm_xpmem_attach(struct emm_xpmem_grant *grant, u64 address, u64 length, u64 at)
{
	unsigned long prot = PROT_READ | (grant->writable ? PROT_WRITE : 0);
	struct file *file = emm_xpmem_open_attachment(grant);
	long mapped;

	if (IS_ERR(file))
		return PTR_ERR(file);
	if (at && emm_xpmem_is_attached(at, length))
		mapped = -EINVAL;
	else
		mapped = vm_mmap(file, at, length, prot, MAP_SHARED | (at ? MAP_FIXED : 0),
				 address);
	fput(file);
	return mapped;
}

/* How far the mappings of the attachment that @vma is of reach, without a gap, around it. */
static void emm_xpmem_extent(struct vm_area_struct *vma, unsigned long *start, unsigned long *end)
{
	const struct file *file = vma->vm_file;
	struct vm_area_struct *other;
	VMA_ITERATOR(vmi, vma->vm_mm, vma->vm_start);

	*start = vma->vm_start;
	*end = vma->vm_end;
	while ((other = vma_prev(&vmi)) && other->vm_end == *start && other->vm_file == file)
		*start = other->vm_start;
	vma_iter_set(&vmi, *end);
	for_each_vma(vmi, other) {
		if (other->vm_start != *end || other->vm_file != file)
			break;
		*end = other->vm_end;
	}
}

/* As with munmap(2), who unmaps and maps there in other threads meanwhile gets what he asks for. */
int emm_xpmem_detach(u64 at)
{
	struct mm_struct *mm = current->mm;
	unsigned long start, end;
	struct vm_area_struct *vma;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	vma = vma_lookup(mm, at);
	if (!vma || !emm_xpmem_is_attachment(vma)) {
		mmap_read_unlock(mm);
		return -EINVAL;
	}
	emm_xpmem_extent(vma, &start, &end);
	mmap_read_unlock(mm);
	return vm_munmap(start, end - start);
}

void emm_xpmem_detach_all(struct emm_xpmem_grant *grant)
{
	struct mm_struct *mm = current->mm;
	unsigned long start, end = 0;
	struct vm_area_struct *vma;

	for (;;) {
		VMA_ITERATOR(vmi, mm, end);

		mmap_read_lock(mm);
		for_each_vma(vmi, vma) {
			if (emm_xpmem_is_attachment(vma) && vma->vm_file->private_data == grant)
				break;
		}
		if (vma) {
			start = vma->vm_start;
			end = vma->vm_end;
		}
		mmap_read_unlock(mm);
		if (!vma || vm_munmap(start, end - start))
			return;
	}
}
