// SPDX-License-Identifier: GPL-2.0
/*
 * A driver that does nothing but access regions: it parks what misses in cookies, and counts how
 * often it is told to go on. The guest tests drive it, through /dev/emm_access (emm_access.h).
 */

#include <linux/completion.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/rwsem.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include <emm_region.h>

#include "emm_access.h"

#define EMM_ACCESS_COOKIES	16384
#define EMM_ACCESS_ALL		(~0U)

struct emm_access_cookie {
	struct emm_fault fault;
	struct emm_access *access;
	atomic64_t done;
};

struct emm_access {
	struct rw_semaphore lock;	/* @region and @cookies come and go */
	struct emm_region *region;
	struct emm_access_cookie *cookies;
	unsigned int nr;
	atomic64_t done;
	wait_queue_head_t told;
};

static void access_done(struct emm_fault *fault)
{
	struct emm_access_cookie *cookie = container_of(fault, struct emm_access_cookie, fault);

	atomic64_inc(&cookie->done);
	atomic64_inc(&cookie->access->done);
	wake_up(&cookie->access->told);
}

static void access_free_cookies(struct emm_access *access)
{
	while (access->nr)
		emm_fault_destroy(&access->cookies[--access->nr].fault);
	kvfree(access->cookies);
	access->cookies = NULL;
}

static long access_make_cookies(struct emm_access *access, unsigned long nr)
{
	if (nr > EMM_ACCESS_COOKIES)
		return -EINVAL;
	access_free_cookies(access);
	access->cookies = kvcalloc(nr, sizeof(*access->cookies), GFP_KERNEL);
	if (!access->cookies)
		return -ENOMEM;
	while (access->nr < nr) {
		struct emm_access_cookie *cookie = &access->cookies[access->nr];
		int err = emm_fault_init(&cookie->fault, access_done);

		if (err)
			return err;
		cookie->access = access;
		access->nr++;
	}
	return 0;
}

static long access_make_region(struct emm_access *access, const void __user *from)
{
	struct emm_access_region range;
	struct emm_region *region;

	if (copy_from_user(&range, from, sizeof(range)))
		return -EFAULT;
	if (access->region)
		return -EBUSY;
	region = emm_region_create(range.start, range.length);
	if (IS_ERR(region))
		return PTR_ERR(region);
	access->region = region;
	return 0;
}

static void access_free_region(struct emm_access *access)
{
	if (access->region)
		emm_region_destroy(access->region);
	access->region = NULL;
}

/* What has to have the file to itself. */
static long access_change(struct emm_access *access, unsigned int command, unsigned long arg)
{
	long ret = 0;

	if (down_write_killable(&access->lock))
		return -EINTR;
	switch (command) {
	case EMM_ACCESS_IOC_REGION:
		ret = access_make_region(access, (void __user *)arg);
		break;
	case EMM_ACCESS_IOC_COOKIES:
		ret = access_make_cookies(access, arg);
		break;
	case EMM_ACCESS_IOC_DESTROY:
		access_free_region(access);
		break;
	}
	up_write(&access->lock);
	return ret;
}

/* A copy, in whatever context. */
struct emm_access_copy {
	struct timer_list timer;
	struct completion over;
	struct emm_region *region;
	const struct emm_access_do *todo;
	struct emm_fault *fault;
	void *buf;
	int ret;
};

static void access_run(struct emm_access_copy *copy)
{
	const struct emm_access_do *todo = copy->todo;

	if ((todo->what & ~EMM_ACCESS_SOFTIRQ) == EMM_ACCESS_WRITE)
		copy->ret = emm_region_write(copy->region, todo->offset, copy->buf, todo->length,
					     todo->reach, copy->fault);
	else
		copy->ret = emm_region_read(copy->region, todo->offset, copy->buf, todo->length,
					    todo->reach, copy->fault);
}

static void access_timer(struct timer_list *timer)
{
	struct emm_access_copy *copy = container_of(timer, struct emm_access_copy, timer);

	access_run(copy);
	complete(&copy->over);
}

static int access_run_in_softirq(struct emm_access_copy *copy)
{
	init_completion(&copy->over);
	timer_setup_on_stack(&copy->timer, access_timer, 0);
	mod_timer(&copy->timer, jiffies);
	wait_for_completion(&copy->over);
	timer_delete_sync(&copy->timer);
	timer_destroy_on_stack(&copy->timer);
	return copy->ret;
}

static long access_copy(struct emm_access *access, const struct emm_access_do *todo,
			struct emm_fault *fault)
{
	struct emm_access_copy copy = { .region = access->region, .todo = todo, .fault = fault };
	bool write = (todo->what & ~EMM_ACCESS_SOFTIRQ) == EMM_ACCESS_WRITE;
	bool softirq = todo->what & EMM_ACCESS_SOFTIRQ;
	void __user *user = u64_to_user_ptr(todo->buffer);
	void *buf;
	long ret;

	if (todo->length > SZ_1M || (softirq && !fault))
		return -EINVAL;
	buf = kvmalloc(todo->length ?: 1, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	copy.buf = buf;
	if (write && copy_from_user(buf, user, todo->length)) {
		ret = -EFAULT;
	} else if (softirq) {
		ret = access_run_in_softirq(&copy);
	} else {
		access_run(&copy);
		ret = copy.ret;
	}
	if (!ret && !write && copy_to_user(user, buf, todo->length))
		ret = -EFAULT;
	kvfree(buf);
	return ret;
}

static long access_do(struct emm_access *access, const void __user *from)
{
	struct emm_fault *fault = NULL;
	struct emm_access_do todo;
	enum emm_prefetch what;

	if (copy_from_user(&todo, from, sizeof(todo)))
		return -EFAULT;
	if (!access->region)
		return -ENXIO;
	if (todo.cookie != EMM_ACCESS_ALL) {
		if (todo.cookie >= access->nr)
			return -EINVAL;
		fault = &access->cookies[todo.cookie].fault;
	}
	switch (todo.what) {
	case EMM_ACCESS_READ:
	case EMM_ACCESS_WRITE:
	case EMM_ACCESS_READ | EMM_ACCESS_SOFTIRQ:
	case EMM_ACCESS_WRITE | EMM_ACCESS_SOFTIRQ:
		return access_copy(access, &todo, fault);
	case EMM_ACCESS_ADVISE_READ:
		what = EMM_PREFETCH_READ;
		break;
	case EMM_ACCESS_ADVISE_WRITE:
		what = EMM_PREFETCH_WRITE;
		break;
	case EMM_ACCESS_ADVISE_PRESENT:
		what = EMM_PREFETCH_PRESENT;
		break;
	default:
		return -EINVAL;
	}
	return emm_region_prefetch(access->region, todo.offset, todo.length, what, fault);
}

static long access_count(struct emm_access *access, unsigned int cookie)
{
	if (cookie == EMM_ACCESS_ALL)
		return atomic64_read(&access->done);
	if (cookie >= access->nr)
		return -EINVAL;
	return atomic64_read(&access->cookies[cookie].done);
}

static long access_await(struct emm_access *access, const void __user *from)
{
	struct emm_access_await until;
	long left;

	if (copy_from_user(&until, from, sizeof(until)))
		return -EFAULT;
	if (access_count(access, until.cookie) < 0)
		return -EINVAL;
	left = wait_event_interruptible_timeout(access->told,
						access_count(access, until.cookie) >= until.times,
						msecs_to_jiffies(until.ms));
	if (left < 0)
		return left;
	return left ? 0 : -ETIMEDOUT;
}

static long access_cancel(struct emm_access *access, unsigned int cookie)
{
	unsigned int i;

	if (cookie == EMM_ACCESS_ALL) {
		for (i = 0; i < access->nr; i++)
			emm_fault_cancel(&access->cookies[i].fault);
		return 0;
	}
	if (cookie >= access->nr)
		return -EINVAL;
	emm_fault_cancel(&access->cookies[cookie].fault);
	return 0;
}

static long access_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	struct emm_access *access = file->private_data;
	const void __user *from = (void __user *)arg;
	long ret = -ENOTTY;

	switch (command) {
	case EMM_ACCESS_IOC_REGION:
	case EMM_ACCESS_IOC_COOKIES:
	case EMM_ACCESS_IOC_DESTROY:
		return access_change(access, command, arg);
	}
	if (down_read_killable(&access->lock))
		return -EINTR;
	switch (command) {
	case EMM_ACCESS_IOC_DO:
		ret = access_do(access, from);
		break;
	case EMM_ACCESS_IOC_AWAIT:
		ret = access_await(access, from);
		break;
	case EMM_ACCESS_IOC_CANCEL:
		ret = access_cancel(access, arg);
		break;
	case EMM_ACCESS_IOC_DONE:
		ret = access_count(access, arg);
		break;
	case EMM_ACCESS_IOC_STOP:
		ret = -ENXIO;
		if (access->region) {
			emm_region_stop(access->region);
			ret = 0;
		}
		break;
	}
	up_read(&access->lock);
	return ret;
}

static int access_open(struct inode *inode, struct file *file)
{
	struct emm_access *access = kzalloc(sizeof(*access), GFP_KERNEL);

	if (!access)
		return -ENOMEM;
	init_rwsem(&access->lock);
	init_waitqueue_head(&access->told);
	file->private_data = access;
	return 0;
}

/* The region first: cookies outlive it, and what is parked in them ends with it. */
static int access_close(struct inode *inode, struct file *file)
{
	struct emm_access *access = file->private_data;

	access_free_region(access);
	access_free_cookies(access);
	kfree(access);
	return 0;
}

static const struct file_operations access_fops = {
	.owner = THIS_MODULE,
	.open = access_open,
	.unlocked_ioctl = access_ioctl,
	.release = access_close,
};

static struct miscdevice access_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "emm_access",
	.fops = &access_fops,
	.mode = 0600,
};
module_misc_device(access_device);

MODULE_AUTHOR("The IB-EMM developers");
MODULE_DESCRIPTION("Accesses of regions, for tests");
MODULE_LICENSE("GPL");
