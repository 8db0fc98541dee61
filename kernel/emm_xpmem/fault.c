// SPDX-License-Identifier: GPL-2.0
/*
 * Faults of attachments.
 *
 * A frame of the owner is entered in the attacher's page table under that table's lock, and only while
 * the segment's region has it: the region is asked under the lock. Where it does not have it, the
 * owner's VM is asked, by way of the region, and the fault begins anew: with the attacher's locks given
 * back, as the owner's are taken meanwhile.
 */

#include <linux/cleanup.h>
#include <linux/completion.h>
#include <linux/file.h>
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>

#include "attach.h"
#include "glue.h"

/* What the entries of one page table, or the one in its place, are: small ones or a huge one. */
#define EMM_XPMEM_SIZES_BITS 4
static struct mutex emm_xpmem_sizes[1 << EMM_XPMEM_SIZES_BITS];

void emm_xpmem_faults_init(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(emm_xpmem_sizes); i++)
		mutex_init(&emm_xpmem_sizes[i]);
}

static struct mutex *emm_xpmem_size_of(const struct vm_fault *vmf)
{
	return &emm_xpmem_sizes[hash_ptr(vmf->pmd, EMM_XPMEM_SIZES_BITS)];
}

static struct emm_xpmem_grant *emm_xpmem_grant_of(const struct vm_fault *vmf)
{
	return vmf->vma->vm_file->private_data;
}

/* The address in the owner's memory. */
static u64 emm_xpmem_source(const struct vm_fault *vmf)
{
	return (u64)vmf->pgoff << PAGE_SHIFT;
}

static int emm_xpmem_at_hand(struct vm_fault *vmf,
			     int (*fn)(const struct emm_page *frame, void *arg))
{
	struct emm_xpmem_segment *segment = emm_xpmem_grant_of(vmf)->segment;

	return emm_region_frame_at_hand(segment->region, emm_xpmem_source(vmf) - segment->start,
					vmf->flags & FAULT_FLAG_WRITE, fn, vmf);
}

/*
 * Called by the region with the frame, which stays the owner's meanwhile; the lock of the entry is held.
 *
 * A page that is read is entered read-only, though it may be written: a write faults, and is known to
 * the region as such. So a page is dirty if it was written through an attachment.
 */
static int emm_xpmem_set_pte(const struct emm_page *frame, void *arg)
{
	struct vm_fault *vmf = arg;
	struct vm_area_struct *vma = vmf->vma;
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	pte_t new = pte_mkyoung(pte_mkspecial(pfn_pte(frame->pfn, vma->vm_page_prot)));
	pte_t old = ptep_get(vmf->pte);

	if (write)
		new = pte_mkdirty(pte_mkwrite_novma(new));
	if (!pte_none(old)) {
		/* What the region does not have any more was taken out, so this is the same frame. */
		if (WARN_ON_ONCE(!pte_present(old) || pte_pfn(old) != frame->pfn))
			return -EFAULT;
		/* Somebody else was faster. */
		if (pte_write(old) || !write)
			return 0;
	}
	/* More rights than before, if any: no other CPU has to forget something. */
	set_pte_at(vma->vm_mm, vmf->address, vmf->pte, new);
	update_mmu_cache(vma, vmf->address, vmf->pte);
	return 0;
}

/* Called with the page table's lock held. */
static int emm_xpmem_ask_for_pte(pte_t *pte, unsigned long address, void *arg)
{
	struct vm_fault *vmf = arg;
	int err;

	vmf->pte = pte;
	err = emm_xpmem_at_hand(vmf, emm_xpmem_set_pte);
	/* It is the VM's, and the lock is given back. */
	vmf->pte = NULL;
	return err;
}

/* Enters what the region has. Returns 0, -EAGAIN if it has not, -ENOMEM, -EINVAL. */
static int emm_xpmem_enter(struct vm_fault *vmf)
{
	guard(mutex)(emm_xpmem_size_of(vmf));
	/* A huge entry meanwhile: if that will not do, the next fault is one of it. */
	if (pmd_leaf(pmdp_get_lockless(vmf->pmd)))
		return 0;
	return apply_to_page_range(vmf->vma->vm_mm, vmf->address, PAGE_SIZE,
				   emm_xpmem_ask_for_pte, vmf);
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/*
 * The VM takes a huge entry of its huge zero page for one that it made itself, with a page table put
 * aside to split it (has_deposited_pgtable()). Which page that is, is not exported; but it is the only
 * huge one that belongs to nothing.
 */
static bool emm_xpmem_is_zero(unsigned long pfn)
{
	return !page_folio(pfn_to_page(pfn))->mapping;
}

/* As emm_xpmem_set_pte(). Returns -ERANGE if the entry has to be a small one. */
static int emm_xpmem_set_pmd(const struct emm_page *frame, void *arg)
{
	struct vm_fault *vmf = arg;
	struct vm_area_struct *vma = vmf->vma;
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	unsigned long pfn = ALIGN_DOWN(frame->pfn, HPAGE_PMD_NR);
	pmd_t new = pmd_mkspecial(pmd_mkhuge(pfn_pmd(pfn, vma->vm_page_prot)));
	pmd_t old = pmdp_get(vmf->pmd);

	if (frame->order < PMD_ORDER || (!pmd_none(old) && !pmd_leaf(old)) || emm_xpmem_is_zero(pfn))
		return -ERANGE;
	new = pmd_mkyoung(new);
	if (write)
		new = pmd_mkdirty(pmd_mkwrite_novma(new));
	if (!pmd_none(old)) {
		if (WARN_ON_ONCE(!pmd_present(old) || pmd_pfn(old) != pfn))
			return -EFAULT;
		if (pmd_write(old) || !write)
			return 0;
	}
	set_pmd_at(vma->vm_mm, vmf->address & PMD_MASK, vmf->pmd, new);
	update_mmu_cache_pmd(vma, vmf->address & PMD_MASK, vmf->pmd);
	return 0;
}

/* As emm_xpmem_enter(), and -ERANGE. */
static int emm_xpmem_enter_huge(struct vm_fault *vmf)
{
	spinlock_t *lock;
	int err;

	guard(mutex)(emm_xpmem_size_of(vmf));
	lock = pmd_lock(vmf->vma->vm_mm, vmf->pmd);
	err = emm_xpmem_at_hand(vmf, emm_xpmem_set_pmd);
	spin_unlock(lock);
	return err;
}

/* Whether a huge page of the owner's lies in the mapping as one. */
static bool emm_xpmem_suits_huge(const struct vm_fault *vmf)
{
	unsigned long start = vmf->address & PMD_MASK;

	return !((vmf->address ^ emm_xpmem_source(vmf)) & ~PMD_MASK) &&
	       start >= vmf->vma->vm_start && start + PMD_SIZE <= vmf->vma->vm_end;
}
#endif /* CONFIG_TRANSPARENT_HUGEPAGE */

/* A wait for the owner's VM. */
struct emm_xpmem_wait {
	struct emm_fault fault;
	struct completion done;
};

static void emm_xpmem_wait_done(struct emm_fault *fault)
{
	complete(&container_of(fault, struct emm_xpmem_wait, fault)->done);
}

static int emm_xpmem_nothing(const struct emm_page *frame, void *arg)
{
	return 0;
}

/*
 * Has the owner's VM bring in the page at @offset. No lock is held: a worker of the owner may do it,
 * and have to wait for somebody. Returns 0, -EINTR, or why it does not come, as emm_region_frame().
 */
static int emm_xpmem_bring_in(struct emm_region *region, u64 offset, unsigned int flags)
{
	struct emm_xpmem_wait wait;
	int err;

	err = emm_fault_init(&wait.fault, emm_xpmem_wait_done);
	if (err)
		return err;
	init_completion(&wait.done);
	for (;;) {
		err = emm_region_frame(region, offset, flags & FAULT_FLAG_WRITE, emm_xpmem_nothing,
				       NULL, &wait.fault);
		if (err == -EBUSY) {
			/* We take it out of attachments now. That ends. */
			err = fatal_signal_pending(current) ? -EINTR : 0;
			if (err)
				break;
			cond_resched();
			continue;
		}
		if (err != -EAGAIN)
			break;
		/* Signals are for user space: the kernel's own access goes on unless it is a kill. */
		if (flags & FAULT_FLAG_USER)
			err = wait_for_completion_interruptible(&wait.done);
		else
			err = wait_for_completion_killable(&wait.done);
		if (err) {
			err = -EINTR;
			break;
		}
		reinit_completion(&wait.done);
	}
	emm_fault_destroy(&wait.fault);
	return err;
}

/*
 * When the attacher's locks were given back, a fault can't say that it failed, but only that it is to
 * be tried again. So what it waited for ended with is written down for the thread, which comes again at
 * once, for the same page. Another thread's may take its place: then it asks once more.
 */
static struct emm_xpmem_told *emm_xpmem_told(struct emm_xpmem_grant *grant)
{
	return &grant->told[hash_ptr(current, EMM_XPMEM_TOLD_BITS)];
}

static void emm_xpmem_tell(struct emm_xpmem_grant *grant, unsigned long page, int err)
{
	struct emm_xpmem_told *told = emm_xpmem_told(grant);

	spin_lock(&grant->lock);
	told->task = current;
	told->page = page;
	told->err = err;
	spin_unlock(&grant->lock);
}

/* What was written down for this fault, or 0. Once. */
static int emm_xpmem_was_told(struct emm_xpmem_grant *grant, const struct vm_fault *vmf)
{
	struct emm_xpmem_told *told = emm_xpmem_told(grant);
	int err = 0;

	if (!(vmf->flags & FAULT_FLAG_TRIED))
		return 0;
	spin_lock(&grant->lock);
	if (told->task == current && told->page == vmf->pgoff) {
		err = told->err;
		told->err = 0;
	}
	spin_unlock(&grant->lock);
	return err;
}

/*
 * The owner's VM has to be asked. It is not while the attacher's locks are held: not if the fault can't
 * be tried again (a futex, of pages that the region has not), either.
 */
static vm_fault_t emm_xpmem_wait(struct vm_fault *vmf)
{
	struct file *file = vmf->vma->vm_file;
	struct emm_xpmem_grant *grant = emm_xpmem_grant_of(vmf);
	struct emm_xpmem_segment *segment = grant->segment;
	u64 offset = emm_xpmem_source(vmf) - segment->start;
	unsigned long page = vmf->pgoff;
	unsigned int flags = vmf->flags;
	int err;

	if (!(flags & FAULT_FLAG_ALLOW_RETRY))
		return VM_FAULT_SIGBUS;
	if (flags & FAULT_FLAG_RETRY_NOWAIT)
		return VM_FAULT_RETRY;

	/* The mapping may go when its lock is given back. */
	get_file(file);
	release_fault_lock(vmf);
	err = emm_xpmem_bring_in(segment->region, offset, flags);
	if (err != -EINTR)
		emm_xpmem_tell(grant, page, err);
	fput(file);
	/* Major: a fault under the mapping's lock alone counts as tried only then. */
	return VM_FAULT_RETRY | VM_FAULT_MAJOR;
}

static vm_fault_t emm_xpmem_serve(struct vm_fault *vmf, int (*enter)(struct vm_fault *vmf))
{
	struct emm_xpmem_grant *grant = emm_xpmem_grant_of(vmf);
	int err;

	if (READ_ONCE(grant->released))
		return VM_FAULT_SIGBUS;
	err = enter(vmf);
	switch (err) {
	case 0:
		return VM_FAULT_NOPAGE;
	case -ERANGE:
		return VM_FAULT_FALLBACK;
	case -ENOMEM:
		return VM_FAULT_OOM;
	case -EAGAIN:
		if (!emm_xpmem_was_told(grant, vmf))
			return emm_xpmem_wait(vmf);
	}
	return VM_FAULT_SIGBUS;
}

static vm_fault_t emm_xpmem_fault(struct vm_fault *vmf)
{
	return emm_xpmem_serve(vmf, emm_xpmem_enter);
}

/* A page that was entered to be read is written. */
static vm_fault_t emm_xpmem_pfn_mkwrite(struct vm_fault *vmf)
{
	vm_fault_t ret = emm_xpmem_serve(vmf, emm_xpmem_enter);

	/* If the lock was given back the VM must not look at the entry. */
	return ret & VM_FAULT_RETRY ? ret | VM_FAULT_NOPAGE : ret;
}

static vm_fault_t emm_xpmem_huge_fault(struct vm_fault *vmf, unsigned int order)
{
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	if (order == PMD_ORDER && emm_xpmem_suits_huge(vmf))
		return emm_xpmem_serve(vmf, emm_xpmem_enter_huge);
#endif
	return VM_FAULT_FALLBACK;
}

/* An entry beside the one that is needed. */
struct emm_xpmem_beside {
	struct vm_area_struct *vma;
	unsigned long address;
	pte_t *pte;
};

/* As emm_xpmem_set_pte(), where there is none, of a page that nobody uses yet. */
static int emm_xpmem_set_pte_beside(const struct emm_page *frame, void *arg)
{
	struct emm_xpmem_beside *beside = arg;
	pte_t new = pte_mkspecial(pfn_pte(frame->pfn, beside->vma->vm_page_prot));

	set_pte_at(beside->vma->vm_mm, beside->address, beside->pte, pte_mkold(new));
	return 0;
}

/*
 * Before a fault for reading: what the region has from page @first to @last of the file, all in one page
 * table, is entered. Must not sleep. What is not there is left to the fault.
 */
static vm_fault_t emm_xpmem_map_pages(struct vm_fault *vmf, pgoff_t first, pgoff_t last)
{
	struct emm_xpmem_grant *grant = emm_xpmem_grant_of(vmf);
	struct emm_xpmem_segment *segment = grant->segment;
	struct emm_xpmem_beside beside = { .vma = vmf->vma };
	pmd_t table = pmdp_get_lockless(vmf->pmd);
	vm_fault_t ret = 0;
	spinlock_t *lock;
	pgoff_t page;

	/* A table stays while its mapping is locked. */
	if (READ_ONCE(grant->released) || !pmd_present(table) || pmd_leaf(table))
		return 0;
	lock = pte_lockptr(vmf->vma->vm_mm, &table);
	spin_lock(lock);
	for (page = first; page <= last; page++) {
		beside.address = vmf->address + ((page - vmf->pgoff) << PAGE_SHIFT);
		beside.pte = pte_offset_kernel(&table, beside.address);
		if (page == vmf->pgoff) {
			ret = emm_xpmem_ask_for_pte(beside.pte, vmf->address, vmf) ?
			      0 : VM_FAULT_NOPAGE;
		} else if (pte_none(ptep_get(beside.pte))) {
			emm_region_frame_beside(segment->region, ((u64)page << PAGE_SHIFT) -
						segment->start, emm_xpmem_set_pte_beside, &beside);
		}
	}
	spin_unlock(lock);
	return ret;
}

const struct vm_operations_struct emm_xpmem_vm_ops = {
	.fault = emm_xpmem_fault,
	.huge_fault = emm_xpmem_huge_fault,
	.map_pages = emm_xpmem_map_pages,
	.pfn_mkwrite = emm_xpmem_pfn_mkwrite,
};
