//! What ends while its memory never comes, for the handler is silent: at once, whatever it is and whoever ends it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::again::bounce;
use super::watched::{HEARD, SIZE, THERE, watched};
use crate::child::ends_within;
use crate::ffi;
use crate::fuse::{Silent, of_server};
use crate::mem::{Map, PAGE};
use crate::pair::{End, Pair, Work};
use crate::qp::{OpError, Piece};
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
    /// The responder, for what is read.
    Source,
}

const ALL: [(Who, &str); 4] = [
    (Who::Responder, "responder"),
    (Who::Receiver, "receiver"),
    (Who::Requester, "requester"),
    (Who::Completer, "completer"),
];

/// Those who can wait for memory that is not written.
const OF_A_FILE: [(Who, &str); 2] = [(Who::Requester, "requester"), (Who::Source, "source")];

/// Who never brings the memory.
#[derive(Clone, Copy)]
enum By<'a> {
    /// A userfaultfd handler.
    Handler,
    /// A file server that has been asked: nothing ends its request.
    Server(&'a Silent),
}

/// The cases.
pub fn parked(c: &Ctx<'_>) -> Result<()> {
    for (who, name) in ALL {
        let who = (who, By::Handler);
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
    c.case("kill -9", best(|| killed(c, None)));
    for (who, name) in OF_A_FILE {
        let name = |what| format!("{name}, a silent file server: {what}");
        let case = |what, work: fn(&Ctx<'_>, (Who, By<'_>)) -> Result<Duration>| {
            let once = || with_server(|server| work(c, (who, By::Server(server))));
            c.case(&name(what), best(once));
        };
        case("moved to ERR", failed);
        case("destroyed", destroyed);
        case("deregistered", deregistered);
    }
    let killed = || with_server(|server| killed(c, Some(server)));
    c.case("a silent file server: kill -9", best(killed));
    Ok(())
}

fn with_server(work: impl FnOnce(&Silent) -> Result<Duration>) -> Result<Duration> {
    let server = Silent::mount()?.context("this kernel has no FUSE")?;
    work(&server)
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
    _file: Option<Map>,
}

impl Stuck {
    fn new(c: &Ctx<'_>, (who, by): (Who, By<'_>)) -> Result<Self> {
        let (t, handler) = watched(c)?;
        let file = match by {
            By::Handler => None,
            By::Server(server) => Some(server.map(SIZE)?),
        };
        let stuck = Self::with(c, who, t, handler, file)?;
        match by {
            By::Handler => {
                let heard = stuck._handler.next(HEARD)?;
                heard.context("the handler heard of no fault")?;
            }
            By::Server(server) => server.await_read(HEARD)?,
        }
        Ok(stuck)
    }

    /// Waits for a page of `file`, or else of the handler's.
    fn with(c: &Ctx<'_>, who: Who, t: Target, handler: Uffd, file: Option<Map>) -> Result<Self> {
        let pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
        let base = file.as_ref().map_or(t.map.addr(), Map::addr);
        let mr = Mr::new(&c.env.pd, base, SIZE, ALL_ACCESS | c.kind.flags())?;
        let late = Piece {
            addr: (base + NEVER) as u64,
            key: mr.rkey(),
        };
        let element = ffi::ibv_sge {
            addr: late.addr,
            length: LEN,
            lkey: mr.lkey(),
        };
        let here = bounce(&t, 1);
        match who {
            Who::Responder => pair.near.post(&[(Work::Write(late), &[here])])?,
            Who::Source => pair.near.post(&[(Work::Read(late), &[here])])?,
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
        Ok(Self {
            pair,
            mr,
            t,
            _handler: handler,
            _file: file,
        })
    }

    /// The end that waits.
    fn waits(&self, who: Who) -> &End {
        match who {
            Who::Responder | Who::Receiver | Who::Source => &self.pair.far,
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
fn failed(c: &Ctx<'_>, stuck: (Who, By<'_>)) -> Result<Duration> {
    let (who, stuck) = (stuck.0, Stuck::new(c, stuck)?);
    let end = stuck.waits(who);
    let start = Instant::now();
    end.qp.fail()?;
    let flushed = &[ffi::IBV_WC_WR_FLUSH_ERR];
    match who {
        Who::Responder | Who::Source => {}
        Who::Receiver => status(end.received.wait(), flushed).context("the receive")?,
        Who::Requester | Who::Completer => {
            status(end.sent.wait(), flushed).context("the request")?;
        }
    }
    Ok(start.elapsed())
}

/// It works as new afterwards.
fn reset(c: &Ctx<'_>, stuck: (Who, By<'_>)) -> Result<Duration> {
    let (who, stuck) = (stuck.0, Stuck::new(c, stuck)?);
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

fn destroyed(c: &Ctx<'_>, stuck: (Who, By<'_>)) -> Result<Duration> {
    let (who, stuck) = (stuck.0, Stuck::new(c, stuck)?);
    let Pair { near, far, .. } = stuck.pair;
    let one = match who {
        Who::Responder | Who::Receiver | Who::Source => far,
        Who::Requester | Who::Completer => near,
    };
    let start = Instant::now();
    drop(one);
    Ok(start.elapsed())
}

/// The end that waits for nothing has packets in the hands of the other.
fn peer_destroyed(c: &Ctx<'_>, stuck: (Who, By<'_>)) -> Result<Duration> {
    let (who, stuck) = (stuck.0, Stuck::new(c, stuck)?);
    let Pair { near, far, .. } = stuck.pair;
    let (one, _other) = match who {
        Who::Responder | Who::Receiver | Who::Source => (near, far),
        Who::Requester | Who::Completer => (far, near),
    };
    let start = Instant::now();
    drop(one);
    Ok(start.elapsed())
}

/// The request ends with an error.
fn deregistered(c: &Ctx<'_>, stuck: (Who, By<'_>)) -> Result<Duration> {
    let (who, stuck) = (stuck.0, Stuck::new(c, stuck)?);
    let Stuck { pair, mr, .. } = stuck;
    let start = Instant::now();
    drop(mr);
    let took = start.elapsed();
    let wanted: &[u32] = match who {
        Who::Responder | Who::Source => &[ffi::IBV_WC_REM_ACCESS_ERR],
        Who::Receiver => &[ffi::IBV_WC_REM_OP_ERR],
        // Of a pinned region, too.
        Who::Requester => &[ffi::IBV_WC_WR_FLUSH_ERR],
        Who::Completer => &[ffi::IBV_WC_LOC_PROT_ERR],
    };
    status(pair.near.sent.wait(), wanted)?;
    Ok(took.max(start.elapsed()))
}

/// The number of responder resources changes, and what waits goes on waiting: it is in nobody's way.
fn modified(c: &Ctx<'_>, stuck: (Who, By<'_>)) -> Result<Duration> {
    let (who, stuck) = (stuck.0, Stuck::new(c, stuck)?);
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

/// A process one of whose queue pairs waits in each way; or for the server's file.
fn killed(c: &Ctx<'_>, server: Option<&Silent>) -> Result<Duration> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(&c.env.child_args);
    command.args(["parked-child", "--mr", "ondemand"]);
    if let Some(server) = server {
        command.arg("--file").arg(server.file());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process to kill")?;
    let mut line = String::new();
    let out = child.stdout.take().context("the child's output")?;
    BufReader::new(out).read_line(&mut line)?;
    if let Some(server) = server {
        server.await_read(HEARD)?;
    }
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

/// The process to kill. With `file` it waits for pages of that, which its parent sees.
pub fn child(env: &Env, kind: Kind, file: Option<&Path>) -> Result<()> {
    let c = Ctx {
        env,
        kind,
        event: "parked",
    };
    let mut stuck = Vec::new();
    if let Some(file) = file {
        for (who, _) in OF_A_FILE {
            let (t, handler) = watched(&c)?;
            let file = Some(of_server(file, SIZE)?);
            stuck.push(Stuck::with(&c, who, t, handler, file)?);
        }
    } else {
        for (who, _) in ALL {
            stuck.push(Stuck::new(&c, (who, By::Handler))?);
        }
    }
    println!("blocked");
    loop {
        std::thread::park();
    }
}

const _: () = assert!(NEVER + LEN as usize <= SIZE);
