/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * XPMEM: memory of one process in another, by /dev/xpmem.
 *
 * The owner of memory makes a segment of it; another process gets a permit for the segment and attaches
 * ranges of it. All functions return -1 with errno if they fail. Nothing is pinned: what an attached
 * address reaches is what the owner has there at that moment. Where that is nothing, where the owner has
 * ended, or where the segment was removed, a touch gets SIGBUS, and a system call EFAULT.
 *
 * All functions may be called by several threads at once. A forked process has no segments, permits or
 * attachments, and may make its own.
 */
#ifndef XPMEM_H
#define XPMEM_H

#include <linux/types.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A segment. Any process may know it. */
typedef __s64 xpmem_segid_t;
/* A permit of one process for a segment. */
typedef __s64 xpmem_apid_t;

/* What to attach: a permit, and bytes from the segment's start, a multiple of the page size. */
struct xpmem_addr {
	xpmem_apid_t apid;
	off_t offset;
};

/* The size of a segment that is all of the address space, now and later; an offset is an address then. */
#define XPMEM_MAXADDR_SIZE ((size_t)(-1L))

/* What a permit allows. */
#define XPMEM_RDONLY 0x1
#define XPMEM_RDWR 0x2

/* The only type of permit: its value is a mode of at most 0777, as of a file. */
enum {
	XPMEM_PERMIT_MODE = 0x1
};

/* The errno by which the device says that a process's parent has opened it. The library then opens it
 * again, and no caller sees it. */
#define XPMEM_ERRNO_NOPROC 2004

/* The version of the interface, 0x26005 or newer; -1 without the device. */
int xpmem_version(void);

/*
 * Makes a segment of size bytes at vaddr, which others may attach as the mode permit_value says: the pages
 * that they are in. No page is touched. EINVAL: a wrong range or mode, or an attachment is in it; ENOENT: no
 * device; ENOMEM.
 */
xpmem_segid_t xpmem_make(void *vaddr, size_t size, int permit_type, void *permit_value);

/* Ends a segment of this process; its end does it, too. ENOENT, EINVAL: there is none; EACCES: another's. */
int xpmem_remove(xpmem_segid_t segid);

/*
 * Gets a permit, XPMEM_RDONLY or XPMEM_RDWR. permit_value is not looked at: the owner's mode decides.
 * ENOENT, EINVAL: no such segment; EACCES: not allowed.
 */
xpmem_apid_t xpmem_get(xpmem_segid_t segid, int flags, int permit_type, void *permit_value);

/* Gives a permit back, and ends what is attached by it. */
int xpmem_release(xpmem_apid_t apid);

/*
 * Maps size bytes, or the pages that they are in, at addr.offset of the permit's segment: instead of what
 * is at vaddr, or where there is room if it is NULL. Returns the address of the first byte, which has the
 * same place in its page as in the owner's. It takes as long for a page as for a terabyte. With a permit to read, a write
 * gets SIGSEGV. EINVAL: a wrong range, an offset or address that is not a page's, or one where something
 * is attached; ENOENT: no such permit, or its segment is gone; ENOMEM.
 */
void *xpmem_attach(struct xpmem_addr addr, size_t size, void *vaddr);

/* Unmaps the attachment that vaddr is in. munmap() does the same for any part of it. */
int xpmem_detach(void *vaddr);

#ifdef __cplusplus
}
#endif

#endif /* XPMEM_H */
