/* One of two modules in a process, each with a libibverbs of its own: registers, writes over a loop of its own, compares, and ends it all, in turns. */
#include <infiniband/verbs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BYTES (1 << 20)

static struct ibv_context *context;
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_qp *qp;
static struct ibv_mr *from, *to, *moved;

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

static char *memory(void)
{
	char *start = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(start != MAP_FAILED, "mmap");
	return start;
}

static void begin(void)
{
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	struct ibv_device **devices = ibv_get_device_list(NULL);
	must(devices && devices[0], "no device");
	context = ibv_open_device(devices[0]);
	must(context != NULL, "ibv_open_device");
	pd = ibv_alloc_pd(context);
	must(pd != NULL, "ibv_alloc_pd");
	from = ibv_reg_mr(pd, memory(), BYTES, access);
	to = (ibv_reg_mr)(pd, memory(), BYTES, access);
	must(from && to, "ibv_reg_mr");
	moved = ibv_reg_mr_iova(pd, memory(), BYTES, 0x1000, access);
	must(moved != NULL, "ibv_reg_mr_iova");
}

static void connect(void)
{
	cq = ibv_create_cq(context, 16, NULL, NULL, 0);
	must(cq != NULL, "ibv_create_cq");
	struct ibv_qp_init_attr init = { .send_cq = cq, .recv_cq = cq, .qp_type = IBV_QPT_RC,
					 .cap = { .max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1 } };
	qp = ibv_create_qp(pd, &init);
	must(qp != NULL, "ibv_create_qp");
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = IBV_ACCESS_REMOTE_WRITE };
	must(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS), "init");
	attr = (struct ibv_qp_attr){ .qp_state = IBV_QPS_RTR, .path_mtu = IBV_MTU_1024, .dest_qp_num = qp->qp_num,
				     .ah_attr = { .is_global = 1, .port_num = 1, .grh = { .sgid_index = 1, .hop_limit = 1 } } };
	must(!ibv_query_gid(context, 1, 1, &attr.ah_attr.grh.dgid), "ibv_query_gid");
	must(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
						IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER), "ready to receive");
	attr = (struct ibv_qp_attr){ .qp_state = IBV_QPS_RTS, .timeout = 16, .retry_cnt = 7, .rnr_retry = 7 };
	must(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
						IBV_QP_MAX_QP_RD_ATOMIC), "ready to send");
}

static void copy(struct ibv_mr *target, uint64_t address)
{
	for (int i = 0; i < BYTES; i++)
		((char *)from->addr)[i] = i * 7 + (i >> 8) + target->lkey;
	struct ibv_sge piece = { (uintptr_t)from->addr + 1, BYTES - 3, from->lkey };
	struct ibv_send_wr *bad, request = { .sg_list = &piece, .num_sge = 1, .opcode = IBV_WR_RDMA_WRITE, .send_flags = IBV_SEND_SIGNALED,
					     .wr.rdma = { address + 1, target->rkey } };
	must(!ibv_post_send(qp, &request, &bad), "ibv_post_send");
	struct ibv_wc done;
	int got;
	while (!(got = ibv_poll_cq(cq, 1, &done)))
		;
	must(got == 1 && done.status == IBV_WC_SUCCESS, "completion");
	must(!memcmp((char *)target->addr + 1, (char *)from->addr + 1, BYTES - 3), "bytes");
	must(!((char *)target->addr)[0] && !((char *)target->addr)[BYTES - 1], "bytes around");
}

static void end(void)
{
	must(!ibv_destroy_qp(qp) && !ibv_destroy_cq(cq), "queues");
	must(!ibv_dereg_mr(from) && !ibv_dereg_mr(to) && !ibv_dereg_mr(moved), "ibv_dereg_mr");
	must(!ibv_dealloc_pd(pd), "ibv_dealloc_pd");
	must(!ibv_close_device(context), "ibv_close_device");
}

/* Turn 0 to 4. */
void turn(int number)
{
	if (number == 0)
		begin();
	else if (number == 1)
		connect();
	else if (number == 2)
		copy(to, (uintptr_t)to->addr);
	else if (number == 3)
		copy(moved, 0x1000);
	else
		end();
}
