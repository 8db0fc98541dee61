/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Several threads, and processes that are made meanwhile. A hang is ended by an alarm, which fails the test. */
#define _GNU_SOURCE
#include "scenes.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int good)
{
	if (!good)
		abort();
}

/* The program's own lock, which its fork handler takes, as an allocator's does. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int held, forking, stop;

static void before_fork(void)
{
	__atomic_store_n(&forking, 1, __ATOMIC_RELEASE);
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void handlers(void)
{
	if (getenv("CLIENT_FORK_HANDLER"))
		must(!pthread_atfork(before_fork, after_fork, after_fork));
}

/* Calls verbs under the lock, while another thread that forks waits for it. */
static void *under_lock(void *domain)
{
	pthread_mutex_lock(&lock);
	__atomic_store_n(&held, 1, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&forking, __ATOMIC_ACQUIRE))
		;
	if (domain) {
		must(!ibv_dealloc_pd(domain));
	} else {
		struct ibv_mr *mr = ibv_reg_mr(pd, memory, 64, LOCAL_WRITE);
		must(mr && !ibv_dereg_mr(mr));
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void fork_while_locked(struct ibv_pd *domain)
{
	pthread_t thread;
	int status;
	alarm(60);
	fflush(stdout);
	must(!pthread_create(&thread, NULL, under_lock, domain));
	while (!__atomic_load_n(&held, __ATOMIC_ACQUIRE))
		;
	pid_t child = fork();
	if (!child)
		_exit(!ibv_reg_mr(pd, memory, 32, LOCAL_WRITE));
	must(waitpid(child, &status, 0) == child);
	must(!pthread_join(thread, NULL));
	printf("fork came through, status=%d\n", status);
}

/* One of many: registers, changes and ends, in domains and contexts that come and go, now and then under the program's lock. */
static void *busy(void *seed)
{
	unsigned int state = (uintptr_t)seed;
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		int own = rand_r(&state) % 8 == 0, locked = rand_r(&state) % 4 == 0;
		struct ibv_pd *domain = own ? fake_alloc_pd(context) : pd;
		struct ibv_mr *mrs[8];
		if (locked)
			pthread_mutex_lock(&lock);
		for (int i = 0; i < 8; i++) {
			size_t length = 1 + rand_r(&state) % 4096;
			mrs[i] = ibv_reg_mr(domain, memory + i * 4096, length, i % 2 ? LOCAL_WRITE : 0);
			must(mrs[i] && mrs[i]->length == length && mrs[i]->pd == domain);
		}
		must(!ibv_rereg_mr(mrs[0], 5, domain, memory, 77, LOCAL_WRITE));
		if (locked)
			pthread_mutex_unlock(&lock);
		for (int i = 0; i < 8; i++)
			must(!ibv_dereg_mr(mrs[i]));
		if (own)
			must(!ibv_dealloc_pd(domain));
	}
	return NULL;
}

/* Threads end in the middle of what they do. */
static void *short_lived(void *unused)
{
	(void)unused;
	for (;;) {
		struct ibv_mr *mr = ibv_reg_mr(pd, memory, 64, LOCAL_WRITE);
		must(mr && !ibv_dereg_mr(mr));
		pthread_testcancel();
	}
}

/* What a child does with what it got, and with regions of its own; it may have a child itself. */
static int child(struct ibv_mr *inherited, size_t length, int depth)
{
	struct ibv_mr *mine[32];
	for (int i = 0; i < 32; i++) {
		mine[i] = ibv_reg_mr(pd, memory, 100 + i, LOCAL_WRITE);
		if (!mine[i] || mine[i]->length != (size_t)(100 + i))
			return 1;
	}
	if (inherited->length != length || ibv_dereg_mr(inherited))
		return 2;
	if (depth) {
		int status;
		pid_t pid = fork();
		if (!pid)
			_exit(child(mine[0], 100, depth - 1));
		if (waitpid(pid, &status, 0) != pid || status)
			return 3;
	}
	for (int i = 0; i < 32; i++)
		if (mine[i]->length != (size_t)(100 + i) || ibv_dereg_mr(mine[i]))
			return 4;
	return 0;
}

static void stress(size_t forks)
{
	pthread_t threads[6], victim;
	alarm(300);
	fflush(stdout);
	for (uintptr_t i = 0; i < 6; i++)
		must(!pthread_create(&threads[i], NULL, busy, (void *)(i + 1)));
	for (size_t i = 0; i < forks; i++) {
		int status;
		must(!pthread_create(&victim, NULL, short_lived, NULL));
		struct ibv_mr *mr = ibv_reg_mr(pd, memory, 50, LOCAL_WRITE);
		must(!!mr);
		pid_t pid = fork();
		if (!pid) {
			alarm(60);
			_exit(child(mr, 50, i % 3 == 0));
		}
		must(!pthread_cancel(victim));
		must(waitpid(pid, &status, 0) == pid);
		if (status) {
			printf("child %zu: status=%d\n", i, status);
			exit(1);
		}
		must(mr->length == 50 && !ibv_dereg_mr(mr));
		must(!pthread_join(victim, NULL));
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < 6; i++)
		must(!pthread_join(threads[i], NULL));
	printf("stress done\n");
}

int crowd(const char *what, size_t number)
{
	if (!strcmp(what, "fork-while-locked"))
		fork_while_locked(NULL);
	else if (!strcmp(what, "fork-while-dealloc-locked"))
		fork_while_locked(fake_alloc_pd(context));
	else if (!strcmp(what, "stress"))
		stress(number);
	else
		return 0;
	return 1;
}
