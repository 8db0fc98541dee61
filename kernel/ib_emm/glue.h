/* SPDX-License-Identifier: GPL-2.0 */
/* What Rust needs of the kernel and finds only as macros and inline functions. */
#ifndef _IB_EMM_GLUE_H
#define _IB_EMM_GLUE_H

#include <linux/mmu_notifier.h>
#include <linux/rwlock.h>
#include <linux/types.h>
#include <linux/wait.h>

/* A reader-writer spinlock that its write side can sleep on; `struct Gate` in gate.rs. */
struct emm_gate {
	rwlock_t lock;
	wait_queue_head_t waiters;
};

void emm_gate_init(struct emm_gate *gate);
void emm_gate_read_lock(struct emm_gate *gate);
void emm_gate_read_unlock(struct emm_gate *gate);
void emm_gate_write_lock(struct emm_gate *gate);
void emm_gate_write_unlock(struct emm_gate *gate);
void emm_gate_wait(struct emm_gate *gate);
void emm_gate_wake(struct emm_gate *gate);

struct mmu_notifier *emm_mmu_notifier_get(const struct mmu_notifier_ops *ops,
					  struct mm_struct *mm);
long emm_get_pfns(struct mm_struct *mm, unsigned long address, unsigned long nr,
		  bool write, u64 *pfns);
void *emm_pfn_address(u64 pfn);
void emm_pfn_mark_dirty(u64 pfn);
unsigned long emm_task_size(void);
void emm_cond_resched(void);

#endif /* _IB_EMM_GLUE_H */
