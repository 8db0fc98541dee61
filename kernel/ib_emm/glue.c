// SPDX-License-Identifier: GPL-2.0
/*
 * Glue between Rust and C: inline functions and macros that bindgen does not bind, and the export
 * of the symbols that main.rs defines. No decisions are made here.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/export.h>
#include <linux/gfp.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include "glue.h"

void emm_gate_init(struct emm_gate *gate)
{
	rwlock_init(&gate->lock);
	init_waitqueue_head(&gate->waiters);
}

/*
 * Taken for reading in softirqs, too: whoever has it for writing keeps these away, and a reader that one
 * interrupts does no harm, as one in an interrupt does not wait for writers that wait.
 */
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
	write_lock_bh(&gate->lock);
}

void emm_gate_write_unlock(struct emm_gate *gate)
{
	write_unlock_bh(&gate->lock);
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
	write_unlock_bh(&gate->lock);
	if (!signal_pending(current))
		schedule();
	finish_wait(&gate->waiters, &wait);
	write_lock_bh(&gate->lock);
	return !signal_pending(current);
}

/* As emm_gate_wait(), for @ns at most and regardless of signals. Returns what is left of @ns. */
u64 emm_gate_wait_for(struct emm_gate *gate, u64 ns)
{
	ktime_t end = ktime_add_ns(ktime_get(), ns);
	DEFINE_WAIT(wait);

	prepare_to_wait(&gate->waiters, &wait, TASK_IDLE);
	write_unlock_bh(&gate->lock);
	schedule_hrtimeout(&end, HRTIMER_MODE_ABS);
	finish_wait(&gate->waiters, &wait);
	write_lock_bh(&gate->lock);
	return max_t(s64, ktime_to_ns(ktime_sub(end, ktime_get())), 0);
}

/* Called with the lock held for writing, so that no waiter is missed between test and sleep. */
void emm_gate_wake(struct emm_gate *gate)
{
	if (waitqueue_active(&gate->waiters))
		wake_up_all(&gate->waiters);
}

/* Without the lock, for whoever sleeps for a limited time: one who is about to may miss it. */
void emm_gate_nudge(struct emm_gate *gate)
{
	if (wq_has_sleeper(&gate->waiters))
		wake_up_all(&gate->waiters);
}

static void emm_sleeper_done(struct emm_fault *fault)
{
	complete(&container_of(fault, struct emm_sleeper, fault)->done);
}

void emm_sleeper_init(struct emm_sleeper *sleeper)
{
	sleeper->fault = (struct emm_fault){ .done = emm_sleeper_done };
	init_completion(&sleeper->done);
}

/* Until what was parked is to be tried again. Returns false if the thread was killed before. */
bool emm_sleeper_wait(struct emm_sleeper *sleeper)
{
	return !wait_for_completion_killable(&sleeper->done);
}

/* A zeroed page, charged to @memcg. */
void *emm_node_alloc(struct mem_cgroup *memcg, bool may_sleep)
{
	gfp_t gfp = may_sleep ? GFP_KERNEL_ACCOUNT : GFP_NOWAIT | __GFP_NOWARN | __GFP_ACCOUNT;
	struct mem_cgroup *old = set_active_memcg(memcg);
	unsigned long node = get_zeroed_page(gfp);

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
	/* All memory is in the direct map. */
	BUILD_BUG_ON(IS_ENABLED(CONFIG_HIGHMEM));
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

/* Whoever registers memory hears why it is refused. */
void emm_not_in_user_space(u64 start, u64 length)
{
	pr_info_ratelimited("no region of %llu bytes at %#llx: they do not lie in user space; a tag in the upper bits of an address is to be taken off before it is registered\n",
			    length, start);
}

unsigned long emm_task_size(void)
{
	return TASK_SIZE;
}

void emm_cond_resched(void)
{
	cond_resched();
}

/* Whether page tables may be looked at here: their locks are taken by threads only. */
bool emm_may_look(void)
{
	return in_task() && !irqs_disabled();
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
EXPORT_SYMBOL_GPL(emm_region_create_for);
EXPORT_SYMBOL_GPL(emm_region_frame);
EXPORT_SYMBOL_GPL(emm_region_frame_at_hand);
EXPORT_SYMBOL_GPL(emm_region_frame_beside);
EXPORT_SYMBOL_GPL(emm_region_mark);
EXPORT_SYMBOL_GPL(emm_region_get);
EXPORT_SYMBOL_GPL(emm_region_put);
