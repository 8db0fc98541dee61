//! `notifier`: the EMM notifier by itself, seen through a driver that writes down what it is told
//! (`kernel/emm_client`).

mod attached;
mod contract;
mod ends;
mod flood;
mod frames;
mod hubs;

pub use ends::reap;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::mem::{Map, PAGE};
use crate::report::Report;

/// What emm_client makes.
pub const DEVICE: &str = "/dev/emm_client";
const SIZE: usize = 64 * PAGE;
/// How long a start takes where it is made slow.
const DELAY: Duration = Duration::from_millis(300);
/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why pages go, as the driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    Unmap,
    Clear,
    ProtectionVma,
    ProtectionPage,
    SoftDirty,
    Migrate,
    Exclusive,
}

impl Event {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Unmap, "unmap"),
        (Self::Clear, "clear"),
        (Self::ProtectionVma, "protection-vma"),
        (Self::ProtectionPage, "protection-page"),
        (Self::SoftDirty, "soft-dirty"),
        (Self::Migrate, "migrate"),
        (Self::Exclusive, "exclusive"),
    ];
}

/// What the driver was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Start {
        range: (usize, usize),
        blockable: bool,
        event: Event,
        refused: bool,
        depth: i32,
    },
    End {
        range: (usize, usize),
        depth: i32,
    },
    Referenced {
        range: (usize, usize),
        clear: bool,
    },
    Frame {
        offset: usize,
        order: i32,
        writable: bool,
        byte: i32,
    },
    Release,
    /// So many calls found no room in the driver's notes.
    Lost(i32),
}

/// One subscription.
pub struct Client(File);

impl Client {
    /// A subscription to nothing yet.
    pub fn open() -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .with_context(|| format!("opening {DEVICE} (is emm_client loaded?)"))?;
        Ok(Self(file))
    }

    /// Watches `len` bytes at `off` of `map`.
    pub fn watching(map: &Map, off: usize, len: usize) -> Result<Self> {
        let client = Self::open()?;
        client.command(&format!("register {:x} {len:x}", map.addr() + off))?;
        Ok(client)
    }

    /// The same subscription, as another process's input.
    pub fn to_stdio(&self) -> io::Result<Stdio> {
        self.0.try_clone().map(Stdio::from)
    }

    /// Writes a command.
    pub fn command(&self, text: &str) -> io::Result<()> {
        (&self.0).write_all(text.as_bytes())
    }

    /// All that it was told since the last `clear`.
    ///
    /// By offsets of its own: a child that shares the open file may read at the same time.
    fn told(&self) -> Result<Vec<Told>> {
        let (mut text, mut piece) = (Vec::new(), [0; 64 * 1024]);
        loop {
            match self.0.read_at(&mut piece, text.len() as u64) {
                Ok(0) => break,
                Ok(n) => text.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("reading what the driver was told"),
            }
        }
        std::str::from_utf8(&text)?.lines().map(parse).collect()
    }

    /// The same without questions whether pages are young: reclaim asks of its own accord, at any time.
    fn changes(&self) -> Result<Vec<Told>> {
        Ok(without_questions(self.told()?))
    }

    /// Waits until it was told of the start of an invalidation.
    pub fn await_start(&self) -> Result<()> {
        self.await_told("a start", |t| matches!(t, Told::Start { .. }))
    }

    /// Waits until it was told of the start of so many.
    pub fn await_starts(&self, count: usize) -> Result<()> {
        self.await_some(count, "that many starts", |t| {
            matches!(t, Told::Start { .. })
        })
    }

    /// Waits until it was told something that `wanted` accepts.
    fn await_told(&self, what: &str, wanted: impl Fn(&Told) -> bool) -> Result<()> {
        self.await_some(1, what, wanted)
    }

    fn await_some(&self, count: usize, what: &str, wanted: impl Fn(&Told) -> bool) -> Result<()> {
        let start = Instant::now();
        while self.told()?.iter().filter(|told| wanted(told)).count() < count {
            if start.elapsed() > PATIENCE {
                bail!("it was not told {what} within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl From<OwnedFd> for Client {
    fn from(fd: OwnedFd) -> Self {
        Self(File::from(fd))
    }
}

fn parse(line: &str) -> Result<Told> {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| {
        let word = words.get(at).and_then(|w| w.strip_prefix("0x"));
        word.and_then(|w| usize::from_str_radix(w, 16).ok())
            .with_context(|| format!("the driver wrote {line:?}"))
    };
    let value = |name: &str| {
        let word = words.iter().find_map(|w| w.strip_prefix(name));
        word.and_then(|w| w.strip_prefix('='))
            .and_then(|w| w.parse::<i32>().ok())
            .with_context(|| format!("the driver wrote {line:?}"))
    };
    let event = || {
        let word = words.iter().find_map(|w| w.strip_prefix("event="));
        let known = Event::ALL.iter().find(|(_, name)| Some(*name) == word);
        known
            .map(|(event, _)| *event)
            .with_context(|| format!("the driver wrote {line:?}"))
    };
    Ok(match words[0] {
        "start" => Told::Start {
            range: (number(1)?, number(2)?),
            blockable: value("blockable")? == 1,
            event: event()?,
            refused: value("refused")? == 1,
            depth: value("depth")?,
        },
        "end" => Told::End {
            range: (number(1)?, number(2)?),
            depth: value("depth")?,
        },
        "referenced" => Told::Referenced {
            range: (number(1)?, number(2)?),
            clear: value("clear")? == 1,
        },
        "frame" => Told::Frame {
            offset: number(1)?,
            order: value("order")?,
            writable: value("writable")? == 1,
            byte: value("byte")?,
        },
        "release" => Told::Release,
        "lost" => Told::Lost(words.get(1).and_then(|w| w.parse().ok()).unwrap_or(1)),
        _ => bail!("the driver wrote {line:?}"),
    })
}

fn without_questions(mut told: Vec<Told>) -> Vec<Told> {
    told.retain(|t| !matches!(t, Told::Referenced { .. }));
    told
}

/// That each start has its end with the same range, in whatever order, and none is left. Returns how
/// many there were.
fn paired(told: &[Told]) -> Result<usize> {
    let mut open = Vec::new();
    let mut pairs = 0;
    for event in told {
        match event {
            Told::Start { range, depth, .. } => {
                open.push(*range);
                if *depth != open.len() as i32 {
                    bail!("depth {depth} with {} under way", open.len());
                }
            }
            Told::End { range, .. } => {
                let Some(at) = open.iter().position(|r| r == range) else {
                    bail!("an end without its start: {range:x?}");
                };
                open.swap_remove(at);
                pairs += 1;
            }
            Told::Referenced { .. } | Told::Frame { .. } | Told::Release => {}
            Told::Lost(n) => bail!("{n} calls were not written down"),
        }
    }
    if !open.is_empty() {
        bail!("starts without their ends: {open:x?}");
    }
    Ok(pairs)
}

/// Runs all cases.
pub fn notifier(report: &Report) {
    type Case = fn() -> Result<String>;
    let cases: &[(&str, Case)] = &[
        ("each start has its end", pairing),
        ("what lies outside is not told", outside),
        ("the VM waits for start", hold_off),
        ("overlapping invalidations count separately", nesting),
        ("a newcomer hears of what is under way", newcomer),
        ("wrong registrations are refused", refused),
        ("nothing after unregister", unregistered),
        ("unregister waits for what runs", ends::waits),
        ("several come and go at once", ends::at_once),
        ("a forked child's memory", ends::forked),
        ("a start that must not block", ends::reaped),
        ("referenced: test and clear", referenced),
        ("release on exit", released),
        ("why pages go", contract::kinds),
        (
            "not now: the VM hears it, and each start has its end",
            contract::refused,
        ),
        ("not now: of many who subscribe", contract::refusing_at_once),
        ("not now: of an attachment of XPMEM", attached::refuses),
        ("release is the last word", contract::last_word),
        ("frames of another process's memory", frames::of_another),
        ("no frame is given out while it is taken", frames::taken),
        (
            "a page that is marked as written, and reclaim",
            frames::marked,
        ),
        ("a region that is kept beyond its end", frames::kept),
        ("unregister is not held up by new calls", flood::leaving),
        ("register is ended by kill -9", flood::killed),
        ("what is kept is found again", hubs::linger),
        ("what is kept costs no more than it gained", hubs::in_vain),
        (
            "nothing is kept of who exits, nor of a fork",
            hubs::exit_and_fork,
        ),
        ("nothing is kept over exec", hubs::exec),
    ];
    for (name, case) in cases {
        report.case("", "notifier", name, true, case());
    }
}

/// Memory whose mapping is its own: one that grows with a neighbour's is told of when the neighbour goes (see `Area::small_pages`).
fn touched() -> Result<Map> {
    let map = Map::anon(SIZE)?;
    map.advise(0, SIZE, libc::MADV_DONTDUMP)?;
    map.set(0, SIZE, 1);
    Ok(map)
}

fn pairing() -> Result<String> {
    let map = touched()?;
    let client = Client::watching(&map, 0, SIZE)?;
    map.advise(PAGE, PAGE, libc::MADV_DONTNEED)?;
    map.protect(4 * PAGE, 2 * PAGE, libc::PROT_READ)?;
    map.punch(8 * PAGE, PAGE)?;
    map.renew(8 * PAGE, PAGE)?;
    let told = client.told()?;
    for off in [PAGE, 4 * PAGE, 8 * PAGE] {
        let at = map.addr() + off;
        let hit = |t: &Told| matches!(t, Told::Start { range: (s, e), .. } if *s <= at && at < *e);
        if !told.iter().any(hit) {
            bail!("no start for the page at {off:#x}: {told:x?}");
        }
    }
    Ok(format!("{} pairs", paired(&told)?))
}

fn outside() -> Result<String> {
    let map = touched()?;
    let client = Client::watching(&map, 16 * PAGE, PAGE)?;
    map.advise(0, 16 * PAGE, libc::MADV_DONTNEED)?;
    map.advise(17 * PAGE, PAGE, libc::MADV_DONTNEED)?;
    let told = client.changes()?;
    if !told.is_empty() {
        bail!("it was told {told:x?}");
    }
    map.advise(16 * PAGE, PAGE, libc::MADV_DONTNEED)?;
    if paired(&client.told()?)? == 0 {
        bail!("its own page was not told either");
    }
    Ok("neighbours are silent, its own page is not".into())
}

fn slow(map: &Map) -> Result<Client> {
    let client = Client::watching(map, 0, SIZE)?;
    client.command(&format!("delay {}", DELAY.as_millis()))?;
    Ok(client)
}

fn hold_off() -> Result<String> {
    let map = touched()?;
    let client = slow(&map)?;
    let start = Instant::now();
    map.advise(0, PAGE, libc::MADV_DONTNEED)?;
    let took = start.elapsed();
    if took < DELAY {
        bail!("MADV_DONTNEED took {took:?}, a start {DELAY:?}");
    }
    paired(&client.told()?)?;
    Ok(format!("MADV_DONTNEED took {} ms", took.as_millis()))
}

fn nesting() -> Result<String> {
    let map = touched()?;
    let client = slow(&map)?;
    const THREADS: usize = 10;
    const LEN: usize = 8 * PAGE;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                let map = &map;
                scope.spawn(move || map.advise(i * PAGE, LEN, libc::MADV_DONTNEED))
            })
            .collect();
        threads.into_iter().try_for_each(|t| {
            t.join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    })?;
    let told = client.told()?;
    let pairs = paired(&told)?;
    let starts: Vec<_> = told
        .iter()
        .filter_map(|t| match t {
            Told::Start { range, depth, .. } => Some((*range, *depth)),
            _ => None,
        })
        .collect();
    let deepest = starts.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
    let once = |i: usize| {
        let wanted = (map.addr() + i * PAGE, map.addr() + i * PAGE + LEN);
        starts.iter().filter(|(range, _)| *range == wanted).count() == 1
    };
    if deepest < 2 || !(0..THREADS).all(once) {
        bail!("not each of {THREADS} once, or at most {deepest} at once: {told:x?}");
    }
    Ok(format!("{pairs} pairs, {deepest} at once"))
}

fn newcomer() -> Result<String> {
    let map = touched()?;
    let first = slow(&map)?;
    let told = std::thread::scope(|scope| {
        let thread = scope.spawn(|| map.advise(0, PAGE, libc::MADV_DONTNEED));
        first.await_start()?;
        let second = Client::watching(&map, 0, SIZE)?;
        let at_once = second.changes()?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        let heard = matches!(
            at_once[..],
            [Told::Start {
                blockable: false,
                depth: 1,
                ..
            }]
        );
        if !heard {
            bail!("at registration it was told {at_once:x?}");
        }
        second.told()
    })?;
    paired(&told)?;
    Ok("told at registration, and its end".into())
}

fn refused() -> Result<String> {
    let client = Client::open()?;
    let expect = |text: &str, errno: i32| match client.command(text) {
        Err(e) if e.raw_os_error() == Some(errno) => Ok(()),
        other => bail!("{text:?}: {other:?} instead of errno {errno}"),
    };
    expect("register 1000 0", libc::EINVAL)?;
    expect("register fffffffffffff000 2000", libc::EINVAL)?;
    expect("unregister", libc::ENOENT)?;
    client.command("register")?;
    expect("register", libc::EBUSY)?;
    client.command("unregister")?;
    client.command("register 1000 1")?;
    Ok("empty, wrapping, twice; works afterwards".into())
}

fn unregistered() -> Result<String> {
    let map = touched()?;
    let client = Client::watching(&map, 0, SIZE)?;
    client.command("unregister")?;
    map.advise(0, SIZE, libc::MADV_DONTNEED)?;
    let told = client.told()?;
    if !told.is_empty() {
        bail!("it was told {told:x?}");
    }
    Ok("silence".into())
}

/// khugepaged asks whether pages are young; reclaim asks and clears.
fn referenced() -> Result<String> {
    const KHUGEPAGED: &str = "/sys/kernel/mm/transparent_hugepage/khugepaged";
    for (file, value) in [("scan_sleep_millisecs", "20"), ("pages_to_scan", "65536")] {
        let path = format!("{KHUGEPAGED}/{file}");
        fs::write(&path, value).with_context(|| format!("writing {path}"))?;
    }
    let map = Map::anon_huge_aligned(4 << 20)?;
    // Small pages that khugepaged looks at: old ones, so that it has to ask.
    map.advise(0, map.len(), libc::MADV_NOHUGEPAGE)?;
    map.set(0, map.len(), 1);
    let client = Client::watching(&map, 0, map.len())?;
    client.command("young")?;
    map.advise(0, map.len(), libc::MADV_COLD)?;
    map.advise(0, map.len(), libc::MADV_HUGEPAGE)?;
    client.await_told("a test", |t| {
        matches!(t, Told::Referenced { clear: false, .. })
    })?;
    let cgroup = crate::system::Cgroup::new("emm-check-notifier")?;
    let child = map_in_cgroup(&cgroup)?;
    Ok(format!("tested by khugepaged; {child}"))
}

/// A process of its own in `cgroup`, whose memory is reclaimed.
fn map_in_cgroup(cgroup: &crate::system::Cgroup) -> Result<String> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("notifier-child")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a process")?;
    cgroup.add(child.id())?;
    let mut go = || -> Result<String> {
        let mut stdin = child.stdin.take().context("its input")?;
        let mut stdout = io::BufReader::new(child.stdout.take().context("its output")?);
        let mut line = String::new();
        stdin.write_all(b"go\n")?;
        io::BufRead::read_line(&mut stdout, &mut line)?;
        // Part of what is asked for may stay: the driver says that it is young.
        let _ = cgroup.reclaim(2 << 20);
        stdin.write_all(b"reclaimed\n")?;
        line.clear();
        io::BufRead::read_line(&mut stdout, &mut line)?;
        Ok(line.trim().to_owned())
    };
    let said = go();
    child.kill()?;
    child.wait()?;
    match said? {
        said if said.starts_with("cleared") => Ok(said),
        said => bail!("reclaim: {said:?}"),
    }
}

/// The process whose memory is reclaimed.
pub fn child() -> Result<()> {
    crate::swap::ensure_swap()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let map = touched()?;
    let client = Client::watching(&map, 0, SIZE)?;
    client.command("young")?;
    println!("ready");
    io::stdin().read_line(&mut line)?;
    // Reclaim asks for a page that stays young again and again: more often than there is room for.
    let told = client.told()?;
    let clears = told
        .iter()
        .filter(|t| matches!(t, Told::Referenced { clear: true, .. }))
        .count();
    if clears == 0 {
        println!("no question in {} calls", told.len());
    } else {
        println!("cleared by reclaim: {clears} questions");
    }
    Ok(())
}

fn released() -> Result<String> {
    let client = Client::open()?;
    let mut child = Command::new("sh")
        .args(["-c", "echo register >&0"])
        .stdin(client.to_stdio()?)
        .spawn()
        .context("starting a process")?;
    let status = child.wait()?;
    if !status.success() {
        bail!("the process ended with {status}");
    }
    client.await_told("release", |t| *t == Told::Release)?;
    Ok("the address space went, the subscription heard of it".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a run met them on 2026-11-27, between two lines that were expected.
    #[test]
    fn a_question_is_no_change() {
        let lines = [
            "start 0x7fcf94534000 0x7fcf94535000 blockable=1 event=clear refused=0 depth=1",
            "referenced 0x7fcf9456e000 0x7fcf9456f000 clear=1 young=0",
            "end 0x7fcf94534000 0x7fcf94535000 event=clear depth=0",
        ];
        let told: Vec<Told> = lines.iter().map(|l| parse(l).unwrap()).collect();
        assert_eq!(paired(&told).unwrap(), 1);
        let left = without_questions(told);
        assert!(
            matches!(left[..], [Told::Start { .. }, Told::End { .. }]),
            "{left:x?}"
        );
    }
}
