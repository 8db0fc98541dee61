//! A region that is still in use when it is deregistered: who waits for its last user says so, and can be killed. In-tree on-demand
//! paging is in its fault for as long as the disk is silent; what is parked by ib_emm holds no region.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::child::ends_within;
use crate::kmsg::Journal;
use crate::mem::{Map, PAGE};
use crate::nbd::{self, Nbd};
use crate::qp::Op;
use crate::report::Report;
use crate::system::Kind;
use crate::target::{Env, Target};
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 2 << 20;
const SLOW: usize = SIZE / 2;
/// Longest time of what happens at once, and of what the driver says after ten seconds.
const SOON: Duration = Duration::from_secs(40);

/// Reports how it went.
pub fn leftover(report: &Report, device: &str, args: &[String]) -> Result<()> {
    if !Nbd::is_there() {
        report.skip("leftover", "the kernel has no network block devices", false);
        return Ok(());
    }
    Kind::Odp.select(false)?;
    let outcome = killed(device, args);
    Kind::Emm.select(false)?;
    let name = "a deregistration that waits is said, and killed";
    report.case("odp", "leftover", name, true, outcome);
    Ok(())
}

fn killed(device: &str, args: &[String]) -> Result<String> {
    let nbd = Nbd::new(SIZE, SLOW, 1)?;
    let mut journal = Journal::open(device).context("opening the kernel's log")?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(args)
        .args(["leftover-child", "--mr", "ondemand"])
        .args(["--at", &nbd.place().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process to kill")?;
    let mut steps = || {
        let mut said = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut hear = |what: &str| match said.next() {
            Some(Ok(line)) if line == what => Ok(()),
            other => bail!("it said {other:?}, not `{what}`"),
        };
        hear("posted")?;
        nbd.next(SOON)?;
        writeln!(child.stdin.take().context("its input")?).context("telling it")?;
        hear("deregistering")?;
        if !journal.find(SOON, |text| text.contains("still in use 10 s after"))? {
            bail!("the driver did not say that the region is still in use");
        }
        child.kill()?;
        if !journal.find(SOON, |text| text.contains("left behind in use"))? {
            bail!("the driver waits on for the region");
        }
        Ok("said after 10 s; killed, it leaves the region to its user".into())
    };
    let outcome = steps();
    nbd.let_go()?;
    child.kill()?;
    if ends_within(&mut child, SOON)?.is_none() {
        bail!("the process is still there, with its disk answering");
    }
    outcome
}

/// The process to kill: it deregisters a region whose memory is read and does not come.
pub fn child(env: &Env, kind: Kind, at: usize) -> Result<()> {
    let disk = File::options()
        .read(true)
        .write(true)
        .open(nbd::DEVICE)
        .context("opening the disk")?;
    let map = Map::of_file(SIZE, disk.as_raw_fd(), at).context("mapping the disk")?;
    map.advise(0, SIZE, libc::MADV_RANDOM)?;
    let target = Target::new(env, kind, map)?;
    let (start, access) = (target.map.addr(), ALL_ACCESS | kind.flags());
    let mr = Mr::new(&env.pd, start, SIZE, access)?;
    let mut from = target.remote(SLOW + SLOW / 2 + 3 * PAGE + 5);
    from.key = mr.rkey();
    target
        .qp()
        .post(Op::Read, target.bounce_piece(64), 100, from)?;
    println!("posted");
    std::io::stdin().read_line(&mut String::new())?;
    println!("deregistering");
    drop(mr);
    Ok(())
}
