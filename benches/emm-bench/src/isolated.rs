//! Measurements in a process for each kind of region: what one leaves behind in its address space (a notifier, page tables)
//! or what it dies of concerns no other.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow};

use crate::facts::{Subject, is_about};
use crate::plan::Plan;
use crate::who::Who;

/// Runs `emm-bench ROW --mr KIND` for each of `whos` in each round. Subjects that such a process says nothing about get its end
/// as the reason.
pub fn each(row: &str, plan: Plan, whos: &[Who], subjects: &[Subject<'_>]) -> Result<()> {
    for (round, who) in plan.turns(whos) {
        one(row, plan, who, round, None, subjects)?;
    }
    Ok(())
}

/// A case that is measured in processes of its own.
pub struct Case<'a> {
    /// What such a process is to say something about.
    pub subjects: Vec<Subject<'a>>,
    /// For each round of the plan, how many of this case.
    pub rounds: u32,
}

/// The same with a process for each of the row's cases, `--case NUMBER`: what ends one of them says nothing of the next.
pub fn each_case(row: &str, plan: Plan, whos: &[Who], cases: &[Case<'_>]) -> Result<()> {
    for (number, case) in cases.iter().enumerate() {
        for (round, who) in plan.times(case.rounds).turns(whos) {
            one(row, plan, who, round, Some(number), &case.subjects)?;
        }
    }
    Ok(())
}

fn one(
    row: &str,
    plan: Plan,
    who: Who,
    round: u32,
    case: Option<usize>,
    subjects: &[Subject<'_>],
) -> Result<()> {
    let program = std::env::current_exe().context("finding my own program")?;
    let mut child = Command::new(&program)
        .args([row, "--mr", who.label()])
        .args(case.map(|number| format!("--case={number}")))
        .args(plan.options(round))
        .stdout(Stdio::piped())
        .spawn()
        .context("running myself")?;
    let output = child.stdout.take().context("its output is a pipe")?;
    let mut missing: Vec<&Subject<'_>> = subjects.iter().collect();
    for line in BufReader::new(output).lines() {
        let line = line.context("reading what it says")?;
        println!("{line}");
        missing.retain(|subject| !is_about(&line, subject, round));
    }
    let end = child.wait().context("waiting for it")?;
    for subject in missing {
        let why = anyhow!("the measuring process ended: {end}");
        subject.tell(who.label(), round, Err(why));
    }
    Ok(())
}
