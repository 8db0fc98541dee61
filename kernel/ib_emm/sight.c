// SPDX-License-Identifier: GPL-2.0
/* What can be seen of the regions: trace events, and one line a region in debugfs. */

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/seq_file.h>

#include "glue.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* Outermost lock: held over emm_region_describe(), which takes the region's gate. */
static DEFINE_MUTEX(emm_listed_lock);
static LIST_HEAD(emm_listed);
static struct dentry *emm_dir;

void emm_listed_add(struct emm_listed *listed, const struct emm_region *region)
{
	listed->region = region;
	listed->owner = task_tgid_nr(current);
	mutex_lock(&emm_listed_lock);
	list_add_tail(&listed->node, &emm_listed);
	mutex_unlock(&emm_listed_lock);
}

void emm_listed_del(struct emm_listed *listed)
{
	mutex_lock(&emm_listed_lock);
	list_del_init(&listed->node);
	mutex_unlock(&emm_listed_lock);
}

static void *emm_regions_start(struct seq_file *seq, loff_t *pos)
{
	mutex_lock(&emm_listed_lock);
	return seq_list_start_head(&emm_listed, *pos);
}

static void *emm_regions_next(struct seq_file *seq, void *at, loff_t *pos)
{
	return seq_list_next(at, &emm_listed, pos);
}

static void emm_regions_stop(struct seq_file *seq, void *at)
{
	mutex_unlock(&emm_listed_lock);
}

static int emm_regions_show(struct seq_file *seq, void *at)
{
	const struct emm_listed *listed;
	struct emm_region_stats stats;
	u64 start, length;

	if (at == &emm_listed) {
		seq_puts(seq, "pid start length resident_pages table_bytes page_faults page_invalidations page_prefetch\n");
		return 0;
	}
	listed = list_entry(at, struct emm_listed, node);
	emm_region_get_stats(listed->region, &stats);
	emm_region_get_range(listed->region, &start, &length);
	seq_printf(seq, "%d %#llx %llu %llu %llu %llu %llu %llu\n", listed->owner, start,
		   length, stats.resident, stats.table_bytes, stats.page_faults,
		   stats.page_invalidations, stats.page_prefetch);
	return 0;
}

static const struct seq_operations emm_regions_sops = {
	.start = emm_regions_start,
	.next = emm_regions_next,
	.stop = emm_regions_stop,
	.show = emm_regions_show,
};
DEFINE_SEQ_ATTRIBUTE(emm_regions);

static int emm_hubs_show(struct seq_file *seq, void *unused)
{
	unsigned long in_table, idle, alive;

	emm_hubs_count(&in_table, &idle, &alive);
	seq_printf(seq, "hubs %lu idle %lu not_freed %lu\n", in_table, idle, alive);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(emm_hubs);

void emm_sight_init(void)
{
	emm_dir = debugfs_create_dir("ib_emm", NULL);
	debugfs_create_file("regions", 0400, emm_dir, NULL, &emm_regions_fops);
	debugfs_create_file("hubs", 0400, emm_dir, NULL, &emm_hubs_fops);
}

void emm_sight_exit(void)
{
	debugfs_remove(emm_dir);
}

void emm_trace_register(u64 start, u64 length, int error)
{
	trace_emm_register(start, length, error);
}

void emm_trace_fault(u64 address, u64 pages, bool write, bool huge, int error)
{
	trace_emm_fault(address, pages, write, huge, error);
}

void emm_trace_fault_lost(u64 address, u32 losses)
{
	trace_emm_fault_lost(address, losses);
}

void emm_trace_invalidate(u64 start, u64 end, u64 pages, bool blockable)
{
	trace_emm_invalidate(start, end, pages, blockable);
}

void emm_trace_release(u64 start, u64 length)
{
	trace_emm_release(start, length);
}
