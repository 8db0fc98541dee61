//! Memory whose pages come from a userfaultfd handler: one that answers, and one that never does.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use super::again::{after_empty_write, bounce, memory_gone};
use super::watched::{HEARD, SIZE, THERE, watched};
use crate::child::ends_within;
use crate::ffi;
use crate::mem::{Map, PAGE, pattern};
use crate::pair::{Pair, Work};
use crate::private::Advise;
use crate::qp::{Op, OpError};
use crate::system::Kind;
use crate::target::{Env, Target};
use crate::uffd::Uffd;
use crate::verbs::{ALL_ACCESS, Mr};

/// Longest time of what must not wait for the handler.
const SOON: Duration = Duration::from_secs(10);
/// The advice to bring pages in.
const PREFETCH: u32 = ffi::IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH;
/// Time in which a question that must not come would have come.
const SILENCE: Duration = Duration::from_millis(500);

/// The cases.
pub fn uffd(c: &Ctx<'_>) -> Result<()> {
    c.case("a handler answers", answered(c));
    c.case("one question for one page", once(c));
    c.case("a handler for user mode only", user_mode(c));
    c.case("a READ twice, after an empty WRITE", after_empty_write(c));
    c.case("a READ twice, its memory gone", memory_gone(c));
    c.case("silent handler: the others work on", others(c));
    c.case("silent handler: pages behind its own", behind(c));
    c.case("silent handler: its queue pair goes", queue_pair_goes(c));
    c.case("silent handler: its peer goes", peer_goes(c));
    c.case("silent handler: its queue pair is reset", reset(c));
    c.case("late handler: its queue pair is modified", modified(c));
    c.case("silent handler: the region goes", region_goes(c));
    c.case("silent handler: the region goes at once", goes_at_once(c));
    c.case(
        "silent handler: the region goes under advice",
        advised_goes(c),
    );
    c.case("silent handler: much advice", much_advice(c));
    for order in ["first", "last", "taken"] {
        c.case(
            &format!("silent handler: kill -9, descriptor {order}"),
            killed(c, order),
        );
    }
    Ok(())
}

fn answered(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let seed = c.seed(1);
    let base = t.map.addr();
    let answer = |address: usize| {
        let mut page = [0; PAGE];
        pattern(seed, address - base, &mut page);
        handler.answer(address, &page)
    };
    let answers = handler.serve(answer, || {
        t.read(1, SIZE / 2, seed)?;
        t.write(SIZE / 2 + 77, 5000, c.seed(2))?;
        t.read(SIZE / 2 + 1, 76, seed)?;
        t.read(SIZE / 2 + 5077, SIZE / 2 - 5077, seed)?;
        t.cpu_check(SIZE / 2 + 77, 5000, c.seed(2))
    })?;
    if answers < (SIZE - THERE) / PAGE {
        bail!("only {answers} answers were needed: not all pages came from the handler");
    }
    Ok(format!("{answers} answers, 0 wrong bytes"))
}

/// The handler is not asked about the device's faults: the operation ends, and a new queue pair reads what is there.
fn user_mode(c: &Ctx<'_>) -> Result<String> {
    let mut t = c.target(SIZE)?;
    t.cpu_fill(0, THERE, c.seed(1));
    let handler = Uffd::for_user_mode().context("userfaultfd")?;
    handler
        .watch(&t.map, THERE, SIZE - THERE)
        .context("UFFDIO_REGISTER")?;
    let missing = t.remote(THERE + 5);
    match t.qp().run(Op::Read, t.bounce_piece(64), 100, missing) {
        Err(OpError::Status(ffi::IBV_WC_REM_ACCESS_ERR)) => {}
        other => bail!("READ of a page that is not there: {other:?}"),
    }
    if handler.next(Duration::ZERO)?.is_some() {
        bail!("the handler was asked");
    }
    t.new_qp()?;
    t.read(1, THERE - 1, c.seed(1))?;
    Ok("remote access error; a new queue pair works".into())
}

/// Posts a READ of a page that never comes, and waits until the handler has heard of it.
fn block(t: &Target, key: u32, handler: &Uffd) -> Result<()> {
    let mut remote = t.remote(THERE + 3 * PAGE + 5);
    remote.key = key;
    t.qp().post(Op::Read, t.bounce_piece(64), 100, remote)?;
    match handler.next(HEARD)? {
        Some(_) => Ok(()),
        None => bail!("the handler heard of no fault"),
    }
}

pub(super) fn soon<T>(what: &str, work: impl FnOnce() -> T) -> Result<T> {
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    if took > SOON {
        bail!("{what} took {:.1} s", took.as_secs_f64());
    }
    Ok(result)
}

fn others(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let other = Target::sharing(c.env, t.map.clone(), t.mr.clone())?;
    block(&t, t.mr.rkey(), &handler)?;
    soon("reading other pages of the region", || {
        other.read(1, THERE - 1, c.seed(1))
    })??;
    let page = [0x77; PAGE];
    handler.answer(t.map.addr() + THERE + 3 * PAGE, &page)?;
    t.qp().wait()?;
    Ok(
        "another queue pair reads other pages meanwhile; answered late, the first one ends well"
            .into(),
    )
}

/// Two queue pairs need the same page: the handler is asked once. A third one needs the page behind it, and is served meanwhile.
fn once(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let second = Target::sharing(c.env, t.map.clone(), t.mr.clone())?;
    let third = Target::sharing(c.env, t.map.clone(), t.mr.clone())?;
    let page = THERE + 3 * PAGE;
    let read = |t: &Target, off| {
        t.qp()
            .post(Op::Read, t.bounce_piece(64), 100, t.remote(off))
    };
    let holds = |t: &Target, byte| t.bounce_map().check_byte(64, 100, byte).ok("READ");
    block(&t, t.mr.rkey(), &handler)?;
    read(&second, page + 500)?;
    if handler.next(SILENCE)?.is_some() {
        bail!("the handler was asked twice for one page");
    }
    read(&third, page + PAGE)?;
    match handler.next(HEARD)? {
        Some(address) if address == t.map.addr() + page + PAGE => {
            handler.answer(address, &[0x33; PAGE])?;
        }
        other => bail!("the handler heard of {other:x?}, not of the next page"),
    }
    third.qp().wait()?;
    holds(&third, 0x33)?;
    handler.answer(t.map.addr() + page, &[0x77; PAGE])?;
    for one in [&t, &second] {
        one.qp().wait()?;
        holds(one, 0x77)?;
    }
    if handler.next(Duration::ZERO)?.is_some() {
        bail!("the handler was asked twice for one page");
    }
    Ok("asked once for two queue pairs; another page comes meanwhile".into())
}

/// A stream of READs has come to a page that never comes, with read-ahead over the pages behind it, which are there: others must
/// reach those.
fn behind(c: &Ctx<'_>) -> Result<String> {
    const FIRST: usize = 16 * PAGE;
    let t = c.target(SIZE)?;
    t.cpu_fill(0, SIZE, c.seed(1));
    t.map.advise(FIRST, PAGE, libc::MADV_DONTNEED)?;
    let handler = Uffd::new().context("userfaultfd")?;
    handler
        .watch(&t.map, FIRST, PAGE)
        .context("UFFDIO_REGISTER")?;
    let other = Target::sharing(c.env, t.map.clone(), t.mr.clone())?;
    t.read(FIRST / 2, FIRST / 2, c.seed(1))?;
    t.qp()
        .post(Op::Read, t.bounce_piece(64), 100, t.remote(FIRST + 5))?;
    if handler.next(HEARD)?.is_none() {
        bail!("the handler heard of no fault");
    }
    soon("reading the pages behind", || {
        other.read(FIRST + PAGE, SIZE - FIRST - PAGE, c.seed(1))
    })??;
    handler.answer(t.map.addr() + FIRST, &[0x77; PAGE])?;
    t.qp().wait()?;
    Ok("another queue pair reads them meanwhile".into())
}

fn queue_pair_goes(c: &Ctx<'_>) -> Result<String> {
    let (mut t, handler) = watched(c)?;
    block(&t, t.mr.rkey(), &handler)?;
    soon("destroying the queue pair", || t.new_qp())??;
    t.read(1, THERE - 1, c.seed(1))?;
    Ok("destroyed without waiting; a new one works".into())
}

/// The requester waits for its own page, with the responder's packet in hand.
fn peer_goes(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
    let local = t.local(THERE + 3 * PAGE + 5);
    let element = ffi::ibv_sge {
        addr: local.addr,
        length: 64,
        lkey: local.key,
    };
    let work = Work::Read(t.remote(5));
    pair.near.post(&[(work, &[element])])?;
    if handler.next(HEARD)?.is_none() {
        bail!("the handler heard of no fault");
    }
    let Pair { near, far, .. } = pair;
    soon("destroying the responder", || drop(far))?;
    soon("destroying the requester", || drop(near))?;
    t.read(1, THERE - 1, c.seed(1))?;
    Ok("both ends destroyed without waiting".into())
}

/// The responder waits for the page.
fn reset(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
    let element = bounce(&t, 0);
    let read = |off| {
        let work = Work::Read(t.remote(off));
        pair.near.post(&[(work, &[element])])
    };
    read(THERE + 3 * PAGE + 5)?;
    if handler.next(HEARD)?.is_none() {
        bail!("the handler heard of no fault");
    }
    for end in [&pair.far, &pair.near] {
        soon("resetting it", || end.qp.reset())??;
    }
    pair.connect(c.env.mtu)?;
    // The timer of the first request runs out meanwhile, and must do nothing: there is no event to wait for.
    std::thread::sleep(2 * c.env.pd.device().link().timeout());
    read(5)?;
    pair.near.sent.wait().context("connected again")?;
    Ok("reset without waiting, to the state RESET; connected again it works".into())
}

/// The responder waits for the page, and gets another number of resources meanwhile.
fn modified(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let pair = Pair::new(&c.env.pd, c.env.mtu, None)?;
    let element = bounce(&t, 0);
    let write = Work::Write(t.remote(THERE + 3 * PAGE + 5));
    pair.near.post(&[(write, &[element])])?;
    let Some(address) = handler.next(HEARD)? else {
        bail!("the handler heard of no fault");
    };
    std::thread::scope(|scope| {
        let modifying = scope.spawn(|| pair.far.qp.responds(4));
        // That it waits for the fault is no event. If it came first, or ended it, the WRITE says so.
        std::thread::sleep(SILENCE);
        handler.answer(address, &[0x77; PAGE])?;
        let modified = modifying.join();
        modified.map_err(|_| anyhow::anyhow!("the modifying thread panicked"))?
    })?;
    pair.near.sent.wait().context("the WRITE")?;
    pair.near.run(Work::Read(t.remote(5)), &[element])?;
    Ok("the WRITE that waited ends well, and so does a READ afterwards".into())
}

/// A second region on the memory of `t`.
fn region(c: &Ctx<'_>, t: &Target) -> Result<Mr> {
    let (addr, len) = (t.map.addr(), t.map.len());
    Ok(Mr::new(&c.env.pd, addr, len, ALL_ACCESS | c.kind.flags())?)
}

/// The fault has just begun, at whatever point, when the region goes.
fn goes_at_once(c: &Ctx<'_>) -> Result<String> {
    const ROUNDS: u32 = 100;
    let (mut t, _handler) = watched(c)?;
    for round in 0..ROUNDS {
        let mr = region(c, &t)?;
        let mut remote = t.remote(THERE + 3 * PAGE + 5);
        remote.key = mr.rkey();
        t.qp().post(Op::Read, t.bounce_piece(64), 100, remote)?;
        // The moment is what is tried: from the packet's arrival to the wait for the handler.
        let until = Instant::now() + Duration::from_micros(u64::from(round % 100) * 5);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        soon("deregistering the region", || drop(mr))?;
        match soon("the completion", || t.qp().wait())? {
            Err(OpError::Status(_)) => t.new_qp()?,
            Err(e) => bail!("{e}"),
            Ok(()) => bail!("the READ of a page that never came ended well"),
        }
    }
    Ok(format!("{ROUNDS} times deregistered without waiting"))
}

/// A page that never comes, for advice about `mr`.
fn element(t: &Target, mr: &Mr) -> ffi::ibv_sge {
    ffi::ibv_sge {
        addr: (t.map.addr() + THERE + 3 * PAGE) as u64,
        length: PAGE as u32,
        lkey: mr.lkey(),
    }
}

/// Much advice in the background that waits: other queue pairs work on, and regions can go, one whose advice came late first. None
/// is refused, and what is beyond a context's share is left undone.
fn much_advice(c: &Ctx<'_>) -> Result<String> {
    /// Fewer than the faults that a process may have under way.
    const FEW: usize = 40;
    const MANY: usize = 300;
    const ELEMENTS: usize = 10;
    let (t, handler) = watched(c)?;
    let advice = Advise::find()?;
    let mr = region(c, &t)?;
    let list = [element(&t, &mr); ELEMENTS];
    let give = |calls| (0..calls).try_for_each(|_| advice.give(&c.env.pd, PREFETCH, 0, &list));
    give(FEW)?;
    if handler.next(HEARD)?.is_none() {
        bail!("the handler heard of no fault");
    }
    let late = region(c, &t)?;
    advice.give(&c.env.pd, PREFETCH, 0, &[element(&t, &late)])?;
    soon("deregistering the region that came late", || drop(late))?;
    let other = c.target(SIZE)?;
    other.cpu_fill(0, SIZE, c.seed(2));
    soon("reading another region", || {
        other.read(1, SIZE - 1, c.seed(2))
    })??;
    soon("more advice", || give(MANY - FEW))??;
    soon("deregistering the region", || drop(mr))?;
    soon("writing the other region", || {
        other.write(7, 100, c.seed(3))
    })??;
    Ok(format!(
        "{MANY} times {ELEMENTS} elements; another region works on, and both go without waiting"
    ))
}

/// A thread waits in ibv_advise_mr.
fn advised_goes(c: &Ctx<'_>) -> Result<String> {
    let (t, handler) = watched(c)?;
    let advice = Advise::find()?;
    let mr = region(c, &t)?;
    let list = [element(&t, &mr)];
    let flush = ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH;
    std::thread::scope(|scope| {
        let advising = scope.spawn(|| advice.give(&c.env.pd, PREFETCH, flush, &list));
        if handler.next(HEARD)?.is_none() {
            bail!("the handler heard of no fault");
        }
        soon("deregistering the region", || drop(mr))?;
        let said = soon("the advice's end", || advising.join())?;
        match said.map_err(|_| anyhow::anyhow!("the advising thread panicked"))? {
            Err(error) => Ok(format!("deregistered without waiting; the advice: {error}")),
            Ok(()) => bail!("the advice about a page that never came ended well"),
        }
    })
}

fn region_goes(c: &Ctx<'_>) -> Result<String> {
    let (mut t, handler) = watched(c)?;
    let mr = region(c, &t)?;
    block(&t, mr.rkey(), &handler)?;
    soon("deregistering the region", || drop(mr))?;
    match soon("the completion", || t.qp().wait())? {
        Err(e @ OpError::Status(_)) => {
            t.new_qp()?;
            t.read(1, THERE - 1, c.seed(1))?;
            Ok(format!("deregistered without waiting; {e}"))
        }
        Err(e) => bail!("{e}"),
        Ok(()) => bail!("the READ of a page that never came ended well"),
    }
}

/// Ends a process whose READ waits. Its descriptor is made before or after the device is opened, which
/// decides what the kernel closes first; or somebody else holds it too.
fn killed(c: &Ctx<'_>, order: &str) -> Result<String> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(&c.env.child_args)
        .args(["uffd-child", "--mr", "ondemand"])
        .args((order == "first").then_some("--first"))
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process to kill")?;
    let mut line = String::new();
    let out = child.stdout.take().context("the child's output")?;
    BufReader::new(out).read_line(&mut line)?;
    let fd = line
        .strip_prefix("blocked ")
        .and_then(|fd| fd.trim().parse().ok());
    let Some(fd) = fd else {
        child.kill()?;
        bail!("it said {line:?}");
    };
    let held = (order == "taken")
        .then(|| Uffd::take(child.id(), fd))
        .transpose()
        .context("pidfd_getfd")?;
    child.kill()?;
    let took = gone(&mut child)?;
    drop(held);
    Ok(format!("gone after {:.1} s", took.as_secs_f64()))
}

fn gone(child: &mut Child) -> Result<Duration> {
    let start = Instant::now();
    if ends_within(child, SOON)?.is_none() {
        bail!("it is still there {} s after SIGKILL", SOON.as_secs());
    }
    Ok(start.elapsed())
}

/// The process to kill: it says "blocked" and its descriptor when its READ waits, or if it is `advised`, its advice.
pub fn child(env: &Env, kind: Kind, early: Option<Uffd>, advised: bool) -> Result<()> {
    let t = Target::new(env, kind, Map::anon(SIZE)?)?;
    let handler = match early {
        Some(handler) => handler,
        None => Uffd::new()?,
    };
    handler.watch(&t.map, THERE, SIZE - THERE)?;
    if advised {
        return advise(env, &t, &handler);
    }
    block(&t, t.mr.rkey(), &handler)?;
    println!("blocked {}", handler.fd());
    loop {
        std::thread::park();
    }
}

/// Waits in advice, and says when and how that ends.
fn advise(env: &Env, t: &Target, handler: &Uffd) -> Result<()> {
    let (advice, list) = (Advise::find()?, [element(t, &t.mr)]);
    let flush = ffi::IB_UVERBS_ADVISE_MR_FLAG_FLUSH;
    std::thread::scope(|scope| {
        let advising = scope.spawn(|| advice.give(&env.pd, PREFETCH, flush, &list));
        if handler.next(HEARD)?.is_none() {
            bail!("the handler heard of no fault");
        }
        println!("blocked {}", handler.fd());
        let said = advising.join();
        let said = said.map_err(|_| anyhow::anyhow!("the advising thread panicked"))?;
        println!("advised {said:?}");
        loop {
            std::thread::park();
        }
    })
}
