// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table against maps, and its memory against what is in it.

use super::HostNodes;
use arbitrary::Arbitrary;
use ib_emm::emm::{Entry, PART_PAGES, PageRange, Pool, Table, table::NeedNodes};
use std::collections::{BTreeMap, BTreeSet};

/// Pages that tables are made for: of each height, up to the whole address space.
pub const SIZES: [u64; 5] = [1, 512, 512 * 512, 512 * 512 * 512 * 4, 1 << 52];

/// A page in one of a few clusters, so that operations meet.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Page {
    /// Which cluster.
    pub cluster: u8,
    /// Which page of it.
    pub at: u16,
}

impl Page {
    fn index(self) -> u64 {
        let base = [0, 0, 262_000, (1 << 28) - 300, (1 << 52) - 1100];
        base[usize::from(self.cluster) % base.len()] + u64::from(self.at) % 1100
    }
}

/// Something to do to a table.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    /// One page, with a pool that lacks a node if `short`.
    Insert {
        /// The page; of a part, any of its pages.
        page: Page,
        /// Its frame.
        pfn: u32,
        /// It may be written.
        write: bool,
        /// The pool lacks a node.
        short: bool,
    },
    /// A whole part.
    InsertHuge {
        /// The page; of a part, any of its pages.
        page: Page,
        /// Its frame.
        pfn: u32,
        /// It may be written.
        write: bool,
        /// The pool lacks a node.
        short: bool,
    },
    /// Takes so many pages out.
    Clear(Page, u16),
    /// Takes everything out.
    ClearAll,
    /// An access, to write if true.
    Access(Page, bool),
    /// Asks whether one of so many pages was used, and takes the marks if true.
    Young(Page, u16, bool),
    /// Asks for the first part in so many pages that holds something.
    FirstPart(Page, u32),
    /// Looks a page up.
    Get(Page),
}

/// What the entries of one part are: each page's, or one for all. Raw values.
enum Part {
    Small(BTreeMap<u64, u64>),
    Huge(u64),
}

/// A table and what should be in it.
pub struct Model {
    table: Table<HostNodes>,
    mem: HostNodes,
    pages: u64,
    parts: BTreeMap<u64, Part>,
}

fn range(start: Page, len: u64) -> PageRange {
    PageRange::new(start.index(), start.index() + len)
}

fn whole(part: u64) -> PageRange {
    PageRange::part_of(part * PART_PAGES)
}

impl Model {
    /// An empty table for one of [`SIZES`].
    pub fn new(size: usize) -> Self {
        let mem = HostNodes::default();
        let pages = SIZES[size % SIZES.len()];
        Self {
            table: Table::new(pages, mem.clone()),
            mem,
            pages,
            parts: BTreeMap::new(),
        }
    }

    /// Does `op` to both and compares what comes back.
    pub fn step(&mut self, op: Op) {
        match op {
            Op::Insert {
                page,
                pfn,
                write,
                short,
            } => {
                let page = page.index() % self.pages;
                self.insert(page, Entry::new(pfn.into(), write), short);
            }
            Op::InsertHuge {
                page,
                pfn,
                write,
                short,
            } => {
                let pfn = u64::from(pfn) * PART_PAGES;
                self.insert_huge(
                    page.index() % self.pages,
                    Entry::new_huge(pfn, write),
                    short,
                );
            }
            Op::Clear(start, len) => self.clear(range(start, len.into())),
            Op::ClearAll => self.clear(PageRange::new(0, 1 << 52)),
            Op::Access(page, write) => self.access(page.index(), write),
            Op::Young(start, len, clear) => self.young(range(start, len.into()), clear),
            Op::FirstPart(start, len) => {
                let range = range(start, len.into());
                let first = self.overlapping(range).next();
                let expected = first.map(|part| whole(part).intersect(&range));
                assert_eq!(self.table.first_part(range), expected);
            }
            Op::Get(page) => {
                let page = page.index();
                assert_eq!(self.table.get(page).map(Entry::raw), self.get(page));
                let huge = matches!(self.parts.get(&(page / PART_PAGES)), Some(Part::Huge(_)));
                assert_eq!(self.table.is_huge(page), huge);
            }
        }
        self.compare_sizes();
    }

    /// Compares all that is in it, and drops it.
    pub fn finish(self) {
        for (part, content) in &self.parts {
            let pages = match content {
                Part::Small(pages) => pages.keys().copied().collect::<Vec<_>>(),
                Part::Huge(_) => (whole(*part).start..whole(*part).end).collect(),
            };
            for page in pages {
                assert_eq!(self.table.get(page).map(Entry::raw), self.get(page));
            }
        }
        drop(self.table);
        assert_eq!(self.mem.live(), 0, "a dropped table gives everything back");
    }

    fn get(&self, page: u64) -> Option<u64> {
        match self.parts.get(&(page / PART_PAGES))? {
            Part::Small(pages) => pages.get(&page).copied(),
            Part::Huge(raw) => Entry::from_raw(*raw).map(|e| e.at(page).raw()),
        }
    }

    /// Parts with something in them that overlap `range`.
    fn overlapping(&self, range: PageRange) -> impl Iterator<Item = u64> + use<'_> {
        let first = range.start / PART_PAGES;
        let end = if range.is_empty() {
            first
        } else {
            (range.end - 1) / PART_PAGES + 1
        };
        self.parts.range(first..end).map(|(part, _)| *part)
    }

    /// Nodes that the path to a leaf of `page` lacks.
    fn missing(&self, page: u64) -> usize {
        let levels = self.levels();
        let part = page / PART_PAGES;
        let shared = |level: u32| {
            let mut parts = self.parts.keys();
            parts.any(|p| p >> (9 * level) == part >> (9 * level))
        };
        let directories = (1..levels).filter(|level| !shared(*level)).count();
        directories + usize::from(!matches!(self.parts.get(&part), Some(Part::Small(_))))
    }

    fn levels(&self) -> u32 {
        (1..).find(|l| self.pages <= 1 << (9 * l)).unwrap()
    }

    fn pool<'a>(&self, mem: &'a HostNodes, need: usize, short: bool) -> Pool<'a, HostNodes> {
        let mut pool = Pool::new(mem);
        let nodes = need.saturating_sub(usize::from(short));
        assert!(pool.fill(nodes), "the host has memory");
        pool
    }

    fn insert(&mut self, page: u64, entry: Entry, short: bool) {
        let need = self.missing(page);
        assert_eq!(self.table.missing(page), need);
        let mem = self.mem.clone();
        let mut pool = self.pool(&mem, need, short);
        let result = self.table.insert(page, entry, &mut pool);
        if need > 0 && short {
            assert_eq!(result, Err(NeedNodes(need)));
            return;
        }
        assert_eq!(result, Ok(()));
        assert!(pool.is_empty(), "no more is asked for than is used");
        let part = self
            .parts
            .entry(page / PART_PAGES)
            .or_insert_with(|| Part::Small(BTreeMap::new()));
        if let Part::Huge(raw) = *part {
            let entry = Entry::from_raw(raw).unwrap();
            let whole = PageRange::part_of(page);
            *part = Part::Small(
                (whole.start..whole.end)
                    .map(|page| (page, entry.at(page).raw()))
                    .collect(),
            );
        }
        if let Part::Small(pages) = part {
            let dirty = pages.get(&page).map_or(0, |raw| raw & Entry::DIRTY);
            pages.insert(page, entry.raw() | dirty);
        }
    }

    fn insert_huge(&mut self, page: u64, entry: Entry, short: bool) {
        let need = self.missing(page).saturating_sub(1);
        let mem = self.mem.clone();
        let mut pool = self.pool(&mem, need, short);
        let result = self.table.insert_huge(page, entry, &mut pool);
        if need > 0 && short {
            assert_eq!(result, Err(NeedNodes(need)));
            return;
        }
        assert_eq!(result, Ok(()));
        let dirty = match self.parts.get(&(page / PART_PAGES)) {
            Some(Part::Small(pages)) => pages.values().fold(0, |all, raw| all | raw),
            Some(Part::Huge(raw)) => *raw,
            None => 0,
        };
        let raw = entry.raw() | dirty & Entry::DIRTY;
        self.parts.insert(page / PART_PAGES, Part::Huge(raw));
    }

    fn clear(&mut self, range: PageRange) {
        let mut gone = Vec::new();
        self.table
            .clear(range, |page, entry| gone.push((page, entry.raw())));
        let mut expected = Vec::new();
        for part in self.overlapping(range).collect::<Vec<_>>() {
            let empty = match self.parts.get_mut(&part) {
                Some(Part::Small(pages)) => {
                    let hit = pages.range(range.start..range.end);
                    expected.extend(hit.map(|(page, raw)| (*page, *raw)));
                    pages.retain(|page, _| !range.contains(*page));
                    pages.is_empty()
                }
                Some(Part::Huge(raw)) => {
                    expected.push((whole(part).start, *raw));
                    true
                }
                None => false,
            };
            if empty {
                self.parts.remove(&part);
            }
        }
        assert_eq!(gone, expected, "cleared entries, in order");
    }

    fn access(&mut self, page: u64, write: bool) {
        let allowed = self
            .get(page)
            .and_then(Entry::from_raw)
            .filter(|e| e.allows(write));
        let got = self.table.access(page, write);
        assert_eq!(got.map(Entry::pfn), allowed.map(Entry::pfn));
        if allowed.is_some() {
            match self.parts.get_mut(&(page / PART_PAGES)) {
                Some(Part::Small(pages)) => *pages.get_mut(&page).unwrap() |= Entry::marks(write),
                Some(Part::Huge(raw)) => *raw |= Entry::marks(write),
                None => unreachable!("an entry without its part"),
            }
        }
    }

    fn young(&mut self, range: PageRange, clear: bool) {
        let mut young = false;
        let mut ask = |raw: &mut u64| {
            young |= *raw & Entry::ACCESSED != 0;
            if clear {
                *raw = Entry::looked_at(*raw);
            }
        };
        for part in self.overlapping(range).collect::<Vec<_>>() {
            match self.parts.get_mut(&part) {
                Some(Part::Small(pages)) => pages
                    .range_mut(range.start..range.end)
                    .for_each(|(_, raw)| ask(raw)),
                Some(Part::Huge(raw)) => ask(raw),
                None => (),
            }
        }
        assert_eq!(self.table.young(range, clear), young);
    }

    fn compare_sizes(&self) {
        let entries: u64 = self
            .parts
            .values()
            .map(|part| match part {
                Part::Small(pages) => pages.len() as u64,
                Part::Huge(_) => PART_PAGES,
            })
            .sum();
        assert_eq!(self.table.len(), entries);
        let leaves = self
            .parts
            .values()
            .filter(|part| matches!(part, Part::Small(_)))
            .count();
        let directories: usize = (1..self.levels())
            .map(|level| {
                let prefixes: BTreeSet<_> = self.parts.keys().map(|p| p >> (9 * level)).collect();
                prefixes.len()
            })
            .sum();
        assert_eq!(
            self.mem.live(),
            leaves + directories,
            "nodes in use, no others"
        );
        assert_eq!(self.table.bytes(), self.mem.live() as u64 * 4096);
    }
}
