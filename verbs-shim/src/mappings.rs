// SPDX-License-Identifier: MIT OR Apache-2.0

//! What memory of the process is: from `/proc/self/maps`, and which pages of it are there, from `mincore(2)`.
//!
//! Source: `proc_pid_maps(5)`, `proc_pid_smaps(5)`, `ioctl_userfaultfd(2)`.

use crate::raw;
use core::ops::Range;

/// What is behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Nothing: memory of this process.
    Nothing,
    /// A file on a disk. To read a hole of it leaves the hole.
    Disk,
    /// Any other: tmpfs, memfd, hugetlbfs, shared memory, where to read a hole fills it; and what can't be told from these.
    Other,
}

/// A part of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Its addresses.
    pub(crate) range: Range<usize>,
    /// Whether it may be read.
    pub(crate) readable: bool,
    /// What is behind it.
    pub(crate) behind: Behind,
    /// Whether a userfaultfd is asked for pages that are not there (or, of a file, not mapped), and may answer late or never.
    pub(crate) watched: bool,
}

/// Shows what is mapped in `range` to `look`, in the order of addresses, until it returns `false`. `None` if it can't be read.
pub(crate) fn each(range: &Range<usize>, mut look: impl FnMut(&Mapping) -> bool) -> Option<()> {
    // Of all mappings, the kernel says only in the long list who is watched, and counts pages for it.
    let long = raw::has_descriptor_of(b"anon_inode:[userfaultfd]");
    let path = if long {
        c"/proc/self/smaps"
    } else {
        c"/proc/self/maps"
    };
    let mut last: Option<Mapping> = None;
    let mut show = |mapping: Option<Mapping>| {
        let here = mapping.filter(|m| m.range.start < range.end && range.start < m.range.end);
        here.is_none_or(|m| look(&m))
    };
    each_line(path, |line| {
        if let Some(new) = parse(line) {
            let beyond = new.range.start >= range.end;
            return show(last.replace(new)) && !beyond;
        }
        if let (Some(mapping), Some(flags)) = (&mut last, line.strip_prefix(b"VmFlags:")) {
            let watching = |flag: &[u8]| flag == b"um" || flag == b"ui";
            mapping.watched = flags.split(|byte| *byte == b' ').any(watching);
        }
        true
    })?;
    show(last);
    Some(())
}

/// A line of `/proc/self/maps`.
fn parse(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut ends = fields.next()?.split(|byte| *byte == b'-');
    let (start, end) = (number(ends.next()?, 16)?, number(ends.next()?, 16)?);
    let readable = fields.next()?.first() == Some(&b'r');
    let (_offset, device, file) = (fields.next()?, fields.next()?, number(fields.next()?, 10)?);
    let major = number(device.split(|byte| *byte == b':').next()?, 16)?;
    Some(Mapping {
        range: start..end,
        readable,
        behind: match (major, file) {
            (0, 0) => Behind::Nothing,
            (0, _) => Behind::Other,
            _ => Behind::Disk,
        },
        watched: false,
    })
}

fn number(text: &[u8], radix: u32) -> Option<usize> {
    usize::from_str_radix(core::str::from_utf8(text).ok()?, radix).ok()
}

/// Shows the lines of a file, cut off behind 256 bytes, until `look` returns `false`. `None` if it can't be read.
fn each_line(path: &core::ffi::CStr, mut look: impl FnMut(&[u8]) -> bool) -> Option<()> {
    let file = raw::open(path, libc::O_RDONLY)?;
    let (mut buffer, mut line, mut length) = ([0; 4096], [0; 256], 0);
    loop {
        let got = raw::read(&file, &mut buffer)?;
        if got.is_empty() {
            return Some(());
        }
        for byte in got {
            if *byte == b'\n' {
                if !look(&line[..length]) {
                    return Some(());
                }
                length = 0;
            } else if let Some(place) = line.get_mut(length) {
                *place = *byte;
                length += 1;
            }
        }
    }
}

/// Shows the ranges of `range`, which is one of whole pages, whose pages are there: in the page cache, for files. Nothing is shown of
/// what can't be told.
pub(crate) fn each_present(range: Range<usize>, page: usize, mut show: impl FnMut(Range<usize>)) {
    let mut there = [0_u8; 1024];
    let mut run = range.start..range.start;
    let mut at = range.start;
    while at < range.end {
        let pages = ((range.end - at) / page).clamp(1, there.len());
        let known = raw::present(at, pages * page, &mut there[..pages]);
        for is in &there[..pages] {
            if known && is & 1 == 1 {
                run.end = at + page;
            } else {
                if !run.is_empty() {
                    show(run);
                }
                run = at + page..at + page;
            }
            at += page;
        }
    }
    if !run.is_empty() {
        show(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let anonymous = b"7f0000000000-7f0000002000 rw-p 00000000 00:00 0 ";
        assert_eq!(
            parse(anonymous),
            Some(Mapping {
                range: 0x7f00_0000_0000..0x7f00_0000_2000,
                readable: true,
                behind: Behind::Nothing,
                watched: false,
            })
        );
        let behind = |line: &[u8]| parse(line).map(|m| (m.behind, m.readable));
        let disk = b"1000-2000 r--s 00000000 fd:01 1234                       /a file";
        assert_eq!(behind(disk), Some((Behind::Disk, true)));
        let shared = b"1000-2000 rw-s 00000000 00:01 1234   /dev/zero (deleted)";
        assert_eq!(behind(shared), Some((Behind::Other, true)));
        let guard = b"1000-2000 ---p 00000000 00:00 0 ";
        assert_eq!(behind(guard), Some((Behind::Nothing, false)));
        for none in [
            &b"Rss:                  12 kB"[..],
            b"VmFlags: rd wr um ",
            b"",
        ] {
            assert_eq!(parse(none), None);
        }
    }

    #[test]
    fn mappings_of_a_range() {
        let place = Box::new([0_u8; 64]);
        let start = place.as_ptr() as usize;
        let mut found = Vec::new();
        let all = each(&(start..start + 64), |mapping| {
            found.push(mapping.clone());
            true
        });
        assert!(all.is_some());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].range.contains(&start) && found[0].readable);
        let none = each(&(8..16), |_| panic!("nothing is mapped there"));
        assert!(none.is_some());
    }

    #[test]
    fn pages_that_are_there() {
        const PAGE: usize = 4096;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new memory, wherever there is room.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), 2000 * PAGE, access, flags, -1, 0) };
        let start = start as usize;
        for page in [1, 2, 1023, 1024, 1999] {
            // SAFETY: a byte of that memory.
            unsafe { ((start + page * PAGE) as *mut u8).write(1) };
        }
        let mut runs = Vec::new();
        each_present(start..start + 2000 * PAGE, PAGE, |run| {
            runs.push((run.start - start) / PAGE..(run.end - start) / PAGE);
        });
        assert_eq!(runs, [1..3, 1023..1025, 1999..2000]);
    }
}
