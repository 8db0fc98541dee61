//! What one side does when it is told: it has a region, a queue pair to the other side, and can fill, clear and compare its memory.
//! Both sides are made of it: the one that leads calls it, the one that follows is called over the network.

use std::ptr::NonNull;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::ffi;
use crate::mem::{Map, Wrong};
use crate::pair::{ACCESS, End, Work};
use crate::qp::{Far, OpError};
use crate::system::{Kind, run};
use crate::target::Env;
use crate::verbs::{Link, Mr};
use crate::verbs_cases::datagram::{Handle, QKEY, ready};
use crate::verbs_cases::srq::Srq;
use crate::verbs_cases::window::{Bounds, Window};

/// The kinds of queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Queue {
    /// Reliable, with receives of its own.
    Reliable,
    /// Reliable, receives from a shared queue.
    Shared,
    /// Unreliable datagrams.
    Datagram,
}

/// What a side can be asked for. Offsets are those in its region.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// To register this many bytes.
    Region(usize),
    /// To make a queue pair.
    Queue(Queue),
    /// To connect it, with this path MTU.
    Connect(Peer, u32),
    /// To throw away the memory of a range, if it is not pinned: it is untouched then.
    Forget { off: usize, len: usize },
    /// To take the translations of a range away, unless it is pinned, and to keep its bytes.
    Cool { off: usize, len: usize },
    /// To have the pages of a range written to swap, those that are not pinned.
    PageOut { off: usize, len: usize },
    /// To set each byte of a range.
    Set { off: usize, len: usize, byte: u8 },
    /// To write the pattern `seed` from its position 0 on.
    Fill { off: usize, len: usize, seed: u64 },
    /// To write eight bytes.
    Put { off: usize, value: u64 },
    /// To compare with the pattern.
    Check { off: usize, len: usize, seed: u64 },
    /// To compare each byte.
    CheckByte { off: usize, len: usize, byte: u8 },
    /// To compare eight bytes.
    CheckWord { off: usize, value: u64 },
    /// To post a receive.
    Receive { off: usize, len: usize },
    /// To wait until one has completed.
    Arrived,
    /// To bind a window to a range.
    Bind { off: usize, len: usize },
    /// To invalidate it.
    Unbind,
    /// To run a command of the shell.
    Shell(String),
    /// To be killed, without an answer.
    Die,
}

/// Where a side's queue pair is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its number.
    pub number: u32,
    /// The address of its port.
    pub gid: [u8; 16],
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Say {
    /// It is done.
    Done,
    /// Where the region is: address and remote key.
    Region { addr: u64, key: u32 },
    /// The queue pair.
    Queue(Peer),
    /// So many bytes differ, the first one here.
    Differ { count: usize, first: usize },
    /// A receive took so many bytes.
    Arrived(usize),
    /// The remote key of the window.
    Key(u32),
    /// It could not be done.
    Failed(String),
}

/// A side.
pub struct Party<'a> {
    env: &'a Env,
    kind: Kind,
    // Each goes before what it was made of.
    window: Option<Window>,
    handle: Option<Handle>,
    end: Option<End>,
    srq: Option<Srq>,
    mr: Option<Mr>,
    map: Option<Map>,
    far: Option<Far>,
    /// How often its requests are sent again.
    retries: u8,
}

impl<'a> Party<'a> {
    /// A side whose regions are of this kind.
    pub fn new(env: &'a Env, kind: Kind) -> Self {
        Self {
            env,
            kind,
            window: None,
            handle: None,
            end: None,
            srq: None,
            mr: None,
            map: None,
            far: None,
            retries: env.pd.device().link().retries,
        }
    }

    /// Its queue pairs are to give up after `retries` times.
    pub fn gives_up_after(&mut self, retries: u8) {
        self.retries = retries;
    }

    fn map(&self) -> Result<&Map> {
        self.map.as_ref().context("no region was asked for")
    }

    fn mr(&self) -> Result<&Mr> {
        self.mr.as_ref().context("no region was asked for")
    }

    fn end(&self) -> Result<&End> {
        self.end.as_ref().context("no queue pair was asked for")
    }

    /// An element of the region.
    pub fn sge(&self, off: usize, len: usize) -> Result<ffi::ibv_sge> {
        Ok(ffi::ibv_sge {
            addr: (self.map()?.addr() + off) as u64,
            length: len as u32,
            lkey: self.mr()?.lkey(),
        })
    }

    /// Runs requests of this side's queue pair to their completions.
    pub fn run(&self, works: &[(Work, &[ffi::ibv_sge])]) -> Result<(), OpError> {
        let end = self.end.as_ref().ok_or(OpError::Post(libc::EINVAL))?;
        end.post(works)?;
        for _ in works {
            end.sent.wait()?;
        }
        Ok(())
    }

    /// A datagram to the other side's queue pair.
    pub fn datagram(&self) -> Result<Work> {
        let handle = self.handle.as_ref().context("not connected")?;
        let far = self.far.context("not connected")?;
        Ok(Work::SendTo(handle.as_raw(), far.number, QKEY))
    }

    /// Does what is asked for.
    pub fn asked(&mut self, ask: &Ask) -> Say {
        match self.tried(ask) {
            Ok(say) => say,
            Err(error) => Say::Failed(format!("{error:#}")),
        }
    }

    fn tried(&mut self, ask: &Ask) -> Result<Say> {
        match *ask {
            Ask::Region(len) => return self.region(len),
            Ask::Queue(queue) => return self.queue(queue),
            Ask::Connect(peer, mtu) => self.connect(peer, mtu)?,
            Ask::Forget { off, len } => {
                if self.kind != Kind::Pinned {
                    self.map()?.advise(off, len, libc::MADV_DONTNEED)?;
                }
            }
            Ask::Cool { off, len } => {
                // A change of protection takes them away, and back is no change for those that are gone.
                let both = libc::PROT_READ | libc::PROT_WRITE;
                self.map()?.protect(off, len, libc::PROT_READ)?;
                self.map()?.protect(off, len, both)?;
            }
            Ask::PageOut { off, len } => self.map()?.advise(off, len, libc::MADV_PAGEOUT)?,
            Ask::Set { off, len, byte } => self.map()?.set(off, len, byte),
            Ask::Fill { off, len, seed } => self.map()?.fill(off, len, seed, 0),
            Ask::Put { off, value } => self.map()?.write(off, &value.to_ne_bytes()),
            Ask::Check { off, len, seed } => {
                return Ok(differ(self.map()?.check(off, len, seed, 0)));
            }
            Ask::CheckByte { off, len, byte } => {
                return Ok(differ(self.map()?.check_byte(off, len, byte)));
            }
            Ask::CheckWord { off, value } => {
                let word = |_, out: &mut [u8]| out.copy_from_slice(&value.to_ne_bytes());
                return Ok(differ(self.map()?.compare(off, 8, word)));
            }
            Ask::Receive { off, len } => {
                let mut list = [self.sge(off, len)?];
                match &self.srq {
                    Some(srq) => srq.post(0, &mut list)?,
                    None => self.end()?.post_recv(0, &list)?,
                }
            }
            Ask::Arrived => {
                return Ok(Say::Arrived(self.end()?.received.wait()?.byte_len as usize));
            }
            Ask::Bind { off, len } => return self.bind(off, len),
            Ask::Unbind => {
                let window = self.window.as_ref().context("no window is bound")?;
                let work = Work::Invalidate(window.rkey());
                self.end()?.run(work, &[])?;
            }
            Ask::Shell(ref line) => run("sh", &["-ec", line]).map(drop)?,
            Ask::Die => {
                // SAFETY: a call of the system, of this process.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
        }
        Ok(Say::Done)
    }

    fn region(&mut self, len: usize) -> Result<Say> {
        self.window = None;
        self.mr = None;
        let map = Map::anon(len)?;
        let access = ACCESS & !ffi::IBV_ACCESS_FLUSH_PERSISTENT | ffi::IBV_ACCESS_MW_BIND;
        let mr = Mr::new(&self.env.pd, map.addr(), len, access | self.kind.flags())
            .with_context(|| format!("registering {len} bytes"))?;
        let say = Say::Region {
            addr: map.addr() as u64,
            key: mr.rkey(),
        };
        (self.map, self.mr) = (Some(map), Some(mr));
        Ok(say)
    }

    fn queue(&mut self, queue: Queue) -> Result<Say> {
        let pd = &self.env.pd;
        // What is made of them goes first.
        (self.window, self.handle, self.end, self.srq) = (None, None, None, None);
        self.far = None;
        if queue == Queue::Shared {
            self.srq = Some(Srq::new(pd)?);
        }
        let shared: Option<NonNull<ffi::ibv_srq>> = self.srq.as_ref().map(Srq::raw);
        let kind = match queue {
            Queue::Datagram => ffi::IBV_QPT_UD,
            Queue::Reliable | Queue::Shared => ffi::IBV_QPT_RC,
        };
        let end = End::new(pd, kind, shared)?;
        if queue == Queue::Datagram {
            ready(&end)?;
        }
        let gid = pd.device().gid()?;
        // SAFETY: every bit pattern is an array of bytes.
        let gid = unsafe { gid.raw };
        let number = end.qp.number();
        self.end = Some(end);
        Ok(Say::Queue(Peer { number, gid }))
    }

    fn connect(&mut self, peer: Peer, mtu: u32) -> Result<()> {
        let far = Far {
            number: peer.number,
            gid: ffi::ibv_gid { raw: peer.gid },
        };
        let link = Link {
            retries: self.retries,
            ..self.env.pd.device().link()
        };
        let end = self.end()?;
        if end.is_reliable() {
            end.qp.connect_to(far, link, mtu, ACCESS)?;
        } else {
            self.handle = Some(Handle::new(&self.env.pd, far.gid)?);
        }
        self.far = Some(far);
        Ok(())
    }

    fn bind(&mut self, off: usize, len: usize) -> Result<Say> {
        let mut window = Window::new(&self.env.pd, ffi::IBV_MW_TYPE_2)?;
        let bounds = Bounds {
            mr: self.mr()?,
            addr: self.map()?.addr() + off,
            len,
            access: ffi::IBV_ACCESS_REMOTE_WRITE | ffi::IBV_ACCESS_REMOTE_READ,
        };
        window.bind(self.end()?, bounds)?;
        let key = window.rkey();
        self.window = Some(window);
        Ok(Say::Key(key))
    }
}

impl Drop for Party<'_> {
    fn drop(&mut self) {
        // A region that a window is bound to can't go.
        (self.window, self.handle, self.end, self.srq) = (None, None, None, None);
    }
}

fn differ(wrong: Wrong) -> Say {
    Say::Differ {
        count: wrong.count,
        first: wrong.first,
    }
}

/// What a comparison found.
pub fn found(say: Say) -> Result<Wrong> {
    match say {
        Say::Differ { count, first } => Ok(Wrong { count, first }),
        other => unexpected(&other),
    }
}

/// An answer that was not asked for.
pub fn unexpected<T>(say: &Say) -> Result<T> {
    match say {
        Say::Failed(why) => bail!("{why}"),
        other => bail!("the answer {other:?} was not expected"),
    }
}
