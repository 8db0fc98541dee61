/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Registers memory of different kinds, and prints what became of it: `kind-*`. CLIENT_FOLDER is one on a disk.
 */
#define _GNU_SOURCE
#include "scenes.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 64
#define PAGE 4096
#define BYTES (PAGES * PAGE)

static void must(int good)
{
	if (!good)
		abort();
}

static char *map(int flags, int fd)
{
	char *start = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
	must(start != MAP_FAILED);
	return start;
}

/* Pages of the mapping with all bits of `is` and none of `isnt` in the page map. */
static int count(const char *start, uint64_t is, uint64_t isnt)
{
	uint64_t entry;
	int found = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	must(fd >= 0);
	for (int i = 0; i < PAGES; i++) {
		off_t place = ((uintptr_t)start / PAGE + i) * sizeof(entry);
		must(pread(fd, &entry, sizeof(entry), place) == sizeof(entry));
		found += (entry & is) == is && !(entry & isnt);
	}
	close(fd);
	return found;
}

#define PRESENT (1ULL << 63)
#define OF_FILE (1ULL << 61)
#define EXCLUSIVE (1ULL << 56)

static void tell(const char *start)
{
	printf("present=%d copied=%d exclusive=%d\n", count(start, PRESENT, 0), count(start, PRESENT, OF_FILE),
	       count(start, PRESENT | EXCLUSIVE, 0));
}

static int file_of(int sparse)
{
	char name[512];
	snprintf(name, sizeof(name), "%s/kind", getenv("CLIENT_FOLDER"));
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
	must(fd >= 0);
	static char page[PAGE] = "not empty";
	for (int i = 0; i < (sparse ? 2 : PAGES); i++)
		must(write(fd, page, PAGE) == PAGE);
	must(!ftruncate(fd, BYTES));
	must(!fsync(fd));
	return fd;
}

/* A file, of which two pages are there; and whether registering it changes the file. */
static void shared(int fd)
{
	struct stat before, after;
	char *start = map(MAP_SHARED, fd);
	must(!fstat(fd, &before));
	show(ibv_reg_mr(pd, start, BYTES, LOCAL_WRITE));
	must(!fsync(fd));
	must(!fstat(fd, &after));
	printf("grown=%ld changed=%d\n", (long)(after.st_blocks - before.st_blocks),
	       !!memcmp(&before.st_atim, &after.st_atim, sizeof(before.st_atim)) +
		       !!memcmp(&before.st_mtim, &after.st_mtim, sizeof(before.st_mtim)) +
		       !!memcmp(&before.st_ctim, &after.st_ctim, sizeof(before.st_ctim)));
	tell(start);
}

static void memfd(void)
{
	int fd = memfd_create("kind", 0);
	must(fd >= 0);
	must(write(fd, "one", 3) == 3 && pwrite(fd, "two", 3, 9 * PAGE) == 3);
	must(!ftruncate(fd, BYTES));
	shared(fd);
}

/* Pages that a child has too. */
static void forked(void)
{
	int ends[2];
	char *start = map(MAP_PRIVATE, -1);
	memset(start, 1, BYTES / 2);
	must(!pipe(ends));
	pid_t child = fork();
	if (!child) {
		close(ends[1]);
		_exit(read(ends[0], start, 1) != 0);
	}
	/* A few are the parent's own again. */
	memset(start, 2, 4 * PAGE);
	show(ibv_reg_mr(pd, start, BYTES, LOCAL_WRITE));
	tell(start);
	close(ends[0]);
	close(ends[1]);
	waitpid(child, NULL, 0);
}

static void mixed(void)
{
	char *start = map(MAP_PRIVATE, -1);
	memset(start, 1, PAGE);
	must(!mprotect(start, PAGE, PROT_READ));
	must(!mprotect(start + PAGE, PAGE, PROT_NONE));
	must(!munmap(start + 2 * PAGE, PAGE));
	show(ibv_reg_mr(pd, start, BYTES, LOCAL_WRITE));
	tell(start);
}

/* A userfaultfd that nobody answers; for faults of this process' own code alone, if it may have no other. */
static void watched(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	char *start = map(MAP_PRIVATE, -1);
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0) {
		printf("no userfaultfd\n");
		return;
	}
	memset(start, 1, 3 * PAGE);
	struct uffdio_register whole = { .range = { (uintptr_t)start, BYTES }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	must(!ioctl(fd, UFFDIO_API, &api) && !ioctl(fd, UFFDIO_REGISTER, &whole));
	/* A call that never returns fails its test. */
	alarm(30);
	show(ibv_reg_mr(pd, start, BYTES, LOCAL_WRITE));
	alarm(300);
	tell(start);
	close(fd);
}

int kinds(const char *what)
{
	if (!strcmp(what, "kind-private-file")) {
		char *start = map(MAP_PRIVATE, file_of(0));
		show(ibv_reg_mr(pd, start, BYTES, LOCAL_WRITE));
		tell(start);
	} else if (!strcmp(what, "kind-shared-file"))
		shared(file_of(1));
	else if (!strcmp(what, "kind-memfd"))
		memfd();
	else if (!strcmp(what, "kind-shared-memory")) {
		char *start = map(MAP_SHARED, -1);
		start[0] = start[PAGE] = 1;
		show(ibv_reg_mr(pd, start, BYTES, LOCAL_WRITE));
		tell(start);
	} else if (!strcmp(what, "kind-untouched")) {
		char *start = map(MAP_PRIVATE, -1);
		show(ibv_reg_mr(pd, start, BYTES, LOCAL_WRITE));
		tell(start);
	} else if (!strcmp(what, "kind-forked"))
		forked();
	else if (!strcmp(what, "kind-mixed"))
		mixed();
	else if (!strcmp(what, "kind-watched"))
		watched();
	else
		return 0;
	return 1;
}
