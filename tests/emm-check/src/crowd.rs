//! One user's memory never comes, and many of his queue pairs wait for it. Nobody else does.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child::ends_within;
use crate::counters::counters;
use crate::cq::Cq;
use crate::ffi;
use crate::mem::{Map, PAGE};
use crate::private::Advise;
use crate::qp::{Op, RawQp};
use crate::system::Kind;
use crate::target::{Env, Target};
use crate::uffd::Uffd;
use crate::verbs::{ALL_ACCESS, Link, Mr};

/// The other user.
const USER: &str = "1000";
/// Longest time of what waits for nobody.
const SOON: Duration = Duration::from_secs(20);
/// Longest time of his kill -9, for each of his queue pairs, beside one that is destroyed with nothing to do.
const SLOWER: f64 = 2.0;
/// What of its rate another user keeps at least.
const KEEPS: f64 = 0.9;
/// What of their time the CPUs are idle at least, when all of his wait and nobody else does anything.
const IDLE: f64 = 0.9;
/// Whether a user's handler is asked about faults of the kernel.
const UNPRIVILEGED: &str = "/proc/sys/vm/unprivileged_userfaultfd";

/// Reports how another user fares beside `qps` queue pairs that wait.
pub fn crowd(env: &Env, kind: Kind, qps: usize, seconds: f64) -> Result<()> {
    let case = |name: &str, outcome| {
        let required = env.report.requires(kind);
        env.report
            .case(kind.label(), "crowd", name, required, outcome);
    };
    let target = Target::new(env, kind, Map::anon(2 << 20)?)?;
    target.cpu_fill(0, 2 << 20, env.seed);
    let mut other = User::start(env, qps)?;
    let before = times(&target, seconds)?;
    other.tell("wait")?;
    other.hear("waiting")?;
    let beside = times(&target, seconds)?;
    case("another user's ping-pong", kept(before, beside, qps));
    case("another user's advice", advised(env, kind));
    case("the CPUs meanwhile", idle(Duration::from_secs_f64(seconds)));
    case("his kill -9", other.killed(qps));
    Ok(())
}

/// How long each operation takes, in microseconds, for so long.
fn times(target: &Target, seconds: f64) -> Result<Vec<f64>> {
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed().as_secs_f64() < seconds {
        let (from, to) = (target.bounce_piece(64), target.remote(8));
        let begun = Instant::now();
        target.qp().run(Op::Write, from, 8, to)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// A quarter of them took no longer: what a busy host takes away, now more and now less, is not the other user's doing.
fn quartile(mut times: Vec<f64>) -> Result<f64> {
    times.sort_by(f64::total_cmp);
    times
        .get(times.len() / 4)
        .copied()
        .context("no operation was done")
}

fn kept(before: Vec<f64>, beside: Vec<f64>, qps: usize) -> Result<String> {
    let (before, beside) = (quartile(before)?, quartile(beside)?);
    let share = before / beside;
    let says = format!(
        "a WRITE of 8 bytes takes {before:.0} µs, and {beside:.0} beside {qps} that wait: {share:.2} of the rate"
    );
    if share < KEEPS {
        bail!("{says}");
    }
    Ok(says)
}

/// At once, and in the background.
fn advised(env: &Env, kind: Kind) -> Result<String> {
    const SIZE: usize = 64 * PAGE;
    let advice = Advise::find()?;
    for flags in [ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH, 0] {
        let map = Map::anon(SIZE)?;
        let mr = Mr::new(&env.pd, map.addr(), SIZE, ALL_ACCESS | kind.flags())?;
        let element = ffi::ibv_sge {
            addr: map.addr() as u64,
            length: SIZE as u32,
            lkey: mr.lkey(),
        };
        let what = ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE;
        let start = Instant::now();
        advice.give(&env.pd, what, flags, &[element])?;
        // No event tells of what comes in the background.
        while crate::system::region(map.addr())?.resident < (SIZE / PAGE) as u64 {
            if start.elapsed() > SOON {
                bail!("not there after {} s (flags {flags})", SOON.as_secs());
            }
            std::thread::yield_now();
        }
    }
    Ok("served, with its caller waiting and in the background".into())
}

/// Idle and all time of all CPUs, in ticks (proc_stat(5)).
fn ticks() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let numbers = line.split_whitespace().skip(1);
    let numbers: Vec<u64> = numbers.filter_map(|n| n.parse().ok()).collect();
    // User, nice, system, idle and I/O wait, then others; guests are in the first two already.
    let idle = numbers.get(3..5).context("a short /proc/stat")?;
    Ok((idle.iter().sum(), numbers.iter().take(8).sum()))
}

fn idle(time: Duration) -> Result<String> {
    let before = ticks()?;
    std::thread::sleep(time.max(Duration::from_secs(2)));
    let now = ticks()?;
    let share = (now.0 - before.0) as f64 / (now.1 - before.1) as f64;
    let says = format!("idle for {:.0} % of the time", 100.0 * share);
    if share < IDLE {
        bail!("{says}");
    }
    Ok(says)
}

/// The other user's process, and how one talks with it: lines.
struct User {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl User {
    fn start(env: &Env, qps: usize) -> Result<Self> {
        fs::write(UNPRIVILEGED, "1").with_context(|| format!("writing {UNPRIVILEGED}"))?;
        let mut child = Command::new("setpriv")
            .args(["--reuid", USER, "--regid", USER, "--clear-groups", "--"])
            .arg(std::env::current_exe()?)
            .args(&env.child_args)
            .args(["crowd-child", "--mr", "ondemand"])
            .args(["--qps", &qps.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the other user's process")?;
        let input = child.stdin.take().context("its input")?;
        let output = child.stdout.take().context("its output")?;
        let mut this = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        this.hear("ready")?;
        Ok(this)
    }

    fn tell(&mut self, what: &str) -> Result<()> {
        writeln!(self.input, "{what}").context("telling the other user's process")
    }

    fn hear(&mut self, what: &str) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if !line.starts_with(what) {
            bail!("the other user's process said {line:?}, not `{what}`");
        }
        Ok(line.trim()[what.len()..].to_owned())
    }

    /// His process ends as soon as one that has as many queue pairs and waits for nothing.
    fn killed(mut self, qps: usize) -> Result<String> {
        self.tell("measure")?;
        let idle: f64 = self.hear("destroyed ")?.parse().context("a time")?;
        let start = Instant::now();
        self.child.kill()?;
        let limit = Duration::from_secs(600);
        if ends_within(&mut self.child, limit)?.is_none() {
            bail!("it is still there {} s after SIGKILL", limit.as_secs());
        }
        let each = start.elapsed().as_secs_f64() * 1e3 / qps as f64;
        let says = format!(
            "{each:.2} ms for each of its queue pairs; one that waits for nothing is destroyed in {idle:.2} ms"
        );
        // The process's own end takes its time too.
        if each > SLOWER * idle + 100.0 / qps as f64 {
            bail!("{says}");
        }
        Ok(says)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other user's process: when it is told, each of its queue pairs waits for a page that never comes, and much advice.
pub fn child(env: &Env, kind: Kind, qps: usize) -> Result<()> {
    let map = Map::anon((qps + 1) * PAGE)?;
    let handler = Uffd::new().context("userfaultfd")?;
    handler.watch(&map, 0, map.len())?;
    let mr = Mr::new(&env.pd, map.addr(), map.len(), ALL_ACCESS | kind.flags())?;
    let cq = Cq::new(env.pd.device())?;
    // What is sent again and again would be his traffic, which is not what is looked at.
    let link = Link {
        ack_timeout: 31,
        ..env.pd.device().link()
    };
    let connected = |_| {
        let qp = RawQp::new(&env.pd, &cq, &cq)?;
        // To itself: who asks waits for nothing of its own.
        qp.connect(&qp, link, env.mtu, ALL_ACCESS)?;
        Ok(qp)
    };
    let waiting: Vec<RawQp> = (0..qps).map(connected).collect::<Result<_>>()?;
    let few = 1 + qps / 20;
    let idle: Vec<RawQp> = (0..few).map(connected).collect::<Result<_>>()?;
    let bounce = Arc::new(Map::anon(PAGE)?);
    let local = Mr::new(&env.pd, bounce.addr(), PAGE, ALL_ACCESS)?;
    let mut lines = std::io::stdin().lock().lines();
    let mut told = |what: &str| match lines.next() {
        Some(Ok(line)) if line == what => Ok(()),
        other => bail!("told {other:?}, not `{what}`"),
    };
    println!("ready");
    told("wait")?;
    let received = || counters().get("rcvd_pkts").copied().unwrap_or(0);
    let before = received();
    for (number, qp) in waiting.iter().enumerate() {
        let to = (map.addr() + number * PAGE) as u64;
        qp.post_write((bounce.addr() as u64, local.lkey()), 8, (to, mr.rkey()))?;
    }
    if handler.next(SOON)?.is_none() {
        bail!("the handler heard of no fault");
    }
    while received() < before + qps as u64 {
        // A counter tells no one that it has changed.
        std::thread::sleep(Duration::from_millis(10));
    }
    let element = ffi::ibv_sge {
        addr: (map.addr() + qps * PAGE) as u64,
        length: PAGE as u32,
        lkey: mr.lkey(),
    };
    let advice = Advise::find()?;
    for _ in 0..300 {
        let what = ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH;
        advice.give(&env.pd, what, 0, &[element])?;
    }
    println!("waiting");
    told("measure")?;
    let start = Instant::now();
    drop(idle);
    println!(
        "destroyed {}",
        start.elapsed().as_secs_f64() * 1e3 / few as f64
    );
    told("nothing")
}
