// SPDX-License-Identifier: GPL-2.0
/*
 * Hands: kernel threads in the cgroups of an address space's owner.
 *
 * A hugetlb page is charged to the hugetlb cgroup that the current thread is in, and nothing lends
 * another one to it. So a thread is made and put there, for such pages alone, and only if the owner's
 * hugetlb cgroup is another one than the current thread's: without that controller it never is.
 * Moving a thread takes locks of all cgroups, and waits for a grace period of RCU: a hand stays for a
 * while, and serves the next page. It is looked at each time whether the owner has been moved.
 *
 * As long as a hand stays the owner's cgroup is not empty. One serves one fault at a time, since a
 * fault may wait for a userfaultfd handler that needs another page.
 */

#include <linux/cgroup.h>
#include <linux/completion.h>
#include <linux/hugetlb_inline.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "glue.h"

#ifdef CONFIG_CGROUP_HUGETLB

/* How long a hand stays that nobody needs. */
#define EMM_HAND_STAYS	(HZ / 2)

struct emm_hand {
	struct list_head node;
	struct kthread_worker *worker;
	/* Whose it is: a reference (mm_count). */
	struct mm_struct *mm;
	/* Not needed since, in jiffies. */
	unsigned long since;
};

/* What a hand is asked for; on the stack of who asks, who waits until it is done. */
struct emm_hand_fault {
	struct kthread_work work;
	struct emm_owner *owner;
	/* As for emm_fault_in(). */
	unsigned long address, nr;
	bool write;
	enum emm_how how;
	u64 *frames;
	/* Set before the hand gets a signal. */
	bool cancelled;
	int error;
	struct completion done;
};

/* Hands that have nothing to do, the one that has had work last in front. */
static LIST_HEAD(emm_hands);
static DEFINE_SPINLOCK(emm_hands_lock);

static void emm_hands_leave(struct work_struct *work);
static DECLARE_DELAYED_WORK(emm_hands_work, emm_hands_leave);

static void emm_hand_free(struct emm_hand *hand)
{
	kthread_destroy_worker(hand->worker);
	mmdrop(hand->mm);
	kfree(hand);
}

/* Those that have had nothing to do for long go. */
static void emm_hands_leave(struct work_struct *work)
{
	struct emm_hand *hand, *next;
	unsigned long left = 0;
	LIST_HEAD(gone);

	spin_lock(&emm_hands_lock);
	list_for_each_entry_safe_reverse(hand, next, &emm_hands, node) {
		const unsigned long end = hand->since + EMM_HAND_STAYS;

		if (time_before(jiffies, end)) {
			left = end - jiffies;
			break;
		}
		list_move(&hand->node, &gone);
	}
	spin_unlock(&emm_hands_lock);

	list_for_each_entry_safe(hand, next, &gone, node)
		emm_hand_free(hand);
	if (left)
		schedule_delayed_work(&emm_hands_work, left);
}

static struct emm_hand *emm_hand_get(struct mm_struct *mm)
{
	struct emm_hand *hand;

	spin_lock(&emm_hands_lock);
	list_for_each_entry(hand, &emm_hands, node) {
		if (hand->mm == mm) {
			list_del(&hand->node);
			spin_unlock(&emm_hands_lock);
			return hand;
		}
	}
	spin_unlock(&emm_hands_lock);

	hand = kzalloc(sizeof(*hand), GFP_KERNEL);
	if (!hand)
		return ERR_PTR(-ENOMEM);
	hand->worker = kthread_run_worker(0, "emm_hand");
	if (IS_ERR(hand->worker)) {
		int error = PTR_ERR(hand->worker);

		kfree(hand);
		return ERR_PTR(error);
	}
	mmgrab(mm);
	hand->mm = mm;
	return hand;
}

static void emm_hand_put(struct emm_hand *hand)
{
	hand->since = jiffies;
	spin_lock(&emm_hands_lock);
	list_add(&hand->node, &emm_hands);
	spin_unlock(&emm_hands_lock);
	/* Stays as it is if it is under way: it comes again for who is left. */
	schedule_delayed_work(&emm_hands_work, EMM_HAND_STAYS);
}

static void emm_hand_work(struct kthread_work *work)
{
	struct emm_hand_fault *fault = container_of(work, struct emm_hand_fault, work);
	struct mm_struct *mm = fault->owner->mm;
	struct emm_owner_env env;
	bool locked = false;

	/* Who cancels says so first: either the signal finds us, or we find what was said. */
	allow_kernel_signal(SIGKILL);
	fault->error = emm_owner_enter(&env, fault->owner);
	if (fault->error)
		goto done;
	if (READ_ONCE(fault->cancelled) || mmap_read_lock_killable(mm)) {
		fault->error = -EINTR;
	} else {
		locked = true;
		fault->error = emm_fault_in(mm, fault->address, fault->nr, fault->write, fault->how,
					    fault->frames, &locked);
	}
	if (locked)
		mmap_read_unlock(mm);
	emm_owner_leave(&env, fault->owner);
done:
	/* What is pending goes with the permission. */
	disallow_signal(SIGKILL);
	complete(&fault->done);
}

/* A signal that kills the current thread goes on to the hand, which then comes to an end. */
static void emm_hand_do(struct emm_hand *hand, struct emm_hand_fault *fault)
{
	kthread_init_work(&fault->work, emm_hand_work);
	init_completion(&fault->done);
	kthread_queue_work(hand->worker, &fault->work);
	if (wait_for_completion_killable(&fault->done)) {
		WRITE_ONCE(fault->cancelled, true);
		send_sig(SIGKILL, hand->worker->task, 1);
		wait_for_completion(&fault->done);
	}
}

static bool emm_same_hugetlb_cgroup(struct task_struct *a, struct task_struct *b)
{
	bool same;

	rcu_read_lock();
	same = task_css(a, hugetlb_cgrp_id) == task_css(b, hugetlb_cgrp_id);
	rcu_read_unlock();
	return same;
}

/*
 * Whether what is at @address has to be charged to a cgroup that the current thread is not in.
 * Called with the mmap_lock held. (A fault lies within a part, and a mapping of smaller pages does
 * not begin or end inside a huge page: what is true of the first page is true of all of a fault.)
 */
bool emm_hand_needed(const struct emm_owner *owner, unsigned long address)
{
	struct vm_area_struct *vma = vma_lookup(owner->mm, address);
	struct task_struct *task;
	bool needed;

	if (!vma || !is_vm_hugetlb_page(vma))
		return false;
	task = emm_owner_task(owner);
	if (!task)
		return false;
	needed = !emm_same_hugetlb_cgroup(current, task);
	put_task_struct(task);
	return needed;
}

/*
 * As emm_fault_in(), by a hand of @owner. Called with the mmap_lock held for reading, which it lets
 * go of, and a reference on the mm's users.
 */
int emm_hand_fault_in(struct emm_owner *owner, unsigned long address, unsigned long nr, bool write,
		      enum emm_how how, u64 *frames, bool *locked)
{
	struct emm_hand_fault fault = {
		.owner = owner,
		.address = address,
		.nr = nr,
		.write = write,
		.how = how,
		.frames = frames,
	};
	struct task_struct *task;
	struct emm_hand *hand;

	mmap_read_unlock(owner->mm);
	*locked = false;

	task = emm_owner_task(owner);
	hand = task ? emm_hand_get(owner->mm) : ERR_PTR(-ESRCH);
	if (IS_ERR(hand)) {
		fault.error = PTR_ERR(hand);
	} else {
		/* The owner may have been moved since the last time. */
		if (!emm_same_hugetlb_cgroup(hand->worker->task, task))
			fault.error = cgroup_attach_task_all(task, hand->worker->task);
		if (!fault.error)
			emm_hand_do(hand, &fault);
		emm_hand_put(hand);
	}
	if (task)
		put_task_struct(task);

	if (mmap_read_lock_killable(owner->mm))
		return fault.error ?: -EINTR;
	*locked = true;
	return fault.error;
}

/* A region goes: hands that have nothing to do go soon, so that they don't keep the owner's cgroup. */
void emm_hands_gone(const struct emm_owner *owner)
{
	struct emm_hand *hand, *next;
	bool some = false;

	/* One that is put just now goes by itself. */
	if (list_empty_careful(&emm_hands))
		return;
	spin_lock(&emm_hands_lock);
	list_for_each_entry_safe(hand, next, &emm_hands, node) {
		if (hand->mm != owner->mm)
			continue;
		hand->since = jiffies - EMM_HAND_STAYS;
		list_move_tail(&hand->node, &emm_hands);
		some = true;
	}
	spin_unlock(&emm_hands_lock);
	if (some)
		mod_delayed_work(system_percpu_wq, &emm_hands_work, 0);
}

/* No region is left, so all hands have nothing to do. */
void emm_hands_exit(void)
{
	struct emm_hand *hand, *next;

	cancel_delayed_work_sync(&emm_hands_work);
	list_for_each_entry_safe(hand, next, &emm_hands, node)
		emm_hand_free(hand);
}

#else

bool emm_hand_needed(const struct emm_owner *owner, unsigned long address)
{
	return false;
}

int emm_hand_fault_in(struct emm_owner *owner, unsigned long address, unsigned long nr, bool write,
		      enum emm_how how, u64 *frames, bool *locked)
{
	return -EINVAL;
}

void emm_hands_gone(const struct emm_owner *owner)
{
}

void emm_hands_exit(void)
{
}

#endif /* CONFIG_CGROUP_HUGETLB */
