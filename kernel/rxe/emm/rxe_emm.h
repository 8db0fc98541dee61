/* SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB */
/*
 * On-demand MRs through ib_emm: what the rest of the driver uses.
 *
 * Without CONFIG_RDMA_RXE_EMM no MR is one of ib_emm, and what is done for those is compiled out.
 */

#ifndef RXE_EMM_H
#define RXE_EMM_H

/* also without the integration, or before the patch that defines one */
struct emm_fault;
struct rxe_access;

#if IS_ENABLED(CONFIG_RDMA_RXE_EMM)

#include <emm_region.h>

static inline bool is_emm_mr(struct rxe_mr *mr)
{
	return mr->emm;
}

bool rxe_emm_chosen(void);

int rxe_emm_init_qp(struct rxe_qp *qp);
void rxe_emm_cleanup_qp(struct rxe_qp *qp);
void rxe_emm_stop_qp(struct rxe_qp *qp);

void rxe_emm_queue_pkt(struct rxe_access *at, struct sk_buff_head *queue, struct sk_buff *skb);
void rxe_emm_park(struct rxe_access *at, struct sk_buff_head *queue);
void __rxe_emm_unpark(struct rxe_access *at);

static inline void rxe_emm_unpark(struct rxe_access *at)
{
	if (unlikely(at->parked))
		__rxe_emm_unpark(at);
}

void rxe_emm_stop_advice(struct rxe_dev *rxe);

#else /* CONFIG_RDMA_RXE_EMM */

static inline bool is_emm_mr(struct rxe_mr *mr)
{
	return false;
}

static inline bool rxe_emm_chosen(void)
{
	return false;
}

static inline int rxe_emm_init_qp(struct rxe_qp *qp)
{
	return 0;
}

static inline void rxe_emm_cleanup_qp(struct rxe_qp *qp) { }
static inline void rxe_emm_stop_qp(struct rxe_qp *qp) { }

static inline void rxe_emm_queue_pkt(struct rxe_access *at, struct sk_buff_head *queue,
				     struct sk_buff *skb)
{
	skb_queue_tail(queue, skb);
}

static inline void rxe_emm_park(struct rxe_access *at, struct sk_buff_head *queue) { }
static inline void rxe_emm_unpark(struct rxe_access *at) { }

static inline void rxe_emm_stop_advice(struct rxe_dev *rxe) { }

#endif /* CONFIG_RDMA_RXE_EMM */

/* Of an MR for which is_emm_mr() holds, or to make one while rxe_emm_chosen() does. */
int rxe_emm_mr_init_user(u64 start, u64 length, u64 iova, int access, struct rxe_mr *mr);
void rxe_emm_mr_stop(struct rxe_mr *mr);
void rxe_emm_mr_cleanup(struct rxe_mr *mr);
int rxe_emm_mr_copy(struct rxe_mr *mr, u64 iova, void *addr, unsigned int length,
		    enum rxe_mr_copy_dir dir, unsigned int reach, struct emm_fault *fault);
int rxe_emm_atomic_op(struct rxe_mr *mr, u64 iova, int opcode, u64 compare, u64 swap_add,
		      u64 *orig_val, struct emm_fault *fault);
int rxe_emm_atomic_write(struct rxe_mr *mr, u64 iova, u64 value, struct emm_fault *fault);
int rxe_emm_flush(struct rxe_mr *mr, u64 iova, unsigned int length, struct rxe_access *at);

/* Operations of a device, for MRs of every kind. */
int rxe_emm_advise_mr(struct ib_pd *pd, enum ib_uverbs_advise_mr_advice advice,
		      u32 flags, struct ib_sge *sg_list, u32 num_sge,
		      struct uverbs_attr_bundle *attrs);
int rxe_emm_fill_stat_mr(struct sk_buff *msg, struct ib_mr *ibmr);
int rxe_emm_fill_res_mr(struct sk_buff *msg, struct ib_mr *ibmr);

#endif /* RXE_EMM_H */
