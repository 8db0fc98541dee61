// SPDX-License-Identifier: GPL-2.0
/*
 * The threads that faults run in: work items of a workqueue that each address space has for itself,
 * so that one owner's faults, however long they take, use up nothing that another one's need. Which
 * fault runs when is decided in Rust (workers.rs); here is what the kernel gives for it.
 *
 * A thread in a fault is ended by a signal, which the VM heeds where it waits for a disk, a file
 * server or a userfaultfd handler.
 */

#include <linux/jiffies.h>
#include <linux/overflow.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "glue.h"

struct emm_worker {
	struct delayed_work work;
	struct emm_crew *crew;
	struct task_struct *task;	/* the thread in it; under the owner's lock */
};

struct emm_crew {
	struct workqueue_struct *wq;
	struct work_struct end;
	const void *owner;
	unsigned int nr;
	struct emm_worker workers[] __counted_by(nr);
};

/* What makes and ends crews. */
static struct workqueue_struct *emm_crews_wq;
/* Owners and crews that are there. */
static atomic_t emm_crews;
static DECLARE_WAIT_QUEUE_HEAD(emm_crews_gone);

void emm_crews_get(void)
{
	atomic_inc(&emm_crews);
}

/* In any context. */
void emm_crews_put(void)
{
	if (atomic_dec_and_test(&emm_crews))
		wake_up(&emm_crews_gone);
}

int emm_crews_init(void)
{
	emm_crews_wq = alloc_workqueue("ib_emm_crews", WQ_UNBOUND, 0);
	return emm_crews_wq ? 0 : -ENOMEM;
}

/*
 * Waits until the last owner and its threads are gone, which takes as long as somebody's file server
 * has a request of such a thread in hand: that can't be ended. Not a hung task.
 */
void emm_crews_exit(void)
{
	bool said = false;

	while (!wait_event_idle_timeout(emm_crews_gone, !atomic_read(&emm_crews), 10 * HZ)) {
		if (!said)
			pr_info("unloading waits for faults that a file server or a disk has in hand\n");
		said = true;
	}
	destroy_workqueue(emm_crews_wq);
}

void emm_lock_init(struct emm_lock *lock, bool outer)
{
	/* Two classes: the lock of a parked access is held over that of its owner. */
	if (outer)
		spin_lock_init(&lock->lock);
	else
		spin_lock_init(&lock->lock);
}

unsigned long emm_lock_irqsave(struct emm_lock *lock)
{
	unsigned long flags;

	spin_lock_irqsave(&lock->lock, flags);
	return flags;
}

void emm_unlock_irqrestore(struct emm_lock *lock, unsigned long flags)
{
	spin_unlock_irqrestore(&lock->lock, flags);
}

static void emm_hire_work(struct work_struct *work)
{
	struct emm_hire *hire = container_of(to_delayed_work(work), struct emm_hire, work);

	emm_hire_run(hire->owner);
}

void emm_hire_init(struct emm_hire *hire)
{
	INIT_DELAYED_WORK(&hire->work, emm_hire_work);
}

/* emm_hire_run(@owner) follows, in a thread, after @ms milliseconds. In any context. */
void emm_hire_start(struct emm_hire *hire, const void *owner, unsigned int ms)
{
	hire->owner = owner;
	queue_delayed_work(emm_crews_wq, &hire->work, msecs_to_jiffies(ms));
}

static void emm_worker_work(struct work_struct *work)
{
	struct emm_worker *worker = container_of(to_delayed_work(work), struct emm_worker, work);
	struct emm_crew *crew = worker->crew;

	emm_worker_run(crew->owner, worker - crew->workers);
}

static void emm_crew_end_work(struct work_struct *work)
{
	struct emm_crew *crew = container_of(work, struct emm_crew, end);

	/* Waits for a thread that gave back the last reference to its owner, and does nothing more. */
	destroy_workqueue(crew->wq);
	kvfree(crew);
	emm_crews_put();
}

/* @nr threads for @owner, none of which runs yet. NULL if there is no memory. */
struct emm_crew *emm_crew_new(const void *owner, unsigned int nr)
{
	struct emm_crew *crew = kvzalloc(struct_size(crew, workers, nr), GFP_KERNEL);
	unsigned int i;

	if (!crew)
		return NULL;
	crew->wq = alloc_workqueue("ib_emm", WQ_UNBOUND, nr);
	if (!crew->wq) {
		kvfree(crew);
		return NULL;
	}
	crew->owner = owner;
	crew->nr = nr;
	INIT_WORK(&crew->end, emm_crew_end_work);
	for (i = 0; i < nr; i++) {
		INIT_DELAYED_WORK(&crew->workers[i].work, emm_worker_work);
		crew->workers[i].crew = crew;
	}
	emm_crews_get();
	return crew;
}

/* Nothing runs in it any more, but for the ends of functions. In any context. */
void emm_crew_end(struct emm_crew *crew)
{
	queue_work(emm_crews_wq, &crew->end);
}

/* emm_worker_run(owner, @at) follows, in a thread, after @ms milliseconds. In any context. */
void emm_worker_start(struct emm_crew *crew, unsigned int at, unsigned int ms)
{
	queue_delayed_work(crew->wq, &crew->workers[at].work, msecs_to_jiffies(ms));
}

/* Before and after what emm_worker_kill() can end: the signal may come, and is forgotten. */
void emm_worker_allow(void)
{
	allow_kernel_signal(SIGKILL);
}

void emm_worker_disallow(void)
{
	disallow_signal(SIGKILL);
}

/* The current thread is @at's from now on, or none is. Called with the owner's lock held. */
void emm_worker_is(struct emm_crew *crew, unsigned int at, bool current_one)
{
	crew->workers[at].task = current_one ? current : NULL;
}

/* Ends what @at's thread waits for, if it is in a fault. Called with the owner's lock held. */
void emm_worker_kill(struct emm_crew *crew, unsigned int at)
{
	if (crew->workers[at].task)
		send_sig(SIGKILL, crew->workers[at].task, 1);
}
