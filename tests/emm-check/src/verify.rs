//! `verify`: every combination of offset in the page and length, each byte and the surroundings compared.
//!
//! Source and target of each operation both lie in the region under test, so that reading from it and writing to it are both
//! covered. Wrong cases are counted, not fatal: in-tree on-demand paging has many.

use std::fmt::Display;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::json;

use crate::mem::{Map, PAGE, Wrong};
use crate::qp::{Op, OpError, Piece};
use crate::system::Kind;
use crate::target::{Env, Target};
use crate::verbs::{ALL_ACCESS, Mr};

/// Offsets in the page that are combined with every length.
pub const OFFSETS: [usize; 10] = [0, 1, 7, 63, 100, 511, 1000, 2048, 4000, 4095];
/// Lengths, around page and MTU boundaries up to 1 MiB.
pub const LENGTHS: [usize; 16] = [
    1,
    2,
    7,
    8,
    64,
    100,
    1000,
    1024,
    4095,
    4096,
    4097,
    5000,
    8192,
    65_537,
    1_000_003,
    1 << 20,
];

/// Source area and target area, each with room for the biggest piece and pages around it.
pub const AREA: usize = (1 << 20) + 8 * PAGE;
/// How far around a target stray writes are looked for.
pub const AROUND: usize = 2 * PAGE - 128;
/// What surroundings are filled with.
pub const STILL: u8 = 0x5A;

/// The operations that can be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Verb {
    /// RDMA WRITE
    Write,
    /// RDMA READ
    Read,
    /// SEND and RECV
    Send,
    /// CMP_SWP and FETCH_ADD
    #[value(alias = "atomics")]
    Atomic,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Send => "send",
            Self::Atomic => "atomic",
        }
    }
}

/// What came of many copies.
#[derive(Default)]
pub struct Tally {
    /// All of them.
    pub cases: u32,
    /// Those with something wrong.
    pub wrong: u32,
    /// Those that wrote outside their target.
    pub stray: u32,
    /// Those that ended with an error.
    pub errors: u32,
    /// What was wrong first.
    pub first: String,
}

impl Tally {
    /// Counts a copy: bytes that are wrong in its target, and outside. Returns whether all was right.
    pub fn add(
        &mut self,
        case: impl FnOnce() -> String,
        result: Result<(Wrong, Wrong), impl Display>,
    ) -> bool {
        self.cases += 1;
        let what = match result {
            Ok((data, stray)) if data.none() && stray.none() => return true,
            Ok((data, stray)) => {
                self.stray += u32::from(!stray.none());
                format!("{data}; outside: {stray}")
            }
            Err(e) => {
                self.errors += 1;
                e.to_string()
            }
        };
        if self.wrong == 0 {
            self.first = format!("first wrong: {}: {what}", case());
        }
        self.wrong += 1;
        false
    }

    /// Takes in what was found in a region at `iova`.
    fn merge(&mut self, other: Self, iova: Option<u64>) {
        if self.wrong == 0 && other.wrong > 0 {
            self.first = match iova {
                Some(iova) => format!("{}, iova {iova:#x}", other.first),
                None => other.first,
            };
        }
        self.cases += other.cases;
        self.wrong += other.wrong;
        self.stray += other.stray;
        self.errors += other.errors;
    }
}

/// Options of `verify`.
pub struct Matrix {
    /// What to run.
    pub verbs: Vec<Verb>,
    /// Offsets in the page.
    pub offsets: Vec<usize>,
    /// Lengths in bytes.
    pub lengths: Vec<usize>,
    /// Also regions whose iova is not their address.
    pub iova: bool,
    /// Memory states: untouched before each case, resident and translated.
    pub fresh: Vec<bool>,
    /// Queue pairs on the one region, which the copies are shared out to.
    pub qps: usize,
}

/// One copy.
#[derive(Clone, Copy)]
struct Case {
    seed: u64,
    fresh: bool,
    off: usize,
    len: usize,
}

impl Matrix {
    /// Queue pairs of an operation. The few atomics, each on what the last one left, have one.
    fn qps(&self, verb: Verb) -> usize {
        match verb {
            Verb::Atomic => 1,
            Verb::Write | Verb::Read | Verb::Send => self.qps,
        }
    }

    /// All copies; the seed of each is its own.
    fn cases(&self, seed: u64) -> Vec<Case> {
        let mut cases = Vec::new();
        for &fresh in &self.fresh {
            for &off in &self.offsets {
                for &len in &self.lengths {
                    let seed = seed + 1 + cases.len() as u64;
                    cases.push(Case {
                        seed,
                        fresh,
                        off,
                        len,
                    });
                }
            }
        }
        cases
    }
}

/// Runs the matrix for one kind and reports a line per operation.
pub fn verify(env: &Env, kind: Kind, m: &Matrix) -> Result<()> {
    for &verb in &m.verbs {
        let mut iovas = vec![None];
        if m.iova && env.report.requires(kind) {
            iovas.extend([Some(0), Some(0x7000), Some(1 << 40)]);
        }
        let mut tally = Tally::default();
        for iova in iovas {
            one(env, kind, verb, m, iova, &mut tally)?;
        }
        let (label, qps) = (kind.label(), m.qps(verb));
        let Tally {
            cases,
            wrong,
            stray,
            errors,
            first,
        } = tally;
        let text = format!(
            "{label:6} verify {} [{qps} QPs, MTU {}]: {wrong} of {cases} wrong ({stray} wrote outside the target, {errors} errors) {first}",
            verb.name(),
            env.mtu
        );
        env.report.fact(
            wrong == 0,
            env.report.requires(kind),
            &text,
            json!({"t": "matrix", "mr": label, "op": verb.name(), "iova": m.iova, "qps": qps, "mtu": env.mtu, "cases": cases, "wrong": wrong,
                   "stray": stray, "errors": errors, "detail": first}),
        );
    }
    Ok(())
}

fn one(
    env: &Env,
    kind: Kind,
    verb: Verb,
    m: &Matrix,
    iova: Option<u64>,
    tally: &mut Tally,
) -> Result<()> {
    let qps = m.qps(verb);
    let map = Arc::new(Map::anon(qps * 2 * AREA)?);
    let access = ALL_ACCESS | kind.flags();
    let base = iova.unwrap_or(map.addr() as u64);
    let mr = Arc::new(match iova {
        None => Mr::new(&env.pd, map.addr(), map.len(), access)?,
        Some(iova) => Mr::with_iova(&env.pd, map.addr(), map.len(), iova, access)?,
    });
    let mut targets = (0..qps)
        .map(|_| Target::sharing(env, map.clone(), mr.clone()))
        .collect::<Result<Vec<_>>>()?;
    if verb == Verb::Atomic {
        return atomics(env, &mut targets[0], base, tally);
    }
    let cases = m.cases(env.seed);
    let tallies = std::thread::scope(|s| {
        let threads: Vec<_> = targets
            .iter_mut()
            .enumerate()
            .map(|(i, t)| {
                let cases = cases.iter().copied().skip(i).step_by(qps);
                s.spawn(move || share(t, i * 2 * AREA, base, kind, verb, cases))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        });
        joined.collect::<Result<Vec<_>>>()
    })?;
    for part in tallies {
        tally.merge(part, iova);
    }
    Ok(())
}

/// The cases of one queue pair, in the part of the region at `part`.
fn share(
    t: &mut Target,
    part: usize,
    base: u64,
    kind: Kind,
    verb: Verb,
    cases: impl Iterator<Item = Case>,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for Case {
        seed,
        fresh,
        off,
        len,
    } in cases
    {
        // Aligned on both sides or on neither.
        let from = part + 2 * PAGE + off * 3 % PAGE;
        let to = part + AREA + 2 * PAGE + off;
        // Pinned memory can't be given back: the device would keep the old pages.
        let fresh = fresh && kind != Kind::Pinned;
        let still = if fresh { 0 } else { STILL };
        if fresh {
            t.map.advise(part, 2 * AREA, libc::MADV_DONTNEED)?;
        } else {
            t.map.set(to - AROUND, len + 2 * AROUND, still);
        }
        t.cpu_fill(from, len, seed);
        let done = copy(t, base, verb, from, to, len);
        let found = done.map(|()| {
            let mut stray = t.map.check_byte(to - AROUND, AROUND, still);
            stray.add(t.map.check_byte(to + len, AROUND, still));
            // The source must not have been written either.
            stray.add(t.map.check(from, len, seed, from));
            (t.map.check(to, len, seed, from), stray)
        });
        let failed = found.is_err();
        tally.add(
            || format!("offset {off}, length {len}, fresh {fresh}"),
            found,
        );
        if failed {
            t.new_qp()?;
        }
    }
    Ok(tally)
}

fn copy(
    t: &Target,
    base: u64,
    verb: Verb,
    from: usize,
    to: usize,
    len: usize,
) -> Result<(), OpError> {
    let local = |off: usize| Piece {
        addr: base + off as u64,
        key: t.mr.lkey(),
    };
    let remote = |off: usize| Piece {
        addr: base + off as u64,
        key: t.mr.rkey(),
    };
    let n = len as u32;
    match verb {
        Verb::Write => t.qp().run(Op::Write, local(from), n, remote(to)),
        Verb::Read => t.qp().run(Op::Read, local(to), n, remote(from)),
        Verb::Send | Verb::Atomic => {
            t.qp().post_recv(local(to), n)?;
            t.qp().run(Op::Send, local(from), n, remote(to))?;
            t.qp().wait_recv()
        }
    }
}

/// CMP_SWP that succeeds and that fails, FETCH_ADD; and an address that is not aligned, which must end in an error.
fn atomics(env: &Env, t: &mut Target, base: u64, tally: &mut Tally) -> Result<()> {
    let mut value = env.seed.wrapping_mul(0x0123_4567_89AB_CDEF);
    for fresh in [true, false] {
        for off in [0, 8, 64, 504, 1000, 2048, 4000, 4088] {
            for kind in 0..3 {
                let at = AREA + 2 * PAGE + off;
                t.map.set(at - AROUND, 8 + 2 * AROUND, STILL);
                t.map.write(at, &value.to_le_bytes());
                if fresh {
                    // The page is written, then goes out of the translation table by a change of protection.
                    t.map.protect(0, 2 * AREA, libc::PROT_READ)?;
                    t.map
                        .protect(0, 2 * AREA, libc::PROT_READ | libc::PROT_WRITE)?;
                }
                let (op, after) = match kind {
                    0 => (Op::CmpSwp(value, !value), !value),
                    1 => (Op::CmpSwp(value ^ 1, 7), value),
                    _ => (
                        Op::FetchAdd(0x1_0000_0001),
                        value.wrapping_add(0x1_0000_0001),
                    ),
                };
                let local = t.bounce_piece(64);
                let remote = Piece {
                    addr: base + at as u64,
                    key: t.mr.rkey(),
                };
                let found = t.qp().run(op, local, 8, remote).map(|()| {
                    let mut wrong = t
                        .map
                        .compare(at, 8, |_, out| out.copy_from_slice(&after.to_le_bytes()));
                    wrong.add(
                        t.bounce_map()
                            .compare(64, 8, |_, out| out.copy_from_slice(&value.to_le_bytes())),
                    );
                    let mut stray = t.map.check_byte(at - AROUND, AROUND, STILL);
                    stray.add(t.map.check_byte(at + 8, AROUND, STILL));
                    (wrong, stray)
                });
                let failed = found.is_err();
                tally.add(|| format!("{op:?} at offset {off}, fresh {fresh}"), found);
                if failed {
                    t.new_qp()?;
                }
                value = value.rotate_left(7) ^ off as u64;
            }
        }
    }
    let remote = Piece {
        addr: base + AREA as u64 + 4,
        key: t.mr.rkey(),
    };
    let result = match t.qp().run(Op::FetchAdd(1), t.bounce_piece(64), 8, remote) {
        // rxe's user space refuses it already.
        Err(OpError::Status(_) | OpError::Post(libc::EINVAL)) => {
            Ok((Wrong::default(), Wrong::default()))
        }
        Err(e) => Err(e),
        Ok(()) => Ok((
            Wrong {
                count: 8,
                first: AREA + 4,
            },
            Wrong::default(),
        )),
    };
    tally.add(
        || "FETCH_ADD at an address that is not aligned must fail".into(),
        result,
    );
    t.new_qp()
}
