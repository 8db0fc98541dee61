/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A library that looks like mlx5's provider to the shim: what it opens is a context of the fake's. */
#include "verbs.h"
#include <stdlib.h>

/* Of mlx5's steering. */
void mlx5dv_init_obj(void)
{
}

static void poll_cq(void)
{
}

static const char ops[8];
static const struct {
	char name[664];
	const void *ops;
} device = { "fake0", ops };

void *fake_mlx5_device(void)
{
	return (void *)&device;
}

struct ibv_context *mlx5dv_open_device(void *of, struct mlx5dv_context_attr *attr)
{
	(void)attr;
	if (of != &device)
		abort();
	struct ibv_context *context = fake_open();
	context->ops[11] = (void *)poll_cq;
	return context;
}

/* As rdma-core's does: memory for a queue pair of its own, registered like any program's. */
void *mlx5dv_dr_domain_create(struct ibv_context *context, int type)
{
	static char memory[64];
	if (context->ops[11] && context->ops[11] != (void *)poll_cq)
		abort();
	struct ibv_pd *pd = fake_alloc_pd(context);
	(void)type;
	return ibv_reg_mr(pd, memory, sizeof(memory), LOCAL_WRITE);
}
