// SPDX-License-Identifier: MIT OR Apache-2.0
/* Opens a library for itself alone, as Python does, and runs its main(). */

#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
	int (*run)(int, char **) = library ? dlsym(library, "main") : NULL;

	if (!run) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	return run(argc - 1, argv + 1);
}
