// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * ibv_advise_mr(3) for MRs of ib_emm.
 */

#include <linux/overflow.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "rxe.h"

/*
 * Advice may wait for as long as a fault may. It has threads of its own, so that no QP waits for
 * one, and so few items that each gets a thread: none waits behind another, and the MR of each can
 * be deregistered, which ends its wait.
 */
#define RXE_EMM_ADVICES		256
/* How many bytes are brought in between two looks at whether the caller was killed. */
#define RXE_EMM_ADVICE_STEP	SZ_2M

static struct workqueue_struct *rxe_emm_wq;
static atomic_t rxe_emm_advices;
/* Advice that somebody waits for. The lock is outside of those of emm_cancel_begin(). */
static LIST_HEAD(rxe_emm_awaited);
static DEFINE_SPINLOCK(rxe_emm_awaited_lock);

/* Advice about ranges of one MR. */
struct rxe_emm_advice {
	struct work_struct work;
	struct completion done;
	struct list_head awaited;
	struct emm_cancel cancel;
	struct rxe_mr *mr;
	enum emm_prefetch what;
	bool wait;
	bool killed;
	int err;
	u32 num;
	struct ib_sge list[] __counted_by(num);
};

int rxe_emm_alloc_wq(void)
{
	/* far more slots than items: a node has no more than its CPUs' share of them */
	rxe_emm_wq = alloc_workqueue("rxe_emm_wq", WQ_UNBOUND, WQ_MAX_ACTIVE);
	return rxe_emm_wq ? 0 : -ENOMEM;
}

void rxe_emm_destroy_wq(void)
{
	destroy_workqueue(rxe_emm_wq);
}

static void rxe_emm_free_advice(struct rxe_emm_advice *adv)
{
	atomic_dec(&rxe_emm_advices);
	rxe_put(adv->mr);
	kvfree(adv);
}

static int rxe_emm_do_advise(struct rxe_emm_advice *adv, const struct ib_sge *sge)
{
	u64 offset = sge->addr - adv->mr->ibmr.iova;
	u32 done = 0;

	while (done < sge->length) {
		u32 bytes = min_t(u32, sge->length - done, RXE_EMM_ADVICE_STEP);
		int err;

		if (READ_ONCE(adv->killed))
			return -EINTR;
		err = emm_region_prefetch(adv->mr->emm, offset + done, bytes, adv->what, NULL);
		if (err)
			return err;
		done += bytes;
	}
	return 0;
}

static void rxe_emm_advice_work(struct work_struct *work)
{
	struct rxe_emm_advice *adv = container_of(work, typeof(*adv), work);
	u32 i;

	for (i = 0; i < adv->num; i++) {
		int err = rxe_emm_do_advise(adv, &adv->list[i]);

		if (!err)
			continue;
		rxe_dbg_mr(adv->mr, "failed to prefetch, err = %d\n", err);
		/* in the background the rest is still worth it */
		if (adv->wait) {
			adv->err = err;
			break;
		}
	}

	if (adv->wait)
		complete(&adv->done);
	else
		rxe_emm_free_advice(adv);
}

/* Called with rxe_emm_awaited_lock held. */
static void rxe_emm_end_advice(struct rxe_emm_advice *adv)
{
	if (adv->killed)
		return;
	WRITE_ONCE(adv->killed, true);
	emm_cancel_begin(&adv->cancel, &adv->work);
}

/* Waits for an advice, until the caller is killed or the device goes. */
static void rxe_emm_await(struct rxe_emm_advice *adv)
{
	spin_lock(&rxe_emm_awaited_lock);
	list_add(&adv->awaited, &rxe_emm_awaited);
	if (to_rdev(adv->mr->ibmr.device)->emm_gone)
		rxe_emm_end_advice(adv);
	spin_unlock(&rxe_emm_awaited_lock);

	if (wait_for_completion_killable(&adv->done)) {
		spin_lock(&rxe_emm_awaited_lock);
		rxe_emm_end_advice(adv);
		spin_unlock(&rxe_emm_awaited_lock);
		wait_for_completion(&adv->done);
	}

	spin_lock(&rxe_emm_awaited_lock);
	list_del(&adv->awaited);
	spin_unlock(&rxe_emm_awaited_lock);
	if (adv->killed)
		emm_cancel_end(&adv->cancel);
}

/*
 * Before a device is unregistered: ends the advice that callers wait for. They are in the ioctl
 * that ib_unregister_device() waits for before it destroys any object.
 */
void rxe_emm_stop_advice(struct rxe_dev *rxe)
{
	struct rxe_emm_advice *adv;

	spin_lock(&rxe_emm_awaited_lock);
	WRITE_ONCE(rxe->emm_gone, true);
	list_for_each_entry(adv, &rxe_emm_awaited, awaited) {
		if (to_rdev(adv->mr->ibmr.device) == rxe)
			rxe_emm_end_advice(adv);
	}
	spin_unlock(&rxe_emm_awaited_lock);
}

/*
 * Prefetches @num elements of an advice, all of @mr: at once, or in the background as best effort,
 * that is not at all if there is much of it already.
 */
static int rxe_emm_advise(struct rxe_mr *mr, const struct ib_sge *list, u32 num,
			  enum emm_prefetch what, bool wait)
{
	struct rxe_emm_advice *adv;
	int err;
	u32 i;

	for (i = 0; i < num; i++) {
		if (list[i].length && mr_check_range(mr, list[i].addr, list[i].length))
			return -EINVAL;
	}

	if (atomic_inc_return(&rxe_emm_advices) > RXE_EMM_ADVICES) {
		err = wait ? -EAGAIN : 0;
		goto err_dec;
	}
	adv = kvzalloc(struct_size(adv, list, num), GFP_KERNEL);
	if (!adv) {
		err = -ENOMEM;
		goto err_dec;
	}
	if (!rxe_get(mr)) {
		kvfree(adv);
		err = -EINVAL;
		goto err_dec;
	}

	INIT_WORK(&adv->work, rxe_emm_advice_work);
	init_completion(&adv->done);
	adv->mr = mr;
	adv->what = what;
	adv->wait = wait;
	adv->num = num;
	memcpy(adv->list, list, num * sizeof(*list));
	queue_work(rxe_emm_wq, &adv->work);
	if (!wait)
		return 0;

	rxe_emm_await(adv);
	err = adv->err;
	rxe_emm_free_advice(adv);
	return err;

err_dec:
	atomic_dec(&rxe_emm_advices);
	return err;
}

/*
 * ibv_advise_mr(3). A list of ib_umem_odp's MRs goes to rxe_ib_advise_mr(); one list cannot name
 * MRs of both, and pinned MRs are refused.
 */
int rxe_emm_advise_mr(struct ib_pd *ibpd, enum ib_uverbs_advise_mr_advice advice,
		      u32 flags, struct ib_sge *sg_list, u32 num_sge,
		      struct uverbs_attr_bundle *attrs)
{
	bool write = advice == IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE;
	struct rxe_pd *pd = to_rpd(ibpd);
	enum emm_prefetch what;
	u32 i, num, emm = 0;
	int err = 0;

	/* Every key is checked before any page is brought in. */
	for (i = 0; i < num_sge; i++) {
		struct rxe_mr *mr = lookup_mr(pd, 0, sg_list[i].lkey, RXE_LOOKUP_LOCAL);

		if (!mr)
			return -EINVAL;
		if (is_emm_mr(mr))
			emm++;
		else if (!is_odp_mr(mr))
			err = -EINVAL;
		if (is_emm_mr(mr) && write && !(mr->access & IB_ACCESS_LOCAL_WRITE))
			err = -EPERM;
		rxe_put(mr);
		if (err)
			return err;
	}
	if (!emm)
		return rxe_ib_advise_mr(ibpd, advice, flags, sg_list, num_sge, attrs);
	if (emm != num_sge)
		return -EINVAL;

	switch (advice) {
	case IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH:
		what = EMM_PREFETCH_READ;
		break;
	case IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE:
		what = EMM_PREFETCH_WRITE;
		break;
	case IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT:
		what = EMM_PREFETCH_PRESENT;
		break;
	default:
		return -EOPNOTSUPP;
	}

	/* what belongs to one MR goes together */
	for (i = 0; i < num_sge && !err; i += num) {
		struct rxe_mr *mr = lookup_mr(pd, 0, sg_list[i].lkey, RXE_LOOKUP_LOCAL);

		if (!mr)
			return -EINVAL;
		for (num = 1; i + num < num_sge; num++) {
			if (sg_list[i + num].lkey != sg_list[i].lkey)
				break;
		}
		if (is_emm_mr(mr))
			err = rxe_emm_advise(mr, &sg_list[i], num, what,
					     flags & IB_UVERBS_ADVISE_MR_FLAG_FLUSH);
		rxe_put(mr);
	}
	return err;
}
