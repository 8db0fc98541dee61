/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of this module that are C share. */
#ifndef _EMM_XPMEM_ATTACH_H
#define _EMM_XPMEM_ATTACH_H

struct emm_xpmem_segment;
struct file;
struct file_operations;
struct vm_operations_struct;

struct file *emm_xpmem_segment_file(struct emm_xpmem_segment *segment, int flags,
				    const struct file_operations *fops);

extern const struct vm_operations_struct emm_xpmem_vm_ops;

/* Once, when the module is loaded. */
void emm_xpmem_faults_init(void);

#endif /* _EMM_XPMEM_ATTACH_H */
