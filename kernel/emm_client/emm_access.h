/* SPDX-License-Identifier: GPL-2.0 */
/* What /dev/emm_access is asked to do. Each open file is a driver with one region. */
#ifndef _EMM_ACCESS_H
#define _EMM_ACCESS_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Bytes of user memory [@start, @start + @length) become the file's region. */
struct emm_access_region {
	__u64 start;
	__u64 length;
};

/**
 * enum emm_access_what - an access
 * @EMM_ACCESS_READ: copies from the region to the buffer
 * @EMM_ACCESS_WRITE: copies from the buffer to the region
 * @EMM_ACCESS_ADVISE_READ: emm_region_prefetch(); no buffer
 * @EMM_ACCESS_ADVISE_WRITE: the same, to be written
 * @EMM_ACCESS_ADVISE_PRESENT: the same, what is there
 */
enum emm_access_what {
	EMM_ACCESS_READ,
	EMM_ACCESS_WRITE,
	EMM_ACCESS_ADVISE_READ,
	EMM_ACCESS_ADVISE_WRITE,
	EMM_ACCESS_ADVISE_PRESENT,
};

#define EMM_ACCESS_SOFTIRQ	0x100

/**
 * struct emm_access_do - one access
 * @cookie: which cookie; ~0: none, that is an access that sleeps
 * @what: enum emm_access_what; with EMM_ACCESS_SOFTIRQ it is done in a timer's softirq
 * @offset: in the region
 * @length: bytes, 1 MiB at most but for advice
 * @reach: how far the whole operation goes from @offset
 * @buffer: user address of @length bytes
 */
struct emm_access_do {
	__u32 cookie;
	__u32 what;
	__u64 offset;
	__u64 length;
	__u64 reach;
	__u64 buffer;
};

/* Until @done was called @times times for @cookie, for @ms milliseconds at most: -ETIMEDOUT then. */
struct emm_access_await {
	__u32 cookie;
	__u32 ms;
	__u64 times;
};

#define EMM_ACCESS_IOC_REGION	_IOW('E', 1, struct emm_access_region)
/* How many cookies there are; those from before are destroyed. */
#define EMM_ACCESS_IOC_COOKIES	_IO('E', 2)
/* Returns what the access returned. */
#define EMM_ACCESS_IOC_DO	_IOW('E', 3, struct emm_access_do)
#define EMM_ACCESS_IOC_AWAIT	_IOW('E', 4, struct emm_access_await)
/* The argument is the number of a cookie; or ~0: of all. */
#define EMM_ACCESS_IOC_CANCEL	_IO('E', 5)
/* Returns how often @done was called for the cookie; for ~0: for all. */
#define EMM_ACCESS_IOC_DONE	_IO('E', 6)
#define EMM_ACCESS_IOC_STOP	_IO('E', 7)
#define EMM_ACCESS_IOC_DESTROY	_IO('E', 8)

#endif /* _EMM_ACCESS_H */
