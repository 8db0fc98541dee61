/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the client's files share. */
#include "verbs.h"

extern struct ibv_context *context;
extern struct ibv_pd *pd;
extern char memory[1 << 20];

/* Scenes about what a program does beside verbs: whether it was one. */
int around(const char *what, char **rest);
/* Scenes of kinds of memory: whether it was one. */
int kinds(const char *what);
/* Scenes of several threads and processes: whether it was one. */
int crowd(const char *what, size_t number);
/* Prints the region. */
void show(struct ibv_mr *made);
