//! A killed process that can't exit yet: the VM takes its memory as the OOM reaper does, and must not block on its region.

use std::io::{self, BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::mem::{Map, PAGE};
use crate::notifier::{Client, DEVICE, reap};
use crate::system::{Kind, region_of};
use crate::target::{Env, Target};

const SIZE: usize = 4 << 20;
/// How long the process is kept from its end.
const KEPT: Duration = Duration::from_secs(5);

/// The case.
pub fn reaped(c: &Ctx<'_>) -> Result<()> {
    if c.kind.resolve() != Kind::Emm || !Path::new(DEVICE).exists() {
        let why = format!("needs a region of ib_emm, and {DEVICE} of emm_client");
        c.env.report.skip("reap", &why, false);
        return Ok(());
    }
    c.case("process_mrelease", released(c));
    Ok(())
}

fn released(c: &Ctx<'_>) -> Result<String> {
    let client = Client::open()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(&c.env.child_args)
        .args(["reap-child", "--mr", "ondemand"])
        .stdin(client.to_stdio()?)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process to reap")?;
    let pid = child.id();
    let out = child.stdout.take().context("its output")?;
    let work = || {
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let start: usize = line
            .trim()
            .parse()
            .with_context(|| format!("it said {line:?}"))?;
        let before = region_of(pid, start)?.resident;
        client.await_start()?;
        reap(pid as i32)?;
        let after = region_of(pid, start)?.resident;
        let pages = (SIZE / PAGE) as u64;
        if before != pages || after != 0 {
            bail!("{before} of {pages} pages were translated before, {after} are afterwards");
        }
        Ok(format!("{before} translations went before the process did"))
    };
    let outcome = work();
    child.kill()?;
    child.wait()?;
    outcome
}

/// The process: translates all of a region, has a slow subscription to all of its memory, and waits for that.
pub fn child(env: &Env, kind: Kind) -> Result<()> {
    let t = Target::new(env, kind, Map::anon(SIZE)?)?;
    t.write(0, SIZE, env.seed)?;
    let other = Map::anon(PAGE)?;
    println!("{}", t.map.addr());
    let client = Client::from(io::stdin().as_fd().try_clone_to_owned()?);
    client.command(&format!("delay {}", KEPT.as_millis()))?;
    client.command("register")?;
    other.advise(0, PAGE, libc::MADV_DONTNEED)?;
    bail!("nobody came")
}
