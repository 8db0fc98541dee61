//! Each side ends, in each way and in each state. The other goes on, and nobody is stuck.

use std::time::{Duration, Instant};

use ::xpmem::abi;
use anyhow::{Context as _, Result, bail};

use super::cases::report_all;
use super::peer::{Peer, SOON};
use super::wire::Order;
use crate::mem::PAGE;
use crate::report::Report;
use crate::system::Cgroup;

const P: u64 = PAGE as u64;
const SIZE: u64 = 32 * P;
/// More turns than fit into a test.
const FOR_EVER: u64 = 1 << 40;

/// Runs all cases.
pub fn run(report: &Report) {
    report_all(
        report,
        "xpmem deaths",
        &[
            ("the attacher, in each state", &attacher),
            ("the owner, in each state", &owner),
            ("both at once", &both),
            ("an attacher whose page never comes", &waiting),
            ("the OOM killer takes the owner", &oom),
        ],
    );
}

/// How far the two have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is a segment.
    Made,
    /// … and a permit.
    Permitted,
    /// … and an attachment that nobody has touched.
    Attached,
    /// … that was touched.
    Touched,
    /// The attacher reads and writes without pause.
    Busy,
    /// The attacher waits for a page that the owner's userfaultfd is to bring, and never does.
    Waits,
}

const STATES: [State; 6] = [
    State::Made,
    State::Permitted,
    State::Attached,
    State::Touched,
    State::Busy,
    State::Waits,
];

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Kill,
    Exit,
    Exec,
}

const WAYS: [Way; 3] = [Way::Kill, Way::Exit, Way::Exec];

struct Scene {
    owner: Peer,
    there: u64,
    segment: u64,
    attacher: Peer,
    permit: u64,
    at: u64,
}

impl Scene {
    /// Brings both there.
    fn at(state: State) -> Result<Self> {
        let mut owner = Peer::start("owner")?;
        let (there, segment) = owner.share(SIZE, 1)?;
        let mut s = Self {
            owner,
            there,
            segment,
            attacher: Peer::start("attacher")?,
            permit: 0,
            at: 0,
        };
        if state == State::Made {
            return Ok(s);
        }
        let permit = s.attacher.get(segment, abi::RDWR)?;
        s.permit = permit.context("a permit")?;
        if state == State::Permitted {
            return Ok(s);
        }
        let at = s.attacher.attach(s.permit, 0, SIZE, 0)?;
        s.at = at.context("attaching")?;
        match state {
            State::Touched => {
                s.attacher.must(Order::Store, &[s.at, SIZE, 2, 0])?;
            }
            State::Busy => s.hammer()?,
            State::Waits => s.wait()?,
            _ => {}
        }
        Ok(s)
    }

    /// The attacher begins to read and write, and has done so some times.
    fn hammer(&mut self) -> Result<()> {
        let before = self.count()?;
        self.attacher.tell(Order::Hammer, &[self.at, FOR_EVER])?;
        let start = Instant::now();
        while self.count()? < before.wrapping_add(3) {
            if start.elapsed() > SOON {
                bail!("the attacher gets nothing done");
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<u64> {
        let (count, _) = self.owner.must(Order::Add, &[self.there, 0])?;
        Ok(count)
    }

    /// The attacher waits for a page.
    fn wait(&mut self) -> Result<()> {
        self.owner.must(
            Order::Advise,
            &[self.there, SIZE, libc::MADV_DONTNEED as u64],
        )?;
        self.owner.must(Order::Watch, &[self.there, SIZE])?;
        self.attacher.tell(Order::Load, &[self.at + 3 * P, 1])?;
        asleep(&self.attacher)?;
        if let Some(answer) = self.attacher.answer_within(Duration::from_millis(50))? {
            bail!("a page that nobody brings was there: {answer:x?}");
        }
        Ok(())
    }
}

/// Waits until a process sleeps in the kernel, elsewhere than in `recv`.
fn asleep(peer: &Peer) -> Result<()> {
    let path = format!("/proc/{}/syscall", peer.pid());
    let start = Instant::now();
    loop {
        let said = std::fs::read_to_string(&path)?;
        // A fault is no system call: -1; one that waits in recv has its number.
        if said.starts_with("-1 ") {
            return Ok(());
        }
        if start.elapsed() > SOON {
            bail!(
                "the process is in system call {}, not in a fault",
                said.trim()
            );
        }
        std::thread::yield_now();
    }
}

/// Lets a process end. One that is busy can be killed only.
fn end(peer: &mut Peer, way: Way) -> Result<()> {
    match way {
        Way::Kill => peer.end_by_kill(),
        Way::Exit => {
            peer.tell(Order::Exit, &[0])?;
            peer.ended().map(drop)
        }
        Way::Exec => {
            peer.tell(Order::Exec, &[])?;
            let path = format!("/proc/{}/comm", peer.pid());
            let start = Instant::now();
            while std::fs::read_to_string(&path)?.trim() != "sleep" {
                if start.elapsed() > SOON {
                    bail!("it did not become another program");
                }
                std::thread::yield_now();
            }
            Ok(())
        }
    }
}

fn attacher() -> Result<String> {
    let mut cases = 0;
    for state in STATES {
        for way in WAYS {
            // A process that does something else does not hear an order.
            if way != Way::Kill && matches!(state, State::Busy | State::Waits) {
                continue;
            }
            let play = || -> Result<()> {
                let mut s = Scene::at(state)?;
                end(&mut s.attacher, way)?;
                if state == State::Waits {
                    return s.owner.end_by_kill();
                }
                s.owner
                    .must(Order::Advise, &[s.there, SIZE, libc::MADV_DONTNEED as u64])?;
                s.owner.must(Order::Store, &[s.there, SIZE, 3, 0])?;
                let mut other = Peer::start("next attacher")?;
                let (_, at) = other.join(s.segment, SIZE)?;
                other.holds(at, SIZE, 3, 0)?;
                other.must(Order::Store, &[at, SIZE, 4, 0])?;
                s.owner.holds(s.there, SIZE, 4, 0)?;
                s.owner.end(abi::REMOVE, s.segment)?.context("removing")
            };
            play().with_context(|| format!("{way:?} in state {state:?}"))?;
            cases += 1;
        }
    }
    Ok(format!(
        "{cases} ends; the owner and the next attacher go on"
    ))
}

fn owner() -> Result<String> {
    let mut cases = 0;
    for state in STATES {
        for way in WAYS {
            let play = || -> Result<()> {
                let mut s = Scene::at(state)?;
                end(&mut s.owner, way)?;
                after_owner(&mut s, state)
            };
            play().with_context(|| format!("{way:?} in state {state:?}"))?;
            cases += 1;
        }
    }
    Ok(format!(
        "{cases} ends; the attacher gets SIGBUS or EFAULT where it touches, and goes on"
    ))
}

/// The attacher finds nothing there, and can go on.
fn after_owner(s: &mut Scene, state: State) -> Result<()> {
    if matches!(state, State::Busy | State::Waits) {
        match s.attacher.answer()? {
            Err(refusal) if refusal.is_absence() => {}
            other => bail!("what it was at ended with {other:x?}"),
        }
    }
    let got = s.attacher.get(s.segment, abi::RDWR)?;
    if got.is_ok() {
        bail!("a permit: {got:x?}");
    }
    if state != State::Made {
        // The permit may be good for nothing, or for what is not there.
        if let Ok(at) = s.attacher.attach(s.permit, 0, P, 0)? {
            absent(&mut s.attacher, at)?;
            s.attacher
                .end(abi::DETACH, at)?
                .context("detaching the second")?;
        }
    }
    if s.at != 0 {
        absent(&mut s.attacher, s.at)?;
        absent(&mut s.attacher, s.at + SIZE - P)?;
        s.attacher.end(abi::DETACH, s.at)?.context("detaching")?;
    }
    if state != State::Made {
        s.attacher
            .end(abi::RELEASE, s.permit)?
            .context("releasing")?;
    }
    let mut next = Peer::start("next owner")?;
    let (_, segment) = next.share(SIZE, 6)?;
    let (_, at) = s.attacher.join(segment, SIZE)?;
    s.attacher.holds(at, SIZE, 6, 0)
}

fn absent(peer: &mut Peer, at: u64) -> Result<()> {
    for (order, words) in [
        (Order::Load, [at, 8]),
        (Order::Store, [at, 8]),
        (Order::KernelReads, [at, 8]),
        (Order::KernelWrites, [at, 8]),
    ] {
        let refusal = peer.refused(order, &words)?;
        if !refusal.is_absence() {
            bail!("{order:?}: {refusal}");
        }
    }
    Ok(())
}

fn both() -> Result<String> {
    for state in STATES {
        for owner_first in [true, false] {
            let play = || -> Result<()> {
                let mut s = Scene::at(state)?;
                let (first, second) = match owner_first {
                    true => (&mut s.owner, &mut s.attacher),
                    false => (&mut s.attacher, &mut s.owner),
                };
                first.kill()?;
                second.kill()?;
                first.ended()?;
                second.ended().map(drop)
            };
            play().with_context(|| format!("state {state:?}, the owner first: {owner_first}"))?;
        }
    }
    let mut s = Scene::at(State::Touched)?;
    s.owner.holds(s.there, SIZE, 2, 0)?;
    s.attacher.holds(s.at, SIZE, 2, 0)?;
    Ok("12 times; the next two work".into())
}

/// Nobody else waits for what one waits for: not the owner, and not another attacher of other pages.
fn waiting() -> Result<String> {
    let mut s = Scene::at(State::Touched)?;
    let half = SIZE / 2;
    s.owner
        .must(Order::Advise, &[s.there, half, libc::MADV_DONTNEED as u64])?;
    s.owner.must(Order::Watch, &[s.there, half])?;
    s.attacher.tell(Order::Load, &[s.at, 1])?;
    asleep(&s.attacher)?;
    let mut other = Peer::start("another attacher")?;
    let start = Instant::now();
    let (_, at) = other.join(s.segment, SIZE)?;
    other.holds(at + half, half, 2, half)?;
    s.owner.must(Order::Store, &[s.there + half, half, 3, 0])?;
    other.holds(at + half, half, 3, 0)?;
    s.owner.must(
        Order::Advise,
        &[s.there + half, half, libc::MADV_DONTNEED as u64],
    )?;
    let took = start.elapsed();
    s.attacher.end_by_kill()?;
    s.owner.end(abi::REMOVE, s.segment)?.context("removing")?;
    s.owner.end_by_kill()?;
    let gone = other.refused(Order::Load, &[at + half, 1])?;
    if !gone.is_absence() {
        bail!("behind the owner's end: {gone}");
    }
    Ok(format!(
        "the others went on meanwhile, in {} ms; kill -9 ends it",
        took.as_millis()
    ))
}

/// The reaper must not wait, and gets the memory.
fn oom() -> Result<String> {
    let group = Cgroup::new("emm-xpmem-oom")?;
    group.write("memory.max", "16777216")?;
    group.write("memory.swap.max", "0")?;
    let mut s = Scene::at(State::Busy)?;
    group.add(s.owner.pid())?;
    s.owner.tell(Order::Hoard, &[])?;
    s.owner.ended()?;
    let events = group.read("memory.events")?;
    let kills = events.lines().find_map(|l| l.strip_prefix("oom_kill "));
    if kills.is_none_or(|n| n == "0") {
        bail!("it ended without the OOM killer: {events:?}");
    }
    after_owner(&mut s, State::Busy)?;
    let start = Instant::now();
    loop {
        let left: u64 = group.read("memory.current")?.trim().parse()?;
        if left < 1 << 20 {
            return Ok(format!(
                "the attacher goes on; {} KiB left charged",
                left >> 10
            ));
        }
        if start.elapsed() > SOON {
            bail!("{left} bytes of it are still charged");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
