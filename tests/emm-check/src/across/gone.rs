//! `gone`: the other host, or what it has, goes in the middle of traffic. This side gets an error in its own time, keeps nothing, and
//! serves others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use super::party::{Ask, Party, Peer, Queue, Say, unexpected};
use super::talk::{Line, Place};
use crate::ffi;
use crate::mem::{Map, PAGE};
use crate::pair::Work;
use crate::qp::{OpError, Piece};
use crate::system::{Kind, run};
use crate::target::{Env, Target};

/// How host 2 goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum How {
    /// Its power is cut
    Power,
    /// The process is killed
    Process,
    /// Its rxe device is deleted, and made again
    Link,
    /// Its network card is switched off, and on again
    Card,
}

/// A region, and the longest message.
const SIZE: usize = 64 * PAGE;
const LENGTH: usize = 100_003;
/// Messages before it goes.
const BEFORE: u32 = 10;
/// How often a request is sent again; a timer may take four times what it is asked for (InfiniBand specification, 9.7.6.1.3).
const RETRIES: u8 = 3;
const SLOWER: u32 = 4;
/// What a busy host may take besides.
const SLACK: Duration = Duration::from_secs(2);

/// Host 1 checks, host 2 goes.
pub fn gone(env: &Env, kind: Kind, how: How) -> Result<()> {
    let place = Place::here()?;
    let mut line = Line::open(&place)?;
    if place.host == 2 {
        return line.follow(&mut Party::new(env, kind)).map(drop);
    }
    if how == How::Link {
        let can = "grep -qw rxe_disassociate_ucontext /proc/kallsyms";
        if line.ask(vec![Ask::Shell(can.to_owned())])?.is_err() {
            line.hand_over()?;
            let why = "host 2's driver waits for those who use a device that goes";
            env.report.skip("gone: Link", why, false);
            return Ok(());
        }
    }
    let outcome = stays(env, kind, how, &mut line);
    let label = kind.label();
    let ok = outcome.is_ok();
    let detail = match outcome {
        Ok(detail) => detail,
        Err(error) => format!("{error:#}"),
    };
    env.report.fact(
        ok,
        env.report.requires(kind),
        &format!("{label:6} gone: {how:?}: {detail}"),
        json!({"t": "gone", "mr": label, "how": format!("{how:?}"), "detail": detail}),
    );
    Ok(())
}

/// What host 1 sees of it.
fn stays(env: &Env, kind: Kind, how: How, line: &mut Line) -> Result<String> {
    let mut party = Party::new(env, kind);
    party.gives_up_after(RETRIES);
    let far = connected(env, &mut party, line)?;
    let (sent, went) = thread::scope(|scope| -> Result<_> {
        let (mut sent, mut going, mut to_it) = (0, None, Some(&mut *line));
        loop {
            party.asked(&Ask::Forget { off: 0, len: SIZE });
            let local = [party.sge(1, LENGTH)?];
            if let Err(error) = party.run(&[(Work::Write(far), &local)]) {
                let Some(going) = going else {
                    bail!("before it went: {error}");
                };
                return Ok((ended(how, error, going)?, sent));
            }
            sent += 1;
            if sent < BEFORE {
                continue;
            }
            if let Some(line) = to_it.take() {
                going = Some(scope.spawn(move || {
                    let begun = Instant::now();
                    go(how, line).map(|()| begun)
                }));
            }
        }
    })
    .map(|(after, sent)| (sent, after))?;
    let limit = env.pd.device().link().timeout() * SLOWER * (u32::from(RETRIES) + 1) + SLACK;
    if went > limit {
        bail!(
            "the error came {} ms after it went, not within {}",
            went.as_millis(),
            limit.as_millis()
        );
    }
    drop(party);
    let own = format!(" pid {} ", std::process::id());
    for what in ["mr", "qp", "pd", "cq"] {
        let left = run("rdma", &["resource", "show", what])?;
        // The domain is one of this process's until its end.
        if what != "pd" && left.contains(&own) {
            bail!("{what} left: {left}");
        }
    }
    let target = Target::new(env, kind, Map::anon(SIZE)?)?;
    target.round(1, LENGTH, env.seed)?;
    if let How::Link | How::Card = how {
        // It follows on, and is over with this line.
        line.hand_over()?;
    }
    Ok(format!(
        "after {sent} messages an error in {} ms; nothing is left, others are served",
        went.as_millis()
    ))
}

/// The error that ends a queue pair whose peer is gone, and how long after that it came.
fn ended(
    how: How,
    error: OpError,
    going: thread::ScopedJoinHandle<'_, Result<Instant>>,
) -> Result<Duration> {
    let now = Instant::now();
    let begun = match going.join() {
        Ok(begun) => begun?,
        Err(_) => bail!("a thread panicked"),
    };
    match (how, error) {
        (_, OpError::Status(ffi::IBV_WC_RETRY_EXC_ERR))
        // Its memory goes before its queue pairs.
        | (How::Process, OpError::Status(ffi::IBV_WC_REM_ACCESS_ERR)) => {
            Ok(now.saturating_duration_since(begun))
        }
        (_, error) => bail!("the transport retry counter was to be exceeded, not: {error}"),
    }
}

/// Has host 2 go.
fn go(how: How, line: &mut Line) -> Result<()> {
    let shell = |line: &mut Line, text: &str| line.ask_one(Ask::Shell(text.to_owned())).map(drop);
    match how {
        How::Power => run("emm-host", &["power", "off", "2"]).map(drop),
        How::Process => line.tell(Ask::Die),
        How::Link => shell(
            line,
            "rdma link delete rxe0; rdma link add rxe0 type rxe netdev eth9",
        ),
        // Longer than the other side waits for answers.
        How::Card => line.tell(Ask::Shell(
            "ip link set eth9 down; sleep 3; ip link set eth9 up".to_owned(),
        )),
    }
}

/// Regions and queue pairs on both sides, connected. Returns where to write.
fn connected(env: &Env, party: &mut Party<'_>, line: &mut Line) -> Result<Piece> {
    let peer = |say: Say| -> Result<Peer> {
        match say {
            Say::Queue(peer) => Ok(peer),
            other => unexpected(&other),
        }
    };
    if let Say::Failed(why) = party.asked(&Ask::Region(SIZE)) {
        bail!("{why}");
    }
    let far = match line.ask_one(Ask::Region(SIZE))? {
        Say::Region { addr, key } => Piece { addr, key },
        other => return unexpected(&other),
    };
    let own = peer(party.asked(&Ask::Queue(Queue::Reliable)))?;
    let theirs = peer(line.ask_one(Ask::Queue(Queue::Reliable))?)?;
    line.ask_one(Ask::Connect(own, env.mtu))?;
    match party.asked(&Ask::Connect(theirs, env.mtu)) {
        Say::Done => Ok(far),
        other => unexpected(&other),
    }
}
