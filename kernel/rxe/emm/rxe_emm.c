// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * On-demand MRs through ib_emm instead of ib_umem_odp.
 */

#include <linux/hugetlb_inline.h>
#include <linux/ioport.h>
#include <linux/libnvdimm.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/string.h>
#include <rdma/restrack.h>

#include "rxe.h"

/* What serves on-demand MRs that are registered from now on. */
enum rxe_mr_backend {
	RXE_MR_BACKEND_EMM,
	RXE_MR_BACKEND_ODP,
};

static const char * const rxe_mr_backend_names[] = {
	[RXE_MR_BACKEND_EMM] = "emm",
	[RXE_MR_BACKEND_ODP] = "odp",
};

static enum rxe_mr_backend rxe_mr_backend = RXE_MR_BACKEND_EMM;

static int rxe_mr_backend_set(const char *val, const struct kernel_param *kp)
{
	int which = sysfs_match_string(rxe_mr_backend_names, val);

	if (which < 0)
		return which;
	WRITE_ONCE(rxe_mr_backend, which);
	return 0;
}

static int rxe_mr_backend_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%s\n", rxe_mr_backend_names[READ_ONCE(rxe_mr_backend)]);
}

static const struct kernel_param_ops rxe_mr_backend_ops = {
	.set = rxe_mr_backend_set,
	.get = rxe_mr_backend_get,
};

module_param_cb(mr_backend, &rxe_mr_backend_ops, NULL, 0644);
MODULE_PARM_DESC(mr_backend, "what serves new on-demand MRs: emm (ib_emm, default) or odp (ib_umem_odp)");

bool rxe_emm_chosen(void)
{
	return READ_ONCE(rxe_mr_backend) == RXE_MR_BACKEND_EMM;
}

/*
 * Huge pages get one translation each with and without the flag. As in ib_umem_odp_get(), the flag
 * is refused where there are none.
 */
static bool rxe_emm_hugetlb(u64 start)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	bool huge;

	mmap_read_lock(mm);
	vma = vma_lookup(mm, start);
	huge = vma && is_vm_hugetlb_page(vma);
	mmap_read_unlock(mm);
	return huge;
}

int rxe_emm_mr_init_user(u64 start, u64 length, u64 iova, int access, struct rxe_mr *mr)
{
	struct emm_region *region;

	/* All of the address space: an address in it is the only sensible iova. */
	if (!start && length == U64_MAX && iova)
		return -EINVAL;

	if ((access & IB_ACCESS_HUGETLB) && !rxe_emm_hugetlb(start))
		return -EINVAL;

	rxe_mr_init(access, mr);

	region = emm_region_create(start, length);
	if (IS_ERR(region)) {
		rxe_dbg_mr(mr, "Unable to create emm region err = %d\n", (int)PTR_ERR(region));
		return PTR_ERR(region);
	}

	mr->emm = region;
	mr->ibmr.length = length;
	mr->ibmr.iova = iova;
	mr->ibmr.type = IB_MR_TYPE_USER;
	mr->state = RXE_MR_STATE_VALID;

	return 0;
}

/* Before the wait for the last user of an MR, which may itself wait for the VM. */
void rxe_emm_mr_stop(struct rxe_mr *mr)
{
	emm_region_stop(mr->emm);
}

void rxe_emm_mr_cleanup(struct rxe_mr *mr)
{
	emm_region_destroy(mr->emm);
	mr->emm = NULL;
}

static void rxe_emm_orphan(struct sk_buff_head *queue, struct rxe_qp *qp)
{
	struct sk_buff *skb;
	unsigned long flags;

	spin_lock_irqsave(&queue->lock, flags);
	skb_queue_walk(queue, skb) {
		if (skb->sk == qp->sk->sk)
			skb_orphan(skb);
	}
	spin_unlock_irqrestore(&queue->lock, flags);
}

/*
 * A packet that was looped back holds its sender until the receiver is done with it, and the
 * receiver may wait in a fault. Lets go of a sender that sends no more.
 */
static void rxe_emm_orphan_skbs(struct rxe_qp *qp)
{
	struct rxe_dev *rxe = to_rdev(qp->ibqp.device);
	struct rxe_pool_ref *ref;
	unsigned long index;

	if (!atomic_read(&qp->skb_out))
		return;

	xa_for_each(&rxe->qp_pool.xa, index, ref) {
		struct rxe_qp *peer = rxe_pool_get_index(&rxe->qp_pool, index);

		if (!peer)
			continue;
		rxe_emm_orphan(&peer->req_pkts, qp);
		rxe_emm_orphan(&peer->resp_pkts, qp);
		rxe_put(peer);
	}
}

/*
 * Before the wait for the last reference to a QP that is destroyed: ends its own faults, and makes
 * it not wait for those of others. A packet that finds the QP until it is out of the pool holds a
 * reference, so its tasks must run on; those of a user's QP only drain its queues. A kernel QP
 * has no faults, and its owner may still post, which warns when it is not valid.
 */
void rxe_emm_stop_qp(struct rxe_qp *qp)
{
	unsigned long flags;

	if (qp->is_user) {
		spin_lock_irqsave(&qp->state_lock, flags);
		qp->valid = 0;
		spin_unlock_irqrestore(&qp->state_lock, flags);
	}

	rxe_disable_task(&qp->recv_task);
	rxe_disable_task(&qp->send_task);
	rxe_emm_orphan_skbs(qp);

	rxe_enable_task(&qp->recv_task);
	rxe_enable_task(&qp->send_task);
	rxe_sched_task(&qp->recv_task);
	rxe_sched_task(&qp->send_task);
}

int rxe_emm_mr_copy(struct rxe_mr *mr, u64 iova, void *addr, unsigned int length,
		    enum rxe_mr_copy_dir dir)
{
	u64 offset = iova - mr->ibmr.iova;

	if (dir == RXE_TO_MR_OBJ)
		return emm_region_write(mr->emm, offset, addr, length, length, NULL);
	else
		return emm_region_read(mr->emm, offset, addr, length, length, NULL);
}

struct rxe_emm_atomic {
	int opcode;
	u64 compare;
	u64 swap_add;
	u64 *orig_val;
};

static void rxe_emm_do_atomic_op(void *kaddr, size_t bytes, void *arg)
{
	struct rxe_emm_atomic *op = arg;
	u64 *va = kaddr;
	u64 value;

	spin_lock_bh(&atomic_ops_lock);
	value = *op->orig_val = *va;

	if (op->opcode == IB_OPCODE_RC_COMPARE_SWAP) {
		if (value == op->compare)
			*va = op->swap_add;
	} else {
		*va = value + op->swap_add;
	}
	spin_unlock_bh(&atomic_ops_lock);
}

/* The checks are those of rxe_mr_do_atomic_op(), in the same order. */
static enum resp_states rxe_emm_check_atomic(struct rxe_mr *mr, u64 iova)
{
	if (unlikely(mr->state != RXE_MR_STATE_VALID)) {
		rxe_dbg_mr(mr, "mr not in valid state\n");
		return RESPST_ERR_RKEY_VIOLATION;
	}

	if (mr_check_range(mr, iova, sizeof(u64))) {
		rxe_dbg_mr(mr, "iova out of range\n");
		return RESPST_ERR_RKEY_VIOLATION;
	}

	if (unlikely(iova & 0x7)) {
		rxe_dbg_mr(mr, "iova not aligned\n");
		return RESPST_ERR_MISALIGNED_ATOMIC;
	}

	return RESPST_NONE;
}

enum resp_states rxe_emm_atomic_op(struct rxe_mr *mr, u64 iova, int opcode,
				   u64 compare, u64 swap_add, u64 *orig_val)
{
	struct rxe_emm_atomic op = {
		.opcode = opcode,
		.compare = compare,
		.swap_add = swap_add,
		.orig_val = orig_val,
	};
	enum resp_states state = rxe_emm_check_atomic(mr, iova);

	if (state != RESPST_NONE)
		return state;
	if (emm_region_apply(mr->emm, iova - mr->ibmr.iova, sizeof(u64),
			     sizeof(u64), true, rxe_emm_do_atomic_op, &op, NULL))
		return RESPST_ERR_RKEY_VIOLATION;
	return RESPST_NONE;
}

static void rxe_emm_store(void *kaddr, size_t bytes, void *arg)
{
	u64 *va = kaddr;

	/* Do atomic write after all prior operations have completed */
	smp_store_release(va, *(u64 *)arg);
}

enum resp_states rxe_emm_atomic_write(struct rxe_mr *mr, u64 iova, u64 value)
{
	enum resp_states state = rxe_emm_check_atomic(mr, iova);

	if (state != RESPST_NONE)
		return state;
	if (emm_region_apply(mr->emm, iova - mr->ibmr.iova, sizeof(u64),
			     sizeof(u64), true, rxe_emm_store, &value, NULL))
		return RESPST_ERR_RKEY_VIOLATION;
	return RESPST_NONE;
}

static void rxe_emm_flush_piece(void *kaddr, size_t bytes, void *arg)
{
	bool *persistent = arg;

	*persistent = region_intersects(__pa(kaddr), bytes, IORESOURCE_MEM,
					IORES_DESC_PERSISTENT_MEMORY) == REGION_INTERSECTS;
	if (*persistent)
		arch_wb_cache_pmem(kaddr, bytes);
}

/*
 * Pinned memory that can't be persistent is refused at registration. What an emm MR has is known at
 * the flush only.
 */
int rxe_emm_flush(struct rxe_mr *mr, u64 iova, unsigned int length)
{
	u64 offset = iova - mr->ibmr.iova;

	while (length > 0) {
		unsigned int bytes = min_t(unsigned int, length, PAGE_SIZE - offset_in_page(iova));
		bool persistent = false;
		int err;

		/* A flush never modifies memory. */
		err = emm_region_apply(mr->emm, offset, bytes, bytes, false,
				       rxe_emm_flush_piece, &persistent, NULL);
		if (err)
			return err;
		if (!persistent)
			return -EINVAL;
		iova += bytes;
		offset += bytes;
		length -= bytes;
	}

	return 0;
}

/* rdma statistic show mr; the names are those of mlx5 */
int rxe_emm_fill_stat_mr(struct sk_buff *msg, struct ib_mr *ibmr)
{
	struct rxe_mr *mr = to_rmr(ibmr);
	struct emm_region_stats stats;
	struct nlattr *table;

	if (!is_emm_mr(mr))
		return 0;

	table = nla_nest_start(msg, RDMA_NLDEV_ATTR_STAT_HWCOUNTERS);
	if (!table)
		return -EMSGSIZE;

	emm_region_get_stats(mr->emm, &stats);
	if (rdma_nl_stat_hwcounter_entry(msg, "page_faults", stats.page_faults) ||
	    rdma_nl_stat_hwcounter_entry(msg, "page_invalidations", stats.page_invalidations) ||
	    rdma_nl_stat_hwcounter_entry(msg, "page_prefetch", stats.page_prefetch)) {
		nla_nest_cancel(msg, table);
		return -EMSGSIZE;
	}

	nla_nest_end(msg, table);
	return 0;
}

/* rdma resource show mr -dd */
int rxe_emm_fill_res_mr(struct sk_buff *msg, struct ib_mr *ibmr)
{
	struct rxe_mr *mr = to_rmr(ibmr);
	const char *backend = "pinned";
	struct nlattr *table;

	if (is_emm_mr(mr))
		backend = rxe_mr_backend_names[RXE_MR_BACKEND_EMM];
	else if (is_odp_mr(mr))
		backend = rxe_mr_backend_names[RXE_MR_BACKEND_ODP];

	table = nla_nest_start(msg, RDMA_NLDEV_ATTR_DRIVER);
	if (!table)
		return -EMSGSIZE;
	if (rdma_nl_put_driver_string(msg, "backend", backend)) {
		nla_nest_cancel(msg, table);
		return -EMSGSIZE;
	}

	nla_nest_end(msg, table);
	return 0;
}
