/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The part of libibverbs' ABI that the fake library and its client share. */
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>

enum {
	LOCAL_WRITE = 1,
	ON_DEMAND = 1 << 6,
};

struct ibv_context {
	void *device;
	void *ops[32];
	int cmd_fd;
	int async_fd;
	int num_comp_vectors;
	pthread_mutex_t mutex;
	void *abi_compat;
};

struct ibv_pd {
	struct ibv_context *context;
	uint32_t handle;
};

struct ibv_mr {
	struct ibv_context *context;
	struct ibv_pd *pd;
	void *addr;
	size_t length;
	uint32_t handle;
	uint32_t lkey;
	uint32_t rkey;
};

struct ibv_mr_init_attr {
	size_t length;
	int access;
	uint64_t comp_mask;
	uint64_t iova;
	void *addr;
	int fd;
	uint64_t fd_offset;
	void *dmah;
};

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access);
struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access);
struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access);
struct ibv_mr *ibv_reg_mr_ex(struct ibv_pd *pd, struct ibv_mr_init_attr *attr);
struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd,
				 int access);
int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t length, int access);
int ibv_dereg_mr(struct ibv_mr *mr);
int ibv_dealloc_pd(struct ibv_pd *pd);
int ibv_close_device(struct ibv_context *context);

/* Of mlx5's provider. */
struct mlx5dv_context_attr {
	uint32_t flags;
	uint64_t comp_mask;
};
struct ibv_context *mlx5dv_open_device(void *device, struct mlx5dv_context_attr *attr);
void *mlx5dv_dr_domain_create(struct ibv_context *context, int type);

/* Not of libibverbs. */
void *fake_mlx5_device(void);
struct ibv_context *fake_open(void);
struct ibv_pd *fake_alloc_pd(struct ibv_context *context);
struct ibv_mr *fake_device_memory(struct ibv_pd *pd, size_t length);
