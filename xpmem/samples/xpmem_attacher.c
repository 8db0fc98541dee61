/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Attaches the segment of xpmem_owner, checks each byte, and adds one to it.
 *
 *   xpmem_attacher SEGMENT
 */
#include <stdio.h>
#include <stdlib.h>

#include <xpmem.h>

#include "sample.h"

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	struct xpmem_addr from = { 0 };
	unsigned char *memory;
	int wrong = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: %s SEGMENT, a number that xpmem_owner prints\n", argv[0]);
		return 2;
	}
	from.apid = xpmem_get((xpmem_segid_t)strtoull(argv[1], NULL, 16), XPMEM_RDWR,
			      XPMEM_PERMIT_MODE, NULL);
	if (from.apid < 0)
		fail("xpmem_get");
	memory = xpmem_attach(from, SIZE, NULL);
	if (memory == (void *)-1)
		fail("xpmem_attach");

	for (int i = 0; i < SIZE; i++) {
		wrong += memory[i] != OWNERS(i);
		memory[i]++;
	}
	printf("attacher: %d of %d bytes are not what the owner wrote\n", wrong, SIZE);

	if (xpmem_detach(memory))
		fail("xpmem_detach");
	if (xpmem_release(from.apid))
		fail("xpmem_release");
	return wrong != 0;
}
