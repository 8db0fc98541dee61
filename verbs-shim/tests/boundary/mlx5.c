/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A library that looks like mlx5's provider to the shim: what it opens is a context of the fake's. */
#include "verbs.h"

struct ibv_context *mlx5dv_open_device(void *device, struct mlx5dv_context_attr *attr)
{
	(void)device, (void)attr;
	return fake_open();
}

/* As rdma-core's does: memory for a queue pair of its own, registered like any program's. */
void *mlx5dv_dr_domain_create(struct ibv_context *context, int type)
{
	static char memory[64];
	struct ibv_pd *pd = fake_alloc_pd(context);
	(void)type;
	return ibv_reg_mr(pd, memory, sizeof(memory), LOCAL_WRITE);
}
