// SPDX-License-Identifier: GPL-2.0
/*
 * How the VM is asked for pages: it brings in those that an operation named, as for a CPU of the
 * owner, and then its page tables are looked at. No page is referenced at any time: a reference
 * makes others wait (truncate of a DAX file, migration), and what a region uses is kept by what the
 * VM says before it takes a page.
 *
 * The looking is hmm_range_fault()'s. Its faulting is not used: it can't wait for a userfaultfd
 * handler. Nor is fixup_user_fault(): it goes on waiting when a signal came that does not kill,
 * looks the mapping up for each page, and warns of accesses below a stack.
 */

#include <linux/fs.h>
#include <linux/hmm.h>
#include <linux/hugetlb_inline.h>
#include <linux/magic.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/userfaultfd_k.h>

#include "glue.h"

/* Pages that are looked at after a first fault, to see how many one fault brings. */
#define EMM_SAMPLE	16

/*
 * Takes the mmap_lock of @mm for reading. Sleeps. Who holds it excludes every invalidation whose
 * caller holds it for writing: fork, munmap, mremap, mprotect, a collapse.
 *
 * Returns 0, -ESRCH if the mm is exiting, or -EINTR.
 */
int emm_mm_lock(struct mm_struct *mm)
{
	if (!mmget_not_zero(mm))
		return -ESRCH;
	if (mmap_read_lock_killable(mm)) {
		mmput_async(mm);
		return -EINTR;
	}
	return 0;
}

/* As emm_mm_lock(), without sleeping: -EAGAIN if others have the lock for writing, or want it. */
int emm_mm_trylock(struct mm_struct *mm)
{
	if (!mmget_not_zero(mm))
		return -ESRCH;
	if (!mmap_read_trylock(mm)) {
		mmput_async(mm);
		return -EAGAIN;
	}
	return 0;
}

/* Whether somebody holds the mmap_lock of @mm for writing now. In any context. */
bool emm_mm_write_locked(struct mm_struct *mm)
{
#ifdef CONFIG_PREEMPT_RT
	return atomic_read(&mm->mmap_lock.rwbase.readers) == WRITER_BIAS;
#else
	return atomic_long_read(&mm->mmap_lock.count) & RWSEM_WRITER_LOCKED;
#endif
}

/* May be called under a spinlock. @locked: whether the lock is held. */
void emm_mm_unlock(struct mm_struct *mm, bool locked)
{
	if (locked)
		mmap_read_unlock(mm);
	mmput_async(mm);
}

/* Memory that the kernel itself can't reach: memfd_secret(2). */
static bool emm_vma_secret(const struct vm_area_struct *vma)
{
	return vma->vm_file && file_inode(vma->vm_file)->i_sb->s_magic == SECRETMEM_MAGIC;
}

/*
 * Whether a region may reach what @vma maps, in this way. No registers of devices, which have no
 * struct page or none to be copied from; no shadow stacks to be written; and no memory that may be
 * written only, which hmm_range_fault() refuses, too.
 *
 * Protection keys are those of a thread, and there is none here: as ptrace(2) and
 * process_vm_readv(2), an access by a device is not subject to them.
 */
static bool emm_vma_permits(const struct vm_area_struct *vma, bool write)
{
	vm_flags_t flags = vma->vm_flags;

	if (flags & (VM_IO | VM_PFNMAP) || !(flags & VM_READ) || emm_vma_secret(vma))
		return false;
	return !write || (flags & VM_WRITE && !(flags & VM_SHADOW_STACK));
}

/* What @word, as hmm_range_fault() gives it, stands for. */
static enum emm_seen emm_seen(const struct vm_area_struct *vma, unsigned long word)
{
	if (word & HMM_PFN_ERROR)
		return EMM_SEEN_REFUSED;
	if (!(word & HMM_PFN_VALID))
		return EMM_SEEN_NOTHING;
	/* Memory of another device is no memory that a CPU should copy from. */
	if (vma->vm_flags & VM_MIXEDMAP && is_pci_p2pdma_page(hmm_pfn_to_page(word)))
		return EMM_SEEN_REFUSED;
	return hmm_pfn_to_map_order(word) < PMD_ORDER ? EMM_SEEN_PAGE : EMM_SEEN_HUGE;
}

/*
 * What the page tables have from @start to @end, which lie in @vma, until the first page that is
 * not there. Each of @frames gets a page frame number, shifted by EMM_FRAME_SHIFT, and flags.
 *
 * Returns how many are.
 */
static unsigned long emm_look_vma(struct vm_area_struct *vma, unsigned long start,
				  unsigned long end, u64 *frames, enum emm_seen *first)
{
	/*
	 * hmm_range_fault() takes the mm from this, and compares its sequence number, which never
	 * moves as this is in no list: whether an invalidation came between is known from the
	 * caller's window.
	 */
	struct mmu_interval_notifier notifier = { .mm = vma->vm_mm };
	struct hmm_range range = {
		.notifier = &notifier,
		.start = start,
		.end = end,
		.hmm_pfns = (unsigned long *)frames,
	};
	unsigned long nr = (end - start) >> PAGE_SHIFT;
	unsigned long writable = vma->vm_flags & VM_SHADOW_STACK ? 0 : HMM_PFN_WRITE;
	unsigned long i;

	BUILD_BUG_ON(sizeof(*frames) != sizeof(*range.hmm_pfns));
	memset(frames, 0, nr * sizeof(*frames));
	if (hmm_range_fault(&range))
		return 0;

	for (i = 0; i < nr; i++) {
		unsigned long word = frames[i];
		enum emm_seen seen = emm_seen(vma, word);

		if (!i)
			*first = seen;
		if (seen < EMM_SEEN_PAGE)
			break;
		frames[i] = (u64)(word & ~HMM_PFN_FLAGS) << EMM_FRAME_SHIFT;
		if (word & writable)
			frames[i] |= EMM_FRAME_WRITABLE;
	}
	return i;
}

/*
 * What the page tables of @mm have at @address and behind, for @nr pages at most: as
 * emm_look_vma(). Nothing is faulted in, and nobody waited for but the mappings' own locks; without
 * @may_sleep not for these either: huge pages of hugetlbfs are not seen then. In process context,
 * between emm_mm_lock() and emm_mm_unlock().
 *
 * @first says what was seen of the first page.
 *
 * A frame may be used only while no invalidation of it has begun, which the caller knows from its
 * window.
 *
 * Returns how many frames were stored.
 */
unsigned long emm_look(struct mm_struct *mm, unsigned long address, unsigned long nr,
		       bool may_sleep, u64 *frames, enum emm_seen *first)
{
	unsigned long end = address + nr * PAGE_SIZE;
	unsigned long at = address;
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, address);

	*first = EMM_SEEN_NOTHING;
	for_each_vma_range(vmi, vma, end) {
		unsigned long stop = min(vma->vm_end, end);
		unsigned long done = (at - address) >> PAGE_SHIFT;
		enum emm_seen ignored;

		if (vma->vm_start > at || !emm_vma_permits(vma, false))
			break;
		if (is_vm_hugetlb_page(vma) && !may_sleep)
			break;
		at += PAGE_SIZE * emm_look_vma(vma, at, stop, frames + done,
					       done ? &ignored : first);
		if (at < stop)
			break;
	}
	return (at - address) >> PAGE_SHIFT;
}

/* Pages that the VM is asked to bring in. */
struct emm_asking {
	struct mm_struct *mm;
	/* the mapping of the last one, while the lock was held since */
	struct vm_area_struct *vma;
	bool write;
	enum emm_how how;
	/* whether the mmap_lock is held */
	bool locked;
};

/*
 * Has the VM fault @address in. What waits lets go of the mmap_lock meanwhile, and takes it again,
 * if no signal comes.
 *
 * Returns 0 if the VM has nothing more to do, which does not mean that the page is still there;
 * -EAGAIN if a userfaultfd handler was to be waited for; -EFAULT, -ENOMEM, -EINTR.
 */
static int emm_fault_page(struct emm_asking *asking, unsigned long address)
{
	unsigned int flags = FAULT_FLAG_REMOTE | FAULT_FLAG_ALLOW_RETRY;
	struct mm_struct *mm = asking->mm;

	if (asking->write)
		flags |= FAULT_FLAG_WRITE;
	for (;;) {
		unsigned int waiting = FAULT_FLAG_KILLABLE | FAULT_FLAG_INTERRUPTIBLE;
		vm_fault_t ret;

		if (fatal_signal_pending(current))
			return -EINTR;
		if (!asking->vma || address >= asking->vma->vm_end) {
			/* Stacks don't grow for a device: it has no stack pointer. */
			asking->vma = vma_lookup(mm, address);
			if (!asking->vma || !emm_vma_permits(asking->vma, asking->write)) {
				asking->vma = NULL;
				return -EFAULT;
			}
		}
		if (asking->how == EMM_AT_ONCE && userfaultfd_armed(asking->vma))
			waiting = FAULT_FLAG_RETRY_NOWAIT;

		ret = handle_mm_fault(asking->vma, address, flags | waiting, NULL);

		if (ret & VM_FAULT_ERROR)
			return vm_fault_to_errno(ret, 0) ?: -EFAULT;
		if (!(ret & (VM_FAULT_COMPLETED | VM_FAULT_RETRY)))
			return 0;
		if (waiting == FAULT_FLAG_RETRY_NOWAIT)
			return -EAGAIN;

		asking->vma = NULL;
		asking->locked = false;
		if (ret & VM_FAULT_RETRY && signal_pending(current))
			return -EINTR;
		if (mmap_read_lock_killable(mm))
			return -EINTR;
		asking->locked = true;
		if (ret & VM_FAULT_COMPLETED)
			return 0;
		flags |= FAULT_FLAG_TRIED;
	}
}

/*
 * How many pages the fault of the one at @address brought, of @nr: a large folio's other pages need
 * no fault of their own. At least 1.
 */
static unsigned long emm_fault_step(const struct emm_asking *asking, unsigned long address,
				    unsigned long nr, u64 *frames)
{
	unsigned long in_pmd = 1UL << PMD_ORDER;
	unsigned long there, i;
	enum emm_seen first;

	there = emm_look(asking->mm, address, min(nr, EMM_SAMPLE), true, frames, &first);
	if (first == EMM_SEEN_HUGE)
		return in_pmd - (PHYS_PFN(address) & (in_pmd - 1));
	for (i = 1; i < there; i++) {
		if (asking->write && !(frames[i] & EMM_FRAME_WRITABLE))
			break;
	}
	return i;
}

/*
 * Has the VM bring in @nr pages at @address, which an operation named; the first one is not there,
 * or not for this access. EMM_AT_ONCE waits for disks and file servers, EMM_WAITING also for a
 * userfaultfd handler; signals end that.
 *
 * Called between emm_mm_lock() and emm_mm_unlock(). What waits lets go of the lock meanwhile, and
 * takes it again; @locked says whether it could.
 *
 * @frames has room for @nr words.
 *
 * Returns 0, after which a look shows what is there, or why not all was brought in: -EAGAIN if a
 * userfaultfd handler was to be waited for; -EFAULT, -ENOMEM, -EINTR.
 */
int emm_fault_in(struct mm_struct *mm, unsigned long address, unsigned long nr, bool write,
		 enum emm_how how, u64 *frames, bool *locked)
{
	struct emm_asking asking = {
		.mm = mm,
		.write = write,
		.how = how,
		.locked = true,
	};
	unsigned long i, step;
	int err;

	err = emm_fault_page(&asking, address);
	step = err || nr == 1 ? nr : emm_fault_step(&asking, address, nr, frames);
	for (i = step; !err && i < nr; i += step) {
		cond_resched();
		err = emm_fault_page(&asking, address + i * PAGE_SIZE);
	}
	*locked = asking.locked;
	return err;
}
