//! Tests of the tool itself, as a user starts it.

mod ends;
mod hosts;
mod newcomer;
mod packages;
mod process;
mod program;
mod share;

use std::fs;
use std::process::Output;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use self::program::Tool;
use super::group::{Asked, Group};
use super::tally::{Outcome, Tally};
use soft_roce_setup::context::Context;
use soft_roce_setup::proc::Cmd;
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
        err: "sleep S hrtimer_nanosleep",
    },
    Case {
        name: "tool::report_of_one_host_ends_both",
        options: &["--hosts", "2"],
        script: "emm-host barrier up; [ $HOST = 1 ] || echo c > /proc/sysrq-trigger; sleep 1000",
        status: exit::KERNEL,
        out: "",
        err: "host 2: the guest's kernel reported a problem",
    },
    Case {
        name: "tool::silent_hosts_time_out",
        options: &["--hosts", "2", "--timeout", "5"],
        script: "emm-host barrier up; [ $HOST = 1 ] || emm-host barrier nobody; sleep 1000",
        status: exit::TIMEOUT,
        out: "",
        err: "host 1's command was running; host 2's command was running, waiting at the barrier `nobody`",
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
        "tool::wrong_packages",
        &["run", "--packages", "fio,--purge", "--", "true"],
        "`--purge` is no name of a Debian package",
    ),
    (
        "tool::package_that_is_not_there",
        &["run", "--packages", "no-such-package", "--", "true"],
        "Unable to locate package no-such-package",
    ),
    (
        "tool::wrong_cpus",
        &["run", "--clock", "icount", "--smp", "2", "--", "true"],
        "--smp 2",
    ),
    (
        "tool::three_hosts",
        &["run", "--hosts", "3", "--", "true"],
        "there can be 1 or 2",
    ),
    (
        "tool::three_values_for_two_hosts",
        &[
            "run",
            "--hosts",
            "2",
            "--mr",
            "unpinned,pinned,pinned",
            "--",
            "true",
        ],
        "are 3 values",
    ),
    (
        "tool::a_pair_for_one_host",
        &["run", "--backend", "emm,odp", "--", "true"],
        "--backend: a pair of values is for two hosts",
    ),
    (
        "tool::two_hosts_with_two_clocks",
        &["run", "--hosts", "2", "--clock", "icount", "--", "true"],
        "no common time",
    ),
    (
        "tool::wrong_wire",
        &["run", "--hosts", "2", "--wire", "loss=101%", "--", "true"],
        "loss=101%: 0% to 50% is possible",
    ),
    (
        "tool::wire_of_one_host",
        &["run", "--wire", "loss=1%", "--", "true"],
        "there is a wire between two hosts only",
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
    (
        "tool::test_that_is_not_there",
        &["test", "host::rustfmt", "no_such_test"],
        "no test has a name with `no_such_test`",
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
const OTHERS: [&str; 13] = [
    packages::ALONG,
    packages::FABRIC,
    "tool::archive_out_of_reach",
    "tool::nobody_reads_status",
    "tool::sigterm_leaves_nothing_of_a_build",
    "tool::sigkill_leaves_nothing_of_a_build",
    "tool::demo",
    share::NAME,
    "tool::ctrl_c_leaves_nothing",
    "tool::qemu_that_dies_is_named",
    "tool::nobody_reads_a_guest",
    hosts::BOTH,
    hosts::CTRL_C,
];

/// Those for `--long`.
const LONG: [&str; 2] = [newcomer::NAME, packages::NFS];

/// The names of all of them.
pub fn names(long: bool) -> impl Iterator<Item = &'static str> {
    let cases = CASES.iter().map(|case| case.name);
    let cases = cases.chain(WRONG.iter().map(|w| w.0)).chain(OTHERS);
    cases.chain(LONG.into_iter().filter(move |_| long))
}

/// Those that are wanted, on the kernel `series`.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let Asked {
        context,
        series,
        long,
        tally,
        ..
    } = asked;
    if !names(long).any(|name| tally.wants(name)) {
        return Ok(None);
    }
    let work = move || run(context, series, long, tally);
    Group::of_kernel(context, series, work).map(|group| Some(group.boots()))
}

fn run(context: &Context, series: &str, long: bool, tally: &Tally) -> Result<()> {
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
        let output = tool.command(args).capture()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let held = matches!(output.status.code(), Some(2 | 3 | 125)) && said.contains(want);
        let outcome = if held {
            Outcome::Passed
        } else {
            Outcome::Failed(format!("{}: {said}", output.status))
        };
        tally.add(name, start.elapsed(), outcome);
    }
    let others = OTHERS.into_iter().chain(LONG.into_iter().filter(|_| long));
    for name in others.filter(|name| tally.wants(name)) {
        signal::check()?;
        let start = Instant::now();
        let outcome = match name {
            "tool::archive_out_of_reach" => out_of_reach(context, &tool)?,
            packages::ALONG => packages::come_along(context, &tool)?,
            packages::FABRIC => packages::fabric(&tool)?,
            packages::NFS => packages::nfs(&tool)?,
            newcomer::NAME => newcomer::run(context, &tool)?,
            "tool::demo" => demo(context, &tool)?,
            "tool::nobody_reads_status" => ends::unread_status(&tool)?,
            "tool::sigterm_leaves_nothing_of_a_build" => ends::build(context, &tool, Signal::TERM)?,
            "tool::sigkill_leaves_nothing_of_a_build" => ends::build(context, &tool, Signal::KILL)?,
            share::NAME => share::run(context, &tool)?,
            "tool::ctrl_c_leaves_nothing" => ends::ctrl_c(&tool)?,
            "tool::qemu_that_dies_is_named" => ends::qemu_dies(&tool)?,
            hosts::BOTH => hosts::both(&tool)?,
            hosts::CTRL_C => ends::ctrl_c_of_two(&tool)?,
            _ => ends::unread_guest(&tool)?,
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
    let output = Cmd::new(&tool.program)
        .arg("--cache")
        .arg(&cache)
        .args(["build", "--mirror", "http://127.0.0.1:9/archive"])
        .capture()?;
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
    let output = tool
        .command(&["demo", "--json"])
        .arg(&file)
        .args(["--kernel", &tool.series])
        .capture()?;
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
