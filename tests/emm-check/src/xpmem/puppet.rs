//! The process of a [`Peer`](super::peer::Peer): does what it is told, until the socket ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use ::xpmem::abi;
use anyhow::{Context as _, Result};

use super::touch::{self, Signalled};
use super::wire::{Answer, MOST, Order, SECOND, WORDS, decode, digest, receive, send};
use crate::child::pidfd;
use crate::mem::{Map, PAGE, Rng, pattern};
use crate::uffd::Uffd;

/// What is kept from order to order.
struct Puppet {
    device: Option<File>,
    /// Where the kernel copies from and to.
    file: File,
    watching: Vec<Uffd>,
}

/// Why an order failed.
enum Fault {
    Errno(i32),
    Signal(Signalled),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Signalled> for Fault {
    fn from(signalled: Signalled) -> Self {
        Self::Signal(signalled)
    }
}

/// Serves on the standard input.
pub fn serve() -> Result<()> {
    touch::prepare().context("handlers of signals")?;
    let mut puppet = Puppet {
        device: None,
        file: memfd().context("memfd_create")?,
        watching: Vec::new(),
    };
    // SAFETY: the standard input stays open.
    let socket = unsafe { BorrowedFd::borrow_raw(0) };
    loop {
        let message = receive(socket)?;
        let Some((order, words)) = decode(&message) else {
            return Ok(());
        };
        let answer = match puppet.obey(order, words) {
            Ok((value, bytes)) => Answer::Done(value, bytes),
            Err(Fault::Errno(errno)) => Answer::Errno(errno),
            Err(Fault::Signal(s)) => Answer::Signal(s.number, s.address),
        };
        send(socket, &answer.encode())?;
    }
}

fn memfd() -> io::Result<File> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"emm-xpmem".as_ptr(), libc::MFD_CLOEXEC) };
    owned(fd.into()).map(File::from)
}

/// A new descriptor, or the error.
fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn number(result: libc::c_long) -> io::Result<u64> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value as u64),
    }
}

fn address(mapped: *mut libc::c_void) -> io::Result<u64> {
    match mapped {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        at => Ok(at.addr() as u64),
    }
}

/// The call must have done all of it.
fn whole(done: isize, count: usize) -> io::Result<()> {
    match done {
        -1 => Err(io::Error::last_os_error()),
        done if done as usize == count => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

fn patterned(count: u64, seed: u64, position: u64) -> Vec<u8> {
    let mut bytes = vec![0; count as usize];
    pattern(seed, position as usize, &mut bytes);
    bytes
}

impl Puppet {
    fn obey(&mut self, order: Order, words: [u64; WORDS]) -> Result<(u64, Vec<u8>), Fault> {
        let nothing = Vec::new();
        let value = match order {
            Order::Open | Order::Steal | Order::Close => self.device(order, words)?,
            Order::Ioctl => return self.ioctl(words),
            Order::Load | Order::KernelReads | Order::Digest => {
                return Ok((0, self.read(order, words)?));
            }
            Order::Store | Order::KernelWrites => {
                self.write(order, words)?;
                0
            }
            Order::Add => touch::add(words[0] as usize, words[1])?,
            Order::Swap => touch::swap(words[0] as usize, words[1], words[2])?,
            Order::Copy => {
                let [to, from, count, ..] = words;
                touch::copy(to as usize, from as usize, count as usize)?;
                0
            }
            Order::Hammer => {
                for turn in 0..words[1] {
                    touch::add(words[0] as usize, 1)?;
                    let fill = [turn as u8; 256];
                    touch::store(words[0] as usize + 256, &fill)?;
                    touch::load(words[0] as usize + 256, &mut [0; 256])?;
                }
                0
            }
            Order::Watch => {
                let uffd = Uffd::new()?;
                // Somebody's memory, which stays mapped when this object goes.
                let map = Map::adopt(words[0] as usize, words[1] as usize);
                let watched = uffd.watch(&map, 0, map.len());
                std::mem::forget(map);
                watched?;
                self.watching.push(uffd);
                0
            }
            Order::Fork => fork()?,
            Order::Cycle => self.cycle(words)?,
            Order::Race => self.race(words)?,
            Order::Dumpable => {
                // SAFETY: numbers only.
                number(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, words[0], 0, 0, 0) }.into())?
            }
            // SAFETY: ends the process.
            Order::Exit => unsafe { libc::_exit(words[0] as i32) },
            Order::Exec => {
                use std::os::unix::process::CommandExt as _;
                // The socket goes on: it is the standard input.
                return Err(std::process::Command::new("sleep")
                    .arg("1000")
                    .exec()
                    .into());
            }
            Order::Hoard => loop {
                let map = Map::anon(1 << 20)?;
                for off in (0..map.len()).step_by(PAGE) {
                    map.set(off, 1, 1);
                }
                std::mem::forget(map);
            },
            Order::Map | Order::Unmap | Order::Protect | Order::Remap | Order::Advise => {
                change(order, words)?
            }
        };
        Ok((value, nothing))
    }

    fn device(&mut self, order: Order, words: [u64; WORDS]) -> io::Result<u64> {
        self.device = match order {
            Order::Open => Some(File::options().read(true).write(true).open("/dev/xpmem")?),
            Order::Steal => {
                let pidfd = pidfd(words[0] as i32)?;
                // SAFETY: takes numbers only.
                let fd =
                    unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), words[1], 0) };
                Some(owned(fd)?.into())
            }
            _ => None,
        };
        Ok(self
            .device
            .as_ref()
            .map_or(0, |file| file.as_raw_fd() as u64))
    }

    fn ioctl(&self, words: [u64; WORDS]) -> Result<(u64, Vec<u8>), Fault> {
        let fd = self.device.as_ref().map_or(-1, |file| file.as_raw_fd());
        let [request, argument @ ..] = words;
        // An argument of the caller's own, if there is nothing else in it.
        let mut argument = argument;
        let at = (&raw mut argument).cast::<libc::c_void>();
        // SAFETY: no request takes or gives more than these words.
        let value = number(unsafe { libc::ioctl(fd, request, at) }.into())?;
        Ok((
            value,
            argument.iter().flat_map(|w| w.to_ne_bytes()).collect(),
        ))
    }

    /// One call of the device. Returns word `at` of its argument afterwards.
    fn call(&self, request: u64, argument: &[u64], at: usize) -> Result<u64, Fault> {
        let mut words = [0; WORDS];
        words[0] = request;
        words[1..=argument.len()].copy_from_slice(argument);
        let (_, bytes) = self.ioctl(words)?;
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[8 * at..8 * at + 8]);
        Ok(u64::from_ne_bytes(word))
    }

    fn cycle(&self, words: [u64; WORDS]) -> Result<u64, Fault> {
        let [segment, size, times, ..] = words;
        for turn in 0..times {
            let get = [segment, abi::RDWR as u64 | 1 << 32, 0, 0];
            let permit = self.call(abi::GET, &get, 3)?;
            let at = self.call(abi::ATTACH, &[permit, 0, size, 0, 0], 3)?;
            touch::store(at as usize + 8 * (turn as usize % 100), &turn.to_ne_bytes())?;
            self.call(abi::DETACH, &[at], 0)?;
            self.call(abi::RELEASE, &[permit], 0)?;
        }
        Ok(times)
    }

    /// Returns how often somebody found it attached.
    fn race(&self, words: [u64; WORDS]) -> Result<u64, Fault> {
        let [permit, size, times, ..] = words;
        let (access, flags) = (libc::PROT_NONE, libc::MAP_NORESERVE);
        let place = Map::with(0, size as usize, access, flags, -1)?;
        let (over, found) = (AtomicBool::new(false), AtomicU64::new(0));
        let address = place.addr();
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (over, found) = (&over, &found);
                scope.spawn(move || {
                    let mut rng = Rng(thread);
                    while !over.load(Relaxed) {
                        let at = address + rng.below(size as usize / 8) * 8;
                        // Signals are what it is about.
                        let there = match thread {
                            0 => touch::load(at, &mut [0; 8]).is_ok(),
                            _ => touch::add(at, 1).is_ok(),
                        };
                        found.fetch_add(u64::from(there), Relaxed);
                    }
                });
            }
            let turns = || -> Result<(), Fault> {
                for turn in 0..times {
                    let argument = [permit, 0, size, address as u64, 0];
                    self.call(abi::ATTACH, &argument, 3)?;
                    let before = found.load(Relaxed);
                    // Every second time somebody touches it first.
                    while turn % 2 == 0 && found.load(Relaxed) == before {
                        std::thread::yield_now();
                    }
                    self.call(abi::DETACH, &[address as u64], 0)?;
                    // Its place stays this object's.
                    std::mem::forget(Map::with(address, size as usize, access, flags, -1)?);
                }
                Ok(())
            };
            let done = turns();
            over.store(true, Relaxed);
            done
        })?;
        Ok(found.into_inner())
    }

    fn read(&self, order: Order, words: [u64; WORDS]) -> Result<Vec<u8>, Fault> {
        let (at, count) = (words[0] as usize, words[1] as usize);
        if order == Order::KernelReads {
            let mut bytes = vec![0; count.min(MOST)];
            // SAFETY: what can't be read is an error.
            let done =
                unsafe { libc::pwrite(self.file.as_raw_fd(), at as *const _, bytes.len(), 0) };
            whole(done, bytes.len())?;
            use std::os::unix::fs::FileExt as _;
            self.file.read_exact_at(&mut bytes, 0)?;
            return Ok(bytes);
        }
        let mut bytes = vec![0; count];
        touch::load(at, &mut bytes)?;
        Ok(match order {
            Order::Digest => digest(&bytes),
            _ => bytes,
        })
    }

    fn write(&self, order: Order, words: [u64; WORDS]) -> Result<(), Fault> {
        let [at, count, seed, position, ..] = words;
        let bytes = patterned(count, seed, position);
        if order == Order::Store {
            return Ok(touch::store(at as usize, &bytes)?);
        }
        use std::os::unix::fs::FileExt as _;
        self.file.write_all_at(&bytes, 0)?;
        // SAFETY: memory that no reference is of; what can't be written is an error.
        let done = unsafe { libc::pread(self.file.as_raw_fd(), at as *mut _, bytes.len(), 0) };
        Ok(whole(done, bytes.len())?)
    }
}

/// Changes mappings, of memory that no reference is of.
fn change(order: Order, words: [u64; WORDS]) -> io::Result<u64> {
    let [at, count, third, fourth, fifth, _] = words;
    let (pointer, count) = (at as *mut libc::c_void, count as usize);
    match order {
        Order::Map => {
            // SAFETY: as above.
            address(unsafe { libc::mmap(pointer, count, third as i32, fourth as i32, -1, 0) })
        }
        // SAFETY: as above.
        Order::Unmap => number(unsafe { libc::munmap(pointer, count) }.into()),
        // SAFETY: as above.
        Order::Protect => number(unsafe { libc::mprotect(pointer, count, third as i32) }.into()),
        Order::Remap => {
            let (new, flags, to) = (third as usize, fourth as i32, fifth as *mut libc::c_void);
            // SAFETY: as above.
            address(unsafe { libc::mremap(pointer, count, new, flags, to) })
        }
        // SAFETY: as above.
        _ => number(unsafe { libc::madvise(pointer, count, third as i32) }.into()),
    }
}

/// The child's socket is the second one. Returns its pid to the parent, 0 to the child.
fn fork() -> io::Result<u64> {
    // SAFETY: there is one thread; the child goes on in the loop.
    let pid = number(unsafe { libc::fork() }.into())?;
    if pid == 0 {
        // SAFETY: both are open sockets.
        number(unsafe { libc::dup2(SECOND, 0) }.into())?;
    }
    Ok(pid)
}
