// SPDX-License-Identifier: MIT OR Apache-2.0
/* Opens libraries for themselves alone, as Python does, and runs their main() in turns: LIBRARY ARGUMENTS -- LIBRARY ARGUMENTS ... */

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	int from = 1;

	while (from < argc) {
		int to = from;
		while (to < argc && strcmp(argv[to], "--"))
			to++;
		void *library = dlopen(argv[from], RTLD_NOW | RTLD_LOCAL);
		int (*run)(int, char **) = library ? dlsym(library, "main") : NULL;
		if (!run) {
			fprintf(stderr, "%s\n", dlerror());
			return 1;
		}
		int status = run(to - from, argv + from);
		if (status)
			return status;
		from = to + 1;
	}
	return 0;
}
