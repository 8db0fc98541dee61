/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A library that looks like libibverbs to the shim and has no device behind it.
 *
 * FAKE_ODP, FAKE_RC: capabilities (hex). FAKE_OLD=1: a context without extensions.
 * FAKE_REFUSE: errno of on-demand registrations. FAKE_REFUSE_ALL: errno of every registration.
 * FAKE_REFUSE_IMPLICIT: errno of the implicit region, FAKE_REFUSALS: so often, else always. FAKE_ADVISE: errno of advice, which
 * else does to memory what a device's does, if FAKE_TOUCH=1.
 * FAKE_CANCEL=1: what the shim calls besides the registration is a cancellation point, as a write to the kernel is.
 * FAKE_TRACE=1: a line on standard output for each call that reaches "the kernel".
 *
 * An object of another copy of this library ends the process, as it would crash it in the real one. Without EX it is an older
 * version.
 */
#include "verbs.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct sge {
	uint64_t addr;
	uint32_t length;
	uint32_t lkey;
};

struct verbs_context {
	int (*advise_mr)(struct ibv_pd *, int, uint32_t, struct sge *, uint32_t);
	void *between[23];
	void (*create_cq_ex)(void);
	void *priv;
	int (*query_device_ex)(struct ibv_context *, const void *, void *, size_t);
	void *after[11];
	size_t sz;
	struct ibv_context context;
};

static int trace = -1;

#define TRACE(...) (trace == 1 ? (void)(printf(__VA_ARGS__), fflush(stdout)) : (void)0)

static unsigned long number(const char *name, int base)
{
	const char *value = getenv(name);
	return value ? strtoul(value, NULL, base) : 0;
}

static unsigned long odp, rc, vendor, refuse, refuse_all, refuse_implicit, refusals, advise, cancel, touch;

static void point(void)
{
	if (cancel)
		pthread_testcancel();
}

/* The operation that is the library's own in every context. */
static void create_cq_ex(void)
{
}

/* What providers call. */
void ibv_cmd_reg_mr(void)
{
}

static void own(struct ibv_context *context)
{
	struct verbs_context *whole = (void *)((char *)context - offsetof(struct verbs_context, context));
	if (whole->create_cq_ex == create_cq_ex)
		return;
	fputs("an object of another library\n", stderr);
	abort();
}

static int query_device_ex(struct ibv_context *context, const void *input, void *attr, size_t size)
{
	(void)input;
	own(context);
	TRACE("query_device_ex\n");
	point();
	memset(attr, 0, size);
	*(uint32_t *)((char *)attr + 96) = vendor;
	*(uint64_t *)((char *)attr + 240) = odp;
	*(uint32_t *)((char *)attr + 248) = rc;
	return 0;
}

static int advise_mr(struct ibv_pd *pd, int advice, uint32_t flags, struct sge *list, uint32_t n)
{
	(void)n;
	own(pd->context);
	TRACE("advise advice=%d flags=%u length=%u lkey=%u\n", advice, flags, list->length, list->lkey);
	point();
	if (!advise && touch && advice < 2) {
		/* MADV_POPULATE_READ, MADV_POPULATE_WRITE */
		uintptr_t start = list->addr & -4096, end = (list->addr + list->length + 4095) & -4096;
		return madvise((void *)start, end - start, advice ? 23 : 22) ? EFAULT : 0;
	}
	return advise;
}

/* The last one that was closed: the next one comes to the same place, as an allocator may have it. */
static struct verbs_context *closed;

/* As far as its provider's operations, of which it has none. */
static const struct {
	char name[664];
	const void *ops;
} device = { "fake0", NULL };

struct ibv_context *fake_open(void)
{
	struct verbs_context *context = closed ? closed : malloc(sizeof(*context));
	closed = NULL;
	memset(context, 0, sizeof(*context));
	trace = number("FAKE_TRACE", 10);
	odp = number("FAKE_ODP", 16);
	rc = number("FAKE_RC", 16);
	vendor = number("FAKE_VENDOR", 16);
	refuse = number("FAKE_REFUSE", 10);
	refuse_all = number("FAKE_REFUSE_ALL", 10);
	refuse_implicit = number("FAKE_REFUSE_IMPLICIT", 10);
	refusals = number("FAKE_REFUSALS", 10);
	advise = number("FAKE_ADVISE", 10);
	cancel = number("FAKE_CANCEL", 10);
	touch = number("FAKE_TOUCH", 10);
	context->advise_mr = advise_mr;
	context->query_device_ex = query_device_ex;
	context->sz = sizeof(*context);
	context->create_cq_ex = create_cq_ex;
	context->context.device = (void *)&device;
	context->context.abi_compat = number("FAKE_OLD", 10) ? NULL : (void *)UINTPTR_MAX;
	return &context->context;
}

struct domain {
	struct ibv_pd pd;
	long regions;
};

struct ibv_pd *fake_alloc_pd(struct ibv_context *context)
{
	static uint32_t handle;
	struct domain *domain = calloc(1, sizeof(*domain));
	own(context);
	domain->pd.context = context;
	domain->pd.handle = ++handle;
	return &domain->pd;
}

const char *ibv_get_device_name(void *of)
{
	if (of != &device)
		abort();
	return device.name;
}

/* Regions come from a pool, so that the fake's memory stays flat and its cost small. */
static struct ibv_mr pool[4096];
static struct ibv_mr *unused[4096];
static int left = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The kernel has no lock that a fork could break. */
static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void handlers(void)
{
	pthread_atfork(before_fork, after_fork, after_fork);
}

static struct ibv_mr *take(struct ibv_pd *pd, void *addr, size_t length)
{
	struct ibv_mr *mr = NULL;
	own(pd->context);
	pthread_mutex_lock(&lock);
	if (left < 0)
		for (left = 0; left < 4096; left++)
			unused[left] = &pool[left];
	if (left > 0)
		((struct domain *)pd)->regions++, mr = unused[--left];
	pthread_mutex_unlock(&lock);
	if (!mr) {
		errno = ENOMEM;
		return NULL;
	}
	mr->context = pd->context;
	mr->pd = pd;
	mr->addr = addr;
	mr->length = length;
	mr->handle = mr - pool;
	mr->lkey = 1000 + mr->handle;
	mr->rkey = 2000 + mr->handle;
	return mr;
}

struct ibv_mr *fake_device_memory(struct ibv_pd *pd, size_t length)
{
	return take(pd, NULL, length);
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				unsigned int access)
{
	int implicit = !addr && length == SIZE_MAX;
	own(pd->context);
	TRACE("register length=%zu access=%#x moved=%ld\n", length, access, (long)(iova - (uintptr_t)addr));
	errno = refuse_all ? refuse_all : implicit && !(access & ON_DEMAND) ? EINVAL : !(access & ON_DEMAND) ? 0 :
		implicit && refuse_implicit ? refuse_implicit : refuse;
	if (implicit)
		point();
	if (implicit && refusals && !--refusals)
		refuse_implicit = 0;
	return errno ? NULL : take(pd, addr, length);
}

/* As in libibverbs, by way of the procedure linkage table. */
struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, (uintptr_t)addr, access);
}

struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova, int access)
{
	return ibv_reg_mr_iova2(pd, addr, length, iova, access);
}

#ifdef EX
struct ibv_mr *ibv_reg_mr_ex(struct ibv_pd *pd, struct ibv_mr_init_attr *attr)
{
	if (!(attr->comp_mask & 2)) {
		TRACE("register_ex mask=%#lx access=%#x\n", (long)attr->comp_mask, attr->access);
		return take(pd, NULL, attr->length);
	}
	return ibv_reg_mr_iova2(pd, attr->addr, attr->length,
				attr->comp_mask & 1 ? attr->iova : (uintptr_t)attr->addr, attr->access);
}
#endif

struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova, int fd,
				 int access)
{
	(void)iova, (void)fd;
	TRACE("register_dmabuf length=%zu access=%#x\n", length, access);
	return take(pd, (void *)(uintptr_t)offset, length);
}

int ibv_rereg_mr(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t length, int access)
{
	(void)pd, (void)addr;
	own(mr->context);
	TRACE("change flags=%d length=%zu access=%#x\n", flags, length, access);
	if (refuse && (access & ON_DEMAND)) {
		errno = refuse;
		return -4;
	}
	return 0;
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	own(mr->context);
	TRACE("end length=%zu\n", mr->length);
	pthread_mutex_lock(&lock);
	((struct domain *)mr->pd)->regions--;
	unused[left++] = mr;
	pthread_mutex_unlock(&lock);
	return 0;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	own(pd->context);
	TRACE("dealloc_pd\n");
	if (((struct domain *)pd)->regions)
		return EBUSY;
	free(pd);
	return 0;
}

int ibv_close_device(struct ibv_context *context)
{
	own(context);
	TRACE("close_device\n");
	free(closed);
	closed = (void *)((char *)context - offsetof(struct verbs_context, context));
	return 0;
}
