//! Unmodified programs of the distribution, pinned and through the preload library, with what they pin while they run.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::system::vm_kib;
use crate::target::Env;

const LIMIT: Duration = Duration::from_secs(60);

/// A program's own result: its line, the value in it, the value's unit.
type Outcome = (String, Option<f64>, &'static str);

/// A server and its client.
struct Program {
    name: &'static str,
    args: &'static str,
    /// What the client gets in addition; the server gets `server`.
    client: &'static str,
    server: &'static str,
    /// TCP port the server listens on; rdma_cm has none.
    port: Option<u16>,
    /// Finds the result line and its value.
    result: fn(&str) -> Option<Outcome>,
}

const ADDRESS: &str = "10.9.0.1";
const PERFTEST: &str = "-d rxe0 -x 1 -F -s 65536 -n 150";

const PROGRAMS: [Program; 5] = [
    Program {
        name: "ibv_rc_pingpong",
        args: "-d rxe0 -g 1 -c -n 200",
        client: ADDRESS,
        server: "",
        port: Some(18515),
        result: pingpong,
    },
    Program {
        name: "ib_write_bw",
        args: PERFTEST,
        client: ADDRESS,
        server: "",
        port: Some(18515),
        result: perftest,
    },
    Program {
        name: "ib_read_bw",
        args: PERFTEST,
        client: ADDRESS,
        server: "",
        port: Some(18515),
        result: perftest,
    },
    Program {
        name: "ib_send_bw",
        args: PERFTEST,
        client: ADDRESS,
        server: "",
        port: Some(18515),
        result: perftest,
    },
    Program {
        name: "rping",
        args: "-a 10.9.0.1 -C 30 -S 4000 -V -v",
        client: "-c",
        server: "-s",
        port: None,
        result: rping,
    },
];

fn pingpong(out: &str) -> Option<Outcome> {
    // "1638400 bytes in 0.02 seconds = 655.36 Mbit/sec"
    let line = out.lines().find(|l| l.contains("Mbit/sec"))?;
    let value = line
        .split('=')
        .nth(1)?
        .split_whitespace()
        .next()?
        .parse()
        .ok();
    Some((line.trim().into(), value, "Mbit/s"))
}

fn perftest(out: &str) -> Option<Outcome> {
    // " 65536      150              83.10              82.90      0.001326"
    let line = out.lines().find(|l| l.trim_start().starts_with("65536 "))?;
    let value = line.split_whitespace().nth(3)?.parse().ok();
    Some((
        line.split_whitespace().collect::<Vec<_>>().join(" "),
        value,
        "MiB/s",
    ))
}

fn rping(out: &str) -> Option<Outcome> {
    let pings = out.lines().filter(|l| l.contains("ping data")).count();
    (pings >= 30).then(|| (format!("{pings} pings validated"), None, ""))
}

/// Runs all of them both ways.
pub fn all(env: &Env, shim: &str) {
    for p in &PROGRAMS {
        for unpinned in [false, true] {
            let mr = if unpinned { "unpinned" } else { "pinned" };
            if unpinned && !Path::new(shim).exists() {
                env.report.skip(p.name, &format!("{shim} is missing"), true);
                continue;
            }
            if let Err(e) = one(env, p, unpinned.then_some(shim)) {
                let detail = format!("{e:#}");
                env.report.fact(
                    false,
                    true,
                    &format!("{mr:8} {}: {detail}", p.name),
                    json!({"t": "program", "program": p.name, "command": format!("{} {}", p.name, p.args), "mr": mr, "exit": null,
                           "line": "", "value": null, "unit": "", "max_vmpin_kib": null, "max_vmlck_kib": null, "detail": detail}),
                );
            }
        }
    }
}

fn spawn(p: &Program, extra: &str, shim: Option<&str>) -> Result<Child> {
    let mut command = Command::new(p.name);
    command
        .args(p.args.split_whitespace())
        .args(extra.split_whitespace());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.env_remove("LD_PRELOAD");
    if let Some(shim) = shim {
        command.env("LD_PRELOAD", shim).env("VERBS_SHIM", "force");
    }
    command
        .spawn()
        .with_context(|| format!("starting {}", p.name))
}

/// Whether something listens on TCP port `port`.
fn listens(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|f| {
        fs::read_to_string(f).is_ok_and(|t| {
            t.lines().any(|l| {
                let mut words = l.split_whitespace().skip(1);
                words.next().is_some_and(|a| a.ends_with(&wanted)) && words.nth(1) == Some("0A")
            })
        })
    })
}

fn one(env: &Env, p: &Program, shim: Option<&str>) -> Result<()> {
    let mut server = Guard(spawn(p, p.server, shim)?);
    let start = Instant::now();
    match p.port {
        Some(port) => {
            while !listens(port)
                && start.elapsed() < Duration::from_secs(20)
                && server.0.try_wait()?.is_none()
            {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        None => std::thread::sleep(Duration::from_millis(700)),
    }
    let mut client = Guard(spawn(p, p.client, shim)?);
    let outputs: Vec<_> = [&mut server, &mut client]
        .into_iter()
        .map(|g| collect(&mut g.0))
        .collect();
    let (mut pin, mut locked, mut samples) = (0, 0, 0u32);
    let start = Instant::now();
    let (status, server_status) = loop {
        for child in [&server, &client] {
            let pid = child.0.id().to_string();
            pin = pin.max(vm_kib(&pid, "VmPin"));
            locked = locked.max(vm_kib(&pid, "VmLck"));
        }
        samples += 1;
        let done = (client.0.try_wait()?, server.0.try_wait()?);
        if let (Some(c), Some(s)) = done {
            break (c, s);
        }
        if start.elapsed() > LIMIT {
            bail!("no end within {} s", LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let outputs: Vec<String> = outputs
        .into_iter()
        .map(|t| t.join().unwrap_or_default())
        .collect();
    let found = outputs.iter().rev().find_map(|o| (p.result)(o));
    let mut detail = String::new();
    if !status.success() || !server_status.success() || found.is_none() {
        detail = format!(
            "client {status}, server {server_status}: {}",
            outputs.join(" | ").replace('\n', " / ")
        );
        if detail.len() > 600 {
            let cut = (0..=600)
                .rev()
                .find(|&i| detail.is_char_boundary(i))
                .unwrap_or(0);
            detail.truncate(cut);
        }
    } else if shim.is_some() && pin + locked != 0 {
        detail = "memory was pinned although unpinned was asked for".into();
    } else if shim.is_none() && pin == 0 {
        detail =
            format!("no pinned memory seen in {samples} samples: the measurement does not work");
    }
    let (line, value, unit) = found.unwrap_or_default();
    let mr = if shim.is_some() { "unpinned" } else { "pinned" };
    env.report.fact(
        detail.is_empty(),
        true,
        &format!("{mr:8} {:16} VmPin {pin:>6} KiB  {line} {detail}", p.name),
        json!({"t": "program", "program": p.name, "command": format!("{} {} {}", p.name, p.args, p.client).trim(), "mr": mr,
               "exit": status.code(), "line": line, "value": value, "unit": unit, "max_vmpin_kib": pin, "max_vmlck_kib": locked,
               "samples": samples, "detail": detail}),
    );
    Ok(())
}

/// Reads both outputs of a child in the background.
fn collect(child: &mut Child) -> std::thread::JoinHandle<String> {
    let out = child.stdout.take();
    let err = child.stderr.take();
    std::thread::spawn(move || {
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            err.and_then(|mut e| e.read_to_end(&mut text).ok());
            text
        });
        let mut text = Vec::new();
        out.and_then(|mut o| o.read_to_end(&mut text).ok());
        text.extend(errors.join().unwrap_or_default());
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Ends a child that is still there.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines() {
        let (_, value, _) =
            pingpong("x\n1638400 bytes in 0.02 seconds = 655.36 Mbit/sec\n").unwrap();
        assert_eq!(value, Some(655.36));
        let (line, value, _) =
            perftest(" #bytes\n 65536      150     83.10     82.90     0.001326\n").unwrap();
        assert_eq!(
            (line.as_str(), value),
            ("65536 150 83.10 82.90 0.001326", Some(82.9))
        );
        assert!(perftest("nothing").is_none());
        assert!(rping("ping data: rdma-ping-0").is_none());
    }
}
