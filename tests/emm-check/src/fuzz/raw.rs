//! uverbs' system calls without libibverbs: commands by `write`, objects by `ioctl`.

use std::io;

use super::plan::{Attribute, Pointer};

/// `RDMA_VERBS_IOCTL`: `_IOWR(0x1b, 1, struct ib_uverbs_ioctl_hdr)`.
const IOCTL: libc::c_ulong = 3 << 30 | (HEADER as libc::c_ulong) << 16 | 0x1b << 8 | 1;
/// Bytes of `struct ib_uverbs_ioctl_hdr`.
const HEADER: usize = 24;
/// Bytes of `struct ib_uverbs_attr`.
const ATTRIBUTE: usize = 16;
/// `RDMA_DRIVER_RXE`.
const DRIVER: u32 = 16;
/// Most bytes that an answer may have: its length is 16 bits, and counts words in commands.
const ANSWER: usize = 4 << 16;

/// Makes calls on one descriptor of uverbs.
pub struct Raw {
    /// Where answers go. Not read, and no Rust object but this one is written.
    scratch: Box<[u8]>,
}

impl Raw {
    pub fn new() -> Self {
        Self {
            scratch: vec![0; ANSWER].into(),
        }
    }

    fn pointer(&mut self, pointer: Pointer) -> u64 {
        match pointer {
            Pointer::Scratch => self.scratch.as_mut_ptr() as u64,
            Pointer::Null => 0,
            Pointer::Kernel => 0xffff_8880_0000_1000,
            Pointer::Last => u64::MAX - 7,
        }
    }

    /// `write` of a command with its answer's address and what follows.
    pub fn command(
        &mut self,
        fd: i32,
        number: u32,
        sizes: (u16, u16),
        answer: Pointer,
        words: &[u32],
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        bytes.extend(number.to_ne_bytes());
        bytes.extend(sizes.0.to_ne_bytes());
        bytes.extend(sizes.1.to_ne_bytes());
        bytes.extend(self.pointer(answer).to_ne_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        // SAFETY: the bytes outlive the call; answers go to the scratch memory or nowhere.
        let ret = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// `ioctl` of a method of an object.
    pub fn ioctl(
        &mut self,
        fd: i32,
        object: u16,
        method: u16,
        attributes: &[Attribute],
    ) -> io::Result<()> {
        let len = HEADER + ATTRIBUTE * attributes.len();
        let mut bytes = Vec::with_capacity(len);
        for half in [len as u16, object, method, attributes.len() as u16] {
            bytes.extend(half.to_ne_bytes());
        }
        bytes.extend(0_u64.to_ne_bytes());
        bytes.extend(DRIVER.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        for a in attributes {
            for half in [a.id, a.len, a.flags, a.extra] {
                bytes.extend(half.to_ne_bytes());
            }
            let data = match a.data {
                Ok(pointer) => self.pointer(pointer),
                Err(number) => number,
            };
            bytes.extend(data.to_ne_bytes());
        }
        // SAFETY: the bytes outlive the call and have the length that they say. Numbers in place of pointers are small or at
        // the ends of the address space, where nothing of this process is.
        let ret = unsafe { libc::ioctl(fd, IOCTL, bytes.as_mut_ptr()) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
