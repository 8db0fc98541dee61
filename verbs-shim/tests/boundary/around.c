/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What a program does around verbs: where its standard error leads, what it may do, what its threads are told.
 *
 * `start-*` come first: they prepare the process and start it anew with the arguments behind them.
 */
#define _GNU_SOURCE
#include "scenes.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void must(int good)
{
	if (!good)
		abort();
}

static void start(char **rest)
{
	char *name = *--rest;
	/* The name is not used; what it was may be the library's. */
	*rest = "client";
	execv("/proc/self/exe", rest);
	*rest = name;
	abort();
}

/* System call `number` has `result` from now on. */
static void filter(int number, unsigned int result)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, result),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, code };
	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	must(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* Standard error is a pipe with room for `pages` pages, and nobody reads. */
static void fill(int pages)
{
	static char page[4096];
	int ends[2];
	must(!pipe(ends));
	must(!fcntl(ends[1], F_SETFL, O_NONBLOCK));
	while (write(ends[1], page, sizeof(page)) > 0)
		;
	while (pages--)
		must(read(ends[0], page, sizeof(page)) == sizeof(page));
	must(!fcntl(ends[1], F_SETFL, 0));
	must(dup2(ends[1], 2) == 2);
}

static void errors_to(int kind)
{
	int ends[2];
	must(!(kind == 's' ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : pipe(ends)));
	must(dup2(ends[1], 2) == 2);
	must(!close(ends[0]) && !close(ends[1]));
}

/* A file of the program's has the number of standard error. */
static void take_errors(void)
{
	must(!close(2));
	must(open(getenv("CLIENT_DATA"), O_WRONLY | O_CREAT | O_TRUNC, 0644) == 2);
}

static int done;

static void *cancelled(void *unused)
{
	(void)unused;
	/* Cancelled already, and to be met at the first point. */
	pthread_cancel(pthread_self());
	struct ibv_mr *mr = ibv_reg_mr(pd, memory, 64, LOCAL_WRITE);
	done = mr && !ibv_dereg_mr(mr);
	pthread_testcancel();
	return NULL;
}

static void cancel(void)
{
	pthread_t thread;
	void *result;
	must(!pthread_create(&thread, NULL, cancelled, NULL));
	must(!pthread_join(thread, &result));
	printf("cancelled=%d after its calls=%d\n", result == PTHREAD_CANCELED, done);
}

static void pending_error(void)
{
	dlopen("/there/is/none", RTLD_NOW);
	show(ibv_reg_mr(pd, memory, 64, LOCAL_WRITE));
	const char *error = dlerror();
	printf("dlerror: %s\n", error ? error : "forgotten");
}

/* The clock by which devices are asked again goes on to its next second. */
static void next_second(void)
{
	struct timespec then, now, wait = { 0, 10000000 };
	clock_gettime(CLOCK_MONOTONIC_COARSE, &then);
	do {
		nanosleep(&wait, NULL);
		clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	} while (now.tv_sec == then.tv_sec);
}

int around(const char *what, char **rest)
{
	if (!strcmp(what, "start-closed-pipe"))
		errors_to('p'), start(rest);
	else if (!strcmp(what, "start-closed-socket"))
		errors_to('s'), start(rest);
	else if (!strcmp(what, "start-full-pipe"))
		fill(0), start(rest);
	else if (!strcmp(what, "start-nearly-full-pipe"))
		fill(1), start(rest);
	else if (!strcmp(what, "start-old-kernel"))
		filter(SYS_pwritev2, SECCOMP_RET_ERRNO | EOPNOTSUPP), start(rest);
	else if (!strcmp(what, "take-errors"))
		take_errors();
	else if (!strcmp(what, "no-open"))
		filter(SYS_openat, SECCOMP_RET_KILL_PROCESS);
	else if (!strcmp(what, "no-file-growth"))
		must(!setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 0, RLIM_INFINITY }));
	else if (!strcmp(what, "chdir"))
		must(!chdir("/"));
	else if (!strcmp(what, "cancel"))
		cancel();
	else if (!strcmp(what, "dlerror"))
		pending_error();
	else if (!strcmp(what, "_exit"))
		_exit(0);
	else if (!strcmp(what, "_Exit"))
		_Exit(0);
	else if (!strcmp(what, "vfork")) {
		if (!vfork())
			_exit(0);
	} else if (!strcmp(what, "second"))
		next_second();
	else
		return 0;
	return 1;
}
