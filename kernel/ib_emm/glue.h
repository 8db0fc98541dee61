/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust and C have in common, seen by both: what Rust needs of the kernel and finds only as
 * macros and inline functions, and what it gives to C (emm.h, emm_region.h). glue.rs is made of it.
 */
#ifndef _IB_EMM_GLUE_H
#define _IB_EMM_GLUE_H

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/list.h>
#include <linux/mmu_notifier.h>
#include <linux/nodemask.h>
#include <linux/pgtable.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/spinlock_types.h>
#include <linux/wait.h>
#include <linux/workqueue_types.h>

#include "emm.h"
#include "emm_frames.h"
#include "emm_region.h"

struct cred;
struct mem_cgroup;
struct mempolicy;
struct task_struct;

/* A reader-writer spinlock that its write side can sleep on; gate.rs. */
struct emm_gate {
	rwlock_t lock;
	wait_queue_head_t waiters;
};

void emm_gate_init(struct emm_gate *gate);
void emm_gate_read_lock(struct emm_gate *gate);
void emm_gate_read_unlock(struct emm_gate *gate);
void emm_gate_write_lock(struct emm_gate *gate);
void emm_gate_write_unlock(struct emm_gate *gate);
bool emm_gate_wait(struct emm_gate *gate);
u64 emm_gate_wait_for(struct emm_gate *gate, u64 ns);
void emm_gate_wake(struct emm_gate *gate);
void emm_gate_nudge(struct emm_gate *gate);

/* Who waits for what is parked in @fault; sleep.rs. */
struct emm_sleeper {
	struct emm_fault fault;
	struct completion done;
};

void emm_sleeper_init(struct emm_sleeper *sleeper);
bool emm_sleeper_wait(struct emm_sleeper *sleeper);

/* A spinlock that interrupts don't get at; lock.rs. */
struct emm_lock {
	spinlock_t lock;
};

void emm_lock_init(struct emm_lock *lock, bool outer);
unsigned long emm_lock_irqsave(struct emm_lock *lock);
void emm_unlock_irqrestore(struct emm_lock *lock, unsigned long flags);

/* The threads that one owner's faults run in; workers.rs. */
struct emm_crew;

/* A worker's thread does its job, and an owner hires them; both take a reference on @owner. */
void emm_worker_run(const void *owner, unsigned int at);
void emm_hire_run(const void *owner);

struct emm_hire {
	struct delayed_work work;
	const void *owner;
};

void emm_hire_init(struct emm_hire *hire);
void emm_hire_start(struct emm_hire *hire, const void *owner, unsigned int ms);
struct emm_crew *emm_crew_new(const void *owner, unsigned int nr);
void emm_crew_end(struct emm_crew *crew);
void emm_worker_start(struct emm_crew *crew, unsigned int at, unsigned int ms);
void emm_worker_allow(void);
void emm_worker_disallow(void);
void emm_worker_is(struct emm_crew *crew, unsigned int at, bool current_one);
void emm_worker_kill(struct emm_crew *crew, unsigned int at);
void emm_crews_get(void);
void emm_crews_put(void);
int emm_crews_init(void);
void emm_crews_exit(void);

/* A region in the list that debugfs shows; sight.rs. */
struct emm_listed {
	struct list_head node;
	const struct emm_region *region;
	pid_t owner;
};

void emm_listed_add(struct emm_listed *listed, const struct emm_region *region);
void emm_listed_del(struct emm_listed *listed);
void emm_region_get_range(const struct emm_region *region, u64 *start, u64 *length);
void emm_sight_init(void);
void emm_sight_exit(void);

void emm_trace_register(u64 start, u64 length, int error);
void emm_trace_fault(u64 address, u64 pages, bool write, bool huge, int error);
void emm_trace_fault_lost(u64 address, u32 losses);
void emm_trace_invalidate(u64 start, u64 end, u64 pages, bool blockable);
void emm_trace_release(u64 start, u64 length);

/* A hub in the table of all, as the VM knows it; hubs.c, notifier/vm.rs. */
struct emm_hub_node {
	struct mmu_notifier starts;	/* all that the VM tells, but the ends if there are those: */
	struct mmu_notifier ends;	/* its ops are NULL if starts has them too */
	struct mm_struct *mm;
	bool refuses;			/* for clients that can say "not now" */
	atomic_t parts;			/* notifiers that are not freed yet */
	struct hlist_node entry;
	struct list_head idle;
	unsigned int users;
	bool released;			/* the address space has gone */
	unsigned long since;		/* in jiffies; it has no users */
	unsigned int calls;		/* that it may still be told in vain */
	bool flood;
	wait_queue_head_t calm;
};

struct emm_hub_node *emm_hub_find(struct mm_struct *mm, bool refuses);
struct emm_hub_node *emm_hub_add(struct emm_hub_node *hub, struct mm_struct *mm,
				 const struct mmu_notifier_ops *starts,
				 const struct mmu_notifier_ops *ends);
void emm_hub_put(struct emm_hub_node *hub);
void emm_hub_told_nobody(struct emm_hub_node *hub);
void emm_hub_released(struct emm_hub_node *hub);
void emm_hub_flood(struct emm_hub_node *hub, bool flood);
int emm_hub_wait_calm(struct emm_hub_node *hub);
void emm_hub_starts_free(struct mmu_notifier *starts);
void emm_hub_ends_free(struct mmu_notifier *ends);
void emm_hub_free(struct emm_hub_node *hub);
void emm_hubs_count(unsigned long *in_table, unsigned long *idle, unsigned long *alive);
void emm_hubs_exit(void);

/* The owner's VM is asked; ask.rs. */
int emm_mm_lock(struct mm_struct *mm);
int emm_mm_trylock(struct mm_struct *mm);
void emm_mm_unlock(struct mm_struct *mm, bool locked);
bool emm_mm_write_locked(struct mm_struct *mm);

/* A frame as emm_look() gives it: its number above these flags. */
enum emm_frame { EMM_FRAME_WRITABLE = 1, EMM_FRAME_SHIFT = 1 };

/* What emm_look() sees of the first page: not there; never to be there for a region; there. */
enum emm_seen { EMM_SEEN_NOTHING, EMM_SEEN_REFUSED, EMM_SEEN_PAGE, EMM_SEEN_HUGE };

unsigned long emm_look(struct mm_struct *mm, unsigned long address, unsigned long nr,
		       bool may_sleep, u64 *frames, enum emm_seen *first);

/* How far emm_fault_in() may go. */
enum emm_how { EMM_AT_ONCE, EMM_WAITING };

int emm_fault_in(struct mm_struct *mm, unsigned long address, unsigned long nr, bool write,
		 enum emm_how how, u64 *frames, bool *locked);

/* The process that an address space belongs to; owner.rs. */
struct emm_owner {
	/* Outlives this. */
	struct mm_struct *mm;
	/* Pages that its faults have charged above memory.high and not paid for yet. */
	atomic_t over_high;
	/* Where interleaving without an address goes on; for current->il_prev and il_weight. */
	short il_prev;
	u8 il_weight;
};

/* What a kernel thread that faults as the owner had before, and has meanwhile. */
struct emm_owner_env {
	/* NULL if nothing was changed. */
	struct task_struct *task;
	struct mem_cgroup *memcg, *old_memcg;
	const struct cred *cred, *old_cred;
	struct mempolicy *old_policy;
	nodemask_t mems, old_mems;
	/* A struct mempolicy, whose size bindgen does not know. */
	u64 policy[(2 * sizeof(nodemask_t) + 64) / sizeof(u64)];
	unsigned int over_high;
	short il_prev;
	u8 il_weight;
};

void emm_owner_init(struct emm_owner *owner, struct mm_struct *mm);
struct task_struct *emm_owner_task(const struct emm_owner *owner);
int emm_owner_enter(struct emm_owner_env *env, struct emm_owner *owner);
void emm_owner_leave(struct emm_owner_env *env, struct emm_owner *owner);

/* Pages that a kernel thread can't bring in for the owner; hand.c. */
bool emm_hand_needed(const struct emm_owner *owner, unsigned long address);
int emm_hand_fault_in(struct emm_owner *owner, unsigned long address, unsigned long nr, bool write,
		      enum emm_how how, u64 *frames, bool *locked);
void emm_hands_gone(const struct emm_owner *owner);
void emm_hands_exit(void);

void *emm_node_alloc(struct mem_cgroup *memcg, bool may_sleep);
void emm_node_free(void *node);
struct mem_cgroup *emm_memcg_get(struct mm_struct *mm);
void emm_memcg_hold(struct mem_cgroup *memcg);
void emm_memcg_put(struct mem_cgroup *memcg);
void *emm_pfn_address(u64 pfn);
void emm_pfn_mark_dirty(u64 pfn);
unsigned long emm_task_size(void);
void emm_not_in_user_space(u64 start, u64 length);

/* What the core assumes, for mem.rs to compare. */
enum emm_assumed { EMM_PAGE_SHIFT = PAGE_SHIFT, EMM_PMD_ORDER = PMD_ORDER };
void emm_cond_resched(void);
bool emm_killed(void);
bool emm_may_look(void);

#endif /* _IB_EMM_GLUE_H */
