// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory that can be registered.

use std::marker::PhantomData;

/// Memory that stays where it is while its owner is moved.
///
/// # Safety
///
/// Until the owner is used again or dropped, `range` names memory that is mapped for reading and writing and that
/// nothing else reaches by a reference. Moving the owner does not move it.
pub unsafe trait Memory {
    /// The first byte and the length in bytes.
    fn range(&mut self) -> (*mut u8, usize);
}

// SAFETY: the elements are on the heap, and the vector owns them alone.
unsafe impl Memory for Vec<u8> {
    fn range(&mut self) -> (*mut u8, usize) {
        (self.as_mut_ptr(), self.len())
    }
}

// SAFETY: the elements are on the heap, and the box owns them alone.
unsafe impl Memory for Box<[u8]> {
    fn range(&mut self) -> (*mut u8, usize) {
        (self.as_mut_ptr(), self.len())
    }
}

/// Memory that is borrowed for the time of [`crate::Domain::with_borrowed`].
#[derive(Debug)]
pub struct Borrowed<'m> {
    start: *mut u8,
    length: usize,
    memory: PhantomData<&'m mut [u8]>,
}

// SAFETY: it stands for an exclusive borrow, which can be sent.
unsafe impl Send for Borrowed<'_> {}

impl<'m> Borrowed<'m> {
    pub(crate) fn new(memory: &'m mut [u8]) -> Self {
        Self {
            start: memory.as_mut_ptr(),
            length: memory.len(),
            memory: PhantomData,
        }
    }
}

// SAFETY: the borrow is exclusive, and lasts as long as the type says.
unsafe impl Memory for Borrowed<'_> {
    fn range(&mut self) -> (*mut u8, usize) {
        (self.start, self.length)
    }
}
