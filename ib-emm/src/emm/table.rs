// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sparse translation table: a radix tree of 4 KiB nodes over page indexes.
//!
//! The tree is as high as the region is long: a region within one part is one leaf, a GiB has one
//! directory. A node exists only while something is in it. How many of a node's slots are used is
//! kept in the low bits of the slot that points to it, so that a node is exactly one page. A huge
//! page takes no leaf: its entry stands in the slot that would point to one.
//!
//! Nothing here allocates: nodes come from a [`Pool`] that was filled with no lock held.

use super::{
    Entry, Frame, PAGE_SIZE, PART_PAGES, PageRange,
    node::{BITS, MAX_LEVELS, Node, NodeMem, Pool, SLOTS},
};
use core::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Low bits of a directory slot: used slots of the node it points to.
const COUNT: u64 = 0x7ff;
/// Slots never count up to a huge entry's mark, nor does a huge entry look like a count.
const _: () = assert!(SLOTS as u64 <= COUNT && COUNT & Entry::HUGE == 0);
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
/// bits how many of that node's slots are not zero: never 0 outside of a method. Only a slot that
/// would point to a leaf may hold a huge entry instead.
#[derive(Debug)]
pub struct Table<M: NodeMem> {
    root: AtomicU64,
    // Bits of page index that it has slots for: `BITS` a level, one level at least.
    bits: u32,
    nodes: usize,
    entries: u64,
    mem: M,
}

/// The node that a directory slot points to.
fn child(slot: u64) -> Option<NonNull<Node>> {
    if slot & Entry::HUGE != 0 {
        return None;
    }
    NonNull::new(ptr::with_exposed_provenance_mut((slot & !COUNT) as usize))
}

/// The huge entry in a directory slot.
fn huge(slot: u64) -> Option<Entry> {
    Entry::from_raw(slot).filter(|_| slot & Entry::HUGE != 0)
}

const fn index(page: u64, level: u32) -> usize {
    index_above(page, BITS * level)
}

/// The slot of `page` in a node whose slots stand for `bits` bits of page index each.
const fn index_above(page: u64, bits: u32) -> usize {
    (page >> bits) as usize & (SLOTS - 1)
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
            bits: BITS * levels,
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

    /// Its height: 1 if the root points to a leaf.
    const fn levels(&self) -> u32 {
        self.bits / BITS
    }

    /// Page indexes that it has slots for.
    const fn capacity(&self) -> u64 {
        1 << self.bits
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

    /// The slot that holds the translation of `page`, a huge one included.
    fn slot(&self, page: u64) -> Option<&AtomicU64> {
        let mut below = self.bits;
        if page >> below != 0 {
            return None;
        }
        let mut slot = &self.root;
        while below > 0 {
            let raw = slot.load(Relaxed);
            if raw & Entry::HUGE != 0 {
                return Some(slot);
            }
            let node = child(raw)?;
            below -= BITS;
            // SAFETY: by the type's invariant the slot points to a live node; `&self` keeps it
            // alive, since nodes go with `&mut self` only.
            slot = unsafe { &node.as_ref().0[index_above(page, below)] };
        }
        Some(slot)
    }

    /// The translation of `page`: its own frame, also where a huge entry stands for it.
    #[must_use]
    pub fn get(&self, page: u64) -> Option<Entry> {
        Entry::from_raw(self.slot(page)?.load(Relaxed)).map(|e| e.at(page))
    }

    /// Whether a huge entry translates `page`.
    #[must_use]
    pub fn is_huge(&self, page: u64) -> bool {
        self.slot(page)
            .is_some_and(|slot| huge(slot.load(Relaxed)).is_some())
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
        Some(entry.at(page))
    }

    /// Nodes that an insertion anywhere in the part of `page` lacks. A huge entry there counts as
    /// a leaf that is missing: a small one splits it.
    #[must_use]
    pub fn missing(&self, page: u64) -> usize {
        let mut slot = &self.root;
        for level in (0..self.levels()).rev() {
            let Some(node) = child(slot.load(Relaxed)) else {
                return level as usize + 1;
            };
            // SAFETY: as in `slot`.
            slot = unsafe { &node.as_ref().0[index(page, level)] };
        }
        0
    }

    /// Enters the translation of `page`, or replaces it. A huge entry in its place is split. What
    /// was dirty stays so.
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
        if page >= self.capacity() || need > pool.len() {
            return Err(NeedNodes(need));
        }
        let Some((holder, slot)) =
            descend(&self.root, self.levels(), 0, page, &mut self.nodes, pool)
        else {
            return Err(NeedNodes(need));
        };
        let old = Entry::from_raw(slot.load(Relaxed));
        if old.is_none() {
            bump(holder, 1);
            self.entries += 1;
        }
        let dirty = old.is_some_and(Entry::dirty);
        slot.store(entry.with_dirty(dirty).raw(), Relaxed);
        Ok(())
    }

    /// Enters the translations of `range` to `frames`, where there is none yet that allows as much.
    /// A huge entry in their place is split. What was dirty stays so.
    ///
    /// # Errors
    ///
    /// As for [`insert`](Self::insert).
    ///
    /// # Preconditions
    ///
    /// `range` lies inside one part and below the number of pages that the table was
    /// made for.
    pub fn fill(
        &mut self,
        range: PageRange,
        frames: impl Iterator<Item = Frame>,
        pool: &mut Pool<'_, M>,
    ) -> Result<(), NeedNodes> {
        if range.is_empty() {
            return Ok(());
        }
        let need = self.missing(range.start);
        if range.end > self.capacity() || need > pool.len() {
            return Err(NeedNodes(need));
        }
        let found = descend(
            &self.root,
            self.levels(),
            0,
            range.start,
            &mut self.nodes,
            pool,
        );
        let Some((holder, leaf)) = found.and_then(|(h, _)| Some((h, child(h.load(Relaxed))?)))
        else {
            return Err(NeedNodes(need));
        };
        // SAFETY: by the type's invariant the leaf is live, and `&mut self` excludes others.
        let slots = unsafe { &leaf.as_ref().0 };
        let mut new = 0;
        for (slot, frame) in slots[index(range.start, 0)..].iter().zip(frames) {
            let old = Entry::from_raw(slot.load(Relaxed));
            if old.is_some_and(|old| old.allows(frame.writable)) {
                continue;
            }
            new += i64::from(old.is_none());
            let dirty = old.is_some_and(Entry::dirty);
            slot.store(Entry::of(frame).with_dirty(dirty).raw(), Relaxed);
        }
        bump(holder, new);
        self.entries += new.unsigned_abs();
        Ok(())
    }

    /// Enters one translation for the whole part of `page`, in place of all that stands there.
    /// What was dirty stays so.
    ///
    /// # Errors
    ///
    /// [`NeedNodes`] when `pool` is too small; nothing is changed then.
    ///
    /// # Preconditions
    ///
    /// As for [`insert`](Self::insert), and `entry` is huge: the same frames as those that the
    /// part's entries name, if any.
    pub fn insert_huge(
        &mut self,
        page: u64,
        entry: Entry,
        pool: &mut Pool<'_, M>,
    ) -> Result<(), NeedNodes> {
        let need = self.missing(page).saturating_sub(1);
        if page >= self.capacity() || need > pool.len() {
            return Err(NeedNodes(need));
        }
        let Some((holder, slot)) =
            descend(&self.root, self.levels(), 1, page, &mut self.nodes, pool)
        else {
            return Err(NeedNodes(need));
        };
        let raw = slot.load(Relaxed);
        let mut dirty = huge(raw).is_some_and(Entry::dirty);
        if let Some(leaf) = child(raw) {
            // SAFETY: by the type's invariant the leaf is live, and `&mut self` excludes others.
            let slots = unsafe { &leaf.as_ref().0 };
            dirty |= slots
                .iter()
                .filter_map(|slot| Entry::from_raw(slot.load(Relaxed)))
                .any(Entry::dirty);
            self.entries -= raw & COUNT;
            self.nodes -= 1;
            // SAFETY: it came from `mem` through a pool; the store below forgets it.
            unsafe { self.mem.free(leaf) };
        } else if raw != 0 {
            self.entries -= PART_PAGES;
        } else if self.levels() > 1 {
            bump(holder, 1);
        }
        slot.store(entry.with_dirty(dirty).raw(), Relaxed);
        self.entries += PART_PAGES;
        Ok(())
    }

    /// Removes the translations of `range`; `gone` sees each, in order. A huge one goes whole, also
    /// if `range` holds only some of its pages: `gone` sees it once, with its part's first page.
    pub fn clear(&mut self, range: PageRange, mut gone: impl FnMut(u64, Entry)) {
        let (mut nodes, mut entries) = (0, 0);
        clear_below(
            &self.mem,
            &self.root,
            self.levels() - 1,
            0,
            range.intersect(&PageRange::new(0, self.capacity())),
            &mut nodes,
            &mut |page, entry| {
                entries += entry.pages();
                gone(page, entry);
            },
        );
        self.nodes -= nodes;
        self.entries -= entries;
    }

    /// The pages of `range` in the first part that has a translation table leaf.
    #[must_use]
    pub fn first_part(&self, range: PageRange) -> Option<PageRange> {
        let range = range.intersect(&PageRange::new(0, self.capacity()));
        let page = first_below(&self.root, self.levels() - 1, 0, range)?;
        Some(PageRange::part_of(page).intersect(&range))
    }

    /// Whether a translation in `range` was used lately. With `clear` this is a look of the VM's
    /// aging: a use lasts for [`Entry::LOOKS`] of them.
    ///
    /// Runs with the lock shared: a mark that an access sets at the same time may stay or go, as
    /// with the accessed bit of a CPU's page table.
    pub fn young(&self, range: PageRange, clear: bool) -> bool {
        let mut young = false;
        let mut rest = range;
        while let Some(part) = self.first_part(rest) {
            for page in part.start..part.end {
                let Some(slot) = self.slot(page) else { break };
                let raw = slot.load(Relaxed);
                if raw & Entry::ACCESSED != 0 {
                    young = true;
                    if !clear {
                        return true;
                    }
                    // An access that comes between lasts for all looks anew.
                    let looked_at = Entry::looked_at(raw);
                    let _ = slot.compare_exchange(raw, looked_at, Relaxed, Relaxed);
                }
                if raw & Entry::HUGE != 0 {
                    break;
                }
            }
            rest.start = part.end.min(rest.end);
        }
        young
    }
}

impl<M: NodeMem> Drop for Table<M> {
    fn drop(&mut self) {
        self.clear(PageRange::new(0, self.capacity()), |_, _| ());
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

/// Goes down from `root` to the slot of `page` at level `stop`, making nodes on the way and
/// splitting a huge entry that stands in it.
///
/// # Returns
///
/// The slot that points to the node of the slot found (`root`, if there is none above), and the
/// slot. `None` when `pool` ran out.
fn descend<'a, M: NodeMem>(
    root: &'a AtomicU64,
    levels: u32,
    stop: u32,
    page: u64,
    nodes: &mut usize,
    pool: &mut Pool<'_, M>,
) -> Option<(&'a AtomicU64, &'a AtomicU64)> {
    let mut holder = root;
    let mut slot = root;
    for level in (stop..levels).rev() {
        let raw = slot.load(Relaxed);
        let node = match child(raw) {
            Some(node) => node,
            None => {
                let node = pool.take()?;
                let mut address = node.as_ptr().expose_provenance() as u64;
                if let Some(entry) = huge(raw) {
                    split(node, entry);
                    address += SLOTS as u64;
                } else if level + 1 < levels {
                    bump(holder, 1);
                }
                slot.store(address, Relaxed);
                *nodes += 1;
                node
            }
        };
        holder = slot;
        // SAFETY: the node is live: it was in the table, or the pool just gave it.
        slot = unsafe { &node.as_ref().0[index(page, level)] };
    }
    Some((holder, slot))
}

/// Fills the empty leaf `node` with what the huge `entry` stands for.
fn split(node: NonNull<Node>, entry: Entry) {
    for (i, page) in (0..PART_PAGES).enumerate() {
        // SAFETY: a node from a pool is live, and nobody else has it yet.
        let slot = unsafe { &node.as_ref().0[i] };
        slot.store(entry.at(page).raw(), Relaxed);
    }
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
    if let Some(entry) = huge(holder.load(Relaxed)) {
        if !range.intersect(&PageRange::part_of(base)).is_empty() {
            holder.store(0, Relaxed);
            gone(base, entry);
        }
        return;
    }
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
    let raw = holder.load(Relaxed);
    if level == 0 {
        return (raw != 0 && !range.is_empty()).then_some(range.start.max(base));
    }
    let node = child(raw)?;
    overlapping(level, base, range).find_map(|(i, page)| {
        // SAFETY: the holder points to a live node, which the table's borrow keeps.
        let slot = unsafe { &node.as_ref().0[i] };
        first_below(slot, level - 1, page, range)
    })
}
