//! Does what was planned, in a verbs context of its own: what goes wrong there must not reach others.

use std::io;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::plan::{ARENA, Action, Addr, SLOTS, Vm};
use super::raw::Raw;
use crate::ffi;
use crate::mem::Map;
use crate::pair::{Pair, Work};
use crate::private::{Advise, Change, Rereg};
use crate::qp::{OpError, errno_of};
use crate::target::Env;
use crate::verbs::{Device, Mr, Pd};
use crate::verbs_cases::window::{Bounds, Window};

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    Done,
    Errno(i32),
    /// A completion with this status.
    Status(u32),
    /// There was nothing to do it to.
    Nothing,
}

impl From<io::Result<()>> for Said {
    fn from(result: io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(e) => Self::Errno(e.raw_os_error().unwrap_or(0)),
        }
    }
}

/// The fuzzed context and what is in it. Fields go in order: windows, regions, domains.
struct Inside {
    windows: [Option<Window>; SLOTS],
    regions: [Option<Mr>; SLOTS],
    pair: Option<Pair>,
    other: Arc<Pd>,
    pd: Arc<Pd>,
}

impl Inside {
    fn new(env: &Env) -> Result<Self> {
        let device = Device::open(&env.device, env.pd.device().link())?;
        Ok(Self {
            windows: Default::default(),
            regions: Default::default(),
            pair: None,
            other: Pd::new(&device)?,
            pd: Pd::new(&device)?,
        })
    }
}

/// Does steps.
pub struct Actor<'a> {
    env: &'a Env,
    inside: Inside,
    arena: Map,
    raw: Raw,
    advise: Advise,
    rereg: Rereg,
}

impl<'a> Actor<'a> {
    pub fn new(env: &'a Env) -> Result<Self> {
        Ok(Self {
            env,
            inside: Inside::new(env)?,
            arena: Map::anon(ARENA)?,
            raw: Raw::new(),
            advise: Advise::find()?,
            rereg: Rereg::find()?,
        })
    }

    fn addr(&self, addr: Addr) -> usize {
        match addr {
            Addr::Arena(off) => (self.arena.addr() as i64).wrapping_add(off) as usize,
            Addr::Absolute(at) => at as usize,
        }
    }

    /// One step.
    ///
    /// # Errors
    ///
    /// One that no argument may cause: an operation hung, or preparing failed.
    pub fn act(&mut self, action: &Action) -> Result<Said> {
        Ok(match *action {
            Action::Register {
                slot,
                addr,
                len,
                shift,
                access,
            } => {
                let addr = self.addr(addr);
                let iova = (addr as u64).wrapping_add(shift.unwrap_or(0));
                self.inside.regions[slot] = None;
                match Mr::with_iova(&self.inside.pd, addr, len as usize, iova, access) {
                    Ok(mr) => {
                        self.inside.regions[slot] = Some(mr);
                        Said::Done
                    }
                    Err(e) => Err(e).into(),
                }
            }
            Action::Deregister { slot } => match self.inside.regions[slot].take() {
                None => Said::Nothing,
                Some(mr) => match mr.deregister() {
                    Ok(()) => Said::Done,
                    Err((mr, e)) => {
                        // Bound windows; or its handle is gone, by a command that hit it.
                        self.inside.regions[slot] = Some(mr);
                        Err(e).into()
                    }
                },
            },
            Action::Advise {
                slot,
                advice,
                flags,
                ref list,
            } => {
                let key = self.inside.regions[slot]
                    .as_ref()
                    .map_or(slot as u32, Mr::lkey);
                let list: Vec<_> = list
                    .iter()
                    .map(|&(addr, length, flip)| ffi::ibv_sge {
                        addr: self.addr(addr) as u64,
                        length,
                        lkey: key ^ flip,
                    })
                    .collect();
                self.advise
                    .give(&self.inside.pd, advice, flags, &list)
                    .into()
            }
            Action::Rereg {
                slot,
                flags,
                access,
                range,
                other_pd,
            } => {
                let Some(mr) = &self.inside.regions[slot] else {
                    return Ok(Said::Nothing);
                };
                let change = Change {
                    // libibverbs looks at the domain whenever the flag is there.
                    pd: (other_pd || flags & ffi::IBV_REREG_MR_CHANGE_PD != 0)
                        .then_some(&*self.inside.other),
                    access,
                    range: range.map(|(addr, len)| (self.addr(addr), len as usize)),
                    flags,
                };
                self.rereg.change(mr, change).into()
            }
            Action::NewWindow { window, kind } => {
                self.inside.windows[window] = None;
                self.inside.windows[window] = Window::new(&self.inside.pd, kind).ok();
                if self.inside.windows[window].is_some() {
                    Said::Done
                } else {
                    Said::Errno(errno_of(-1).raw_os_error().unwrap_or(0))
                }
            }
            Action::FreeWindow { window } => match self.inside.windows[window].take() {
                None => Said::Nothing,
                Some(_) => Said::Done,
            },
            Action::Bind {
                window,
                slot,
                addr,
                len,
                access,
                key,
            } => return self.bind(window, slot, self.addr(addr), len as usize, access, key),
            Action::Vm { what, off, len } => self.vm(what, off, len).into(),
            Action::Command {
                number,
                in_words,
                out_words,
                answer,
                ref words,
            } => {
                let fd = self.fd();
                self.raw
                    .command(fd, number, (in_words, out_words), answer, words)
                    .into()
            }
            Action::Ioctl {
                object,
                method,
                ref attributes,
            } => {
                let fd = self.fd();
                self.raw.ioctl(fd, object, method, attributes).into()
            }
            Action::Reopen => {
                self.inside = Inside::new(self.env)?;
                Said::Done
            }
        })
    }

    fn fd(&self) -> i32 {
        // SAFETY: the context is open.
        unsafe { (*self.inside.pd.device().as_raw()).cmd_fd }
    }

    fn bind(
        &mut self,
        window: usize,
        slot: usize,
        addr: usize,
        len: usize,
        access: u32,
        flip: u32,
    ) -> Result<Said> {
        let inside = &mut self.inside;
        let (Some(window), Some(mr)) = (&mut inside.windows[window], &inside.regions[slot]) else {
            return Ok(Said::Nothing);
        };
        let pair = match inside.pair.take() {
            Some(pair) => pair,
            None => Pair::new(&inside.pd, self.env.mtu, None).context("queue pairs to bind on")?,
        };
        let bounds = Bounds {
            mr,
            addr,
            len,
            access,
        };
        let result = if flip == 0 {
            window.bind(&pair.far, bounds)
        } else {
            let work = Work::Bind(window.as_raw(), window.rkey() ^ flip, bounds.info());
            pair.far.run(work, &[]).map(drop)
        };
        match result {
            Ok(()) => {
                inside.pair = Some(pair);
                Ok(Said::Done)
            }
            Err(OpError::Post(errno)) => {
                inside.pair = Some(pair);
                Ok(Said::Errno(errno))
            }
            // That ended the queue pair, to which other windows may be bound.
            Err(OpError::Status(status)) => Ok(Said::Status(status)),
            Err(OpError::Hang) => bail!("the bind never completed"),
        }
    }

    fn vm(&self, what: Vm, off: usize, len: usize) -> io::Result<()> {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        match what {
            Vm::Drop => self.arena.advise(off, len, libc::MADV_DONTNEED),
            Vm::ReadOnly => self.arena.protect(off, len, libc::PROT_READ),
            Vm::Closed => self.arena.protect(off, len, libc::PROT_NONE),
            Vm::Open => self.arena.protect(off, len, both),
            Vm::Touch => {
                self.arena.protect(off, len, both)?;
                self.arena.set(off, len.min(64 << 10), 1);
                Ok(())
            }
            Vm::Renew => self.arena.renew(off, len),
        }
    }
}
