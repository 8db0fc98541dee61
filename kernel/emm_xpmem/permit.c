// SPDX-License-Identifier: GPL-2.0
/*
 * Who may have a segment: by its mode, as of a file of the user and group that its owner was when it
 * made it; and as with ptrace(2), if the owner's memory is not for others of the same user (a program
 * that is set-user-ID or changed its user, prctl(PR_SET_DUMPABLE)), only who may trace it all the same.
 *
 * Users and groups are those of the kernel, so namespaces of users need no translation. A capability
 * counts in the namespace of the owner.
 */

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/coredump.h>
#include <linux/sched/exec_state.h>
#include <linux/uidgid.h>

#include "glue.h"

static bool emm_xpmem_may_trace(const struct mm_struct *mm)
{
	bool may = true;
#ifdef CONFIG_MEMCG
	const struct task_exec_state *state;
	const struct task_struct *task;

	rcu_read_lock();
	task = rcu_dereference(mm->owner);
	state = task ? rcu_dereference(task->exec_state) : NULL;
	may = state && (READ_ONCE(state->dumpable) == TASK_DUMPABLE_OWNER ||
			ns_capable(state->user_ns, CAP_SYS_PTRACE));
	rcu_read_unlock();
#endif
	return may;
}

/* As ptrace(2): not if the owner could become somebody else again. */
static bool emm_xpmem_same_user(const struct cred *owner)
{
	kuid_t user = current_fsuid();

	return uid_eq(user, owner->euid) && uid_eq(user, owner->suid) && uid_eq(user, owner->uid);
}

bool emm_xpmem_permits(const struct cred *owner, const struct mm_struct *mm, unsigned int mode,
		       unsigned int wants)
{
	unsigned int granted = mode;

	if (current->mm != mm && !emm_xpmem_may_trace(mm))
		return false;
	if (emm_xpmem_same_user(owner))
		granted >>= 6;
	else if (in_group_p(owner->egid))
		granted >>= 3;
	return !(wants & ~granted & 7) || ns_capable(owner->user_ns, CAP_SYS_PTRACE);
}

const struct cred *emm_xpmem_current_cred(void)
{
	return get_current_cred();
}
