// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB
/*
 * ibv_advise_mr(3) for MRs of ib_emm.
 */

#include <linux/overflow.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "rxe.h"

/* How many of a context wait in the background, each for memory of the context's own process. */
#define RXE_EMM_ADVICES		256
/* How many bytes are brought in at a time. */
#define RXE_EMM_ADVICE_STEP	SZ_2M

/* Advice about ranges of one MR, and how far it came. */
struct rxe_emm_advice {
	struct emm_fault fault;
	struct rxe_mr *mr;
	const struct ib_sge *list;
	u32 num;
	u32 at;			/* element of the list */
	u32 done;		/* bytes of it */
	enum emm_prefetch what;
};

/* One that its caller waits for. */
struct rxe_emm_waited {
	struct rxe_emm_advice adv;
	struct task_struct *caller;
	bool ready;
};

/* One in the background. */
struct rxe_emm_best_effort {
	struct rxe_emm_advice adv;
	struct work_struct work;
	struct rxe_ucontext *uc;
	u32 num;
	struct ib_sge list[] __counted_by(num);
};

/* Goes on with an advice. Returns 0 when all is done, -EAGAIN if it is parked, or what failed. */
static int rxe_emm_go_on(struct rxe_emm_advice *adv)
{
	while (adv->at < adv->num) {
		const struct ib_sge *sge = &adv->list[adv->at];
		u64 offset = sge->addr - adv->mr->ibmr.iova;

		while (adv->done < sge->length) {
			u32 bytes = min_t(u32, sge->length - adv->done, RXE_EMM_ADVICE_STEP);
			int err;

			if (fatal_signal_pending(current))
				return -EINTR;
			err = emm_region_prefetch(adv->mr->emm, offset + adv->done, bytes,
						  adv->what, &adv->fault);
			if (err)
				return err;
			adv->done += bytes;
			cond_resched();
		}
		adv->at++;
		adv->done = 0;
	}
	return 0;
}

static void rxe_emm_waited_done(struct emm_fault *fault)
{
	struct rxe_emm_waited *waited = container_of(fault, typeof(*waited), adv.fault);

	/* the caller cancels before it goes */
	WRITE_ONCE(waited->ready, true);
	wake_up_process(waited->caller);
}

/* Sleeps until the advice can go on, its caller is killed or the device goes. */
static int rxe_emm_await(struct rxe_emm_waited *waited)
{
	struct rxe_dev *rxe = to_rdev(waited->adv.mr->ibmr.device);
	DEFINE_WAIT_FUNC(wait, default_wake_function);
	int err;

	add_wait_queue(&rxe->emm_waiters, &wait);
	for (;;) {
		set_current_state(TASK_KILLABLE);
		if (READ_ONCE(waited->ready)) {
			err = 0;
			break;
		}
		if (fatal_signal_pending(current) || READ_ONCE(rxe->emm_gone)) {
			err = -EINTR;
			break;
		}
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	remove_wait_queue(&rxe->emm_waiters, &wait);
	return err;
}

/*
 * Before a device is unregistered: ends the advice that callers wait for. They are in the ioctl
 * that ib_unregister_device() waits for before it destroys any object.
 */
void rxe_emm_stop_advice(struct rxe_dev *rxe)
{
	WRITE_ONCE(rxe->emm_gone, true);
	wake_up_all(&rxe->emm_waiters);
}

static int rxe_emm_advise_now(struct rxe_emm_advice adv)
{
	struct rxe_emm_waited waited = { .adv = adv, .caller = current };
	int err;

	err = emm_fault_init(&waited.adv.fault, rxe_emm_waited_done);
	if (err)
		return err;

	do {
		WRITE_ONCE(waited.ready, false);
		err = rxe_emm_go_on(&waited.adv);
		if (err != -EAGAIN)
			break;
		err = rxe_emm_await(&waited);
	} while (!err);

	emm_fault_destroy(&waited.adv.fault);
	return err;
}

static void rxe_emm_best_effort_done(struct emm_fault *fault)
{
	struct rxe_emm_best_effort *effort = container_of(fault, typeof(*effort), adv.fault);

	queue_work(rxe_wq, &effort->work);
}

/* Its MR is deregistered after it: that ends what is parked. */
static void rxe_emm_best_effort_work(struct work_struct *work)
{
	struct rxe_emm_best_effort *effort = container_of(work, typeof(*effort), work);
	struct rxe_emm_advice *adv = &effort->adv;
	int err;

	for (;;) {
		err = rxe_emm_go_on(adv);
		if (err == -EAGAIN)
			return;
		if (!err)
			break;
		rxe_dbg_mr(adv->mr, "failed to prefetch, err = %d\n", err);
		/* the other elements are still worth it */
		adv->at++;
		adv->done = 0;
	}

	emm_fault_destroy(&adv->fault);
	/* a context outlives its MRs */
	atomic_dec(&effort->uc->emm_advices);
	rxe_put(adv->mr);
	kvfree(effort);
}

/* Not at all if there is much of the context's already. */
static int rxe_emm_advise_later(struct rxe_emm_advice adv, struct rxe_ucontext *uc)
{
	struct rxe_emm_best_effort *effort;
	int err;

	if (atomic_inc_return(&uc->emm_advices) > RXE_EMM_ADVICES) {
		err = 0;
		goto err_dec;
	}
	effort = kvzalloc(struct_size(effort, list, adv.num), GFP_KERNEL_ACCOUNT);
	if (!effort) {
		err = -ENOMEM;
		goto err_dec;
	}
	effort->num = adv.num;
	memcpy(effort->list, adv.list, adv.num * sizeof(*adv.list));
	effort->adv = adv;
	effort->adv.list = effort->list;
	effort->uc = uc;
	INIT_WORK(&effort->work, rxe_emm_best_effort_work);

	err = emm_fault_init(&effort->adv.fault, rxe_emm_best_effort_done);
	if (err)
		goto err_free;
	if (!rxe_get(adv.mr)) {
		err = -EINVAL;
		goto err_destroy;
	}
	queue_work(rxe_wq, &effort->work);
	return 0;

err_destroy:
	emm_fault_destroy(&effort->adv.fault);
err_free:
	kvfree(effort);
err_dec:
	atomic_dec(&uc->emm_advices);
	return err;
}

/* Prefetches @num elements of an advice, all of @mr: at once, or in the background. */
static int rxe_emm_advise(struct rxe_mr *mr, const struct ib_sge *list, u32 num,
			  enum emm_prefetch what, struct rxe_ucontext *uc, bool wait)
{
	struct rxe_emm_advice adv = { .mr = mr, .list = list, .num = num, .what = what };
	u32 i;

	for (i = 0; i < num; i++) {
		if (list[i].length && mr_check_range(mr, list[i].addr, list[i].length))
			return -EINVAL;
	}

	return wait ? rxe_emm_advise_now(adv) : rxe_emm_advise_later(adv, uc);
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
					     to_ruc(ibpd->uobject->context),
					     flags & IB_UVERBS_ADVISE_MR_FLAG_FLUSH);
		rxe_put(mr);
	}
	return err;
}
