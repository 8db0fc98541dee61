// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel thread that faults works as the owner of the address space would who touches the page.
 *
 * What a fault brings in is charged, placed and permitted by what the VM finds in the current
 * thread, unless it finds it in the mapping:
 *
 * - page cache and page tables are charged to the thread's memory cgroup (set_active_memcg());
 *   anonymous memory and shmem go by the mm,
 * - pages come from the nodes that the thread's cpuset allows (mems_allowed) and its memory policy
 *   names, unless the mapping has one of its own (mbind); without any, from the node that the thread
 *   runs on, which for the owner is the one that it ran on last,
 * - file systems keep blocks, and overcommit keeps memory, for those with capabilities; quotas do not
 *   bind them; FUSE asks who they are (override_creds()),
 * - what is read from a disk counts for the thread's I/O cgroup (kthread_associate_blkcg()),
 * - what is above memory.high is reclaimed, and who goes on is throttled, by a count in the thread
 *   that is looked at when it returns to user space or when it is large. A kernel thread never
 *   returns there: between two faults the count is kept with the owner,
 * - hugetlb pages are charged to the thread's hugetlb cgroup, which nothing but being in it changes:
 *   hand.c.
 *
 * kthread_use_mm() is not among them. Nothing of the above needs it, faults of a foreign mm are
 * common (ptrace, hmm_range_fault()), and a thread with an mm leaves more behind: a NUMA hinting fault
 * counts for the thread's placement, and makes it a member of the owner's numa_group
 * (task_numa_fault()); the OOM killer takes it for a process that shares the victim's mm and does not
 * die (task_will_free_mem()); protection keys are those of the thread (vma_is_foreign()).
 */

#include <linux/cgroup.h>
#include <linux/cpuset.h>
#include <linux/cred.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/mempolicy.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/topology.h>

#include "glue.h"

void emm_owner_init(struct emm_owner *owner, struct mm_struct *mm)
{
	owner->mm = mm;
	atomic_set(&owner->over_high, 0);
	owner->il_prev = MAX_NUMNODES - 1;
	owner->il_weight = 0;
}

/*
 * The thread that the mm's memory is charged to, mostly the first of its process, with a reference.
 * NULL if all of them are gone.
 */
struct task_struct *emm_owner_task(const struct emm_owner *owner)
{
	struct task_struct *task = NULL;

#ifdef CONFIG_MEMCG
	rcu_read_lock();
	task = rcu_dereference(owner->mm->owner);
	if (task)
		get_task_struct(task);
	rcu_read_unlock();
#endif
	return task;
}

#ifdef CONFIG_NUMA
/* A copy, which goes with the fault: the owner may change its own meanwhile. */
static void emm_copy_policy(struct mempolicy *policy, struct task_struct *task)
{
	const struct mempolicy *theirs = task->mempolicy;

	if (theirs && theirs->mode != MPOL_LOCAL) {
		*policy = *theirs;
	} else {
		/* No MPOL_F_MOF: where this thread runs is no reason to move a page. */
		memset(policy, 0, sizeof(*policy));
		policy->mode = MPOL_PREFERRED;
		policy->home_node = NUMA_NO_NODE;
		node_set(cpu_to_node(task_cpu(task)), policy->nodes);
	}
	atomic_set(&policy->refcnt, 1);
}

/*
 * Sets the current thread's nodes and policy. Others look at them under the task's lock: a cpuset
 * that changes writes both, also the copy, which therefore is gone when the lock is.
 */
static void emm_set_nodes(const nodemask_t *mems, struct mempolicy *policy)
{
	task_lock(current);
#ifdef CONFIG_CPUSETS
	if (mems) {
		unsigned long flags;

		local_irq_save(flags);
		write_seqcount_begin(&current->mems_allowed_seq);
		current->mems_allowed = *mems;
		write_seqcount_end(&current->mems_allowed_seq);
		local_irq_restore(flags);
	}
#endif
	current->mempolicy = policy;
	task_unlock(current);
}

static void emm_enter_nodes(struct emm_owner_env *env, const struct emm_owner *owner)
{
	struct mempolicy *policy = (struct mempolicy *)env->policy;
	nodemask_t *mems = NULL;

	BUILD_BUG_ON(sizeof(*policy) > sizeof(env->policy));
	BUILD_BUG_ON(__alignof__(*policy) > __alignof__(env->policy));

	/* There is nothing to choose. */
	if (nr_node_ids == 1)
		return;
	task_lock(env->task);
	emm_copy_policy(policy, env->task);
#ifdef CONFIG_CPUSETS
	env->mems = env->task->mems_allowed;
	mems = &env->mems;
#endif
	task_unlock(env->task);

#ifdef CONFIG_CPUSETS
	env->old_mems = current->mems_allowed;
#endif
	env->old_policy = current->mempolicy;
	env->il_prev = current->il_prev;
	env->il_weight = current->il_weight;
	current->il_prev = READ_ONCE(owner->il_prev);
	current->il_weight = READ_ONCE(owner->il_weight);
	emm_set_nodes(mems, policy);
}

static void emm_leave_nodes(struct emm_owner_env *env, struct emm_owner *owner)
{
	nodemask_t *mems = NULL;

	if (nr_node_ids == 1)
		return;
#ifdef CONFIG_CPUSETS
	/* The thread's own cpuset may have changed meanwhile: then that stays. */
	if (nodes_equal(current->mems_allowed, env->mems))
		mems = &env->old_mems;
#endif
	emm_set_nodes(mems, env->old_policy);
	/* Two faults at once may begin at the same node. */
	WRITE_ONCE(owner->il_prev, current->il_prev);
	WRITE_ONCE(owner->il_weight, current->il_weight);
	current->il_prev = env->il_prev;
	current->il_weight = env->il_weight;
}
#else
static void emm_enter_nodes(struct emm_owner_env *env, const struct emm_owner *owner)
{
}

static void emm_leave_nodes(struct emm_owner_env *env, struct emm_owner *owner)
{
}
#endif /* CONFIG_NUMA */

static void emm_enter_blkcg(const struct emm_owner_env *env)
{
#ifdef CONFIG_BLK_CGROUP
	struct cgroup_subsys_state *css = task_get_css(env->task, io_cgrp_id);

	kthread_associate_blkcg(css);
	css_put(css);
#endif
}

static void emm_leave_blkcg(void)
{
#ifdef CONFIG_BLK_CGROUP
	kthread_associate_blkcg(NULL);
#endif
}

/*
 * From now on the current kernel thread faults as @owner would. To be followed by
 * emm_owner_leave() in the same thread, after success. @env stays where it is until then. Does not
 * sleep; the thread may do so in between. (No user thread faults: its memory policy, for one, may be
 * read, with a reference taken, by anybody (/proc/PID/numa_maps).)
 *
 * Returns 0, or -ESRCH if the owner is gone.
 */
int emm_owner_enter(struct emm_owner_env *env, struct emm_owner *owner)
{
	env->task = NULL;
#ifdef CONFIG_MEMCG
	env->task = emm_owner_task(owner);
	if (!env->task)
		return -ESRCH;

	env->memcg = get_mem_cgroup_from_mm(owner->mm);
	env->old_memcg = set_active_memcg(env->memcg);
	env->over_high = current->memcg_nr_pages_over_high;
	current->memcg_nr_pages_over_high = atomic_xchg(&owner->over_high, 0);
	env->cred = get_task_cred(env->task);
	env->old_cred = override_creds(env->cred);
	emm_enter_blkcg(env);
	emm_enter_nodes(env, owner);
#endif
	return 0;
}

void emm_owner_leave(struct emm_owner_env *env, struct emm_owner *owner)
{
#ifdef CONFIG_MEMCG
	if (!env->task)
		return;

	emm_leave_nodes(env, owner);
	emm_leave_blkcg();
	revert_creds(env->old_cred);
	put_cred(env->cred);
	atomic_add(current->memcg_nr_pages_over_high, &owner->over_high);
	current->memcg_nr_pages_over_high = env->over_high;
	set_active_memcg(env->old_memcg);
	mem_cgroup_put(env->memcg);
	put_task_struct(env->task);
#endif
}
