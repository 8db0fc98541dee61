//! Another process, which does what it is told: one side of a segment.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ::xpmem::abi;
use anyhow::{Context as _, Result, bail};

use super::wire::{Answer, Order, SECOND, WORDS, digest, encode, receive, send};
use crate::child::{ends_within, pidfd, readable};

/// Longest wait for an answer that waits for nobody.
pub const SOON: Duration = Duration::from_secs(20);

/// Why an order was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A call failed with this errno.
    Errno(i32),
    /// An access was answered with this signal.
    Signal(i32, usize),
}

impl Refusal {
    /// Whether an access was told that there is no memory: SIGBUS, or EFAULT of a call.
    pub fn is_absence(self) -> bool {
        matches!(
            self,
            Self::Signal(libc::SIGBUS, _) | Self::Errno(libc::EFAULT)
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(abi::NOPROC) => f.write_str("errno 2004"),
            Self::Errno(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
            Self::Signal(number, address) => write!(f, "signal {number} at {address:#x}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The process.
pub struct Peer {
    name: &'static str,
    child: Process,
    socket: OwnedFd,
    /// The other end of its second socket, until a forked child has it.
    second: Option<OwnedFd>,
    pid: u32,
}

/// A child of this process, or one of a child's.
enum Process {
    Own(Child),
    /// Its end is seen by a descriptor.
    Other(OwnedFd),
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptors are new and ours.
    let of = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((of(ends[0]), of(ends[1])))
}

impl Peer {
    /// Starts one, which has the device open.
    pub fn start(name: &'static str) -> Result<Self> {
        let mut peer = Self::without_device(name, 0, 0)?;
        peer.must(Order::Open, &[])?;
        Ok(peer)
    }

    /// Starts one of this user and group, which has the device open.
    pub fn of_user(name: &'static str, uid: u32, gid: u32) -> Result<Self> {
        let mut peer = Self::without_device(name, uid, gid)?;
        peer.must(Order::Open, &[])?;
        Ok(peer)
    }

    /// Starts one of this user and group.
    pub fn without_device(name: &'static str, uid: u32, gid: u32) -> Result<Self> {
        Self::by(name, uid, gid, &[])
    }

    /// Starts one of this user and group by a program that starts others.
    pub fn by(name: &'static str, uid: u32, gid: u32, starter: &[&str]) -> Result<Self> {
        let (socket, theirs) = pair()?;
        let (second, their_second) = pair()?;
        let program = std::env::current_exe()?;
        let mut command = match starter {
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            [] => Command::new(program),
        };
        command.arg("xpmem-child").stdin(Stdio::from(theirs));
        if (uid, gid) != (0, 0) {
            command.uid(uid).gid(gid);
        }
        let fd = their_second.as_raw_fd();
        let place = move || {
            // SAFETY: numbers only; the copy is not closed by exec.
            match unsafe { libc::dup2(fd, SECOND) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: the closure makes one system call.
        unsafe { command.pre_exec(place) };
        let child = command
            .spawn()
            .with_context(|| format!("starting the {name}"))?;
        Ok(Self {
            name,
            pid: child.id(),
            child: Process::Own(child),
            socket,
            second: Some(second),
        })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives an order, whose answer is waited for by [`Self::answer`].
    pub fn tell(&mut self, order: Order, words: &[u64]) -> Result<()> {
        let mut all = [0; WORDS];
        all[..words.len()].copy_from_slice(words);
        send(self.socket.as_fd(), &encode(order, all))
            .with_context(|| format!("telling the {}: {order:?}", self.name))
    }

    /// The answer, if it comes within `limit`.
    pub fn answer_within(
        &mut self,
        limit: Duration,
    ) -> Result<Option<Result<(u64, Vec<u8>), Refusal>>> {
        if !readable(&self.socket, Instant::now() + limit)? {
            return Ok(None);
        }
        let message =
            receive(self.socket.as_fd()).with_context(|| format!("the {} is gone", self.name))?;
        let answer =
            Answer::decode(&message).with_context(|| format!("the {} is gone", self.name))?;
        Ok(Some(match answer {
            Answer::Done(value, bytes) => Ok((value, bytes)),
            Answer::Errno(errno) => Err(Refusal::Errno(errno)),
            Answer::Signal(number, address) => Err(Refusal::Signal(number, address)),
        }))
    }

    /// The answer, which comes soon.
    pub fn answer(&mut self) -> Result<Result<(u64, Vec<u8>), Refusal>> {
        let answer = self.answer_within(SOON)?;
        let secs = SOON.as_secs();
        answer.with_context(|| format!("the {} does not answer within {secs} s", self.name))
    }

    /// Gives an order and waits for the answer.
    pub fn ask(&mut self, order: Order, words: &[u64]) -> Result<Result<(u64, Vec<u8>), Refusal>> {
        self.tell(order, words)?;
        self.answer()
            .with_context(|| format!("{order:?} {words:x?}"))
    }

    /// The same, which must go well.
    pub fn must(&mut self, order: Order, words: &[u64]) -> Result<(u64, Vec<u8>)> {
        let name = self.name;
        self.ask(order, words)?
            .with_context(|| format!("the {name}: {order:?} {words:x?}"))
    }

    /// The same, which must be refused.
    pub fn refused(&mut self, order: Order, words: &[u64]) -> Result<Refusal> {
        match self.ask(order, words)? {
            Err(refusal) => Ok(refusal),
            Ok((value, _)) => bail!(
                "the {}: {order:?} {words:x?} went well: {value:#x}",
                self.name
            ),
        }
    }

    /// One call of the device. Returns word `at` of its argument afterwards.
    pub fn call(
        &mut self,
        request: u64,
        argument: &[u64],
        at: usize,
    ) -> Result<Result<u64, Refusal>> {
        let words: Vec<u64> = std::iter::once(request)
            .chain(argument.iter().copied())
            .collect();
        Ok(self.ask(Order::Ioctl, &words)?.map(|(_, bytes)| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[8 * at..8 * at + 8]);
            u64::from_ne_bytes(word)
        }))
    }

    /// Makes a segment.
    pub fn make(&mut self, at: u64, size: u64, mode: u64) -> Result<Result<u64, Refusal>> {
        self.call(abi::MAKE, &[at, size, 1, mode, 0], 4)
    }

    /// Gets a permit.
    pub fn get(&mut self, segment: u64, flags: i32) -> Result<Result<u64, Refusal>> {
        self.call(abi::GET, &[segment, flags as u64 | 1 << 32, 0, 0], 3)
    }

    /// Attaches.
    pub fn attach(
        &mut self,
        permit: u64,
        offset: u64,
        size: u64,
        at: u64,
    ) -> Result<Result<u64, Refusal>> {
        self.call(abi::ATTACH, &[permit, offset, size, at, 0], 3)
    }

    /// Ends a segment, a permit or an attachment.
    pub fn end(&mut self, request: u64, id: u64) -> Result<Result<(), Refusal>> {
        Ok(self.call(request, &[id], 0)?.map(drop))
    }

    /// New memory of its own with pattern `seed`, and a segment of it for everybody: address and number.
    pub fn share(&mut self, size: u64, seed: u64) -> Result<(u64, u64)> {
        let at = self.memory(size)?;
        self.must(Order::Store, &[at, size, seed, 0])?;
        Ok((at, self.make(at, size, 0o666)?.context("making a segment")?))
    }

    /// New memory of its own.
    pub fn memory(&mut self, size: u64) -> Result<u64> {
        let (access, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        Ok(self
            .must(Order::Map, &[0, size, access as u64, flags as u64])?
            .0)
    }

    /// Attaches all of a segment, to read and write: permit and address.
    pub fn join(&mut self, segment: u64, size: u64) -> Result<(u64, u64)> {
        let permit = self.get(segment, abi::RDWR)?.context("getting a permit")?;
        let at = self.attach(permit, 0, size, 0)?.context("attaching")?;
        Ok((permit, at))
    }

    /// That memory holds pattern `seed`, from its position `position` on.
    pub fn holds(&mut self, at: u64, count: u64, seed: u64, position: u64) -> Result<()> {
        let mut wanted = vec![0; count as usize];
        crate::mem::pattern(seed, position as usize, &mut wanted);
        self.same(at, &wanted)
    }

    /// That memory holds these bytes.
    pub fn same(&mut self, at: u64, wanted: &[u8]) -> Result<()> {
        let (_, found) = self.must(Order::Digest, &[at, wanted.len() as u64])?;
        let wanted_digest = digest(wanted);
        let pages = found.chunks(8).zip(wanted_digest.chunks(8));
        let wrong: Vec<usize> = pages
            .enumerate()
            .filter(|(_, (found, wanted))| found != wanted)
            .map(|(page, _)| page)
            .collect();
        if let Some(first) = wrong.first() {
            let pages = wanted.len().div_ceil(crate::mem::PAGE);
            bail!(
                "the {} sees other bytes in {} of {pages} pages, first in page {first}",
                self.name,
                wrong.len()
            );
        }
        Ok(())
    }

    /// Forks it. Its child has what it has.
    pub fn fork(&mut self, name: &'static str) -> Result<Self> {
        let (pid, _) = self.must(Order::Fork, &[])?;
        let socket = self.second.take().context("it has forked once already")?;
        let mut child = Self {
            name,
            child: Process::Other(pidfd(pid as i32)?),
            socket,
            second: None,
            pid: pid as u32,
        };
        // The order that it was born with.
        child.answer()?.context("the forked process")?;
        Ok(child)
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> io::Result<()> {
        // SAFETY: numbers only; the process is not waited for yet.
        match unsafe { libc::kill(self.pid as i32, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits for its end. Returns how it ended, if it is a child of this process.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let (name, secs) = (self.name, SOON.as_secs());
        let late = || format!("the {name} has not ended within {secs} s");
        match &mut self.child {
            Process::Own(child) => Ok(Some(ends_within(child, SOON)?.with_context(late)?)),
            Process::Other(pidfd) => match readable(pidfd, Instant::now() + SOON)? {
                true => Ok(None),
                false => bail!(late()),
            },
        }
    }

    /// SIGKILL, and its end.
    pub fn end_by_kill(&mut self) -> Result<()> {
        self.kill()?;
        self.ended().map(drop)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Ended already, in some cases.
        if let Process::Own(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
