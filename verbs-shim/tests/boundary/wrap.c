/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A preload library of somebody else's that wraps verbs, in the usual way. With PADDING it is laid out in another way. */
#define _GNU_SOURCE
#include "verbs.h"
#include <dlfcn.h>
#include <stdio.h>

#ifdef PADDING
__attribute__((used, section(".text.first"))) static const char padding[1 << 20] = { 1 };
#endif

#define NEXT(name, ...) \
	static __typeof__(name) *next; \
	if (!next) \
		next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name); \
	printf("wrapped " #name "\n"); \
	return next(__VA_ARGS__)

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	NEXT(ibv_reg_mr, pd, addr, length, access);
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access)
{
	NEXT(ibv_reg_mr_iova2, pd, addr, length, iova, access);
}

int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t length, int access)
{
	NEXT(ibv_rereg_mr, mr, flags, pd, addr, length, access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	NEXT(ibv_dereg_mr, mr);
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	NEXT(ibv_dealloc_pd, pd);
}

int ibv_close_device(struct ibv_context *context)
{
	NEXT(ibv_close_device, context);
}
