/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What a program does around verbs. */
#define _GNU_SOURCE
#include "scenes.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static void pending_error(void)
{
	dlopen("/there/is/none", RTLD_NOW);
	show(ibv_reg_mr(pd, memory, 64, LOCAL_WRITE));
	const char *error = dlerror();
	printf("dlerror: %s\n", error ? error : "forgotten");
}

int around(const char *what)
{
	if (!strcmp(what, "dlerror"))
		pending_error();
	else
		return 0;
	return 1;
}
