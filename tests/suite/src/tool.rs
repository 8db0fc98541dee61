//! Tests of the tool itself, as a user starts it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::group::Group;
use super::tally::{Outcome, Tally};
use soft_roce_setup::build;
use soft_roce_setup::context::Context;
use soft_roce_setup::{exit, signal};

/// Options in front of `--`, the guest's command, the status wanted, and what standard output and
/// standard error must contain.
struct Case {
    name: &'static str,
    options: &'static [&'static str],
    script: &'static str,
    status: u8,
    out: &'static str,
    err: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "tool::status_and_output_pass_through",
        options: &["--mr", "pinned"],
        script: r"printf '\000\r\n\377x'; echo to-stderr >&2; exit 42",
        status: 42,
        out: "\0\r\n",
        err: "to-stderr\n",
    },
    Case {
        name: "tool::panic_is_reported",
        options: &[],
        script: "echo c > /proc/sysrq-trigger; sleep 60",
        status: exit::KERNEL,
        out: "",
        err: "Kernel panic",
    },
    Case {
        name: "tool::silent_guest_times_out",
        options: &["--timeout", "5"],
        script: "sleep 1000",
        status: exit::TIMEOUT,
        out: "",
        err: "5 s",
    },
    Case {
        name: "tool::disk_icount_and_kernel_arguments",
        options: &[
            "--disk",
            "64M",
            "--clock",
            "icount",
            "--append",
            "emm_test=1",
        ],
        script: "nproc; cat /sys/block/vda/size; grep -o emm_test=1 /proc/cmdline; \
                 echo on the disk > /dev/vda; sync; head -c 11 /dev/vda",
        status: 0,
        out: "1\n131072\nemm_test=1\non the disk",
        err: "",
    },
    Case {
        name: "tool::module_that_does_not_load",
        options: &["--append", "module_blacklist=ib_emm"],
        script: "echo not reached",
        status: exit::SETUP,
        out: "",
        err: "ib_emm",
    },
    Case {
        name: "tool::in_tree_backend",
        options: &["--backend", "odp", "--mr", "unpinned"],
        script: "cat /sys/module/rdma_rxe/parameters/mr_backend; echo $VERBS_SHIM",
        status: 0,
        out: "odp\nforce\n",
        err: "",
    },
];

/// What can't be; each must end with status 2, 3 or 125 and say what is wrong.
const WRONG: &[(&str, &[&str], &str)] = &[
    (
        "tool::wrong_backend",
        &["run", "--backend", "none", "--", "true"],
        "none",
    ),
    (
        "tool::wrong_size",
        &["run", "--mem", "2X", "--", "true"],
        "2X",
    ),
    (
        "tool::wrong_cpus",
        &["run", "--clock", "icount", "--smp", "2", "--", "true"],
        "--smp 2",
    ),
    (
        "tool::wrong_share",
        &["run", "--share", "/no/such:/x", "--", "true"],
        "/no/such",
    ),
    (
        "tool::wrong_kernel",
        &["run", "--kernel", "6.1", "--", "true"],
        "6.1",
    ),
    ("tool::no_command", &["run"], "COMMAND"),
    (
        "tool::more_memory_than_the_host_has",
        &["run", "--mem", "100000G", "--", "true"],
        "choose less with --mem",
    ),
    (
        "tool::facts_to_nowhere",
        &["demo", "--json", "/no/such/facts"],
        "/no/such/facts",
    ),
];

/// Tests of their own kind.
const OTHERS: [&str; 4] = [
    "tool::archive_out_of_reach",
    "tool::demo",
    "tool::share_is_writable",
    "tool::ctrl_c_leaves_nothing",
];

/// Those that are wanted, on the kernel `series`.
pub fn group<'a>(
    context: &'a Context,
    series: &'a str,
    tally: &'a Tally,
) -> Result<Option<Group<'a>>> {
    let names = CASES.iter().map(|case| case.name);
    let mut names = names.chain(WRONG.iter().map(|w| w.0)).chain(OTHERS);
    if !names.any(|name| tally.wants(name)) {
        return Ok(None);
    }
    let work = move || run(context, series, tally);
    Group::of_kernel(context, series, work).map(|group| Some(group.boots()))
}

fn run(context: &Context, series: &str, tally: &Tally) -> Result<()> {
    let tool = Tool::new(context, series)?;
    for case in CASES {
        if !tally.wants(case.name) {
            continue;
        }
        signal::check()?;
        let start = Instant::now();
        let output = tool.run(case.options, case.script)?;
        tally.add(case.name, start.elapsed(), judge(&output, case));
    }
    for (name, args, want) in WRONG {
        if !tally.wants(name) {
            continue;
        }
        let start = Instant::now();
        let output = tool.command(args).output().context("cannot run myself")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let held = matches!(output.status.code(), Some(2 | 3 | 125)) && said.contains(want);
        let outcome = if held {
            Outcome::Passed
        } else {
            Outcome::Failed(format!("{}: {said}", output.status))
        };
        tally.add(name, start.elapsed(), outcome);
    }
    for name in OTHERS.into_iter().filter(|name| tally.wants(name)) {
        signal::check()?;
        let start = Instant::now();
        let outcome = match name {
            "tool::archive_out_of_reach" => out_of_reach(context, &tool)?,
            "tool::demo" => demo(context, &tool)?,
            "tool::share_is_writable" => share(context, &tool)?,
            _ => ctrl_c(&tool)?,
        };
        tally.add(name, start.elapsed(), outcome);
    }
    Ok(())
}

fn judge(output: &Output, case: &Case) -> Outcome {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    let held = output.status.code() == Some(i32::from(case.status))
        && out.contains(case.out)
        && err.contains(case.err);
    if held {
        Outcome::Passed
    } else {
        Outcome::Failed(format!("{}\nstdout: {out}\nstderr: {err}", output.status))
    }
}

/// A folder of one test, which goes with it.
fn folder(context: &Context) -> Result<TempDir> {
    tempfile::tempdir_in(context.cache.path("tmp")).context("cannot make a folder for a test")
}

/// An empty cache and an archive that nobody serves.
fn out_of_reach(context: &Context, tool: &Tool) -> Result<Outcome> {
    let dir = folder(context)?;
    let cache = dir.path().join("cache");
    let output = Command::new(&tool.program)
        .arg("--cache")
        .arg(&cache)
        .args(["build", "--mirror", "http://127.0.0.1:9/archive"])
        .stdin(Stdio::null())
        .output()
        .context("cannot run myself")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let held = output.status.code() == Some(i32::from(exit::HOST))
        && said.contains("cannot be reached")
        && said.contains("--mirror");
    Ok(if held {
        Outcome::Passed
    } else {
        Outcome::Failed(format!("{}: {said}", output.status))
    })
}

/// The demo holds, and its facts are written.
fn demo(context: &Context, tool: &Tool) -> Result<Outcome> {
    let dir = folder(context)?;
    let file = dir.path().join("facts.json");
    let mut command = tool.command(&["demo", "--json"]);
    command.arg(&file);
    command.args(["--kernel", &tool.series]);
    let output = command.output().context("cannot run myself")?;
    let text = fs::read_to_string(&file).unwrap_or_default();
    let facts: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let count = facts["facts"].as_array().map_or(0, Vec::len);
    Ok(
        if output.status.success() && facts["held"] == true && count > 40 {
            Outcome::Passed
        } else {
            let out = String::from_utf8_lossy(&output.stdout);
            let err = String::from_utf8_lossy(&output.stderr);
            Outcome::Failed(format!("{}, {count} facts\n{out}{err}", output.status))
        },
    )
}

/// What the guest writes to a share, the host reads.
fn share(context: &Context, tool: &Tool) -> Result<Outcome> {
    let dir = folder(context)?;
    let dir = dir.path();
    fs::write(dir.join("in"), "from the host").context("cannot write to the share")?;
    let option = format!("{}:/data", dir.display());
    let output = tool.run(
        &["--share", &option],
        "cat /data/in; echo from the guest > /data/out",
    )?;
    let came = fs::read_to_string(dir.join("out")).unwrap_or_default();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(if out == "from the host" && came == "from the guest\n" {
        Outcome::Passed
    } else {
        let err = String::from_utf8_lossy(&output.stderr);
        Outcome::Failed(format!("guest read {out:?}, host read {came:?}\n{err}"))
    })
}

/// An interrupted run ends with its own status, and no process of its group is left.
fn ctrl_c(tool: &Tool) -> Result<Outcome> {
    let mut command = tool.command(&["run", "--mr", "pinned"]);
    let mut child = command
        .args(["--", "echo up; sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot run myself")?;
    let mut line = [0; 3];
    let mut stdout = child.stdout.take().context("its output is a pipe")?;
    let up = std::io::Read::read_exact(&mut stdout, &mut line);
    let mine = descendants(child.id());
    let pid = Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).context("cannot interrupt the run")?;
    let status = child.wait().context("cannot wait for the run")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while mine.iter().any(|p| p.exists()) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let left = mine.iter().filter(|p| p.exists()).count();
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What it said only explains a failure.
        let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
    }
    Ok(
        if up.is_ok()
            && !mine.is_empty()
            && status.code() == Some(i32::from(exit::INTERRUPTED))
            && left == 0
        {
            Outcome::Passed
        } else {
            Outcome::Failed(format!("{status}, {left} processes left\n{said}"))
        },
    )
}

/// Folders in /proc of the processes below `parent`.
fn descendants(parent: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parents: Vec<(u32, u32)> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // PID (NAME) STATE PARENT …; a name may hold spaces and brackets.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            Some((pid, parent.parse().ok()?))
        })
        .collect();
    let mut found = vec![parent];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|p| p.1 == parent).map(|p| p.0));
        next += 1;
    }
    found[1..]
        .iter()
        .map(|pid| PathBuf::from(format!("/proc/{pid}")))
        .collect()
}

/// This program, to be started again.
struct Tool {
    program: PathBuf,
    cache: PathBuf,
    series: String,
}

impl Tool {
    fn new(context: &Context, series: &str) -> Result<Self> {
        Ok(Self {
            program: std::env::current_exe().context("cannot find my own program")?,
            cache: context.cache.path(""),
            series: series.to_owned(),
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--cache").arg(&self.cache).args(args);
        command.env(build::SOURCES_HANDED, build::sources());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, options: &[&str], script: &str) -> Result<Output> {
        let mut command = self.command(&["run"]);
        command.args(["--kernel", &self.series]);
        command
            .args(options)
            .args(["--", script])
            .output()
            .context("cannot run myself")
    }
}
