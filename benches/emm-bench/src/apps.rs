//! Unmodified programs, with regions of each kind: perftest beside our own numbers, UCX, MPI, and a table bigger than memory.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use emm_check::child::ends_within;
use emm_check::qp::Op;
use emm_check::system::listens_on;
use emm_check::ucx::OVER_UCX;

use crate::facts::{Subject, again, tell_of_pinned};
use crate::guest::Cgroup;
use crate::hot::rate;
use crate::plan::Plan;
use crate::rig::{Rig, size, small_pages};
use crate::traffic::{DEPTH, Stream};
use crate::who::{KINDS, Kind};

/// How long a server may take until it listens, and a pair of programs until it is done.
const LISTENS: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(300);
const PACE: Duration = Duration::from_millis(20);
const PERFTEST_PORT: u16 = 18515;
const UCX_PORT: u16 = 13337;
/// What the guest's address is.
const ADDRESS: &str = "10.9.0.1";

/// Messages of perftest: quick, full.
const MESSAGES: (usize, usize) = (300, 1000);
/// Sizes at which our own numbers are compared with perftest's: quick, full.
const SIZES: (&[usize], &[usize]) = (&[64 << 10], &[4 << 10, 64 << 10]);
/// Its programs; the first two quick.
const TESTS: [(&str, &str, Op); 3] = [
    ("ib_write_bw", "WRITE", Op::Write),
    ("ib_read_bw", "READ", Op::Read),
    ("ib_send_bw", "SEND", Op::Send),
];

/// perftest's bandwidth, our own with the same parameters, and how far they agree.
pub fn perftest(plan: Plan) -> Result<()> {
    let rig = Rig::open()?;
    let count = plan.pick(MESSAGES.0, MESSAGES.1);
    for (program, verb, op) in TESTS.into_iter().take(plan.pick(2, TESTS.len())) {
        for len in plan.pick(SIZES.0, SIZES.1).iter().copied() {
            let case = format!("{verb} {}", size(len));
            for (round, kind) in plan.turns(&KINDS) {
                let theirs = bandwidth(program, kind, len, count);
                let own = own(&rig, kind, op, len, count);
                let both = again(&theirs).and_then(|t| again(&own).map(|o| o / t));
                for (who, value) in [(program, &theirs), ("ours", &own)] {
                    let case = format!("{case}, {who}");
                    let subject = Subject::new("perftest", &case, "MiB/s");
                    subject.tell(kind.label(), round, again(value).copied());
                }
                Subject::new("perftest", &case, "ours / perftest").tell(kind.label(), round, both);
            }
        }
    }
    Ok(())
}

fn bandwidth(program: &str, kind: Kind, len: usize, count: usize) -> Result<f64> {
    let odp = match kind {
        Kind::Odp | Kind::Emm => " --odp",
        // perftest knows no implicit region: the shim makes one of what it registers.
        Kind::Pinned | Kind::Implicit => "",
    };
    // perftest's WRITE polls and can't sleep until something has completed.
    let events = if program == "ib_write_bw" { "" } else { " -e" };
    let line = format!(
        "{program} -d rxe0 -x 1 -F{events} -m 4096 -Q 1 -t {DEPTH} -s {len} -n {count}{odp}"
    );
    let said = pair(
        kind,
        &line,
        &format!("{line} {ADDRESS}"),
        PERFTEST_PORT,
        &[],
    )?;
    column(&said, "BW average", &len.to_string(), 3)
}

/// MiB/s of our own stream. Like perftest's, it goes from one end's memory to the other's.
fn own(rig: &Rig, kind: Kind, op: Op, len: usize, count: usize) -> Result<f64> {
    let area = || {
        let map = small_pages(len.next_multiple_of(4096))?;
        map.set(0, map.len(), 1);
        rig.area(kind, map)
    };
    let (here, there) = (area()?, area()?);
    let qp = rig.qp()?;
    let stream = Stream {
        qp: &qp,
        op,
        local: (&here, 0),
        remote: (&there, 0),
        len,
    };
    stream.once().context("warming up")?;
    // As perftest waits: see [`bandwidth`].
    let time = match op {
        Op::Write => stream.many_polled(count)?,
        _ => stream.many(count)?,
    };
    Ok(rate(count * len, time))
}

/// What UCX and MPI run on. In-tree paging is left out: UCX hangs on it, and the shim keeps their regions pinned there.
const SAFE: [Kind; 3] = [Kind::Pinned, Kind::Emm, Kind::Implicit];

/// UCX, MPI and the table.
pub fn run(plan: Plan) -> Result<()> {
    let put = [
        ("put 64 KiB", "ucp_put_bw", 64 << 10),
        ("tag 8 KiB", "tag_bw", 8 << 10),
    ];
    for (name, test, len) in put.into_iter().take(plan.pick(1, 2)) {
        let case = format!("ucx_perftest {name}");
        let turns = plan.turns(&SAFE).into_iter();
        let rate = |kind| ucx(kind, test, len, plan.pick(50, 300));
        let rates: Vec<_> = turns
            .map(|(round, kind)| (round, kind, rate(kind)))
            .collect();
        tell_of_pinned(&Subject::new("apps", &case, "MB/s"), &rates);
    }
    for len in plan.pick(&[64 << 10][..], &[8, 64 << 10, 1 << 20]) {
        let case = format!("Open MPI, {}, 2 ranks", size(*len));
        let subject = Subject::new("apps", &case, "µs one way");
        let mut rates = Vec::new();
        for (round, kind) in plan.turns(&SAFE) {
            let outcome = mpi(kind, *len, plan.pick(8, 200));
            subject.tell(kind.label(), round, again(&outcome).map(|o| o.0));
            rates.push((round, kind, outcome.map(|o| o.1)));
        }
        tell_of_pinned(&subject.in_unit("MiB/s"), &rates);
    }
    // A fetch is of 1000 bytes: a page or two. What is fetched is twice the limit and more.
    let (fetches, table, limit) =
        plan.pick((4_000, 64 << 20, 8 << 20), (8_000, 128 << 20, 16 << 20));
    let case = format!(
        "{fetches} fetches from a table of {} in {}",
        size(table),
        size(limit)
    );
    for (round, kind) in plan.turns(&[Kind::Odp, Kind::Emm]) {
        let outcome = fetch(kind, table, limit, fetches, round);
        Subject::new("apps", &case, "fetches/s").tell(kind.label(), round, outcome);
    }
    Ok(())
}

/// MB/s.
fn ucx(kind: Kind, test: &str, len: usize, count: usize) -> Result<f64> {
    let options = format!("-P 0 -w 5 -n {count} -t {test} -s {len}");
    let server = format!("ucx_perftest {options}");
    let client = format!("ucx_perftest {ADDRESS} {options}");
    let said = pair(kind, &server, &client, UCX_PORT, &OVER_UCX)?;
    column(&said, "", "Final:", 6)
}

/// Microseconds one way, and MiB/s.
fn mpi(kind: Kind, len: usize, count: usize) -> Result<(f64, f64)> {
    kind.select()?;
    let line = format!("mpirun --oversubscribe -n 2 mpi_pingpong {len} {count}");
    let mut child = start(kind, &line, &OVER_UCX)?;
    let said = wait(&mut child, &line)?;
    let result = |at| column(&said, "", "pingpong:", at);
    Ok((result(2)?, result(3)?))
}

/// Fetches a second of the example of the Rust API, in a memory cgroup that is smaller than what it fetches.
fn fetch(kind: Kind, table: usize, limit: usize, fetches: usize, round: u32) -> Result<f64> {
    kind.select()?;
    let file = format!("{}/table", emm_check::swap::disk_folder()?);
    // The device's file system is smaller than the table may be: its file is sparse, and so is the table.
    let group = Cgroup::new(&format!("apps-{}-{round}", kind.label()), limit)?;
    let line = format!("kv_fetch rxe0 1 {file} {table} {fetches}");
    let mut child = start(Kind::Pinned, &line, &[])?;
    group.take(child.id())?;
    let said = wait(&mut child, &line);
    std::fs::remove_file(&file).ok();
    let said = said?;
    if !said.contains("every byte right") {
        bail!("`{line}`: {}", end_of(&said));
    }
    column(&said, "", "fetches:", 1)
}

/// Starts a program whose regions are `kind`'s: the preload library makes them so where the program does not itself.
fn start(kind: Kind, line: &str, env: &[(&str, &str)]) -> Result<Child> {
    let mut words: Vec<&str> = Vec::new();
    let own = line.contains("--odp");
    match kind {
        Kind::Pinned => {}
        _ if own => {}
        Kind::Implicit => words.extend(["verbs-shim", "run", "--quiet", "--implicit", "--"]),
        _ => words.extend(["verbs-shim", "run", "--quiet", "--"]),
    }
    words.extend(line.split_whitespace());
    Command::new(words[0])
        .args(&words[1..])
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{line}`"))
}

/// What the client says when it is done.
fn pair(kind: Kind, server: &str, client: &str, port: u16, env: &[(&str, &str)]) -> Result<String> {
    kind.select()?;
    let mut serving = Ended(start(kind, server, env)?);
    let begin = Instant::now();
    while !listens_on(port) {
        // That it listens is no event; that it ends is.
        if ends_within(&mut serving.0, PACE)?.is_some() {
            wait(&mut serving.0, server)?;
            bail!("`{server}` ended before a client came");
        }
        if begin.elapsed() > LISTENS {
            bail!("`{server}` does not listen on port {port}");
        }
    }
    let mut calling = start(kind, client, env)?;
    let said = wait(&mut calling, client)?;
    ends_within(&mut serving.0, LISTENS)?;
    Ok(said)
}

/// A child that is ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a program that ends well. Returns what it said.
fn wait(child: &mut Child, line: &str) -> Result<String> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let errors = std::thread::spawn(move || read(err));
    let output = std::thread::spawn(move || read(out));
    let Some(status) = ends_within(child, LIMIT)? else {
        // It fails only when it has ended already.
        let _ = child.kill();
        let _ = child.wait();
        bail!("`{line}` did not end within {} s", LIMIT.as_secs());
    };
    let said = output.join().unwrap_or_default() + &errors.join().unwrap_or_default();
    if !status.success() {
        bail!("`{line}`: {status}: {}", end_of(&said));
    }
    Ok(said)
}

fn read(from: Option<impl std::io::Read>) -> String {
    let mut text = Vec::new();
    // A pipe that breaks ends the text, and its reader says what is missing.
    let _ = from.map(|mut from| from.read_to_end(&mut text));
    String::from_utf8_lossy(&text).into_owned()
}

/// The end of a long text, in one line.
fn end_of(text: &str) -> String {
    let line: Vec<char> = text.trim().replace('\n', " / ").chars().collect();
    line[line.len().saturating_sub(200)..].iter().collect()
}

/// The number in column `at` of the line that starts with `first`, below a line with `head`.
fn column(said: &str, head: &str, first: &str, at: usize) -> Result<f64> {
    let below = said.find(head).map_or("", |start| &said[start..]);
    let line = below
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&first));
    line.and_then(|words| words.get(at)?.parse().ok())
        .with_context(|| format!("no result in {}", end_of(said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found() {
        let said = " #bytes #iterations BW peak[MiB/sec] BW average[MiB/sec] MsgRate[Mpps]\n 65536  150  83.10  82.90  0.001326\n";
        assert_eq!(column(said, "BW average", "65536", 3).unwrap(), 82.9);
        assert!(column("nothing", "BW average", "65536", 3).is_err());
        let said = "Final:  100  248.000 60821.128 38413.260  1.03  1.63  16  26\n";
        assert_eq!(column(said, "", "Final:", 6).unwrap(), 1.63);
    }
}
