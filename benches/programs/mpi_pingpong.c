// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Latency and bandwidth of MPI between two ranks, in the manner of osu_latency and osu_bw.
 *
 * `mpi_pingpong BYTES ITERATIONS` prints one line: bytes, microseconds one way (half of a ping-pong), and MiB/s of
 * messages that are sent without waiting for each. Every byte of the last ping is compared.
 */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { WARM_UP = 5, WINDOW = 8 };

static int rank;

static void ping(uint8_t *buffer, int bytes)
{
	if (rank == 0) {
		MPI_Send(buffer, bytes, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
		MPI_Recv(buffer, bytes, MPI_BYTE, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	} else {
		MPI_Recv(buffer, bytes, MPI_BYTE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		MPI_Send(buffer, bytes, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
	}
}

/* A window of messages one way, answered by one byte. */
static void window(uint8_t *buffer, int bytes)
{
	MPI_Request requests[WINDOW];
	uint8_t answer = 0;

	for (int i = 0; i < WINDOW; i++) {
		uint8_t *at = buffer + (size_t)i * bytes;

		if (rank == 0)
			MPI_Isend(at, bytes, MPI_BYTE, 1, 1, MPI_COMM_WORLD, &requests[i]);
		else
			MPI_Irecv(at, bytes, MPI_BYTE, 0, 1, MPI_COMM_WORLD, &requests[i]);
	}
	MPI_Waitall(WINDOW, requests, MPI_STATUSES_IGNORE);
	if (rank == 0)
		MPI_Recv(&answer, 1, MPI_BYTE, 1, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
	else
		MPI_Send(&answer, 1, MPI_BYTE, 0, 2, MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
	int bytes = argc > 1 ? atoi(argv[1]) : 0, iterations = argc > 2 ? atoi(argv[2]) : 0;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	if (bytes <= 0 || iterations <= 0) {
		fprintf(stderr, "write: mpi_pingpong BYTES ITERATIONS\n");
		MPI_Abort(MPI_COMM_WORLD, 2);
	}
	uint8_t *buffer = malloc((size_t)bytes * WINDOW);

	if (!buffer) {
		perror("malloc");
		MPI_Abort(MPI_COMM_WORLD, 2);
	}
	for (size_t i = 0; i < (size_t)bytes * WINDOW; i++)
		buffer[i] = rank == 0 ? (uint8_t)(i * 31 + 7) : 0;
	for (int i = 0; i < WARM_UP; i++)
		ping(buffer, bytes);
	double start = MPI_Wtime();
	for (int i = 0; i < iterations; i++)
		ping(buffer, bytes);
	double latency = (MPI_Wtime() - start) / iterations / 2;

	for (int i = 0; i < bytes; i++) {
		if (buffer[i] != (uint8_t)(i * 31 + 7)) {
			fprintf(stderr, "rank %d: byte %d is wrong\n", rank, i);
			MPI_Abort(MPI_COMM_WORLD, 1);
		}
	}
	window(buffer, bytes);
	int windows = iterations / WINDOW + 1;

	start = MPI_Wtime();
	for (int i = 0; i < windows; i++)
		window(buffer, bytes);
	double time = MPI_Wtime() - start;

	if (rank == 0)
		printf("pingpong: %d %.3f %.3f\n", bytes, latency * 1e6,
		       (double)windows * WINDOW * bytes / time / (1 << 20));
	free(buffer);
	MPI_Finalize();
	return 0;
}
