// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sparse translation table: a radix tree of 4 KiB nodes over page indexes.
//!
//! The tree is as high as the region is long: a region within one part is one leaf, a GiB has one
//! directory. A node exists only while something is in it. How many of a node's slots are used is
//! kept in the low bits of the slot that points to it, so that a node is exactly one page.
//!
//! Nothing here allocates: nodes come from a [`Pool`] that was filled with no lock held.

use super::{Entry, PAGE_SIZE, PageRange};
use core::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

const BITS: u32 = 9;
const SLOTS: usize = 1 << BITS;
/// Low bits of a directory slot: used slots of the node it points to.
const COUNT: u64 = 0xfff;
/// Levels that a table can have: 6 × 9 bits of page index are more than an address space.
pub const MAX_LEVELS: u32 = 6;

/// One node: 512 slots, entries in a leaf, children elsewhere. Zeroed when empty.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Node([AtomicU64; SLOTS]);

/// Where nodes come from and go to.
///
/// # Safety
///
/// `alloc` returns a zeroed [`Node`] that nobody else uses until it is handed to `free`.
pub unsafe trait NodeMem {
    /// A zeroed node, or `None` when there is no memory. May sleep; never called under a lock.
    fn alloc(&self) -> Option<NonNull<Node>>;

    /// Gives `node` back. Never sleeps.
    ///
    /// # Safety
    ///
    /// `node` came from `alloc` and is not used afterwards.
    unsafe fn free(&self, node: NonNull<Node>);
}

/// Spare nodes for one insertion.
///
/// # Invariants
///
/// Each node in `nodes` came from `mem` and is owned by the pool.
#[derive(Debug)]
pub struct Pool<'a, M: NodeMem> {
    mem: &'a M,
    nodes: [Option<NonNull<Node>>; MAX_LEVELS as usize],
    len: usize,
}

impl<'a, M: NodeMem> Pool<'a, M> {
    /// A pool without nodes.
    #[must_use]
    pub const fn new(mem: &'a M) -> Self {
        Self {
            mem,
            nodes: [None; MAX_LEVELS as usize],
            len: 0,
        }
    }

    /// Brings the pool to `want` nodes. May sleep.
    ///
    /// # Returns
    ///
    /// Whether there was memory for it.
    #[must_use]
    pub fn fill(&mut self, want: usize) -> bool {
        while self.len < want.min(self.nodes.len()) {
            let Some(node) = self.mem.alloc() else {
                return false;
            };
            self.nodes[self.len] = Some(node);
            self.len += 1;
        }
        true
    }

    /// Nodes in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no node.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn take(&mut self) -> Option<NonNull<Node>> {
        self.len = self.len.checked_sub(1)?;
        self.nodes[self.len].take()
    }
}

impl<M: NodeMem> Drop for Pool<'_, M> {
    fn drop(&mut self) {
        while let Some(node) = self.take() {
            // SAFETY: by the type's invariant the node came from `mem`, and it is ours.
            unsafe { self.mem.free(node) };
        }
    }
}

/// An insertion lacked this many nodes in its pool. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedNodes(pub usize);

/// The translations of one region.
///
/// `&self` methods run concurrently with each other (the region's lock held shared); `&mut self`
/// methods run alone.
///
/// # Invariants
///
/// A non-zero directory slot holds the address of a live node, owned by the table, and in its low
/// bits how many of that node's slots are not zero: never 0 outside of a method.
#[derive(Debug)]
pub struct Table<M: NodeMem> {
    root: AtomicU64,
    levels: u32,
    nodes: usize,
    entries: u64,
    mem: M,
}

fn child(slot: u64) -> Option<NonNull<Node>> {
    NonNull::new(ptr::with_exposed_provenance_mut((slot & !COUNT) as usize))
}

const fn index(page: u64, level: u32) -> usize {
    (page >> (BITS * level)) as usize & (SLOTS - 1)
}

/// Pages below one slot of a node at `level`.
const fn span(level: u32) -> u64 {
    1 << (BITS * level)
}

fn bump(holder: &AtomicU64, by: i64) {
    holder.store(holder.load(Relaxed).wrapping_add_signed(by), Relaxed);
}

impl<M: NodeMem> Table<M> {
    /// An empty table for page indexes below `pages`.
    #[must_use]
    pub fn new(pages: u64, mem: M) -> Self {
        let mut levels = 1;
        while levels < MAX_LEVELS && pages > span(levels) {
            levels += 1;
        }
        Self {
            root: AtomicU64::new(0),
            levels,
            nodes: 0,
            entries: 0,
            mem,
        }
    }

    /// Where its nodes come from.
    #[must_use]
    pub fn mem(&self) -> &M {
        &self.mem
    }

    /// Bytes that its nodes take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.nodes as u64 * PAGE_SIZE
    }

    /// Translations in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries
    }

    /// Whether it holds no translation; then it holds no node either.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn slot(&self, page: u64) -> Option<&AtomicU64> {
        if page >= span(self.levels) {
            return None;
        }
        let mut slot = &self.root;
        for level in (0..self.levels).rev() {
            let node = child(slot.load(Relaxed))?;
            // SAFETY: by the type's invariant the slot points to a live node; `&self` keeps it
            // alive, since nodes go with `&mut self` only.
            slot = unsafe { &node.as_ref().0[index(page, level)] };
        }
        Some(slot)
    }

    /// The translation of `page`.
    #[must_use]
    pub fn get(&self, page: u64) -> Option<Entry> {
        Entry::from_raw(self.slot(page)?.load(Relaxed))
    }

    /// The translation of `page` for an access, which is noted in it.
    ///
    /// # Returns
    ///
    /// `None` when there is no translation that allows this kind of access.
    #[must_use]
    pub fn access(&self, page: u64, write: bool) -> Option<Entry> {
        let slot = self.slot(page)?;
        let entry = Entry::from_raw(slot.load(Relaxed))?;
        if !entry.allows(write) {
            return None;
        }
        let marks = Entry::marks(write);
        if entry.raw() & marks != marks {
            slot.fetch_or(marks, Relaxed);
        }
        Some(entry)
    }

    /// Nodes that an insertion anywhere in the part of `page` lacks.
    #[must_use]
    pub fn missing(&self, page: u64) -> usize {
        let mut slot = &self.root;
        for level in (0..self.levels).rev() {
            let Some(node) = child(slot.load(Relaxed)) else {
                return level as usize + 1;
            };
            // SAFETY: as in `slot`.
            slot = unsafe { &node.as_ref().0[index(page, level)] };
        }
        0
    }

    /// Enters the translation of `page`, or replaces it.
    ///
    /// # Errors
    ///
    /// [`NeedNodes`] when `pool` is too small; nothing is changed then.
    ///
    /// # Preconditions
    ///
    /// `page` is below the number of pages that the table was made for.
    pub fn insert(
        &mut self,
        page: u64,
        entry: Entry,
        pool: &mut Pool<'_, M>,
    ) -> Result<(), NeedNodes> {
        let need = self.missing(page);
        if page >= span(self.levels) || need > pool.len {
            return Err(NeedNodes(need));
        }
        // The slot that points to the node that `slot` is in.
        let mut holder: Option<&AtomicU64> = None;
        let mut slot = &self.root;
        for level in (0..self.levels).rev() {
            let node = match child(slot.load(Relaxed)) {
                Some(node) => node,
                None => {
                    let Some(node) = pool.take() else {
                        return Err(NeedNodes(need));
                    };
                    slot.store(node.as_ptr().expose_provenance() as u64, Relaxed);
                    self.nodes += 1;
                    if let Some(holder) = holder {
                        bump(holder, 1);
                    }
                    node
                }
            };
            holder = Some(slot);
            // SAFETY: the node is live: it was in the table, or the pool just gave it.
            slot = unsafe { &node.as_ref().0[index(page, level)] };
        }
        if slot.load(Relaxed) == 0 {
            self.entries += 1;
            if let Some(holder) = holder {
                bump(holder, 1);
            }
        }
        slot.store(entry.raw(), Relaxed);
        Ok(())
    }

    /// Removes the translations of `range`; `gone` sees each, in order.
    pub fn clear(&mut self, range: PageRange, mut gone: impl FnMut(u64, Entry)) {
        let (mut nodes, mut entries) = (0, 0);
        clear_below(
            &self.mem,
            &self.root,
            self.levels - 1,
            0,
            range.intersect(&PageRange::new(0, span(self.levels))),
            &mut nodes,
            &mut |page, entry| {
                entries += 1;
                gone(page, entry);
            },
        );
        self.nodes -= nodes;
        self.entries -= entries;
    }

    /// The pages of `range` in the first part that has a translation table leaf.
    #[must_use]
    pub fn first_part(&self, range: PageRange) -> Option<PageRange> {
        let range = range.intersect(&PageRange::new(0, span(self.levels)));
        let page = first_below(&self.root, self.levels - 1, 0, range)?;
        Some(PageRange::part_of(page).intersect(&range))
    }

    /// Whether a translation in `range` was used since the last clearing call; `clear` forgets it.
    ///
    /// Runs with the lock shared: a mark that an access sets at the same time may stay or go, as
    /// with the accessed bit of a CPU's page table.
    pub fn young(&self, range: PageRange, clear: bool) -> bool {
        let mut young = false;
        let mut rest = range;
        while let Some(part) = self.first_part(rest) {
            for page in part.start..part.end {
                let Some(slot) = self.slot(page) else { break };
                if slot.load(Relaxed) & Entry::ACCESSED != 0 {
                    young = true;
                    if !clear {
                        return true;
                    }
                    slot.fetch_and(!Entry::ACCESSED, Relaxed);
                }
            }
            rest.start = part.end.min(rest.end);
        }
        young
    }
}

impl<M: NodeMem> Drop for Table<M> {
    fn drop(&mut self) {
        self.clear(PageRange::new(0, span(self.levels)), |_, _| ());
    }
}

/// Slots of a node at `level`, whose first page is `base`, that overlap `range`, with the first
/// page of each.
fn overlapping(level: u32, base: u64, range: PageRange) -> impl Iterator<Item = (usize, u64)> {
    let step = span(level);
    let first = range.start.max(base);
    let end = range.end.min(base + step * SLOTS as u64);
    let from = if first < end {
        (first - base) / step
    } else {
        1
    };
    let to = if first < end {
        (end - 1 - base) / step
    } else {
        0
    };
    (from..=to).map(move |i| (i as usize, base + i * step))
}

fn clear_below<M: NodeMem>(
    mem: &M,
    holder: &AtomicU64,
    level: u32,
    base: u64,
    range: PageRange,
    nodes: &mut usize,
    gone: &mut dyn FnMut(u64, Entry),
) {
    let Some(node) = child(holder.load(Relaxed)) else {
        return;
    };
    for (i, page) in overlapping(level, base, range) {
        // SAFETY: the holder points to a live node, and this call has the table to itself.
        let slot = unsafe { &node.as_ref().0[i] };
        let raw = slot.load(Relaxed);
        if raw == 0 {
            continue;
        }
        if level > 0 {
            clear_below(mem, slot, level - 1, page, range, nodes, gone);
        } else {
            slot.store(0, Relaxed);
            if let Some(entry) = Entry::from_raw(raw) {
                gone(page, entry);
            }
        }
        if slot.load(Relaxed) == 0 {
            bump(holder, -1);
        }
    }
    if holder.load(Relaxed) & COUNT == 0 {
        holder.store(0, Relaxed);
        *nodes += 1;
        // SAFETY: the node came from `mem` through a pool; nothing points to it any more.
        unsafe { mem.free(node) };
    }
}

fn first_below(holder: &AtomicU64, level: u32, base: u64, range: PageRange) -> Option<u64> {
    let node = child(holder.load(Relaxed))?;
    if level == 0 {
        return (!range.is_empty()).then_some(range.start.max(base));
    }
    overlapping(level, base, range).find_map(|(i, page)| {
        // SAFETY: the holder points to a live node, which the table's borrow keeps.
        let slot = unsafe { &node.as_ref().0[i] };
        first_below(slot, level - 1, page, range)
    })
}
