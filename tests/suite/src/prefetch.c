/* Registers a private mapping of a file of 96 MiB, and a shared one of a file of holes, for writing, and says what prefetch made of them. */
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BIG (96UL << 20)

static void must(int good, const char *what)
{
	if (good)
		return;
	perror(what);
	exit(1);
}

/* Pages of the range that are there, or copies of the process' own. */
static size_t count(char *start, size_t bytes, int copies)
{
	size_t found = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	must(fd >= 0, "pagemap");
	for (size_t at = 0; at < bytes; at += 4096) {
		uint64_t entry;
		off_t place = ((uintptr_t)start + at) / 4096 * sizeof(entry);
		must(pread(fd, &entry, sizeof(entry), place) == sizeof(entry), "page map");
		found += (entry >> 63) && (!copies || !(entry >> 61 & 1));
	}
	close(fd);
	return found;
}

int main(int argc, char **argv)
{
	struct ibv_device **devices = ibv_get_device_list(NULL);
	struct ibv_context *context = devices && devices[0] ? ibv_open_device(devices[0]) : NULL;
	struct ibv_pd *pd = context ? ibv_alloc_pd(context) : NULL;
	must(argc == 2 && pd, "a device and a file");
	static char part[1 << 20];
	memset(part, 7, sizeof(part));
	int file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	must(file >= 0, argv[1]);
	for (size_t at = 0; at < BIG / 4; at += sizeof(part))
		must(write(file, part, sizeof(part)) == sizeof(part), "write");
	/* Four times the same pages: the file's own fit into the cgroup, four copies of them would not. */
	char *start = mmap(NULL, BIG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(start != MAP_FAILED, "mmap");
	for (size_t at = 0; at < BIG; at += BIG / 4)
		must(mmap(start + at, BIG / 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) != MAP_FAILED, "mmap");
	struct ibv_mr *mr = ibv_reg_mr(pd, start, BIG, IBV_ACCESS_LOCAL_WRITE);
	must(mr != NULL, "ibv_reg_mr");
	size_t there = count(start, BIG, 0), copies = count(start, BIG, 1);
	printf("private: %zu of %zu pages there, %zu copied\n", there, BIG / 4096, copies);
	if (there == BIG / 4096 && !copies)
		printf("private: every page there, none copied\n");
	must(!ibv_dereg_mr(mr), "ibv_dereg_mr");
	must(!munmap(start, BIG), "munmap");

	struct stat before, after;
	must(!ftruncate(file, 1 << 20) && !ftruncate(file, 16 << 20) && !fstat(file, &before), "a file of holes");
	start = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	must(start != MAP_FAILED, "mmap");
	mr = ibv_reg_mr(pd, start, 16 << 20, IBV_ACCESS_LOCAL_WRITE);
	must(mr != NULL, "ibv_reg_mr");
	must(!fstat(file, &after), "fstat");
	printf("sparse: %ld blocks, then %ld\n", (long)before.st_blocks, (long)after.st_blocks);
	if (before.st_blocks == after.st_blocks)
		printf("sparse: not grown\n");
	must(!ibv_dereg_mr(mr) && !ibv_dealloc_pd(pd) && !ibv_close_device(context), "the end");
	printf("done\n");
	return 0;
}
