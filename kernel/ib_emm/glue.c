// SPDX-License-Identifier: GPL-2.0
/*
 * Glue between Rust and C: inline functions and macros that bindgen does not bind, and the export
 * of the symbols that main.rs defines. No decisions are made here.
 */

#include <linux/export.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>

#include "emm.h"
#include "emm_region.h"
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
 * emm_gate_wake(). Idle, not uninterruptible: the waiter is a driver's worker, and how long it
 * waits is the VM's business, not a hung task.
 */
void emm_gate_wait(struct emm_gate *gate)
{
	DEFINE_WAIT(wait);

	prepare_to_wait(&gate->waiters, &wait, TASK_IDLE);
	write_unlock(&gate->lock);
	schedule();
	finish_wait(&gate->waiters, &wait);
	write_lock(&gate->lock);
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

/*
 * The frames of up to @nr pages at @address, faulted in. Only the first one is needed: what lies
 * behind it is taken without waiting for a userfaultfd handler. The references are dropped before
 * the return: a frame may be used only while no invalidation of it has begun, which the caller
 * knows from its window.
 *
 * Returns how many frames were stored, at least 1, or -EFAULT, -ESRCH (the mm is exiting), -ENOMEM
 * and other errors of get_user_pages_remote().
 */
long emm_get_pfns(struct mm_struct *mm, unsigned long address, unsigned long nr,
		  bool write, u64 *pfns)
{
	struct page **pages = (struct page **)pfns;
	unsigned int flags = write ? FOLL_WRITE : 0;
	int locked = 1;
	long got, i;

	BUILD_BUG_ON(sizeof(*pages) != sizeof(*pfns));

	if (!mmget_not_zero(mm))
		return -ESRCH;
	mmap_read_lock(mm);
	got = get_user_pages_remote(mm, address, nr, flags, pages, NULL);
	if (got <= 0)
		got = get_user_pages_remote(mm, address, 1, flags, pages, &locked);
	if (locked)
		mmap_read_unlock(mm);
	mmput_async(mm);

	for (i = 0; i < got; i++) {
		struct page *page = pages[i];

		pfns[i] = page_to_pfn(page);
		put_page(page);
	}
	return got ?: -EFAULT;
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

EXPORT_SYMBOL_GPL(emm_notifier_register);
EXPORT_SYMBOL_GPL(emm_notifier_register_range);
EXPORT_SYMBOL_GPL(emm_notifier_unregister);
EXPORT_SYMBOL_GPL(emm_region_create);
EXPORT_SYMBOL_GPL(emm_region_destroy);
EXPORT_SYMBOL_GPL(emm_region_apply);
EXPORT_SYMBOL_GPL(emm_region_read);
EXPORT_SYMBOL_GPL(emm_region_write);
EXPORT_SYMBOL_GPL(emm_region_prefetch);
EXPORT_SYMBOL_GPL(emm_region_get_stats);
