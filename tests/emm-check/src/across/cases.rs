//! What the side that leads has both do: each operation at every combination of offset in the page and length, as `verify` has it.

use anyhow::{Result, anyhow, bail};

use super::party::{Ask, Party, Queue, Say, found, unexpected};
use super::talk::Line;
use crate::ffi;
use crate::mem::{PAGE, Wrong};
use crate::pair::Work;
use crate::qp::{OpError, Piece};
use crate::system::Kind;
use crate::target::Env;
use crate::verify::{AREA, AROUND, STILL, Tally};

/// All of a region: a source and a target.
const SIZE: usize = 2 * AREA;
/// The route header in front of a datagram.
const HEADER: usize = 40;

/// The operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Op {
    /// RDMA WRITE
    Write,
    /// RDMA READ
    Read,
    /// SEND and RECV
    Send,
    /// SEND to a shared receive queue
    Srq,
    /// WRITE with immediate data
    Imm,
    /// CMP_SWP and FETCH_ADD
    Atomic,
    /// ATOMIC_WRITE
    AtomicWrite,
    /// WRITE and FLUSH
    Flush,
    /// Datagrams that fit into a packet. On a wire that loses some they are lost
    Datagram,
    /// WRITE through a memory window, also when it is not bound any more
    Window,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Write,
        Self::Read,
        Self::Send,
        Self::Srq,
        Self::Imm,
        Self::Atomic,
        Self::AtomicWrite,
        Self::Flush,
        Self::Datagram,
        Self::Window,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Send => "send",
            Self::Srq => "srq",
            Self::Imm => "imm",
            Self::Atomic => "atomic",
            Self::AtomicWrite => "atomic-write",
            Self::Flush => "flush",
            Self::Datagram => "datagram",
            Self::Window => "window",
        }
    }

    fn queue(self) -> Queue {
        match self {
            Self::Srq => Queue::Shared,
            Self::Datagram => Queue::Datagram,
            _ => Queue::Reliable,
        }
    }

    /// Whether the other side posts a receive for it.
    fn receives(self) -> bool {
        matches!(self, Self::Send | Self::Srq | Self::Imm | Self::Datagram)
    }
}

/// How the memory of both sides is before a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum State {
    /// Not touched, but where the source's bytes are
    Fresh,
    /// Resident, and translated by the copy before
    Warm,
    /// Resident, and not translated
    Cool,
    /// Written to swap (a guest has none unless it is given some)
    Out,
}

/// What is copied.
#[derive(Debug, Clone)]
pub struct Cases {
    /// How the memory is.
    pub states: Vec<State>,
    /// Offsets in the page.
    pub offsets: Vec<usize>,
    /// Lengths in bytes.
    pub lengths: Vec<usize>,
}

/// One of them.
#[derive(Clone, Copy)]
struct Case {
    state: State,
    off: usize,
    len: usize,
    seed: u64,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            state, off, len, ..
        } = self;
        write!(f, "offset {off}, length {len}, {state:?}")
    }
}

/// The side that leads, and the line to the other one.
pub struct Lead<'a> {
    env: &'a Env,
    party: Party<'a>,
    line: &'a mut Line,
    /// The kinds of its own regions and of the other side's.
    kinds: [Kind; 2],
    /// The other side's region: its address and its key.
    far: (u64, u32),
}

impl<'a> Lead<'a> {
    /// Begins to lead.
    pub fn new(env: &'a Env, kinds: [Kind; 2], line: &'a mut Line) -> Self {
        Self {
            env,
            party: Party::new(env, kinds[0]),
            line,
            kinds,
            far: (0, 0),
        }
    }

    /// All cases of an operation. An error is one of the line between both sides, or of setting up.
    pub fn run(&mut self, op: Op, cases: &Cases) -> Result<Tally> {
        self.party.asked(&Ask::Queue(op.queue()));
        match self.party.asked(&Ask::Region(SIZE)) {
            Say::Region { .. } => {}
            other => return unexpected(&other),
        }
        self.line.ask_one(Ask::Queue(op.queue()))?;
        match self.line.ask_one(Ask::Region(SIZE))? {
            Say::Region { addr, key } => self.far = (addr, key),
            other => return unexpected(&other),
        }
        self.connect(op)?;
        match op {
            Op::Atomic | Op::AtomicWrite => self.words(op),
            Op::Window => self.window(cases),
            _ => self.copies(op, cases),
        }
    }

    /// New queue pairs, connected.
    fn connect(&mut self, op: Op) -> Result<()> {
        let own = match self.party.asked(&Ask::Queue(op.queue())) {
            Say::Queue(peer) => peer,
            other => return unexpected(&other),
        };
        let theirs = match self.line.ask_one(Ask::Queue(op.queue()))? {
            Say::Queue(peer) => peer,
            other => return unexpected(&other),
        };
        self.line.ask_one(Ask::Connect(own, self.env.mtu))?;
        match self.party.asked(&Ask::Connect(theirs, self.env.mtu)) {
            Say::Done => Ok(()),
            other => unexpected(&other),
        }
    }

    fn remote(&self, off: usize) -> Piece {
        Piece {
            addr: self.far.0 + off as u64,
            key: self.far.1,
        }
    }

    /// Has one side do these: the other one, or this one. Outside there is an error of the line, inside one of the case.
    fn have(&mut self, other: bool, asks: Vec<Ask>) -> Result<Result<Vec<Say>>> {
        if other {
            return Ok(self.line.ask(asks)?.map_err(|why| anyhow!(why)));
        }
        let mut says = Vec::new();
        for ask in &asks {
            match self.party.asked(ask) {
                Say::Failed(why) => return Ok(Err(anyhow!(why))),
                say => says.push(say),
            }
        }
        Ok(Ok(says))
    }

    fn copies(&mut self, op: Op, cases: &Cases) -> Result<Tally> {
        let mut tally = Tally::default();
        for &state in &cases.states {
            for &off in &cases.offsets {
                for &len in &cases.lengths {
                    if op == Op::Datagram && len > self.env.mtu as usize {
                        continue;
                    }
                    let seed = self.env.seed + 1 + u64::from(tally.cases);
                    let case = Case {
                        state,
                        off,
                        len,
                        seed,
                    };
                    let result = self.copy(op, case)?;
                    if !tally.add(|| case.to_string(), result) {
                        self.connect(op)?;
                    }
                }
            }
        }
        Ok(tally)
    }

    /// One copy: what is wrong in the target, and outside of it.
    fn copy(&mut self, op: Op, case: Case) -> Result<Result<(Wrong, Wrong)>> {
        let Case {
            state,
            off,
            len,
            seed,
        } = case;
        let fresh = state == State::Fresh;
        // Aligned on both sides or on neither.
        let from = 2 * PAGE + off * 3 % PAGE;
        let to = AREA + 2 * PAGE + off;
        let head = if op == Op::Datagram { HEADER } else { 0 };
        let target_is_far = op != Op::Read;
        let target = self.kinds[usize::from(target_is_far)];
        // Pinned memory can't be given back: the device would keep the old pages.
        let untouched = fresh && target != Kind::Pinned;
        let still = if untouched { 0 } else { STILL };
        let forget = Ask::Forget { off: 0, len: SIZE };
        let mut source = vec![Ask::Fill {
            off: from,
            len,
            seed,
        }];
        if fresh {
            source.insert(0, forget.clone());
        }
        let mut into = vec![match untouched {
            true => forget,
            false => Ask::Set {
                off: to - head - AROUND,
                len: head + len + 2 * AROUND,
                byte: still,
            },
        }];
        let (off, whole) = (0, SIZE);
        let last = match state {
            State::Fresh | State::Warm => None,
            State::Cool => Some(Ask::Cool { off, len: whole }),
            State::Out => Some(Ask::PageOut { off, len: whole }),
        };
        source.extend(last.clone());
        into.extend(last);
        if op.receives() {
            into.push(Ask::Receive {
                off: to - head,
                len: head + len,
            });
        }
        let mut check = vec![
            Ask::Check { off: to, len, seed },
            Ask::CheckByte {
                off: to - head - AROUND,
                len: AROUND,
                byte: still,
            },
            Ask::CheckByte {
                off: to + len,
                len: AROUND,
                byte: still,
            },
        ];
        if op.receives() {
            check.insert(0, Ask::Arrived);
        }
        for (other, asks) in [(!target_is_far, source), (target_is_far, into)] {
            if let Err(error) = self.have(other, asks)? {
                return Ok(Err(error));
            }
        }
        if let Err(error) = self.operate(op, from, to, len) {
            return Ok(Err(error));
        }
        let mut says = match self.have(target_is_far, check)? {
            Ok(says) => says.into_iter(),
            Err(error) => return Ok(Err(error)),
        };
        if op.receives() {
            match says.next() {
                // WRITE with immediate data counts no bytes of its own receive.
                Some(Say::Arrived(count)) if count == head + len || op == Op::Imm => {}
                Some(Say::Arrived(count)) => {
                    return Ok(Err(anyhow!("{count} bytes arrived, not {head} + {len}")));
                }
                other => return unexpected(&other.unwrap_or(Say::Done)),
            }
        }
        let mut wrong = Vec::new();
        for say in says {
            wrong.push(found(say)?);
        }
        let [data, before, behind] = wrong[..] else {
            bail!("{} comparisons, not 3", wrong.len());
        };
        // The source must not have been written either.
        let source = Ask::Check {
            off: from,
            len,
            seed,
        };
        let stray = match self.have(!target_is_far, vec![source])? {
            Ok(says) => says,
            Err(error) => return Ok(Err(error)),
        };
        let mut outside = before;
        outside.add(behind);
        for say in stray {
            outside.add(found(say)?);
        }
        Ok(Ok((data, outside)))
    }

    /// Runs the operation to its completion.
    fn operate(&self, op: Op, from: usize, to: usize, len: usize) -> Result<()> {
        let local = [self
            .party
            .sge(if op == Op::Read { to } else { from }, len)?];
        let remote = self.remote(if op == Op::Read { from } else { to });
        let work = match op {
            Op::Read => Work::Read(remote),
            Op::Send | Op::Srq => Work::Send,
            Op::Imm => Work::WriteImm(remote, 77),
            Op::Datagram => self.party.datagram()?,
            _ => Work::Write(remote),
        };
        let flush = Work::Flush(remote, len, ffi::IBV_FLUSH_GLOBAL, ffi::IBV_FLUSH_RANGE);
        let works = [(work, &local[..]), (flush, &[][..])];
        let count = if op == Op::Flush { 2 } else { 1 };
        Ok(self.party.run(&works[..count])?)
    }

    /// Eight bytes at a time: CMP_SWP that succeeds and that fails, FETCH_ADD, ATOMIC_WRITE.
    fn words(&mut self, op: Op) -> Result<Tally> {
        let mut tally = Tally::default();
        let mut value = self.env.seed.wrapping_mul(0x0123_4567_89AB_CDEF);
        let kinds = if op == Op::Atomic { 0..3 } else { 3..4 };
        for cool in [true, false] {
            for off in [0, 8, 64, 504, 1000, 2048, 4000, 4088] {
                for kind in kinds.clone() {
                    let at = AREA + 2 * PAGE + off;
                    let remote = self.remote(at);
                    let (work, after) = match kind {
                        0 => (Work::CmpSwp(remote, value, !value), !value),
                        1 => (Work::CmpSwp(remote, value ^ 1, 7), value),
                        2 => (
                            Work::FetchAdd(remote, 1 << 32 | 1),
                            value.wrapping_add(1 << 32 | 1),
                        ),
                        _ => (Work::AtomicWrite(remote, !value), !value),
                    };
                    let result = self.word(work, at, value, after, cool)?;
                    let name = [
                        "CMP_SWP",
                        "CMP_SWP of another value",
                        "FETCH_ADD",
                        "ATOMIC_WRITE",
                    ];
                    let case = || format!("{} at offset {off}, cool {cool}", name[kind]);
                    if !tally.add(case, result) {
                        self.connect(op)?;
                    }
                    value = value.rotate_left(7) ^ off as u64;
                }
            }
        }
        Ok(tally)
    }

    fn word(
        &mut self,
        work: Work,
        at: usize,
        before: u64,
        after: u64,
        cool: bool,
    ) -> Result<Result<(Wrong, Wrong)>> {
        let back = 2 * PAGE + 8;
        let around = |off: usize| Ask::CheckByte {
            off,
            len: AROUND,
            byte: STILL,
        };
        let mut prepare = vec![
            Ask::Set {
                off: at - AROUND,
                len: 8 + 2 * AROUND,
                byte: STILL,
            },
            Ask::Put {
                off: at,
                value: before,
            },
        ];
        if cool {
            prepare.push(Ask::Cool { off: 0, len: SIZE });
        }
        if let Err(error) = self.have(true, prepare)? {
            return Ok(Err(error));
        }
        let answers = !matches!(work, Work::AtomicWrite(..));
        let list = [self.party.sge(back, 8)?];
        let list = if answers { &list[..] } else { &[] };
        if let Err(error) = self.party.run(&[(work, list)]) {
            return Ok(Err(error.into()));
        }
        let word = |off, value| Ask::CheckWord { off, value };
        let checks = vec![word(at, after), around(at - AROUND), around(at + 8)];
        let says = match self.have(true, checks)? {
            Ok(says) => says,
            Err(error) => return Ok(Err(error)),
        };
        let mut wrong = Vec::new();
        for say in says {
            wrong.push(found(say)?);
        }
        let [mut data, mut stray, behind] = wrong[..] else {
            bail!("{} comparisons, not 3", wrong.len());
        };
        stray.add(behind);
        if answers {
            data.add(found(self.party.asked(&word(back, before)))?);
        }
        Ok(Ok((data, stray)))
    }

    /// WRITE through a window works while it is bound, to its bytes alone.
    fn window(&mut self, cases: &Cases) -> Result<Tally> {
        let mut tally = Tally::default();
        let region = self.far.1;
        for &off in &cases.offsets {
            let len = 5000;
            let case = Case {
                state: State::Warm,
                off,
                len,
                seed: self.env.seed + 1000 + off as u64,
            };
            let to = AREA + 2 * PAGE + off;
            let bound = self.have(true, vec![Ask::Bind { off: to, len }])?;
            let result = match bound.as_deref() {
                Ok([Say::Key(key)]) => {
                    self.far.1 = *key;
                    let result = self.copy(Op::Write, case)?;
                    let past = self.refused(to + 1, len);
                    // That was its end: a new one for the same window would not do.
                    self.far.1 = region;
                    result.and_then(|wrong| past.map(|()| wrong))
                }
                _ => Err(anyhow!("no window: {bound:?}")),
            };
            tally.add(|| format!("{case}, past the window's end"), result);
            self.connect(Op::Window)?;
        }
        // Once it is not bound its key is nobody's.
        let to = AREA + 2 * PAGE;
        let bound = self.have(true, vec![Ask::Bind { off: to, len: 100 }, Ask::Unbind])?;
        let result = match bound.as_deref() {
            Ok([Say::Key(key), Say::Done]) => {
                self.far.1 = *key;
                let refused = self.refused(to, 100);
                self.far.1 = region;
                refused.map(|()| (Wrong::default(), Wrong::default()))
            }
            _ => Err(anyhow!("no window: {bound:?}")),
        };
        tally.add(|| "a window that is not bound any more".to_owned(), result);
        self.connect(Op::Window)?;
        Ok(tally)
    }

    /// A WRITE that must not be done.
    fn refused(&self, to: usize, len: usize) -> Result<()> {
        let local = [self.party.sge(2 * PAGE, len)?];
        match self.party.run(&[(Work::Write(self.remote(to)), &local)]) {
            Err(OpError::Status(ffi::IBV_WC_REM_ACCESS_ERR)) => Ok(()),
            Err(error) => bail!("a remote access error was to come, not: {error}"),
            Ok(()) => bail!("what is not allowed was done"),
        }
    }
}
