//! What a [`Peer`](super::peer::Peer) is told, and what it answers: one message each, over a socket that keeps their bounds.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The most bytes of memory in one message.
pub const MOST: usize = 96 << 10;

/// The descriptor of the socket that a forked child serves on.
pub const SECOND: i32 = 200;

/// What it is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Order {
    /// Opens the device anew. Answers with the descriptor.
    Open,
    /// Takes the descriptor of another process: (pid, fd).
    Steal,
    /// Closes the device.
    Close,
    /// `ioctl` of the device: (request, five words of the argument). Answers with the words.
    Ioctl,
    /// Reads memory: (address, count). Answers with the bytes.
    Load,
    /// Writes a pattern: (address, count, seed, position).
    Store,
    /// Adds to 8 bytes: (address, value). Answers with what they were.
    Add,
    /// Compares and swaps 8 bytes: (address, expected, new). Answers with what they were.
    Swap,
    /// Copies: (to, from, count).
    Copy,
    /// The kernel reads memory: (address, count). Answers with the bytes.
    KernelReads,
    /// The kernel writes a pattern to memory: (address, count, seed, position).
    KernelWrites,
    /// A number for each page that its bytes decide: (address, count).
    Digest,
    /// Adds to 8 bytes without pause, and writes the rest of the page: (address, how often).
    Hammer,
    /// `mmap` of memory of its own: (address or 0, count, protection, flags).
    Map,
    /// `munmap`: (address, count).
    Unmap,
    /// `mprotect`: (address, count, protection).
    Protect,
    /// `mremap`: (address, old count, new count, flags, new address).
    Remap,
    /// `madvise`: (address, count, advice).
    Advise,
    /// A userfaultfd that nobody reads watches memory: (address, count).
    Watch,
    /// Forks. The child answers on the second socket from then on.
    Fork,
    /// Ends by `_exit`: (status).
    Exit,
    /// `execve` of `sleep`.
    Exec,
    /// Allocates until it is ended.
    Hoard,
    /// Gets, attaches, writes 8 bytes, detaches and releases: (segment, count of bytes, how often).
    Cycle,
    /// A thread attaches and detaches, others touch what is there or not: (permit, count of bytes, how often).
    Race,
    /// `prctl(PR_SET_DUMPABLE)`: (value).
    Dumpable,
}

impl Order {
    const ALL: [Self; 26] = [
        Self::Open,
        Self::Steal,
        Self::Close,
        Self::Ioctl,
        Self::Load,
        Self::Store,
        Self::Add,
        Self::Swap,
        Self::Copy,
        Self::KernelReads,
        Self::KernelWrites,
        Self::Digest,
        Self::Hammer,
        Self::Map,
        Self::Unmap,
        Self::Protect,
        Self::Remap,
        Self::Advise,
        Self::Watch,
        Self::Fork,
        Self::Exit,
        Self::Exec,
        Self::Hoard,
        Self::Cycle,
        Self::Race,
        Self::Dumpable,
    ];
}

/// Words of an order.
pub const WORDS: usize = 6;

/// An order and its words.
pub fn encode(order: Order, words: [u64; WORDS]) -> Vec<u8> {
    let all = std::iter::once(order as u64).chain(words);
    all.flat_map(u64::to_ne_bytes).collect()
}

/// The words of a message, or of memory; what is left at its end is a word with zeros.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    })
}

/// The other way.
pub fn decode(message: &[u8]) -> Option<(Order, [u64; WORDS])> {
    let mut all = words(message);
    let order = *Order::ALL.get(all.next()? as usize)?;
    let mut words = [0; WORDS];
    for word in &mut words {
        *word = all.next()?;
    }
    Some((order, words))
}

/// How an order went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Well, with a value and bytes.
    Done(u64, Vec<u8>),
    /// A call failed with this errno.
    Errno(i32),
    /// An access was answered with this signal, which named an address.
    Signal(i32, usize),
}

impl Answer {
    /// As a message.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, value, bytes) = match self {
            Self::Done(value, bytes) => (0u64, *value, &bytes[..]),
            Self::Errno(errno) => (1, *errno as u64, &[][..]),
            Self::Signal(number, address) => ((*number as u64) << 8 | 2, *address as u64, &[][..]),
        };
        let head = [kind.to_ne_bytes(), value.to_ne_bytes()].concat();
        [&head, bytes].concat()
    }

    /// The other way.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (head, bytes) = message.split_at_checked(16)?;
        let mut all = words(head);
        let (kind, value) = (all.next()?, all.next()?);
        Some(match kind & 0xff {
            0 => Self::Done(value, bytes.to_vec()),
            1 => Self::Errno(value as i32),
            _ => Self::Signal((kind >> 8) as i32, value as usize),
        })
    }
}

/// Sends a message.
pub fn send(socket: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: so many bytes are there.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            message.as_ptr().cast(),
            message.len(),
            flags,
        )
    };
    match sent {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Receives one; an empty one is the end.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut message = vec![0; MOST + 64];
    // SAFETY: room for so many bytes.
    let got = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            message.as_mut_ptr().cast(),
            message.len(),
            0,
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    message.truncate(got as usize);
    Ok(message)
}

/// A number for each page of memory, which its bytes decide.
pub fn digest(bytes: &[u8]) -> Vec<u8> {
    let of_page = |page: &[u8]| {
        let mix = |sum: u64, word: u64| {
            (sum ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(23)
        };
        words(page).fold(page.len() as u64, mix)
    };
    let pages = bytes.chunks(crate::mem::PAGE);
    pages.flat_map(|page| of_page(page).to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_as_they_went() {
        for order in Order::ALL {
            let words = [1, 2, u64::MAX, 4, 5, 6];
            assert_eq!(decode(&encode(order, words)), Some((order, words)));
        }
        assert_eq!(decode(&[0; 8]), None);
        for answer in [
            Answer::Done(7, vec![1, 2, 3]),
            Answer::Errno(2004),
            Answer::Signal(7, 0x1234),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn one_byte_changes_its_page_alone() {
        let mut bytes = vec![3; 3 * crate::mem::PAGE];
        let before = digest(&bytes);
        bytes[crate::mem::PAGE + 77] ^= 1;
        let after = digest(&bytes);
        let pages = before.chunks(8).zip(after.chunks(8));
        let differ: Vec<bool> = pages.map(|(a, b)| a != b).collect();
        assert_eq!(differ, [false, true, false]);
    }
}
