/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A program that does with verbs what its arguments say, one after the other. Each prints a line.
 *
 * LENGTH and ACCESS are numbers. `reg:LENGTH:ACCESS`, and `iova`, `iova2`, `ex`, `dmabuf`, `dm`, `hints`
 * alike; `rereg:LENGTH:ACCESS`, `dereg`: the last region; `pd`, `dealloc`, `close`. The rest are scenes.
 */
#define _GNU_SOURCE
#include "scenes.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef LIBRARY
#define LIBRARY "libibverbs.so.1"
#endif

struct ibv_context *context;
struct ibv_pd *pd;
static struct ibv_mr *mr;
char memory[1 << 20];

/* Every allocation of the process, the shim's included. */
static unsigned long allocations;
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *malloc(size_t n)
{
	allocations++;
	return __libc_malloc(n);
}
void *calloc(size_t n, size_t m)
{
	allocations++;
	return __libc_calloc(n, m);
}
void *realloc(void *p, size_t n)
{
	allocations++;
	return __libc_realloc(p, n);
}

void show(struct ibv_mr *made)
{
	mr = made;
	if (mr)
		printf("region addr=%s length=%zu lkey=%u rkey=%u errno=%d\n",
		       mr->addr == memory ? "memory" : mr->addr ? "other" : "none", mr->length, mr->lkey,
		       mr->rkey, errno);
	else
		printf("no region, errno=%d\n", errno);
	fflush(stdout);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static long maps(void)
{
	char line[512];
	long lines = 0;
	FILE *file = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof(line), file))
		lines++;
	fclose(file);
	return lines;
}

static long resident(void)
{
	long total, resident;
	FILE *file = fopen("/proc/self/statm", "r");
	if (fscanf(file, "%ld %ld", &total, &resident) != 2)
		abort();
	fclose(file);
	return resident;
}

static void churn(long times)
{
	for (long i = 0; i < times; i++)
		if (ibv_dereg_mr(ibv_reg_mr_iova2(pd, memory, 4096, (uintptr_t)memory, LOCAL_WRITE)))
			abort();
}

/* Nanoseconds of one registration and its end, the best of several rounds. */
static void cost(void)
{
	double best = 1e9;
	churn(1000);
	for (int round = 0; round < 20; round++) {
		double start = now();
		churn(20000);
		double took = (now() - start) / 20000 * 1e9;
		best = took < best ? took : best;
	}
	printf("nanoseconds=%.0f\n", best);
}

static void flat(void)
{
	churn(1000);
	maps(), resident();
	unsigned long before = allocations;
	churn(100000);
	unsigned long after = allocations;
	long pages = resident(), regions = maps();
	churn(100000);
	printf("allocations=%lu pages=%ld maps=%ld\n", after - before, resident() - pages, maps() - regions);
}

static void *thread(void *unused)
{
	(void)unused;
	for (int i = 0; i < 10000; i++) {
		struct ibv_mr *mine = ibv_reg_mr(pd, memory, 64, LOCAL_WRITE);
		if (!mine || mine->length != 64 || ibv_dereg_mr(mine))
			abort();
	}
	return NULL;
}

static void threads(void)
{
	pthread_t all[8];
	for (int i = 0; i < 8; i++)
		pthread_create(&all[i], NULL, thread, NULL);
	for (int i = 0; i < 8; i++)
		pthread_join(all[i], NULL);
	printf("threads done\n");
}

/* The child registers, ends what it has, closes the device if it is to, and exits first; the parent goes on. */
static void forks(int closes)
{
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		struct ibv_mr *inherited = mr;
		puts("the child");
		show(ibv_reg_mr(pd, memory, 100, LOCAL_WRITE));
		printf("child deregistered: %d\n", ibv_dereg_mr(mr));
		if (closes) {
			printf("child deregistered an inherited one: %d\n", ibv_dereg_mr(inherited));
			printf("child closed: %d\n", ibv_close_device(context));
		}
		puts("the parent");
		exit(0);
	}
	int status;
	waitpid(child, &status, 0);
	printf("child status=%d\n", status);
	show(ibv_reg_mr(pd, memory, 200, LOCAL_WRITE));
}

/* The context that is opened now lies where the one that is closed lay. */
static void becomes_rxe(void)
{
	ibv_close_device(context);
	setenv("FAKE_VENDOR", "ffffff", 1);
	context = fake_open();
	pd = fake_alloc_pd(context);
}

static void late(void)
{
	show(ibv_reg_mr(pd, memory, 300, LOCAL_WRITE));
}

/* By its handle a library is asked alone: a preloaded one does not come first. */
static void by_handle(int versioned)
{
	void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	__typeof__(ibv_reg_mr_iova2) *reg = versioned ? dlvsym(library, "ibv_reg_mr_iova2", "IBVERBS_1.8") :
							dlsym(library, "ibv_reg_mr_iova2");
	if (!reg)
		abort();
	show(reg(pd, memory, 500, (uintptr_t)memory, LOCAL_WRITE));
}

/* A second library beside the program's, by its handle alone. */
static void another(void)
{
	void *library = dlopen(getenv("CLIENT_OTHER"), RTLD_NOW | RTLD_LOCAL);
	if (!library)
		abort();
	__typeof__(fake_open) *open = dlsym(library, "fake_open");
	__typeof__(fake_alloc_pd) *alloc = dlsym(library, "fake_alloc_pd");
	__typeof__(ibv_reg_mr) *reg = dlsym(library, "ibv_reg_mr");
	__typeof__(ibv_rereg_mr) *rereg = dlvsym(library, "ibv_rereg_mr", "IBVERBS_1.1");
	__typeof__(ibv_dereg_mr) *dereg = dlsym(library, "ibv_dereg_mr");
	__typeof__(ibv_dealloc_pd) *dealloc = dlsym(library, "ibv_dealloc_pd");
	__typeof__(ibv_close_device) *close = dlsym(library, "ibv_close_device");
	struct ibv_context *other = open();
	struct ibv_pd *domain = alloc(other);
	struct ibv_mr *region = reg(domain, memory, 600, LOCAL_WRITE);
	printf("other changed: %d\n", rereg(region, 5, domain, memory, 700, LOCAL_WRITE));
	int ended = dereg(region), left = dealloc(domain), closed = close(other);
	printf("other ended: %d %d %d\n", ended, left, closed);
}

static struct ibv_mr *extended(size_t length, int access, uint64_t mask)
{
	const struct ibv_mr_init_attr attr = { .length = length, .access = access, .comp_mask = mask,
					       .addr = memory };
	return ibv_reg_mr_ex(pd, (struct ibv_mr_init_attr *)&attr);
}

/* All of the address space, in each way that there is. */
static void whole(void)
{
	show(ibv_reg_mr(pd, NULL, SIZE_MAX, LOCAL_WRITE));
	show(ibv_reg_mr_iova(pd, NULL, SIZE_MAX, 0, LOCAL_WRITE));
	show(ibv_reg_mr_iova2(pd, NULL, SIZE_MAX, 0, LOCAL_WRITE));
	show(ibv_reg_mr_ex(pd, &(struct ibv_mr_init_attr){ .length = SIZE_MAX, .access = LOCAL_WRITE,
							   .comp_mask = 2 }));
	struct ibv_mr *small = ibv_reg_mr(pd, memory, 64, LOCAL_WRITE);
	printf("changed: %d\n", ibv_rereg_mr(small, 5, pd, NULL, SIZE_MAX, LOCAL_WRITE));
}

/* Goes on in a context that mlx5's provider opens. */
static void open_mlx5(uint32_t flags)
{
	struct mlx5dv_context_attr attr = { .flags = flags };
	context = mlx5dv_open_device(fake_mlx5_device(), &attr);
	pd = fake_alloc_pd(context);
}

/* Registers in each of many contexts, again and again. */
static void contexts(size_t many)
{
	struct ibv_pd *pds[256];
	for (size_t i = 0; i < many; i++)
		pds[i] = fake_alloc_pd(fake_open());
	for (size_t i = 0; i < 3 * many; i++)
		if (ibv_dereg_mr(ibv_reg_mr(pds[i % many], memory, 64, LOCAL_WRITE)))
			abort();
}

static void act(const char *what, size_t length, int access, char **rest)
{
	errno = 0;
	if (around(what, rest) || crowd(what, length) || kinds(what))
		;
	else if (!strcmp(what, "whole"))
		whole();
	else if (!strcmp(what, "contexts"))
		contexts(length);
	else if (!strcmp(what, "devx"))
		open_mlx5(1);
	else if (!strcmp(what, "mlx5"))
		open_mlx5(0);
	else if (!strcmp(what, "steering"))
		show(mlx5dv_dr_domain_create(context, 0));
	else if (!strcmp(what, "reg"))
		show(ibv_reg_mr(pd, memory, length, access));
	else if (!strcmp(what, "iova"))
		show(ibv_reg_mr_iova(pd, memory, length, (uintptr_t)memory + 4096, access));
	else if (!strcmp(what, "iova2"))
		show(ibv_reg_mr_iova2(pd, memory, length, (uintptr_t)memory, access));
	else if (!strcmp(what, "ex"))
		show(extended(length, access, 2));
	else if (!strcmp(what, "hints"))
		show(extended(length, access, 2 | 16));
	else if (!strcmp(what, "exfd"))
		show(extended(length, access, 4));
	else if (!strcmp(what, "dmabuf"))
		show(ibv_reg_dmabuf_mr(pd, 0, length, 0, 0, access));
	else if (!strcmp(what, "dm"))
		show(fake_device_memory(pd, length));
	else if (!strcmp(what, "rereg"))
		printf("changed: %d errno=%d\n", ibv_rereg_mr(mr, length ? 5 : 4, pd, memory, length, access), errno);
	else if (!strcmp(what, "dereg"))
		printf("deregistered: %d\n", ibv_dereg_mr(mr));
	else if (!strcmp(what, "pd"))
		pd = fake_alloc_pd(context);
	else if (!strcmp(what, "dealloc"))
		printf("deallocated: %d\n", ibv_dealloc_pd(pd));
	else if (!strcmp(what, "close"))
		printf("closed: %d\n", ibv_close_device(context));
	else if (!strcmp(what, "rxe"))
		becomes_rxe();
	else if (!strcmp(what, "cost"))
		cost();
	else if (!strcmp(what, "flat"))
		flat();
	else if (!strcmp(what, "threads"))
		threads();
	else if (!strcmp(what, "fork"))
		forks(0);
	else if (!strcmp(what, "forkclose"))
		forks(1);
	else if (!strcmp(what, "late"))
		atexit(late);
	else if (!strcmp(what, "dlsym"))
		by_handle(0);
	else if (!strcmp(what, "dlvsym"))
		by_handle(1);
	else if (!strcmp(what, "another"))
		another();
	else if (!strcmp(what, "closefds"))
		closefrom(3);
	else
		abort();
	fflush(stdout);
}

__attribute__((constructor)) static void early(void)
{
	context = fake_open();
	pd = fake_alloc_pd(context);
	if (getenv("CLIENT_EARLY"))
		show(ibv_reg_mr(pd, memory, 50, LOCAL_WRITE));
}

int main(int argc, char **argv)
{
	/* A call that never returns fails its test. */
	alarm(300);
	for (int i = 1; i < argc; i++) {
		char what[32] = "";
		size_t length = 0;
		int access = 0;
		sscanf(argv[i], "%31[^:]:%zi:%i", what, &length, &access);
		act(what, length, access, argv + i + 1);
	}
	return 0;
}
