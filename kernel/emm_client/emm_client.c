// SPDX-License-Identifier: GPL-2.0
/*
 * A driver that uses nothing but the EMM notifier, as the RFC imagines one: it is told, and writes
 * down what it was told. The guest tests drive it; it is an example for drivers in C as well.
 *
 * Each open file of /dev/emm_client is one subscription. Commands are written to it:
 *
 *	register START LENGTH	subscribe to a range of the writer's address space
 *	register		subscribe to all of it
 *	refusing		the next registration is of a driver that may refuse a start
 *	refuse N		so many starts that must not block are answered "not now" from now on
 *	region PID START LENGTH	make a region of a process's memory, by the operations of a driver that has
 *				tables of its own
 *	frame OFFSET		ask the region for a frame, and look at its first byte
 *	poke OFFSET		the same to write, and set that byte to 0x5a
 *	scribble OFFSET		as frame, and sets that byte: only mark tells of it
 *	mark OFFSET LENGTH	say that these pages were written
 *	keep | drop		take a reference on the region, which unregister ends, or give it back
 *	unregister
 *	young | old		what emm_referenced answers from now on
 *	delay MS		how long an invalidate_start that may sleep takes from now on
 *	delay-release MS	and how long release takes
 *	clear			forget what was written down
 *
 * Reading gives one line for each call, oldest first:
 *
 *	start START END blockable=B event=E refused=R depth=N
 *	end START END event=E depth=N
 *	referenced START END clear=C young=Y
 *	frame OFFSET order=N writable=W byte=B
 *	release
 *	lost N			calls that found no room, if any, at the end
 *
 * depth counts the invalidations of this subscription that are under way. A call for another address
 * space than was subscribed to is a warning of the kernel.
 */

#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#include <emm.h>
#include <emm_frames.h>

#define EMM_CLIENT_EVENTS 8192
#define EMM_CLIENT_COMMAND 80
#define EMM_CLIENT_MAX_DELAY_MS 10000

enum emm_client_what { CLIENT_START, CLIENT_END, CLIENT_REFERENCED, CLIENT_RELEASE, CLIENT_FRAME };

struct emm_client_event {
	unsigned long start, end;
	int depth;
	u8 what;
	u8 event;
	bool flag;		/* start: blockable; referenced: clear; frame: writable */
	bool young;		/* referenced; of a start: refused */
};

struct emm_client {
	struct emm_notifier emm;
	struct mutex lock;	/* commands */
	bool registered;
	struct emm_region *region, *kept;
	struct mm_struct *mm;	/* compared only */
	unsigned int delay_ms, release_ms;
	bool young;
	spinlock_t log_lock;	/* all below; taken where nothing may sleep */
	int depth;
	unsigned int refuse;
	unsigned int used, lost;
	struct emm_client_event log[EMM_CLIENT_EVENTS];
};

static struct emm_client *to_client(struct emm_notifier *emm)
{
	return container_of(emm, struct emm_client, emm);
}

static void client_note(struct emm_client *client, const struct emm_client_event *event, int step)
{
	WARN_ON_ONCE(client->emm.mm != client->mm);
	spin_lock(&client->log_lock);
	client->depth += step;
	if (client->used < EMM_CLIENT_EVENTS) {
		client->log[client->used] = *event;
		client->log[client->used++].depth = client->depth;
	} else {
		client->lost++;
	}
	spin_unlock(&client->log_lock);
}

/* Not msleep(): jiffies may be behind the clock that measures it. */
static void client_sleep(unsigned int ms)
{
	if (ms)
		usleep_range(ms * USEC_PER_MSEC, (ms + 1) * USEC_PER_MSEC);
}

static void client_release(struct emm_notifier *emm)
{
	struct emm_client *client = to_client(emm);

	client_note(client, &(struct emm_client_event){ .what = CLIENT_RELEASE }, 0);
	client_sleep(READ_ONCE(client->release_ms));
}

static bool client_refuses(struct emm_client *client)
{
	bool refuses;

	spin_lock(&client->log_lock);
	refuses = client->refuse;
	if (refuses)
		client->refuse--;
	spin_unlock(&client->log_lock);
	return refuses;
}

static int client_start(struct emm_notifier *emm, const struct emm_invalidation *invalidation)
{
	struct emm_client *client = to_client(emm);
	bool refused = !invalidation->blockable && client_refuses(client);

	client_note(client, &(struct emm_client_event){
		.what = CLIENT_START, .start = invalidation->start, .end = invalidation->end,
		.event = invalidation->event, .flag = invalidation->blockable,
		.young = refused }, 1);
	if (invalidation->blockable)
		client_sleep(READ_ONCE(client->delay_ms));
	return refused ? -EAGAIN : 0;
}

static void client_end(struct emm_notifier *emm, const struct emm_invalidation *invalidation)
{
	client_note(to_client(emm), &(struct emm_client_event){
		.what = CLIENT_END, .start = invalidation->start, .end = invalidation->end,
		.event = invalidation->event }, -1);
}

static bool client_referenced(struct emm_notifier *emm, unsigned long start, unsigned long end,
			      bool clear)
{
	struct emm_client *client = to_client(emm);
	bool young = READ_ONCE(client->young);

	client_note(client, &(struct emm_client_event){
		.what = CLIENT_REFERENCED, .start = start, .end = end, .flag = clear,
		.young = young }, 0);
	return young;
}

static const struct emm_notifier_operations client_ops = {
	.release = client_release,
	.invalidate_start = client_start,
	.invalidate_end = client_end,
	.referenced = client_referenced,
};

static const struct emm_notifier_operations client_refusing_ops = {
	.release = client_release,
	.invalidate_start = client_start,
	.invalidate_end = client_end,
	.referenced = client_referenced,
	.may_refuse = true,
};

/* The same of a region, by what it calls. */

static void client_region_release(void *client)
{
	client_release(&((struct emm_client *)client)->emm);
}

static int client_region_start(void *client, const struct emm_invalidation *invalidation)
{
	return client_start(&((struct emm_client *)client)->emm, invalidation);
}

static void client_region_end(void *client, const struct emm_invalidation *invalidation)
{
	client_end(&((struct emm_client *)client)->emm, invalidation);
}

static bool client_region_referenced(void *client, unsigned long start, unsigned long end,
				     bool clear)
{
	return client_referenced(&((struct emm_client *)client)->emm, start, end, clear);
}

static const struct emm_region_operations client_region_ops = {
	.release = client_region_release,
	.invalidate_start = client_region_start,
	.invalidate_end = client_region_end,
	.referenced = client_region_referenced,
	.may_refuse = true,
};

static int client_region(struct emm_client *client, const char *range)
{
	unsigned long start, length;
	struct emm_region *region;
	struct task_struct *task;
	struct mm_struct *mm;
	struct pid *pid;
	int nr;

	if (client->region || client->registered)
		return -EBUSY;
	if (sscanf(range, "%d %lx %lx", &nr, &start, &length) != 3)
		return -EINVAL;
	pid = find_get_pid(nr);
	task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	if (!task)
		return -ESRCH;
	mm = get_task_mm(task);
	put_task_struct(task);
	if (!mm)
		return -ESRCH;
	region = emm_region_create_for(mm, start, length, &client_region_ops, client);
	mmput(mm);
	if (IS_ERR(region))
		return PTR_ERR(region);
	client->region = region;
	return 0;
}

static int client_look(const struct emm_page *frame, void *arg)
{
	u8 *byte = page_address(pfn_to_page(frame->pfn));
	struct emm_client_event *event = arg;

	if (event->young) {
		if (!frame->writable)
			return -EACCES;
		*byte = 0x5a;
	}
	event->event = frame->order;
	event->flag = frame->writable;
	event->end = *byte;
	return 0;
}

/*
 * "frame" looks at the page, "poke" writes to it, and "scribble" as well, as a device does whose entry
 * is writable when it was asked for to read: of that only "mark" tells.
 */
static int client_frame(struct emm_client *client, const char *argument, const char *how)
{
	struct emm_client_event event = { .what = CLIENT_FRAME, .young = how[0] != 'f' };
	bool write = how[0] == 'p';
	struct emm_region *region = client->region ?: client->kept;
	int err;

	if (!region)
		return -ENOENT;
	if (kstrtoul(argument, 16, &event.start))
		return -EINVAL;
	err = emm_region_frame(region, event.start, write, client_look, &event, NULL);
	if (!err)
		client_note(client, &event, 0);
	return err;
}

static int client_register(struct emm_client *client, const char *range)
{
	unsigned long start, length;
	int err;

	if (!client->registered)
		client->mm = current->mm;
	if (!*range)
		err = emm_notifier_register(&client->emm, current->mm);
	else if (sscanf(range, "%lx %lx", &start, &length) == 2)
		err = emm_notifier_register_range(&client->emm, current->mm, start, length);
	else
		return -EINVAL;
	if (!err)
		client->registered = true;
	return err;
}

static void client_unregister(struct emm_client *client)
{
	if (client->region)
		emm_region_destroy(client->region);
	client->region = NULL;
	emm_notifier_unregister(&client->emm);
	client->mm = NULL;
	client->registered = false;
	/* Starts whose end will not be heard. */
	spin_lock(&client->log_lock);
	client->depth = 0;
	spin_unlock(&client->log_lock);
}

static int client_command(struct emm_client *client, char *text)
{
	char *argument = strim(text);
	char *word = strsep(&argument, " ");
	unsigned int ms;

	argument = argument ? skip_spaces(argument) : "";
	if (!strcmp(word, "register"))
		return client_register(client, argument);
	if (!strcmp(word, "unregister")) {
		if (!client->registered && !client->region)
			return -ENOENT;
		client_unregister(client);
	} else if (!strcmp(word, "region")) {
		return client_region(client, argument);
	} else if (!strcmp(word, "frame") || !strcmp(word, "poke") || !strcmp(word, "scribble")) {
		return client_frame(client, argument, word);
	} else if (!strcmp(word, "mark")) {
		unsigned long offset, length;

		if (!client->region || sscanf(argument, "%lx %lx", &offset, &length) != 2)
			return -EINVAL;
		emm_region_mark(client->region, offset, length, true);
	} else if (!strcmp(word, "keep")) {
		if (!client->region || client->kept)
			return -EINVAL;
		emm_region_get(client->region);
		client->kept = client->region;
	} else if (!strcmp(word, "drop")) {
		if (!client->kept)
			return -ENOENT;
		emm_region_put(client->kept);
		client->kept = NULL;
	} else if (!strcmp(word, "young") || !strcmp(word, "old")) {
		WRITE_ONCE(client->young, word[0] == 'y');
	} else if (!strcmp(word, "delay") || !strcmp(word, "delay-release")) {
		if (kstrtouint(argument, 10, &ms) || ms > EMM_CLIENT_MAX_DELAY_MS)
			return -EINVAL;
		if (word[5])
			WRITE_ONCE(client->release_ms, ms);
		else
			WRITE_ONCE(client->delay_ms, ms);
	} else if (!strcmp(word, "refusing")) {
		if (client->registered)
			return -EBUSY;
		client->emm.ops = &client_refusing_ops;
	} else if (!strcmp(word, "refuse")) {
		if (kstrtouint(argument, 10, &ms))
			return -EINVAL;
		spin_lock(&client->log_lock);
		client->refuse = ms;
		spin_unlock(&client->log_lock);
	} else if (!strcmp(word, "clear")) {
		spin_lock(&client->log_lock);
		client->used = client->lost = 0;
		spin_unlock(&client->log_lock);
	} else {
		return -EINVAL;
	}
	return 0;
}

static ssize_t client_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	struct seq_file *seq = file->private_data;
	struct emm_client *client = seq->private;
	char text[EMM_CLIENT_COMMAND];
	int err;

	if (count >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, buf, count))
		return -EFAULT;
	text[count] = '\0';
	mutex_lock(&client->lock);
	err = client_command(client, text);
	mutex_unlock(&client->lock);
	return err ?: count;
}

/* The log only grows but for `clear`, and entries never change: @used is all that needs the lock. */
static void *client_seq_start(struct seq_file *seq, loff_t *pos)
{
	struct emm_client *client = seq->private;
	unsigned int used;

	spin_lock(&client->log_lock);
	used = client->used;
	spin_unlock(&client->log_lock);
	return *pos < used ? &client->log[*pos] : NULL;
}

static void *client_seq_next(struct seq_file *seq, void *at, loff_t *pos)
{
	++*pos;
	return client_seq_start(seq, pos);
}

static void client_seq_stop(struct seq_file *seq, void *at)
{
}

static const char *const client_events[] = {
	[EMM_UNMAP] = "unmap",
	[EMM_CLEAR] = "clear",
	[EMM_PROTECTION_VMA] = "protection-vma",
	[EMM_PROTECTION_PAGE] = "protection-page",
	[EMM_SOFT_DIRTY] = "soft-dirty",
	[EMM_MIGRATE] = "migrate",
	[EMM_EXCLUSIVE] = "exclusive",
};

static int client_seq_show(struct seq_file *seq, void *at)
{
	struct emm_client *client = seq->private;
	const struct emm_client_event *e = at;

	switch (e->what) {
	case CLIENT_START:
		seq_printf(seq, "start %#lx %#lx blockable=%d event=%s refused=%d depth=%d\n",
			   e->start, e->end, e->flag, client_events[e->event], e->young, e->depth);
		break;
	case CLIENT_END:
		seq_printf(seq, "end %#lx %#lx event=%s depth=%d\n", e->start, e->end,
			   client_events[e->event], e->depth);
		break;
	case CLIENT_REFERENCED:
		seq_printf(seq, "referenced %#lx %#lx clear=%d young=%d\n", e->start, e->end,
			   e->flag, e->young);
		break;
	case CLIENT_FRAME:
		seq_printf(seq, "frame %#lx order=%d writable=%d byte=%lu\n", e->start, e->event,
			   e->flag, e->end);
		break;
	case CLIENT_RELEASE:
		seq_puts(seq, "release\n");
		break;
	}
	if (client->lost && e == &client->log[EMM_CLIENT_EVENTS - 1])
		seq_printf(seq, "lost %u\n", client->lost);
	return 0;
}

static const struct seq_operations client_sops = {
	.start = client_seq_start,
	.next = client_seq_next,
	.stop = client_seq_stop,
	.show = client_seq_show,
};

static int client_open(struct inode *inode, struct file *file)
{
	struct emm_client *client;
	int err;

	client = kvzalloc(sizeof(*client), GFP_KERNEL);
	if (!client)
		return -ENOMEM;
	client->emm.ops = &client_ops;
	mutex_init(&client->lock);
	spin_lock_init(&client->log_lock);

	/* misc_open() leaves the device here, which seq_open() would trip over. */
	file->private_data = NULL;
	err = seq_open(file, &client_sops);
	if (err) {
		kvfree(client);
		return err;
	}
	((struct seq_file *)file->private_data)->private = client;
	return 0;
}

static int client_close(struct inode *inode, struct file *file)
{
	struct seq_file *seq = file->private_data;
	struct emm_client *client = seq->private;

	if (client->registered || client->region)
		client_unregister(client);
	if (client->kept)
		emm_region_put(client->kept);
	kvfree(client);
	return seq_release(inode, file);
}

static const struct file_operations client_fops = {
	.owner = THIS_MODULE,
	.open = client_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.write = client_write,
	.release = client_close,
};

static struct miscdevice client_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "emm_client",
	.fops = &client_fops,
	.mode = 0600,
};
module_misc_device(client_device);

MODULE_AUTHOR("The IB-EMM developers");
MODULE_DESCRIPTION("EMM notifier client for tests");
MODULE_LICENSE("GPL");
