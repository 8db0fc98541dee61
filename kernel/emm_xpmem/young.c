// SPDX-License-Identifier: GPL-2.0
/*
 * Whether a page of a segment was used through an attachment: what the accessed bits of all attachers'
 * page tables say.
 *
 * The VM asks with the lock of one of the owner's page tables held, and that of a hub. An attacher's
 * page table may be asked about in the same way, by somebody who holds it and wants the owner's: so no
 * lock is waited for here. Who is found to be at work there uses the page.
 */

#include <linux/fs.h>
#include <linux/interval_tree_generic.h>
#include <linux/mm.h>
#include <linux/pgtable.h>

#include "attach.h"
#include "glue.h"

static unsigned long emm_xpmem_first(const struct vm_area_struct *vma)
{
	return vma->vm_pgoff;
}

static unsigned long emm_xpmem_last(const struct vm_area_struct *vma)
{
	return vma->vm_pgoff + vma_pages(vma) - 1;
}

/* The VM's own search is not exported. */
INTERVAL_TREE_DEFINE(struct vm_area_struct, shared.rb, unsigned long, shared.rb_subtree_last,
		     emm_xpmem_first, emm_xpmem_last, static __maybe_unused, emm_xpmem_vmas)

static pmd_t *emm_xpmem_pmd_of(struct mm_struct *mm, unsigned long address)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd) || pgd_bad(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d) || p4d_bad(*p4d))
		return NULL;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud) || pud_leaf(*pud) || pud_bad(*pud))
		return NULL;
	return pmd_offset(pud, address);
}

/*
 * The word of the page table of @mm that maps @address, if one does, with its lock held. *@busy: the
 * lock is not free. The mapping is in its file's tree, which is locked: the tables stay.
 */
static unsigned long *emm_xpmem_trylock_entry(struct mm_struct *mm, unsigned long address,
					      spinlock_t **lock, bool *busy)
{
	pmd_t *pmd = emm_xpmem_pmd_of(mm, address);
	unsigned long *word;
	pmd_t entry;
	bool there;

	*busy = false;
	if (!pmd)
		return NULL;
	entry = pmdp_get_lockless(pmd);
	if (!pmd_present(entry))
		return NULL;
	*lock = pmd_leaf(entry) ? pmd_lockptr(mm, pmd) : pte_lockptr(mm, &entry);
	*busy = !spin_trylock(*lock);
	if (*busy)
		return NULL;
	if (pmd_leaf(entry)) {
		there = pmd_leaf(pmdp_get(pmd));
		word = (unsigned long *)pmd;
	} else {
		word = (unsigned long *)pte_offset_kernel(&entry, address);
		there = pte_present(ptep_get((pte_t *)word));
	}
	if (there)
		return word;
	spin_unlock(*lock);
	return NULL;
}

/* As the VM does on this architecture, what TLBs remember is left. */
static bool emm_xpmem_test_young(unsigned long *word, bool clear)
{
	if (clear)
		return test_and_clear_bit(_PAGE_BIT_ACCESSED, word);
	return test_bit(_PAGE_BIT_ACCESSED, word);
}

static bool emm_xpmem_vma_young(struct vm_area_struct *vma, unsigned long first, unsigned long last,
				bool clear)
{
	unsigned long page = max(first, vma->vm_pgoff);
	bool young = false;

	last = min(last, emm_xpmem_last(vma));
	for (; page <= last; page++) {
		unsigned long address = vma->vm_start + ((page - vma->vm_pgoff) << PAGE_SHIFT);
		spinlock_t *lock;
		unsigned long *word;
		bool busy;

		word = emm_xpmem_trylock_entry(vma->vm_mm, address, &lock, &busy);
		young |= busy;
		if (!word)
			continue;
		young |= emm_xpmem_test_young(word, clear);
		spin_unlock(lock);
	}
	return young;
}

bool emm_xpmem_referenced(void *private, unsigned long start, unsigned long end, bool clear)
{
	struct emm_xpmem_segment *segment = private;
	struct address_space *mapping = segment->inode->i_mapping;
	unsigned long first = PHYS_PFN(start), last = PHYS_PFN(end - 1);
	struct vm_area_struct *vma;
	bool young = false;

	if (!mapping_mapped(mapping))
		return false;
	if (!i_mmap_trylock_read(mapping))
		return true;
	for (vma = emm_xpmem_vmas_iter_first(&mapping->i_mmap, first, last); vma;
	     vma = emm_xpmem_vmas_iter_next(vma, first, last)) {
		young |= emm_xpmem_vma_young(vma, first, last, clear);
		if (young && !clear)
			break;
	}
	i_mmap_unlock_read(mapping);
	return young;
}
