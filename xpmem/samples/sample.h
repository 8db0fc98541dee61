/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What both programs know: how many bytes there are, and what each of the two writes. */
#ifndef SAMPLE_H
#define SAMPLE_H

#define SIZE (1 << 20)
#define OWNERS(i) ((unsigned char)((i) * 7 + (i) / 4096))
#define ATTACHERS(i) ((unsigned char)(OWNERS(i) + 1))

#endif /* SAMPLE_H */
