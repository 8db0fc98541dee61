// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * On-demand MRs through ib_emm instead of ib_umem_odp.
 */

#include <linux/hugetlb_inline.h>
#include <linux/ioport.h>
#include <linux/libnvdimm.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
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

/* What the accesses of a QP's tasks are parked in. */
struct rxe_emm_qp {
	struct rxe_qp *qp;
	struct emm_fault req;
	struct emm_fault comp;
	struct emm_fault resp;
};

/* The memory is there, or never will be: @task finds its packet where it was. */
static void rxe_emm_resume(struct rxe_qp *qp, struct rxe_task *task)
{
	/* on its way out; its cookies are destroyed before it is freed */
	if (!rxe_get(qp))
		return;
	rxe_sched_task(task);
	rxe_put(qp);
}

static void rxe_emm_req_done(struct emm_fault *fault)
{
	struct rxe_qp *qp = container_of(fault, struct rxe_emm_qp, req)->qp;

	rxe_emm_resume(qp, &qp->send_task);
}

static void rxe_emm_comp_done(struct emm_fault *fault)
{
	struct rxe_qp *qp = container_of(fault, struct rxe_emm_qp, comp)->qp;

	rxe_emm_resume(qp, &qp->send_task);
}

static void rxe_emm_resp_done(struct emm_fault *fault)
{
	struct rxe_qp *qp = container_of(fault, struct rxe_emm_qp, resp)->qp;

	rxe_emm_resume(qp, &qp->recv_task);
}

/* Kernel QPs have no on-demand MRs. */
int rxe_emm_init_qp(struct rxe_qp *qp)
{
	struct rxe_emm_qp *emm;
	int err;

	if (!qp->is_user)
		return 0;

	emm = kzalloc_obj(*emm);
	if (!emm)
		return -ENOMEM;

	emm->qp = qp;
	err = emm_fault_init(&emm->req, rxe_emm_req_done);
	if (err)
		goto err_free;
	err = emm_fault_init(&emm->comp, rxe_emm_comp_done);
	if (err)
		goto err_req;
	err = emm_fault_init(&emm->resp, rxe_emm_resp_done);
	if (err)
		goto err_comp;

	qp->req.at.fault = &emm->req;
	qp->comp.at.fault = &emm->comp;
	qp->resp.at.fault = &emm->resp;
	qp->emm = emm;
	return 0;

err_comp:
	emm_fault_destroy(&emm->comp);
err_req:
	emm_fault_destroy(&emm->req);
err_free:
	kfree(emm);
	return err;
}

/* Its tasks don't run any more. */
void rxe_emm_cleanup_qp(struct rxe_qp *qp)
{
	struct rxe_emm_qp *emm = qp->emm;

	if (!emm)
		return;
	emm_fault_destroy(&emm->resp);
	emm_fault_destroy(&emm->comp);
	emm_fault_destroy(&emm->req);
	kfree(emm);
}

/*
 * Before the wait for the last reference to a QP that is destroyed: packets that are parked hold
 * one, and so does each that finds the QP until it is out of the pool. The tasks of a QP that is
 * not valid only drain its queues. A kernel QP is never parked, and its owner may still post, which
 * warns when it is not valid.
 */
void rxe_emm_stop_qp(struct rxe_qp *qp)
{
	unsigned long flags;

	if (!qp->is_user)
		return;

	spin_lock_irqsave(&qp->state_lock, flags);
	qp->valid = 0;
	spin_unlock_irqrestore(&qp->state_lock, flags);

	rxe_sched_task(&qp->recv_task);
	rxe_sched_task(&qp->send_task);
}

/*
 * An access of the first packet of @queue, if it has one, is parked. A packet that was looped back
 * holds the QP that sent it until it is freed: those that wait from now on let go of theirs, so
 * that no sender waits for a fault of the receiver.
 */
void rxe_emm_park(struct rxe_access *at, struct sk_buff_head *queue)
{
	struct sk_buff *skb;
	unsigned long flags;

	if (at->parked)
		return;
	if (!queue) {
		at->parked = true;
		return;
	}

	spin_lock_irqsave(&queue->lock, flags);
	at->parked = true;
	skb_queue_walk(queue, skb)
		skb_orphan(skb);
	spin_unlock_irqrestore(&queue->lock, flags);
}

/* Queues a packet, behind one that may be parked. */
void rxe_emm_queue_pkt(struct rxe_access *at, struct sk_buff_head *queue, struct sk_buff *skb)
{
	unsigned long flags;

	spin_lock_irqsave(&queue->lock, flags);
	if (unlikely(at->parked))
		skb_orphan(skb);
	__skb_queue_tail(queue, skb);
	spin_unlock_irqrestore(&queue->lock, flags);
}

/* The access that was parked is over, or given up. Called by its task. */
void __rxe_emm_unpark(struct rxe_access *at)
{
	emm_fault_cancel(at->fault);
	WRITE_ONCE(at->parked, false);
	at->copied = 0;
}

/* A page that the VM takes away again and again is no violation of a key either. */
static int rxe_emm_errno(int err)
{
	return err == -EBUSY ? -ENOMEM : err;
}

int rxe_emm_mr_copy(struct rxe_mr *mr, u64 iova, void *addr, unsigned int length,
		    enum rxe_mr_copy_dir dir, unsigned int reach, struct emm_fault *fault)
{
	u64 offset = iova - mr->ibmr.iova;
	int err;

	if (dir == RXE_TO_MR_OBJ)
		err = emm_region_write(mr->emm, offset, addr, length, reach, fault);
	else
		err = emm_region_read(mr->emm, offset, addr, length, reach, fault);
	return rxe_emm_errno(err);
}

struct rxe_emm_atomic {
	int opcode;
	u64 compare;
	u64 swap_add;
	u64 *orig_val;
};

static void rxe_emm_do_atomic_op(u64 *va, void *arg)
{
	struct rxe_emm_atomic *op = arg;
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

/* What is done to eight bytes that lie in one page. */
struct rxe_emm_word {
	void (*fn)(u64 *va, void *arg);
	void *arg;
	bool split;
};

static void rxe_emm_do_word(void *kaddr, size_t bytes, void *arg)
{
	struct rxe_emm_word *word = arg;

	if (bytes == sizeof(u64))
		word->fn(kaddr, word->arg);
	else
		word->split = true;
}

/* An access of eight bytes. Returns a state, or -EAGAIN if it is parked. */
static int rxe_emm_apply_u64(struct rxe_mr *mr, u64 iova,
			     void (*fn)(u64 *va, void *arg), void *arg, struct emm_fault *fault)
{
	struct rxe_emm_word word = { .fn = fn, .arg = arg };
	int err = emm_region_apply(mr->emm, iova - mr->ibmr.iova, sizeof(u64), sizeof(u64), true,
				   rxe_emm_do_word, &word, fault);

	switch (rxe_emm_errno(err)) {
	case 0:
		/* uverbs refuses an iova with another offset in its page than the address has */
		return word.split ? RESPST_ERR_MISALIGNED_ATOMIC : RESPST_NONE;
	case -EAGAIN:
		return err;
	case -ENOMEM:
		return RESPST_ERR_NO_MEMORY;
	default:
		return RESPST_ERR_RKEY_VIOLATION;
	}
}

int rxe_emm_atomic_op(struct rxe_mr *mr, u64 iova, int opcode, u64 compare, u64 swap_add,
		      u64 *orig_val, struct emm_fault *fault)
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
	return rxe_emm_apply_u64(mr, iova, rxe_emm_do_atomic_op, &op, fault);
}

static void rxe_emm_store(u64 *va, void *arg)
{
	/* Do atomic write after all prior operations have completed */
	smp_store_release(va, *(u64 *)arg);
}

int rxe_emm_atomic_write(struct rxe_mr *mr, u64 iova, u64 value, struct emm_fault *fault)
{
	enum resp_states state = rxe_emm_check_atomic(mr, iova);

	if (state != RESPST_NONE)
		return state;
	return rxe_emm_apply_u64(mr, iova, rxe_emm_store, &value, fault);
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
int rxe_emm_flush(struct rxe_mr *mr, u64 iova, unsigned int length, struct rxe_access *at)
{
	u64 offset = iova - mr->ibmr.iova;

	while (length > 0) {
		unsigned int bytes = min_t(unsigned int, length, PAGE_SIZE - offset_in_page(iova));
		bool persistent = false;
		int err;

		/* A flush never modifies memory. */
		err = emm_region_apply(mr->emm, offset, bytes, length, false,
				       rxe_emm_flush_piece, &persistent, at->fault);
		if (err)
			return rxe_emm_errno(err);
		if (!persistent)
			return -EINVAL;
		iova += bytes;
		offset += bytes;
		length -= bytes;
		at->copied += bytes;
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
