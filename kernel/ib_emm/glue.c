// SPDX-License-Identifier: GPL-2.0
/*
 * Glue between Rust and C: inline functions and macros that bindgen does not bind, and the export
 * of the symbols that main.rs defines. No decisions are made here.
 */

#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/userfaultfd_k.h>

#include "glue.h"

void emm_gate_init(struct emm_gate *gate)
{
	rwlock_init(&gate->lock);
	init_waitqueue_head(&gate->waiters);
}

void emm_gate_read_lock(struct emm_gate *gate)
{
	read_lock(&gate->lock);
}

void emm_gate_read_unlock(struct emm_gate *gate)
{
	read_unlock(&gate->lock);
}

void emm_gate_write_lock(struct emm_gate *gate)
{
	write_lock(&gate->lock);
}

void emm_gate_write_unlock(struct emm_gate *gate)
{
	write_unlock(&gate->lock);
}

/*
 * Called with the lock held for writing, returns with it held: sleeps until the next
 * emm_gate_wake(). Returns false if a signal ended it. Interruptible: how long it takes is the VM's
 * business (a userfaultfd handler may have to answer first), not a hung task.
 */
bool emm_gate_wait(struct emm_gate *gate)
{
	DEFINE_WAIT(wait);

	prepare_to_wait(&gate->waiters, &wait, TASK_INTERRUPTIBLE);
	write_unlock(&gate->lock);
	if (!signal_pending(current))
		schedule();
	finish_wait(&gate->waiters, &wait);
	write_lock(&gate->lock);
	return !signal_pending(current);
}

/* As emm_gate_wait(), for @ns at most and regardless of signals. Returns what is left of @ns. */
u64 emm_gate_wait_for(struct emm_gate *gate, u64 ns)
{
	ktime_t end = ktime_add_ns(ktime_get(), ns);
	DEFINE_WAIT(wait);

	prepare_to_wait(&gate->waiters, &wait, TASK_IDLE);
	write_unlock(&gate->lock);
	schedule_hrtimeout(&end, HRTIMER_MODE_ABS);
	finish_wait(&gate->waiters, &wait);
	write_lock(&gate->lock);
	return max_t(s64, ktime_to_ns(ktime_sub(end, ktime_get())), 0);
}

/* Called with the lock held for writing, so that no waiter is missed between test and sleep. */
void emm_gate_wake(struct emm_gate *gate)
{
	if (waitqueue_active(&gate->waiters))
		wake_up_all(&gate->waiters);
}

struct mmu_notifier *emm_mmu_notifier_get(const struct mmu_notifier_ops *ops,
					  struct mm_struct *mm)
{
	return mmu_notifier_get(ops, mm);
}

/* Whether the page of @folio at @address is part of a huge page that is mapped as one. */
static bool emm_folio_huge(struct folio *folio, struct page *page, unsigned long address)
{
	unsigned long inside = (1UL << PMD_ORDER) - 1;

	if (folio_order(folio) < PMD_ORDER)
		return false;
	if ((page_to_pfn(page) & inside) != (PHYS_PFN(address) & inside))
		return false;
	return folio_test_hugetlb(folio) || folio_entire_mapcount(folio) > 0;
}

/* Drops one reference for each of @nr pages, folio by folio. */
static void emm_put_pages(struct page **pages, long nr)
{
	long i = 0;

	while (i < nr) {
		struct folio *folio = page_folio(pages[i]);
		long first = i;

		while (i < nr && page_folio(pages[i]) == folio)
			i++;
		folio_put_refs(folio, i - first);
	}
}

/* Whether a userfaultfd watches some of @nr pages at @address. Called with the mmap_lock held. */
static bool emm_uffd_armed(struct mm_struct *mm, unsigned long address, unsigned long nr)
{
	struct vm_area_struct *vma;
	VMA_ITERATOR(vmi, mm, address);

	for_each_vma_range(vmi, vma, address + nr * PAGE_SIZE) {
		if (userfaultfd_armed(vma))
			return true;
	}
	return false;
}

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

/* May be called under a spinlock. */
void emm_mm_unlock(struct mm_struct *mm)
{
	mmap_read_unlock(mm);
	mmput_async(mm);
}

/*
 * The frames of up to @nr pages at @address, faulted in. The references are dropped before the
 * return: a frame may be used only while no invalidation of it has begun, which the caller knows
 * from its window. EMM_AT_ONCE waits for disks and file servers, EMM_WAITING also for a userfaultfd
 * handler; signals end that. EMM_PRESENT faults nothing in.
 *
 * Called between emm_mm_lock() and emm_mm_unlock(). What waits lets go of the lock meanwhile, and
 * takes it again.
 *
 * @huge says whether the first page is part of a huge page that is mapped as one.
 *
 * Returns how many frames were stored, at least 1, or -EFAULT, -ENOMEM, -EINTR and other errors of
 * get_user_pages_remote().
 */
long emm_get_pfns(struct mm_struct *mm, unsigned long address, unsigned long nr, bool write,
		  enum emm_how how, u64 *pfns, bool *huge)
{
	unsigned int flags = write ? FOLL_WRITE : 0;
	struct page **pages = (struct page **)pfns;
	int locked = 1;
	long got, i;

	BUILD_BUG_ON(sizeof(*pages) != sizeof(*pfns));
	if (how == EMM_PRESENT)
		flags |= FOLL_NOFAULT;
	else if (how == EMM_AT_ONCE && emm_uffd_armed(mm, address, nr))
		flags |= FOLL_NOWAIT;
	else
		flags |= FOLL_INTERRUPTIBLE;

	got = get_user_pages_remote(mm, address, nr, flags, pages,
				    flags & FOLL_INTERRUPTIBLE ? &locked : NULL);
	if (!locked)
		mmap_read_lock(mm);
	if (got <= 0)
		return got ?: -EFAULT;

	*huge = emm_folio_huge(page_folio(pages[0]), pages[0], address);
	emm_put_pages(pages, got);
	for (i = 0; i < got; i++)
		pfns[i] = page_to_pfn(pages[i]);
	return got;
}

/* A zeroed page, charged to @memcg. */
void *emm_node_alloc(struct mem_cgroup *memcg)
{
	struct mem_cgroup *old = set_active_memcg(memcg);
	unsigned long node = get_zeroed_page(GFP_KERNEL_ACCOUNT);

	set_active_memcg(old);
	return (void *)node;
}

void emm_node_free(void *node)
{
	free_page((unsigned long)node);
}

struct mem_cgroup *emm_memcg_get(struct mm_struct *mm)
{
	return get_mem_cgroup_from_mm(mm);
}

/* One more reference, for whoever has one already: that is why it can't fail. */
void emm_memcg_hold(struct mem_cgroup *memcg)
{
	WARN_ON_ONCE(!mem_cgroup_tryget(memcg));
}

void emm_memcg_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

void *emm_pfn_address(u64 pfn)
{
	return page_address(pfn_to_page(pfn));
}

/*
 * The page is mapped by the owner, who is being told that it goes: it cannot be truncated or freed
 * under us, as in zap_pte_range().
 */
void emm_pfn_mark_dirty(u64 pfn)
{
	folio_mark_dirty(page_folio(pfn_to_page(pfn)));
}

unsigned long emm_task_size(void)
{
	return TASK_SIZE;
}

void emm_cond_resched(void)
{
	cond_resched();
}

bool emm_killed(void)
{
	return fatal_signal_pending(current);
}

EXPORT_SYMBOL_GPL(emm_notifier_register);
EXPORT_SYMBOL_GPL(emm_notifier_register_range);
EXPORT_SYMBOL_GPL(emm_notifier_unregister);
EXPORT_SYMBOL_GPL(emm_fault_init);
EXPORT_SYMBOL_GPL(emm_fault_cancel);
EXPORT_SYMBOL_GPL(emm_fault_destroy);
EXPORT_SYMBOL_GPL(emm_region_create);
EXPORT_SYMBOL_GPL(emm_region_stop);
EXPORT_SYMBOL_GPL(emm_region_destroy);
EXPORT_SYMBOL_GPL(emm_region_apply);
EXPORT_SYMBOL_GPL(emm_region_read);
EXPORT_SYMBOL_GPL(emm_region_write);
EXPORT_SYMBOL_GPL(emm_region_prefetch);
EXPORT_SYMBOL_GPL(emm_region_get_stats);
