/* What verbs-shim and its Rust API know of libibverbs, against the header: sizes, and the place of each field that is used. */
#include <infiniband/verbs.h>
#include <stddef.h>

#define AT(type, field, offset) _Static_assert(offsetof(struct type, field) == offset, #type "." #field)
#define SIZE(type, bytes) _Static_assert(sizeof(struct type) == bytes, #type)
#define BEFORE(op, bytes) _Static_assert(offsetof(struct verbs_context, context) - offsetof(struct verbs_context, op) == bytes, #op)
#define OP(op, place) AT(ibv_context, ops.op, 8 + 8 * place)

SIZE(ibv_mr, 48);
AT(ibv_mr, context, 0);
AT(ibv_mr, pd, 8);
AT(ibv_mr, addr, 16);
AT(ibv_mr, length, 24);
AT(ibv_mr, handle, 32);
AT(ibv_mr, lkey, 36);
AT(ibv_mr, rkey, 40);
AT(ibv_pd, context, 0);
SIZE(ibv_sge, 16);
AT(ibv_sge, addr, 0);
AT(ibv_sge, length, 8);
AT(ibv_sge, lkey, 12);

SIZE(ibv_context, 328);
AT(ibv_context, device, 0);
AT(ibv_context, abi_compat, 320);
OP(poll_cq, 11);
OP(req_notify_cq, 12);
OP(post_send, 25);
OP(post_recv, 26);
BEFORE(sz, 8);
BEFORE(query_device_ex, 104);
BEFORE(create_cq_ex, 120);
SIZE(ibv_device, 664);
BEFORE(advise_mr, 312);
SIZE(ibv_device_attr_ex, 400);
AT(ibv_device_attr_ex, orig_attr.vendor_id, 96);
AT(ibv_device_attr_ex, odp_caps, 240);

AT(ibv_cq, context, 0);
AT(ibv_cq, channel, 8);
AT(ibv_cq, cq_context, 16);
AT(ibv_cq, cqe, 28);
SIZE(ibv_comp_channel, 16);
AT(ibv_comp_channel, context, 0);
AT(ibv_comp_channel, fd, 8);
AT(ibv_qp, context, 0);
AT(ibv_qp, qp_num, 52);
SIZE(ibv_qp_init_attr, 64);
AT(ibv_qp_init_attr, send_cq, 8);
AT(ibv_qp_init_attr, recv_cq, 16);
AT(ibv_qp_init_attr, cap, 32);
AT(ibv_qp_init_attr, qp_type, 52);
AT(ibv_qp_init_attr, sq_sig_all, 56);
AT(ibv_qp_cap, max_send_wr, 0);
AT(ibv_qp_cap, max_recv_wr, 4);
AT(ibv_qp_cap, max_send_sge, 8);
AT(ibv_qp_cap, max_recv_sge, 12);

SIZE(ibv_qp_attr, 144);
AT(ibv_qp_attr, qp_state, 0);
AT(ibv_qp_attr, path_mtu, 8);
AT(ibv_qp_attr, rq_psn, 20);
AT(ibv_qp_attr, sq_psn, 24);
AT(ibv_qp_attr, dest_qp_num, 28);
AT(ibv_qp_attr, qp_access_flags, 32);
AT(ibv_qp_attr, ah_attr, 56);
AT(ibv_qp_attr, pkey_index, 120);
AT(ibv_qp_attr, max_rd_atomic, 126);
AT(ibv_qp_attr, max_dest_rd_atomic, 127);
AT(ibv_qp_attr, min_rnr_timer, 128);
AT(ibv_qp_attr, port_num, 129);
AT(ibv_qp_attr, timeout, 130);
AT(ibv_qp_attr, retry_cnt, 131);
AT(ibv_qp_attr, rnr_retry, 132);
SIZE(ibv_ah_attr, 32);
AT(ibv_ah_attr, grh.dgid, 0);
AT(ibv_ah_attr, grh.sgid_index, 20);
AT(ibv_ah_attr, grh.hop_limit, 21);
AT(ibv_ah_attr, dlid, 24);
AT(ibv_ah_attr, is_global, 29);
AT(ibv_ah_attr, port_num, 30);

SIZE(ibv_send_wr, 128);
AT(ibv_send_wr, next, 8);
AT(ibv_send_wr, sg_list, 16);
AT(ibv_send_wr, num_sge, 24);
AT(ibv_send_wr, opcode, 28);
AT(ibv_send_wr, send_flags, 32);
AT(ibv_send_wr, wr.rdma.remote_addr, 40);
AT(ibv_send_wr, wr.rdma.rkey, 48);
SIZE(ibv_recv_wr, 32);
AT(ibv_recv_wr, next, 8);
AT(ibv_recv_wr, sg_list, 16);
AT(ibv_recv_wr, num_sge, 24);
SIZE(ibv_wc, 48);
AT(ibv_wc, wr_id, 0);
AT(ibv_wc, status, 8);
AT(ibv_wc, opcode, 12);
AT(ibv_wc, byte_len, 20);
AT(ibv_wc, qp_num, 28);
AT(ibv_wc, wc_flags, 36);
