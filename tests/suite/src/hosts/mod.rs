//! Two hosts on one wire: one boot serves all cases, and a new one follows a case that fails. They have the first and the last of the
//! kernels that are tested.

mod cases;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::cases::{CASES, Case};
use super::group::{Asked, Group, options};
use super::guest::{Collected, spec, tail};
use super::tally::Outcome;
use soft_roce_setup::artifacts::Artifacts;
use soft_roce_setup::build;
use soft_roce_setup::guest::{End, Hosts, Job, Order, Shape, Spec};
use soft_roce_setup::signal;

fn name(case: &Case) -> String {
    format!("hosts::{}", case.name)
}

fn cases(long: bool) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(move |case| long || !case.long)
}

/// The names of all of them.
pub fn names(long: bool) -> impl Iterator<Item = String> {
    cases(long).map(name)
}

/// Those that are wanted, on hosts of these kernels.
pub fn group<'a>(asked: Asked<'a>, kernels: [&'a str; 2]) -> Result<Option<Group<'a>>> {
    let wanted = asked.wanted(cases(asked.long), |_, case| name(case));
    if wanted.is_empty() {
        return Ok(None);
    }
    // Built here, so that the group finds it.
    for kernel in kernels {
        drop(build::ensure(asked.context, &options(kernel))?);
    }
    let work = move || all(asked, kernels, &wanted);
    Group::of_kernel(asked.context, kernels[0], work).map(Some)
}

/// As the guest of all cases, with one NUMA node.
fn small() -> Spec {
    Spec {
        append: None,
        ..spec()
    }
}

fn all(asked: Asked<'_>, kernels: [&str; 2], cases: &[&Case]) -> Result<()> {
    let artifacts = build::ensure_each(asked.context, &kernels.map(options))?;
    let artifacts: Vec<Arc<Artifacts>> = artifacts.into_iter().map(Arc::new).collect();
    let mut hosts: Option<Hosts> = None;
    for case in cases {
        signal::check()?;
        let mut usable = match hosts.take() {
            Some(hosts) if hosts.alive() => hosts,
            _ => Hosts::boot(
                asked.context,
                [&artifacts[0], &artifacts[1]],
                [small(), small()],
                &Shape::default(),
            )?,
        };
        let start = Instant::now();
        let (outcome, said) = run(&mut usable, case)?;
        asked.said.keep(name(case), said);
        // What a failed test left behind must not fail the next.
        hosts = (!matches!(outcome, Outcome::Failed(_))).then_some(usable);
        asked.tally.add(&name(case), start.elapsed(), outcome);
    }
    Ok(())
}

/// How a case ended, and what it printed.
fn run(hosts: &mut Hosts, case: &Case) -> Result<(Outcome, String)> {
    let outputs = [Collected::default(), Collected::default()];
    let limit = Duration::from_secs(case.seconds);
    let orders = outputs.each_ref().map(|output| Order {
        job: Job {
            script: format!("cd /root\n{}\n", case.script),
            stdin: false,
            silence: limit,
            limit: Some(limit),
        },
        out: Box::new(output.clone()),
        err: Box::new(output.clone()),
    });
    let ends = hosts.run(orders)?;
    let texts = outputs.map(|output| output.text());
    let whole = format!("host 1:\n{}\nhost 2:\n{}", texts[0], texts[1]);
    let shown = || format!("host 1:\n{}\nhost 2:\n{}", tail(&texts[0]), tail(&texts[1]));
    if let Some(why) = hosts.describe(&ends) {
        return Ok((Outcome::Failed(format!("{why}\n{}", shown())), whole));
    }
    for (index, end) in ends.iter().enumerate() {
        let host = index + 1;
        let End::Exited(status) = end else { continue };
        if *status != 0 {
            let why = format!("host {host}: exit status {status}\n{}", shown());
            return Ok((Outcome::Failed(why), whole));
        }
        let missing = case.wants[index]
            .iter()
            .find(|want| !texts[index].contains(**want));
        if let Some(want) = missing {
            let why = format!("`{want}` is not in host {host}'s output:\n{}", shown());
            return Ok((Outcome::Failed(why), whole));
        }
    }
    Ok((Outcome::Passed, whole))
}
