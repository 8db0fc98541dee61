// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Collectives and point-to-point messages that compare every byte they receive, and the bytes around it.
 *
 * Lengths lie on both sides of what MPI libraries copy through buffers of their own (eager) and what they
 * move from the user's memory with RDMA (rendezvous). Buffers begin at odd addresses, and each length
 * uses fresh memory, so a registration cache meets addresses that were unmapped in between.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { GUARD = 64, FILL = 0xa5 };

static const size_t lengths[] = {1, 7, 1000, 4097, 65537, 200001};
static int rank, ranks;
static long wrong, compared;

/* A buffer in its own mapping: GUARD bytes, `bytes` bytes at an odd address, GUARD bytes. */
struct buffer {
	uint8_t *map, *data;
	size_t mapped, bytes;
};

static struct buffer fresh(size_t bytes)
{
	struct buffer b = {.mapped = bytes + 2 * GUARD + 1, .bytes = bytes};

	b.map = mmap(NULL, b.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b.map == MAP_FAILED) {
		perror("mmap");
		MPI_Abort(MPI_COMM_WORLD, 2);
	}
	memset(b.map, FILL, b.mapped);
	b.data = b.map + GUARD + 1;
	return b;
}

static void release(struct buffer *b)
{
	munmap(b->map, b->mapped);
}

/* What `from` sends to `to` at `i`. */
static uint8_t pattern(int from, int to, size_t i)
{
	uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u + (uint64_t)from * 31 + (uint64_t)to * 17;

	return (uint8_t)(x >> 32);
}

static void paint(uint8_t *at, size_t bytes, int from, int to)
{
	for (size_t i = 0; i < bytes; i++)
		at[i] = pattern(from, to, i);
}

static void check(const uint8_t *at, size_t bytes, int from, int to)
{
	for (size_t i = 0; i < bytes; i++)
		wrong += at[i] != pattern(from, to, i);
	compared += (long)bytes;
}

static void check_guards(const struct buffer *b)
{
	for (const uint8_t *p = b->map; p < b->data; p++)
		wrong += *p != FILL;
	for (const uint8_t *p = b->data + b->bytes; p < b->map + b->mapped; p++)
		wrong += *p != FILL;
}

static void broadcast(size_t bytes)
{
	for (int root = 0; root < ranks; root++) {
		struct buffer b = fresh(bytes);

		if (rank == root)
			paint(b.data, bytes, root, 0);
		MPI_Bcast(b.data, (int)bytes, MPI_BYTE, root, MPI_COMM_WORLD);
		check(b.data, bytes, root, 0);
		check_guards(&b);
		release(&b);
	}
}

static void gather_and_exchange(size_t bytes)
{
	struct buffer out = fresh(bytes * (size_t)ranks), in = fresh(bytes * (size_t)ranks);

	paint(out.data, bytes, rank, 0);
	MPI_Allgather(out.data, (int)bytes, MPI_BYTE, in.data, (int)bytes, MPI_BYTE, MPI_COMM_WORLD);
	for (int from = 0; from < ranks; from++)
		check(in.data + bytes * (size_t)from, bytes, from, 0);
	for (int to = 0; to < ranks; to++)
		paint(out.data + bytes * (size_t)to, bytes, rank, to);
	MPI_Alltoall(out.data, (int)bytes, MPI_BYTE, in.data, (int)bytes, MPI_BYTE, MPI_COMM_WORLD);
	for (int from = 0; from < ranks; from++)
		check(in.data + bytes * (size_t)from, bytes, from, rank);
	check_guards(&in);
	check_guards(&out);
	release(&in);
	release(&out);
}

/* Sums of unsigned numbers are exact, so every byte of the result is known. */
static void sum(size_t bytes)
{
	size_t n = bytes / sizeof(uint64_t);
	struct buffer mine = fresh(n * sizeof(uint64_t)), all = fresh(n * sizeof(uint64_t));

	for (size_t i = 0; i < n; i++) {
		uint64_t value = i * 1000003u + (uint64_t)rank * 77;

		memcpy(mine.data + i * sizeof(value), &value, sizeof(value));
	}
	MPI_Allreduce(mine.data, all.data, (int)n, MPI_UINT64_T, MPI_SUM, MPI_COMM_WORLD);
	for (size_t i = 0; i < n; i++) {
		uint64_t value, want = 0;

		for (int r = 0; r < ranks; r++)
			want += i * 1000003u + (uint64_t)r * 77;
		memcpy(&value, all.data + i * sizeof(value), sizeof(value));
		wrong += value != want;
	}
	compared += (long)(n * sizeof(uint64_t));
	check_guards(&all);
	release(&mine);
	release(&all);
}

static void ring(size_t bytes)
{
	int to = (rank + 1) % ranks, from = (rank + ranks - 1) % ranks;
	struct buffer out = fresh(bytes), in = fresh(bytes);

	paint(out.data, bytes, rank, to);
	MPI_Sendrecv(out.data, (int)bytes, MPI_BYTE, to, 1, in.data, (int)bytes, MPI_BYTE, from, 1,
		     MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	check(in.data, bytes, from, rank);
	check_guards(&in);
	release(&out);
	release(&in);
}

/* RDMA WRITE and READ where the library has them. */
static void one_sided(size_t bytes)
{
	int to = (rank + 1) % ranks, from = (rank + ranks - 1) % ranks;
	struct buffer window = fresh(bytes), local = fresh(bytes), back = fresh(bytes);
	MPI_Win win;

	MPI_Win_create(window.data, (MPI_Aint)bytes, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
	paint(local.data, bytes, rank, to);
	MPI_Win_fence(0, win);
	MPI_Put(local.data, (int)bytes, MPI_BYTE, to, 0, (int)bytes, MPI_BYTE, win);
	MPI_Win_fence(0, win);
	check(window.data, bytes, from, rank);
	MPI_Get(back.data, (int)bytes, MPI_BYTE, to, 0, (int)bytes, MPI_BYTE, win);
	MPI_Win_fence(0, win);
	check(back.data, bytes, rank, to);
	MPI_Win_free(&win);
	check_guards(&window);
	check_guards(&back);
	release(&window);
	release(&local);
	release(&back);
}

int main(int argc, char **argv)
{
	long mine[2], all[2];

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		broadcast(lengths[i]);
		gather_and_exchange(lengths[i]);
		sum(lengths[i]);
		ring(lengths[i]);
		one_sided(lengths[i]);
	}
	mine[0] = wrong;
	mine[1] = compared;
	MPI_Reduce(mine, all, 2, MPI_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
	if (rank == 0)
		printf("%d ranks compared %ld bytes: %ld wrong\n", ranks, all[1], all[0]);
	MPI_Finalize();
	return wrong != 0;
}
