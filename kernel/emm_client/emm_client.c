// SPDX-License-Identifier: GPL-2.0
/*
 * A driver that uses nothing but the EMM notifier, as the RFC imagines one: it is told, and writes
 * down what it was told. The guest tests drive it; it is an example for drivers in C as well.
 *
 * Each open file of /dev/emm_client is one subscription. Commands are written to it:
 *
 *	register START LENGTH	subscribe to a range of the writer's address space
 *	register		subscribe to all of it
 *	unregister
 *	young | old		what emm_referenced answers from now on
 *	delay MS		how long an invalidate_start that may sleep takes from now on
 *	clear			forget what was written down
 *
 * Reading gives one line for each call, oldest first:
 *
 *	start START END blockable=B depth=N
 *	end START END depth=N
 *	referenced START END clear=C young=Y
 *	release
 *	lost N			calls that found no room, if any, at the end
 *
 * depth counts the invalidations of this subscription that are under way.
 */

#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#include <emm.h>

#define EMM_CLIENT_EVENTS 8192
#define EMM_CLIENT_COMMAND 80
#define EMM_CLIENT_MAX_DELAY_MS 10000

enum emm_client_what { CLIENT_START, CLIENT_END, CLIENT_REFERENCED, CLIENT_RELEASE };

struct emm_client_event {
	unsigned long start, end;
	int depth;
	u8 what;
	bool flag;		/* start: blockable; referenced: clear */
	bool young;
};

struct emm_client {
	struct emm_notifier emm;
	struct mutex lock;	/* commands */
	bool registered;
	unsigned int delay_ms;
	bool young;
	spinlock_t log_lock;	/* all below; taken where nothing may sleep */
	int depth;
	unsigned int used, lost;
	struct emm_client_event log[EMM_CLIENT_EVENTS];
};

static struct emm_client *to_client(struct emm_notifier *emm)
{
	return container_of(emm, struct emm_client, emm);
}

static void client_note(struct emm_client *client, const struct emm_client_event *event, int step)
{
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

static void client_release(struct emm_notifier *emm)
{
	client_note(to_client(emm), &(struct emm_client_event){ .what = CLIENT_RELEASE }, 0);
}

static void client_start(struct emm_notifier *emm, unsigned long start, unsigned long end,
			 bool blockable)
{
	struct emm_client *client = to_client(emm);
	unsigned int ms = READ_ONCE(client->delay_ms);

	client_note(client, &(struct emm_client_event){
		.what = CLIENT_START, .start = start, .end = end, .flag = blockable }, 1);
	if (blockable && ms)
		/* Not msleep(): jiffies may be behind the clock that measures it. */
		usleep_range(ms * USEC_PER_MSEC, (ms + 1) * USEC_PER_MSEC);
}

static void client_end(struct emm_notifier *emm, unsigned long start, unsigned long end)
{
	client_note(to_client(emm), &(struct emm_client_event){
		.what = CLIENT_END, .start = start, .end = end }, -1);
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

static int client_register(struct emm_client *client, const char *range)
{
	unsigned long start, length;
	int err;

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
	emm_notifier_unregister(&client->emm);
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
		if (!client->registered)
			return -ENOENT;
		client_unregister(client);
	} else if (!strcmp(word, "young") || !strcmp(word, "old")) {
		WRITE_ONCE(client->young, word[0] == 'y');
	} else if (!strcmp(word, "delay")) {
		if (kstrtouint(argument, 10, &ms) || ms > EMM_CLIENT_MAX_DELAY_MS)
			return -EINVAL;
		WRITE_ONCE(client->delay_ms, ms);
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

static int client_seq_show(struct seq_file *seq, void *at)
{
	struct emm_client *client = seq->private;
	const struct emm_client_event *e = at;

	switch (e->what) {
	case CLIENT_START:
		seq_printf(seq, "start %#lx %#lx blockable=%d depth=%d\n", e->start, e->end,
			   e->flag, e->depth);
		break;
	case CLIENT_END:
		seq_printf(seq, "end %#lx %#lx depth=%d\n", e->start, e->end, e->depth);
		break;
	case CLIENT_REFERENCED:
		seq_printf(seq, "referenced %#lx %#lx clear=%d young=%d\n", e->start, e->end,
			   e->flag, e->young);
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

	if (client->registered)
		client_unregister(client);
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
