//! Unmodified programs of the distribution, pinned and through the preload library, with what they pin while they run.
//!
//! The rows are in [`table`], the ways to run them in [`launch`], the results in [`read`].

mod family;
mod launch;
mod page;
mod read;
mod table;

use std::path::Path;
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::system;
use crate::target::Env;
use family::Pinned;
use launch::{Place, Registrations, Way};
use read::Outcome;
use table::{Expect, PROGRAMS, Program, Ready};

/// Everything here.
const PLACE: &str = "/tmp/emm-programs";
/// rdma-core's own tests, unpacked.
const TESTS: &str = "/tmp/emm-programs/rdma-core";
/// Longest time of one run.
const LIMIT: Duration = Duration::from_secs(90);
/// Longest time until a server listens.
const LISTENS: Duration = Duration::from_secs(60);
/// Time between two looks at the processes.
const PACE: Duration = Duration::from_millis(10);
/// Longest text of what went wrong.
const LONGEST: usize = 600;

/// How a run ended.
struct Run {
    outcome: Option<Outcome>,
    client: ExitStatus,
    /// Of a server that ends by itself.
    server: Option<ExitStatus>,
    pinned: Pinned,
    registrations: Registrations,
    /// All that was printed.
    said: String,
}

/// Runs the demonstration's programs both ways.
pub fn demo(env: &Env, shim: &Path) {
    let rows: Vec<&Program> = PROGRAMS.iter().filter(|p| p.demo).collect();
    run_all(env, shim, &rows, false);
}

/// Runs the programs whose name contains one of `names`, or all of them; with `unpinned` only the first one of them pinned, too.
/// Writes the table to `page`.
pub fn programs(
    env: &Env,
    shim: &Path,
    names: &[String],
    unpinned: bool,
    page: Option<&Path>,
) -> Result<()> {
    let rows: Vec<&Program> = PROGRAMS
        .iter()
        .filter(|p| names.is_empty() || names.iter().any(|n| p.name.contains(n.as_str())))
        .collect();
    if rows.is_empty() {
        bail!("no program has a name with `{}`", names.join("` or `"));
    }
    let facts = run_all(env, shim, &rows, unpinned);
    match page {
        Some(page) => page::write(page, &facts),
        None => Ok(()),
    }
}

fn run_all(env: &Env, shim: &Path, rows: &[&Program], unpinned: bool) -> Vec<Value> {
    let ready = family::adopt_orphans().and_then(|()| launch::open_devices());
    if let Err(e) = ready.and_then(|()| unpack_tests(rows)) {
        env.report.skip("programs", &format!("{e:#}"), true);
        return Vec::new();
    }
    let mut facts = Vec::new();
    for p in rows {
        if let Some(missing) = p.missing() {
            let why =
                format!("{missing} is not there: `test programs` builds it and shares its folder");
            env.report.skip(p.name, &why, true);
            continue;
        }
        if facts.is_empty() || !unpinned {
            facts.push(row(env, p, Way::Pinned, shim));
        }
        if p.expect != Expect::Works {
            continue;
        }
        if shim.exists() {
            facts.push(row(env, p, Way::Unpinned, shim));
        } else {
            let why = format!("{} is missing", shim.display());
            env.report.skip(p.name, &why, true);
        }
    }
    facts
}

/// rdma-core's tests, which Debian ships compressed among its documentation.
fn unpack_tests(rows: &[&Program]) -> Result<()> {
    let wanted = rows.iter().any(|p| p.client.contains(TESTS));
    if wanted && !Path::new(TESTS).exists() {
        let script = format!(
            "mkdir -p {TESTS} && cp -r /usr/share/doc/rdma-core/tests {TESTS} && \
             gzip -d {TESTS}/tests/*.gz && chmod -R a+rX {TESTS}"
        );
        system::run("sh", &["-c", &script])?;
    }
    Ok(())
}

/// Runs one program one way and says what was seen.
fn row(env: &Env, p: &Program, way: Way, shim: &Path) -> Value {
    let start = Instant::now();
    let (mut run, mut wrong) = attempt(p, way, shim);
    // Programs have time-outs of their own, for hardware: on an emulated machine one may strike. Not so twice.
    let first = wrong.take_if(|_| start.elapsed() < LIMIT);
    if first.is_some() {
        (run, wrong) = attempt(p, way, shim);
    }
    let secs = (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let pinned = run.as_ref().map(|r| r.pinned);
    let registrations = run
        .as_ref()
        .map(|r| r.registrations.clone())
        .unwrap_or_default();
    let outcome = run
        .as_ref()
        .and_then(|r| r.outcome.clone())
        .unwrap_or_default();
    let mut detail = wrong.clone().unwrap_or_default();
    if let Some(first) = first {
        detail = format!("{detail} (second try; the first: {first})");
    }
    let detail = shortened(detail);
    let works = p.expect == Expect::Works;
    let line = match p.expect {
        Expect::Works => outcome.line.clone(),
        Expect::NotOnRxe(text) => format!("not on rxe: {text}"),
    };
    let fact = json!({
        "t": "program", "program": p.name, "package": p.package, "version": version(p.package),
        "command": format!("{} {}", p.name, p.client), "mr": way.word(), "works": works,
        "exit": run.as_ref().and_then(|r| r.client.code()),
        "line": line, "value": outcome.value, "unit": outcome.unit,
        "max_vmpin_kib": pinned.map(|s| s.pin), "max_vmlck_kib": pinned.map(|s| s.locked),
        "samples": pinned.map(|s| s.samples), "processes": pinned.map(|s| s.processes),
        "entries": registrations.entries, "on_demand": registrations.on_demand,
        "secs": secs, "detail": detail, "ok": wrong.is_none(),
    });
    let text = format!(
        "{:8} {:26} VmPin {:>6} KiB  {line} {detail} ({secs} s)",
        way.word(),
        p.name,
        pinned.map_or(0, |s| s.pin)
    );
    env.report.fact(wrong.is_none(), true, &text, fact.clone());
    fact
}

/// One run, and why it is not what was expected, if so.
fn attempt(p: &Program, way: Way, shim: &Path) -> (Option<Run>, Option<String>) {
    let run = one(p, way, shim);
    family::end_all();
    match run {
        Ok(run) => {
            let wrong = judge(p, way, &run);
            (Some(run), wrong)
        }
        Err(e) => (None, Some(format!("{e:#}"))),
    }
}

/// Why a run is not what was expected, if so.
fn judge(p: &Program, way: Way, run: &Run) -> Option<String> {
    let ended = run.client.success() && run.server.is_none_or(|s| s.success());
    if let Expect::NotOnRxe(text) = p.expect {
        if ended && run.outcome.is_some() {
            return Some("it works on rxe: the table says that it can't".to_owned());
        }
        return (!run.said.contains(text)).then(|| format!("not `{text}`, but {}", one_line(run)));
    }
    if !ended || run.outcome.is_none() {
        let server = run
            .server
            .map_or_else(String::new, |s| format!(", server {s}"));
        return Some(format!("client {}{server}: {}", run.client, one_line(run)));
    }
    match way {
        Way::Pinned if run.pinned.pin == 0 => Some(format!(
            "no pinned memory seen in {} samples: the measurement does not work",
            run.pinned.samples
        )),
        Way::Unpinned if run.pinned.pin + run.pinned.locked != 0 => {
            Some("memory was pinned although unpinned was asked for".to_owned())
        }
        Way::Unpinned if run.registrations.on_demand == 0 => {
            Some("no registration came by the shim".to_owned())
        }
        Way::Pinned | Way::Unpinned => None,
    }
}

fn one(p: &Program, way: Way, shim: &Path) -> Result<Run> {
    if let Ready::Tcp(port) = p.ready {
        system::reserved(port)?;
    }
    let place = Place::new()?;
    let mut server = match p.ready {
        Ready::Alone => None,
        Ready::Tcp(_) | Ready::Cm => Some(place.start(p, p.server, way, shim)?),
    };
    let served = server.as_mut().map(launch::collect);
    let start = Instant::now();
    while let Some(s) = &mut server {
        // A server that ended has its reason, and the client will find nobody.
        if listens(p.ready)? || s.try_wait()?.is_some() {
            break;
        }
        if start.elapsed() > LISTENS {
            bail!("the server did not listen within {} s", LISTENS.as_secs());
        }
        sleep(PACE);
    }
    let mut client = place.start(p, p.client, way, shim)?;
    let called = launch::collect(&mut client);
    let mut pinned = Pinned::default();
    let start = Instant::now();
    let (client, server) = loop {
        pinned.look();
        let done = client.try_wait()?;
        let ended = match &mut server {
            Some(s) => s.try_wait()?,
            None => None,
        };
        if let (Some(client), Some(_)) = (done, ended) {
            break (client, ended);
        }
        match done {
            Some(client) if p.stays || server.is_none() => break (client, None),
            // A server that waits for the next client after one that failed would wait for ever.
            Some(client) if !client.success() && start.elapsed() > LIMIT / 6 => {
                break (client, None);
            }
            _ => {}
        }
        if start.elapsed() > LIMIT {
            bail!("no end within {} s", LIMIT.as_secs());
        }
        // Some pin for a few milliseconds only: until that was seen, it is looked without a pause.
        if way == Way::Unpinned || pinned.pin > 0 {
            sleep(PACE);
        }
    };
    // Who still holds the outputs open is not wanted any more.
    family::end_all();
    let said = [Some(called), served]
        .into_iter()
        .flatten()
        .map(|output| output.join().unwrap_or_default())
        .collect::<Vec<_>>();
    Ok(Run {
        outcome: said.iter().find_map(|text| (p.read)(text)),
        client,
        server,
        pinned,
        registrations: place.registrations(),
        said: said.join(" | "),
    })
}

/// Whether the server can be met.
fn listens(ready: Ready) -> Result<bool> {
    match ready {
        Ready::Alone => Ok(true),
        Ready::Tcp(port) => Ok(system::listens_on(port)),
        Ready::Cm => {
            Ok(system::run("rdma", &["resource", "show", "cm_id"])?.contains("state LISTEN"))
        }
    }
}

/// The version of a package, without which its program would not be here.
fn version(package: &str) -> String {
    let found = system::run("dpkg-query", &["-W", "-f", "${Version}", package])
        .with_context(|| format!("asking for {package}"));
    found.unwrap_or_else(|e| format!("{e:#}"))
}

fn one_line(run: &Run) -> String {
    run.said.replace('\n', " / ")
}

/// The end of a long text says more than its beginning, but both can be needed.
fn shortened(text: String) -> String {
    if text.chars().count() <= LONGEST {
        return text;
    }
    let all: Vec<char> = text.chars().collect();
    let half = LONGEST / 2;
    let head: String = all[..half].iter().collect();
    let tail: String = all[all.len() - half..].iter().collect();
    format!("{head} … {tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_keep_both_ends() {
        let text = format!("begin{}end", "ä".repeat(2000));
        let short = shortened(text);
        assert!(short.starts_with("begin") && short.ends_with("end"));
        assert!(short.chars().count() < LONGEST + 10);
    }
}
