/* SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB */
/*
 * On-demand MRs through ib_emm: what the rest of the driver uses.
 *
 * Without CONFIG_RDMA_RXE_EMM no MR is one of ib_emm, and what is done for those is compiled out.
 */

#ifndef RXE_EMM_H
#define RXE_EMM_H

#if IS_ENABLED(CONFIG_RDMA_RXE_EMM)

#include <emm_region.h>

static inline bool is_emm_mr(struct rxe_mr *mr)
{
	return mr->emm;
}

bool rxe_emm_chosen(void);
void rxe_emm_stop_qp(struct rxe_qp *qp);
int rxe_emm_alloc_wq(void);
void rxe_emm_destroy_wq(void);
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

static inline void rxe_emm_stop_qp(struct rxe_qp *qp) { }

static inline int rxe_emm_alloc_wq(void)
{
	return 0;
}

static inline void rxe_emm_destroy_wq(void) { }
static inline void rxe_emm_stop_advice(struct rxe_dev *rxe) { }

struct emm_cancel { };

static inline void emm_cancel_begin(struct emm_cancel *cancel, struct work_struct *work) { }
static inline void emm_cancel_end(struct emm_cancel *cancel) { }

#endif /* CONFIG_RDMA_RXE_EMM */

/* Of an MR for which is_emm_mr() holds, or to make one while rxe_emm_chosen() does. */
int rxe_emm_mr_init_user(u64 start, u64 length, u64 iova, int access, struct rxe_mr *mr);
void rxe_emm_mr_stop(struct rxe_mr *mr);
void rxe_emm_mr_cleanup(struct rxe_mr *mr);
int rxe_emm_mr_copy(struct rxe_mr *mr, u64 iova, void *addr, unsigned int length,
		    enum rxe_mr_copy_dir dir);
enum resp_states rxe_emm_atomic_op(struct rxe_mr *mr, u64 iova, int opcode,
				   u64 compare, u64 swap_add, u64 *orig_val);
enum resp_states rxe_emm_atomic_write(struct rxe_mr *mr, u64 iova, u64 value);
int rxe_emm_flush(struct rxe_mr *mr, u64 iova, unsigned int length);

/* Operations of a device, for MRs of every kind. */
int rxe_emm_advise_mr(struct ib_pd *pd, enum ib_uverbs_advise_mr_advice advice,
		      u32 flags, struct ib_sge *sg_list, u32 num_sge,
		      struct uverbs_attr_bundle *attrs);
int rxe_emm_fill_stat_mr(struct sk_buff *msg, struct ib_mr *ibmr);
int rxe_emm_fill_res_mr(struct sk_buff *msg, struct ib_mr *ibmr);

#endif /* RXE_EMM_H */
