/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Makes a segment of its memory, lets another process change it, and checks each byte.
 *
 *   xpmem_owner [PROGRAM]
 *
 * starts PROGRAM with the segment's number and waits for its end; without a PROGRAM it prints the number,
 * and waits for a line of input.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <xpmem.h>

#include "sample.h"

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void wait_for(const char *program, xpmem_segid_t segment)
{
	char number[32];
	int status;
	pid_t child;

	snprintf(number, sizeof(number), "%llx", (unsigned long long)segment);
	printf("owner: segment %s, %d bytes\n", number, SIZE);
	fflush(stdout);
	if (!program) {
		while (getchar() != '\n' && !feof(stdin))
			;
		return;
	}
	child = fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		execlp(program, program, number, (char *)NULL);
		perror(program);
		_exit(127);
	}
	if (waitpid(child, &status, 0) != child)
		fail("waitpid");
	if (status) {
		fprintf(stderr, "owner: %s ended with status %#x\n", program, status);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	unsigned char *memory;
	xpmem_segid_t segment;
	int wrong = 0;

	if (xpmem_version() < 0)
		fail("xpmem_version (is emm_xpmem loaded?)");
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	for (int i = 0; i < SIZE; i++)
		memory[i] = OWNERS(i);
	segment = xpmem_make(memory, SIZE, XPMEM_PERMIT_MODE, (void *)0600);
	if (segment < 0)
		fail("xpmem_make");

	wait_for(argc > 1 ? argv[1] : NULL, segment);

	for (int i = 0; i < SIZE; i++)
		wrong += memory[i] != ATTACHERS(i);
	printf("owner: %d of %d bytes are not what the other process wrote\n", wrong, SIZE);
	if (xpmem_remove(segment))
		fail("xpmem_remove");
	return wrong != 0;
}
