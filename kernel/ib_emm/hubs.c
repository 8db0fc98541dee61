// SPDX-License-Identifier: GPL-2.0
/*
 * The hubs: one for each address space with subscriptions (notifier/hub.rs), in a table.
 *
 * The VM's own list of notifiers is not enough: to enter one there takes every lock of every mapping
 * of the address space, with its mmap_lock held for writing, which is 15 ms with 10,000 mappings.
 * So a hub whose last subscription went lingers: until it was idle for EMM_LINGER, or until the
 * events that it was told in vain have cost as much as making it again would, or until the address
 * space goes, or the module. A program that registers and deregisters in a loop pays once.
 *
 * A hub that is over is out of the table first, then out of the VM's list, and freed when no
 * callback can run any more (SRCU). Whoever subscribes meanwhile makes a new one.
 */

#include <linux/hashtable.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "glue.h"

/* How long a hub without subscriptions is kept. */
#define EMM_LINGER HZ
/*
 * Or how many invalidations it is told of in vain: so many, and so many more for each mapping. One
 * costs 0.2 us, making a hub 100 us and 1.5 us a mapping.
 */
#define EMM_LINGER_CALLS 256
#define EMM_LINGER_CALLS_PER_MAPPING 4

/* All below, and all of a hub but @calls. Held for a few instructions; taken in callbacks. */
static DEFINE_SPINLOCK(emm_hubs_lock);
static DEFINE_HASHTABLE(emm_hubs, 10);
/* Hubs without users, the longest idle one first. */
static LIST_HEAD(emm_idle_hubs);
static unsigned long emm_hubs_in_table;

/* Those that are not freed yet, whatever their state. */
static atomic_long_t emm_hubs_alive = ATOMIC_LONG_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(emm_hubs_gone);

static void emm_hubs_reap(struct work_struct *work);
static DECLARE_DELAYED_WORK(emm_hubs_work, emm_hubs_reap);

/* Takes @hub out of the table: nobody finds it any more, and emm_hub_retire() follows. */
static void emm_hub_forget(struct emm_hub_node *hub)
{
	lockdep_assert_held(&emm_hubs_lock);
	hash_del(&hub->entry);
	list_del_init(&hub->idle);
	emm_hubs_in_table--;
}

/*
 * No callbacks begin any more. What is left of @hub frees itself, maybe at once. The ends go first:
 * a start without its end harms nobody here, the reverse would be reported.
 */
static void emm_hub_retire(struct emm_hub_node *hub)
{
	struct mmu_notifier *ends = hub->ends.ops ? &hub->ends : NULL;

	if (ends)
		mmu_notifier_put(ends);
	mmu_notifier_put(&hub->starts);
}

static void emm_hubs_reap(struct work_struct *work)
{
	struct emm_hub_node *hub, *next;
	LIST_HEAD(over);

	spin_lock(&emm_hubs_lock);
	list_for_each_entry_safe(hub, next, &emm_idle_hubs, idle) {
		if (time_before(jiffies, hub->since + EMM_LINGER)) {
			queue_delayed_work(system_dfl_wq, &emm_hubs_work,
					   hub->since + EMM_LINGER - jiffies);
			break;
		}
		emm_hub_forget(hub);
		list_add(&hub->idle, &over);
	}
	spin_unlock(&emm_hubs_lock);

	/* Nobody else can reach these: forgotten ones are not found, nor retired twice. */
	list_for_each_entry_safe(hub, next, &over, idle)
		emm_hub_retire(hub);
}

static struct emm_hub_node *emm_hub_lookup(struct mm_struct *mm, bool refuses)
{
	struct emm_hub_node *hub;

	lockdep_assert_held(&emm_hubs_lock);
	hash_for_each_possible(emm_hubs, hub, entry, (unsigned long)mm) {
		if (hub->mm == mm && hub->refuses == refuses)
			return hub;
	}
	return NULL;
}

/* The hub of @mm for clients that can refuse or that can't, or NULL. emm_hub_put() follows. */
struct emm_hub_node *emm_hub_find(struct mm_struct *mm, bool refuses)
{
	struct emm_hub_node *hub;

	spin_lock(&emm_hubs_lock);
	hub = emm_hub_lookup(mm, refuses);
	if (hub) {
		hub->users++;
		list_del_init(&hub->idle);
	}
	spin_unlock(&emm_hubs_lock);
	return hub;
}

/* One user less. May be called in callbacks. */
void emm_hub_put(struct emm_hub_node *hub)
{
	bool over = false;

	spin_lock(&emm_hubs_lock);
	if (!--hub->users) {
		over = hub->released;
		if (over) {
			emm_hub_forget(hub);
		} else {
			hub->since = jiffies;
			WRITE_ONCE(hub->calls, EMM_LINGER_CALLS +
				   EMM_LINGER_CALLS_PER_MAPPING * READ_ONCE(hub->mm->map_count));
			list_add_tail(&hub->idle, &emm_idle_hubs);
			queue_delayed_work(system_dfl_wq, &emm_hubs_work, EMM_LINGER);
		}
	}
	spin_unlock(&emm_hubs_lock);
	if (over)
		emm_hub_retire(hub);
}

/* Ends the linger of @hub if it has no users, and none can come. Called in its callbacks. */
static void emm_hub_end_linger(struct emm_hub_node *hub, bool released)
{
	bool over;

	spin_lock(&emm_hubs_lock);
	hub->released |= released;
	over = !hub->users && hash_hashed(&hub->entry);
	if (over)
		emm_hub_forget(hub);
	spin_unlock(&emm_hubs_lock);
	if (over)
		emm_hub_retire(hub);
}

/* An invalidation of the address space of @hub ended, and there was nobody to be told. */
void emm_hub_told_nobody(struct emm_hub_node *hub)
{
	unsigned int calls = READ_ONCE(hub->calls);

	/* Several at once may count as one: nothing depends on the number. */
	if (calls)
		WRITE_ONCE(hub->calls, calls - 1);
	else
		emm_hub_end_linger(hub, false);
}

/* The address space of @hub goes: nobody can subscribe to it any more. */
void emm_hub_released(struct emm_hub_node *hub)
{
	emm_hub_end_linger(hub, true);
}

/* A notifier of @hub will not be called any more. May not sleep. */
static void emm_hub_part_free(struct emm_hub_node *hub)
{
	if (!atomic_dec_and_test(&hub->parts))
		return;
	emm_hub_free(hub);
	if (atomic_long_dec_and_test(&emm_hubs_alive))
		wake_up_all(&emm_hubs_gone);
}

void emm_hub_starts_free(struct mmu_notifier *starts)
{
	emm_hub_part_free(container_of(starts, struct emm_hub_node, starts));
}

void emm_hub_ends_free(struct mmu_notifier *ends)
{
	emm_hub_part_free(container_of(ends, struct emm_hub_node, ends));
}

/*
 * Enters the notifiers of @hub in the list of @mm. The one with the starts is the last one: an
 * invalidation that is under way now ends before that is entered, so the end of each start is heard.
 */
static int emm_hub_register(struct emm_hub_node *hub, struct mm_struct *mm)
{
	int err;

	if (hub->ends.ops) {
		err = __mmu_notifier_register(&hub->ends, mm);
		if (err)
			return err;
		atomic_inc(&hub->parts);
	}
	err = __mmu_notifier_register(&hub->starts, mm);
	if (err && hub->ends.ops)
		mmu_notifier_put(&hub->ends);
	return err;
}

/*
 * Makes @hub, which the caller has allocated and cleared, that of @mm, and gives it its first user.
 * Sleeps; takes the mmap_lock. @ends is NULL if @starts has both, as for clients that can't refuse.
 *
 * Returns it, or the one that another thread made meanwhile, or an ERR_PTR: -EINTR, -ENOMEM. @hub is
 * given back in these cases.
 */
struct emm_hub_node *emm_hub_add(struct emm_hub_node *hub, struct mm_struct *mm,
				 const struct mmu_notifier_ops *starts,
				 const struct mmu_notifier_ops *ends)
{
	struct emm_hub_node *other;
	int err = -EINTR;

	INIT_HLIST_NODE(&hub->entry);
	INIT_LIST_HEAD(&hub->idle);
	hub->mm = mm;
	hub->refuses = ends;
	hub->users = 1;
	hub->starts.ops = starts;
	hub->ends.ops = ends;
	atomic_set(&hub->parts, 1);
	init_waitqueue_head(&hub->calm);
	atomic_long_inc(&emm_hubs_alive);

	if (mmap_write_lock_killable(mm))
		goto free;
	/* The mmap_lock is held: nobody adds another one. */
	other = emm_hub_find(mm, hub->refuses);
	err = other ? 0 : emm_hub_register(hub, mm);
	if (!other && !err) {
		spin_lock(&emm_hubs_lock);
		hash_add(emm_hubs, &hub->entry, (unsigned long)mm);
		emm_hubs_in_table++;
		spin_unlock(&emm_hubs_lock);
	}
	mmap_write_unlock(mm);
	if (!other && !err)
		return hub;
free:
	emm_hub_part_free(hub);
	return err ? ERR_PTR(err) : other;
}

/* More invalidations are under way than are known one by one, or no more. */
void emm_hub_flood(struct emm_hub_node *hub, bool flood)
{
	WRITE_ONCE(hub->flood, flood);
	if (!flood)
		wake_up_all(&hub->calm);
}

/* Sleeps until there are no more. Returns 0 or -ERESTARTSYS (killed). */
int emm_hub_wait_calm(struct emm_hub_node *hub)
{
	return wait_event_killable(hub->calm, !READ_ONCE(hub->flood));
}

/* For debugfs. Those that are over are in no table, but not freed yet. */
void emm_hubs_count(unsigned long *in_table, unsigned long *idle, unsigned long *alive)
{
	spin_lock(&emm_hubs_lock);
	*in_table = emm_hubs_in_table;
	*idle = list_count_nodes(&emm_idle_hubs);
	*alive = atomic_long_read(&emm_hubs_alive);
	spin_unlock(&emm_hubs_lock);
}

/*
 * When the module goes, and nobody can subscribe: ends all hubs and waits until they are freed. Not
 * mmu_notifier_synchronize(): it does not wait for what mmu_notifier_put() has queued on another CPU.
 */
void emm_hubs_exit(void)
{
	struct emm_hub_node *hub, *next;
	LIST_HEAD(over);

	cancel_delayed_work_sync(&emm_hubs_work);
	spin_lock(&emm_hubs_lock);
	list_for_each_entry_safe(hub, next, &emm_idle_hubs, idle) {
		emm_hub_forget(hub);
		list_add(&hub->idle, &over);
	}
	spin_unlock(&emm_hubs_lock);
	list_for_each_entry_safe(hub, next, &over, idle)
		emm_hub_retire(hub);

	while (!wait_event_timeout(emm_hubs_gone, !atomic_long_read(&emm_hubs_alive), 10 * HZ))
		pr_warn("ib_emm: unloading waits for %ld address spaces\n",
			atomic_long_read(&emm_hubs_alive));
	/* The last one was freed, and counted, with softirqs off: that has been left, too, then. */
	synchronize_rcu();
}
