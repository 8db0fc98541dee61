//! What ends while its memory never comes, for the handler is silent: at once, whatever it is and whoever ends it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::again::bounce;
use super::watched::{HEARD, SIZE, THERE, watched};
use crate::child::ends_within;
use crate::ffi;
use crate::mem::PAGE;
use crate::pair::{End, Pair, Work};
use crate::qp::OpError;
use crate::system::Kind;
use crate::target::{Env, Target};
use crate::uffd::Uffd;
use crate::verbs::{ALL_ACCESS, Mr};

/// Longest time of what ends it.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How often it is tried: an emulated CPU is a thread of its host, which may be busy.
const TRIES: u32 = 5;
/// Where the page lies that never comes.
const NEVER: usize = THERE + 3 * PAGE + 5;
const LEN: u32 = 100;

/// Who waits for memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The responder, for where a WRITE goes to.
    Responder,
    /// The responder, for its receive.
    Receiver,
    /// The requester, for what it sends.
    Requester,
    /// The requester, for where a READ goes to.
    Completer,
}

const ALL: [(Who, &str); 4] = [
    (Who::Responder, "responder"),
    (Who::Receiver, "receiver"),
    (Who::Requester, "requester"),
    (Who::Completer, "completer"),
];

/// The cases.
pub fn parked(c: &Ctx<'_>) -> Result<()> {
    for (who, name) in ALL {
        c.case(&format!("{name}: moved to ERR"), best(|| failed(c, who)));
        c.case(&format!("{name}: reset"), best(|| reset(c, who)));
        c.case(&format!("{name}: destroyed"), best(|| destroyed(c, who)));
        c.case(
            &format!("{name}: its peer destroyed"),
            best(|| peer_destroyed(c, who)),
        );
        c.case(
            &format!("{name}: deregistered"),
            best(|| deregistered(c, who)),
        );
        c.case(&format!("{name}: modified"), best(|| modified(c, who)));
    }
    c.case("kill -9", best(|| killed(c)));
    Ok(())
}

/// The shortest of a few times, which must be short.
fn best(once: impl Fn() -> Result<Duration>) -> Result<String> {
    let mut shortest = Duration::MAX;
    for _ in 0..TRIES {
        shortest = shortest.min(once()?);
        if shortest <= AT_ONCE {
            let millis = shortest.as_secs_f64() * 1e3;
            return Ok(format!("after {millis:.1} ms"));
        }
    }
    bail!("after {} ms at best", shortest.as_millis())
}

/// Two queue pairs of which one waits.
struct Stuck {
    pair: Pair,
    mr: Mr,
    t: Target,
    _handler: Uffd,
}

impl Stuck {
    fn new(c: &Ctx<'_>, who: Who) -> Result<Self> {
        let (t, handler) = watched(c)?;
        let pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
        let mr = Mr::new(&c.env.pd, t.map.addr(), SIZE, ALL_ACCESS | c.kind.flags())?;
        let mut late = t.remote(NEVER);
        late.key = mr.rkey();
        let element = ffi::ibv_sge {
            addr: late.addr,
            length: LEN,
            lkey: mr.lkey(),
        };
        let here = bounce(&t, 1);
        match who {
            Who::Responder => pair.near.post(&[(Work::Write(late), &[here])])?,
            Who::Receiver => {
                pair.far.post_recv(7, &[element])?;
                pair.near.post(&[(Work::Send, &[here])])?;
            }
            Who::Requester => {
                let write = Work::Write(t.remote(5));
                pair.near.post(&[(write, &[element])])?;
            }
            Who::Completer => {
                let read = Work::Read(t.remote(5));
                pair.near.post(&[(read, &[element])])?;
            }
        }
        if handler.next(HEARD)?.is_none() {
            bail!("the handler heard of no fault");
        }
        Ok(Self {
            pair,
            mr,
            t,
            _handler: handler,
        })
    }

    /// The end that waits.
    fn waits(&self, who: Who) -> &End {
        match who {
            Who::Responder | Who::Receiver => &self.pair.far,
            Who::Requester | Who::Completer => &self.pair.near,
        }
    }
}

fn status(of: Result<ffi::ibv_wc, OpError>, wanted: &[u32]) -> Result<()> {
    match of {
        Err(OpError::Status(status)) if wanted.contains(&status) => Ok(()),
        Err(error) => bail!("{error}, not one of the statuses {wanted:?}"),
        Ok(_) => bail!("it ended well"),
    }
}

/// What was posted there is flushed.
fn failed(c: &Ctx<'_>, who: Who) -> Result<Duration> {
    let stuck = Stuck::new(c, who)?;
    let end = stuck.waits(who);
    let start = Instant::now();
    end.qp.fail()?;
    let flushed = &[ffi::IBV_WC_WR_FLUSH_ERR];
    match who {
        Who::Responder => {}
        Who::Receiver => status(end.received.wait(), flushed).context("the receive")?,
        Who::Requester | Who::Completer => {
            status(end.sent.wait(), flushed).context("the request")?;
        }
    }
    Ok(start.elapsed())
}

/// It works as new afterwards.
fn reset(c: &Ctx<'_>, who: Who) -> Result<Duration> {
    let stuck = Stuck::new(c, who)?;
    let start = Instant::now();
    stuck.waits(who).qp.reset()?;
    let took = start.elapsed();
    for end in [&stuck.pair.near, &stuck.pair.far] {
        end.qp.reset()?;
    }
    stuck.pair.connect(c.env.mtu)?;
    let read = Work::Read(stuck.t.remote(5));
    let here = bounce(&stuck.t, 2);
    stuck.pair.near.run(read, &[here]).context("a READ")?;
    Ok(took)
}

fn destroyed(c: &Ctx<'_>, who: Who) -> Result<Duration> {
    let stuck = Stuck::new(c, who)?;
    let Pair { near, far, .. } = stuck.pair;
    let one = match who {
        Who::Responder | Who::Receiver => far,
        Who::Requester | Who::Completer => near,
    };
    let start = Instant::now();
    drop(one);
    Ok(start.elapsed())
}

/// The end that waits for nothing has packets in the hands of the other.
fn peer_destroyed(c: &Ctx<'_>, who: Who) -> Result<Duration> {
    let stuck = Stuck::new(c, who)?;
    let Pair { near, far, .. } = stuck.pair;
    let (one, _other) = match who {
        Who::Responder | Who::Receiver => (near, far),
        Who::Requester | Who::Completer => (far, near),
    };
    let start = Instant::now();
    drop(one);
    Ok(start.elapsed())
}

/// The request ends with an error.
fn deregistered(c: &Ctx<'_>, who: Who) -> Result<Duration> {
    let stuck = Stuck::new(c, who)?;
    let Stuck { pair, mr, .. } = stuck;
    let start = Instant::now();
    drop(mr);
    let took = start.elapsed();
    let wanted: &[u32] = match who {
        Who::Responder => &[ffi::IBV_WC_REM_ACCESS_ERR],
        Who::Receiver => &[ffi::IBV_WC_REM_OP_ERR],
        // Of a pinned region, too.
        Who::Requester => &[ffi::IBV_WC_WR_FLUSH_ERR],
        Who::Completer => &[ffi::IBV_WC_LOC_PROT_ERR],
    };
    status(pair.near.sent.wait(), wanted)?;
    Ok(took.max(start.elapsed()))
}

/// The number of responder resources changes, and what waits goes on waiting: it is in nobody's way.
fn modified(c: &Ctx<'_>, who: Who) -> Result<Duration> {
    let stuck = Stuck::new(c, who)?;
    let start = Instant::now();
    stuck.waits(who).qp.responds(4)?;
    let took = start.elapsed();
    for end in [&stuck.pair.near.sent, &stuck.pair.far.received] {
        if let Some(wc) = end.poll()? {
            bail!("what waited has ended with status {}", wc.status);
        }
    }
    Ok(took)
}

/// A process one of whose queue pairs waits in each way.
fn killed(c: &Ctx<'_>) -> Result<Duration> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(&c.env.child_args)
        .args(["parked-child", "--mr", "ondemand"])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process to kill")?;
    let mut line = String::new();
    let out = child.stdout.take().context("the child's output")?;
    BufReader::new(out).read_line(&mut line)?;
    let start = Instant::now();
    child.kill()?;
    if ends_within(&mut child, HEARD)?.is_none() {
        bail!("it is still there {} s after SIGKILL", HEARD.as_secs());
    }
    let took = start.elapsed();
    if line.trim() != "blocked" {
        bail!("it said {line:?}");
    }
    Ok(took)
}

/// The process to kill.
pub fn child(env: &Env, kind: Kind) -> Result<()> {
    let c = Ctx {
        env,
        kind,
        event: "parked",
    };
    let mut stuck = Vec::new();
    for (who, _) in ALL {
        stuck.push(Stuck::new(&c, who)?);
    }
    println!("blocked");
    loop {
        std::thread::park();
    }
}

const _: () = assert!(NEVER + LEN as usize <= SIZE);
