// SPDX-License-Identifier: MIT OR Apache-2.0

//! Copies from and to memory that others write at the same time, a word at once.

use std::{
    marker::PhantomData,
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Memory that is reached by atomic accesses only.
///
/// Which access a byte is reached by depends on its address alone, since atomic accesses of different sizes must not meet: whole aligned
/// words inside the memory by [`AtomicU64`], also if a part of one is wanted; the bytes before the first and behind the last one by
/// [`AtomicU8`].
#[derive(Clone, Copy)]
pub(crate) struct Shared<'m> {
    start: *mut u8,
    /// Bytes before the first word.
    head: usize,
    /// Bytes up to the end of the last word.
    body: usize,
    memory: PhantomData<&'m [AtomicU8]>,
}

impl Shared<'_> {
    /// # Safety
    ///
    /// The memory is mapped for reading and writing, and all who reach it do so by this type, or past the compiler's view.
    pub(crate) unsafe fn new(start: *mut u8, length: usize) -> Self {
        let head = start.addr().wrapping_neg() % WORD;
        let words = length.saturating_sub(head) / WORD;
        Self {
            start,
            head: head.min(length),
            body: head.min(length) + words * WORD,
            memory: PhantomData,
        }
    }

    /// The byte at `offset`, which is before the first word or behind the last one.
    fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: mapped, and reached by accesses of this size only.
        unsafe { AtomicU8::from_ptr(self.start.wrapping_add(offset)) }
    }

    /// The word at `offset`, which is one.
    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset >= self.head && (offset - self.head) % WORD == 0);
        // SAFETY: mapped, aligned, and reached by accesses of this size only.
        unsafe { AtomicU64::from_ptr(self.start.wrapping_add(offset).cast()) }
    }

    /// How a range of `length` bytes at `offset`, inside the memory, is made up.
    fn cut(&self, offset: usize, length: usize) -> Cut {
        let head = self.head.saturating_sub(offset).min(length);
        let at = offset + head;
        let body = self.body.saturating_sub(at).min(length - head);
        let skip = at.wrapping_sub(self.head) % WORD;
        let first = if body == 0 || skip == 0 {
            0
        } else {
            body.min(WORD - skip)
        };
        Cut {
            head,
            skip,
            first,
            rest: body - first,
        }
    }

    /// Copies from `offset` on into `bytes`. The range is inside the memory.
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) {
        let cut = self.cut(offset, bytes.len());
        let (head, bytes) = bytes.split_at_mut(cut.head);
        let (first, bytes) = bytes.split_at_mut(cut.first);
        let (rest, tail) = bytes.split_at_mut(cut.rest);
        let mut at = offset;
        for byte in head {
            *byte = self.byte(at).load(Relaxed);
            at += 1;
        }
        if !first.is_empty() {
            self.read_part(at, cut.skip, first);
            at += first.len();
        }
        let mut words = rest.chunks_exact_mut(WORD);
        for word in &mut words {
            word.copy_from_slice(&self.word(at).load(Relaxed).to_ne_bytes());
            at += WORD;
        }
        let last = words.into_remainder();
        if !last.is_empty() {
            self.read_part(at, 0, last);
            at += last.len();
        }
        for byte in tail {
            *byte = self.byte(at).load(Relaxed);
            at += 1;
        }
    }

    /// Copies the part at `at` of a word that begins `skip` bytes before it.
    fn read_part(&self, at: usize, skip: usize, bytes: &mut [u8]) {
        let word = self.word(at - skip).load(Relaxed).to_ne_bytes();
        bytes.copy_from_slice(&word[skip..][..bytes.len()]);
    }

    /// Copies `bytes` to `offset`. The range is inside the memory.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let cut = self.cut(offset, bytes.len());
        let (head, bytes) = bytes.split_at(cut.head);
        let (first, bytes) = bytes.split_at(cut.first);
        let (rest, tail) = bytes.split_at(cut.rest);
        let mut at = offset;
        for byte in head {
            self.byte(at).store(*byte, Relaxed);
            at += 1;
        }
        if !first.is_empty() {
            self.write_part(at, cut.skip, first);
            at += first.len();
        }
        let (words, last) = rest.split_at(rest.len() - rest.len() % WORD);
        for word in words.chunks_exact(WORD) {
            let mut whole = [0; WORD];
            whole.copy_from_slice(word);
            self.word(at).store(u64::from_ne_bytes(whole), Relaxed);
            at += WORD;
        }
        if !last.is_empty() {
            self.write_part(at, 0, last);
            at += last.len();
        }
        for byte in tail {
            self.byte(at).store(*byte, Relaxed);
            at += 1;
        }
    }

    /// Copies to the part at `at` of a word that begins `skip` bytes before it. Its other bytes stay what they are, whoever writes
    /// them at the same time.
    fn write_part(&self, at: usize, skip: usize, bytes: &[u8]) {
        let word = self.word(at - skip);
        let mut old = word.load(Relaxed);
        loop {
            let mut new = old.to_ne_bytes();
            new[skip..][..bytes.len()].copy_from_slice(bytes);
            match word.compare_exchange_weak(old, u64::from_ne_bytes(new), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }
}

/// The pieces of a range: bytes before the first word, a word's later part, words and the beginning of one, bytes.
struct Cut {
    head: usize,
    /// Bytes of the first word that are not in the range.
    skip: usize,
    first: usize,
    rest: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicBool, Ordering::Relaxed},
        thread,
        time::{Duration, Instant},
    };

    /// Every offset and length of memory that begins and ends anywhere in a word, against plain slices.
    #[test]
    fn every_offset_and_length() {
        for start in 0..WORD {
            for length in 0..4 * WORD {
                let mut backing = [0_u64; 8];
                let bytes = backing.as_mut_ptr().cast::<u8>();
                // SAFETY: `start + length` is less than the backing's 64 bytes.
                let shared = unsafe { Shared::new(bytes.wrapping_add(start), length) };
                let mut model = [0_u8; 64];
                let mut fill = 0_u8;
                for offset in 0..=length {
                    for count in 0..=length - offset {
                        let put: Vec<u8> = (0..count)
                            .map(|_| {
                                fill = fill.wrapping_add(1);
                                fill
                            })
                            .collect();
                        shared.write(offset, &put);
                        model[start + offset..][..count].copy_from_slice(&put);
                        let mut got = vec![0; count];
                        shared.read(offset, &mut got);
                        assert_eq!(got, put, "{count} bytes at {offset} of {length} at {start}");
                        let now = backing.map(u64::to_ne_bytes);
                        assert_eq!(
                            now.as_flattened(),
                            model,
                            "{count} bytes at {offset} of {length} at {start}"
                        );
                    }
                }
            }
        }
    }

    /// Another thread's writes are seen whole words at a time. A copy by bytes shows torn ones within milliseconds.
    #[test]
    fn words_are_not_torn() {
        let mut backing = [0_u64; 512];
        let bytes = backing.as_mut_ptr().cast::<u8>();
        // SAFETY: the backing, which is reached by copies only as long as they last.
        let shared = unsafe { Shared::new(bytes, size_of_val(&backing)) };
        let address = shared.start.expose_provenance();
        let done = AtomicBool::new(false);
        /// Ends the writer, also when the reader panics.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        thread::scope(|scope| {
            let _end = End(&done);
            scope.spawn(|| {
                // SAFETY: as above.
                let shared =
                    unsafe { Shared::new(std::ptr::with_exposed_provenance_mut(address), 8 * 512) };
                let mut fill = 0;
                while !done.load(Relaxed) {
                    fill = !fill;
                    shared.write(0, &[fill; 8 * 512]);
                }
            });
            let start = Instant::now();
            let mut got = [0; 8 * 512];
            let mut seen = [0_u32; 2];
            while start.elapsed() < Duration::from_secs(1) || seen.contains(&0) {
                shared.read(0, &mut got);
                for word in got.chunks_exact(WORD) {
                    assert!(word.iter().all(|byte| *byte == word[0]), "torn: {word:x?}");
                }
                seen[usize::from(got[0] != 0)] += 1;
                let late = start.elapsed() > Duration::from_secs(30);
                assert!(!late, "the writer was never met: {seen:?}");
            }
        });
    }

    /// Parts of one word by two threads: none undoes the other's.
    #[test]
    fn parts_of_a_word_are_kept() {
        let mut backing = [0_u64; 1];
        let address = backing.as_mut_ptr().expose_provenance();
        let start = Instant::now();
        // Long enough for both to run at once also on a busy machine: then a plain store undoes some within milliseconds.
        let go_on = || start.elapsed() < Duration::from_secs(1);
        let rounds = |half: usize| {
            // SAFETY: the backing, which is reached by copies only as long as they last.
            let shared =
                unsafe { Shared::new(std::ptr::with_exposed_provenance_mut(address), WORD) };
            let mut n = 0_u32;
            while n % 1000 != 0 || n == 0 || go_on() {
                shared.write(half, &n.to_ne_bytes());
                let mut got = [0; 4];
                shared.read(half, &mut got);
                assert_eq!(u32::from_ne_bytes(got), n);
                n += 1;
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| rounds(0));
            scope.spawn(|| rounds(4));
        });
    }
}
