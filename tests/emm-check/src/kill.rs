//! Processes that own regions are killed in the middle of traffic; nothing of theirs may stay in the kernel.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::mem::{Map, Rng};
use crate::system::{Kind, run};
use crate::target::{Env, Target};
use crate::verbs::{ALL_ACCESS, Mr};

const SIZE: usize = 8 << 20;

/// Kills `rounds` processes with `qps` queue pairs each.
pub fn kill(env: &Env, kind: Kind, rounds: u32, qps: usize) -> Result<()> {
    let mut rng = Rng(env.seed);
    let outcome = (|| {
        for round in 0..rounds {
            one(env, kind, qps, &mut rng).with_context(|| format!("round {round}"))?;
        }
        Ok(format!(
            "{rounds} processes with {qps} queue pairs each killed in the middle of traffic"
        ))
    })();
    env.report
        .case(kind.label(), "kill", "SIGKILL", true, outcome);
    env.report.case(
        kind.label(),
        "kill",
        "nothing stays behind",
        true,
        nothing_left(env),
    );
    let outcome = (|| {
        let t = Target::new(env, kind, Map::anon(SIZE)?)?;
        t.round(1, SIZE - 1, env.seed)?;
        Ok("a new process reads and writes, 0 wrong bytes".into())
    })();
    env.report
        .case(kind.label(), "kill", "afterwards", true, outcome);
    Ok(())
}

fn one(env: &Env, kind: Kind, qps: usize, rng: &mut Rng) -> Result<()> {
    let mr = if kind == Kind::Pinned {
        "pinned"
    } else {
        "ondemand"
    };
    let mut child = Command::new(std::env::current_exe()?)
        .args(&env.child_args)
        .args(["traffic-child", "--mr", mr, "--qps", &qps.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process to kill")?;
    let mut line = String::new();
    let out = child.stdout.take().context("the child's output")?;
    let read = BufReader::new(out).read_line(&mut line);
    // Any moment of the traffic is to be hit.
    std::thread::sleep(Duration::from_millis(20 + rng.below(150) as u64));
    let early = child.try_wait()?;
    child.kill()?;
    child.wait()?;
    read?;
    if let Some(status) = early {
        bail!("it ended by itself: {status}");
    }
    if line != "traffic\n" {
        bail!("it did not get to its traffic");
    }
    Ok(())
}

/// Waits until no other process owns a region. This process has none of its own here.
fn nothing_left(_env: &Env) -> Result<String> {
    let start = Instant::now();
    loop {
        let left = run("rdma", &["resource", "show", "mr"])?;
        if left.trim().is_empty() {
            return Ok(format!(
                "`rdma resource show mr` is empty after {} ms",
                start.elapsed().as_millis()
            ));
        }
        if start.elapsed() > Duration::from_secs(10) {
            bail!(
                "`rdma resource show mr` still says after 10 s: {}",
                left.trim()
            );
        }
        // A fault in flight may hold the address space, and it the regions, for longer than the process: no event tells of their end.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The process to kill: traffic on all queue pairs until the end.
pub fn child(env: &Env, kind: Kind, qps: usize) -> Result<()> {
    let map = Arc::new(Map::anon(SIZE)?);
    let mr = Arc::new(Mr::new(
        &env.pd,
        map.addr(),
        SIZE,
        ALL_ACCESS | kind.flags(),
    )?);
    let mut targets = Vec::new();
    for _ in 0..qps {
        targets.push(Target::sharing(env, map.clone(), mr.clone())?);
    }
    std::thread::scope(|s| {
        for (i, t) in targets.iter().enumerate() {
            s.spawn(move || {
                let part = SIZE / qps;
                loop {
                    if t.write(i * part, part, 1)
                        .and_then(|()| t.read(i * part, part, 1))
                        .is_err()
                    {
                        std::process::exit(1);
                    }
                }
            });
        }
        let mut out = std::io::stdout();
        writeln!(out, "traffic")?;
        out.flush()?;
        Ok(())
    })
}
