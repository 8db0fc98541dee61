// SPDX-License-Identifier: GPL-2.0
/*
 * Waits that somebody can end: a fault may wait for a userfaultfd handler that never answers, and
 * others wait behind it. Whoever takes down the queue pair or the region that such a fault serves
 * must not wait for the handler too.
 *
 * A driver's faults run in its work items, so a wait is known by its work item and its region. Its
 * thread is woken by a signal, which get_user_pages() heeds, and sleeps of ours as well. User
 * threads are woken by their own signals only: a driver hands what they ask for to a work item.
 */

#include <linux/list.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "glue.h"

/* Innermost lock but for siglock. */
static DEFINE_SPINLOCK(emm_waits_lock);
static LIST_HEAD(emm_waits);
static LIST_HEAD(emm_cancels);

static void emm_wait_kill(struct emm_wait *wait)
{
	if (wait->task->flags & PF_KTHREAD)
		send_sig(SIGKILL, wait->task, 1);
}

static bool emm_wait_cancelled(const struct emm_wait *wait)
{
	struct emm_cancel *cancel;

	list_for_each_entry(cancel, &emm_cancels, node) {
		if (wait->work && wait->work == cancel->work)
			return true;
	}
	return false;
}

/*
 * From now on the current thread's sleeps can be ended for the sake of @region or of the work item
 * that runs here. Returns false if they have been: do not sleep then. emm_wait_end() follows in
 * either case.
 */
bool emm_wait_begin(struct emm_wait *wait, const void *region)
{
	bool cancelled;

	wait->task = current;
	wait->work = current->flags & PF_KTHREAD ? current_work() : NULL;
	wait->region = region;
	if (current->flags & PF_KTHREAD)
		allow_kernel_signal(SIGKILL);

	spin_lock_bh(&emm_waits_lock);
	list_add(&wait->node, &emm_waits);
	cancelled = emm_wait_cancelled(wait);
	spin_unlock_bh(&emm_waits_lock);
	return !cancelled;
}

void emm_wait_end(struct emm_wait *wait)
{
	spin_lock_bh(&emm_waits_lock);
	list_del(&wait->node);
	spin_unlock_bh(&emm_waits_lock);

	/* Nobody signals us any more: what is pending goes with the permission. */
	if (current->flags & PF_KTHREAD)
		disallow_signal(SIGKILL);
}

/* Ends the waits for @region that are under way. The caller has made sure that no other begins. */
void emm_wait_cancel_region(const void *region)
{
	struct emm_wait *wait;

	spin_lock_bh(&emm_waits_lock);
	list_for_each_entry(wait, &emm_waits, node) {
		if (wait->region == region)
			emm_wait_kill(wait);
	}
	spin_unlock_bh(&emm_waits_lock);
}

void emm_cancel_begin(struct emm_cancel *cancel, struct work_struct *work)
{
	struct emm_wait *wait;

	cancel->work = work;
	spin_lock_bh(&emm_waits_lock);
	list_add(&cancel->node, &emm_cancels);
	list_for_each_entry(wait, &emm_waits, node) {
		if (wait->work == work)
			emm_wait_kill(wait);
	}
	spin_unlock_bh(&emm_waits_lock);
}
EXPORT_SYMBOL_GPL(emm_cancel_begin);

void emm_cancel_end(struct emm_cancel *cancel)
{
	spin_lock_bh(&emm_waits_lock);
	list_del(&cancel->node);
	spin_unlock_bh(&emm_waits_lock);
}
EXPORT_SYMBOL_GPL(emm_cancel_end);
