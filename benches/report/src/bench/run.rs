//! Which guest measures which row, and when.
//!
//! On the instruction clock a guest's time does not depend on what else the host does: as many guests as it has CPUs and memory
//! for work side by side, each on the next row that is left. On the wall clock there is one at a time, and nothing beside it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::family::{FAMILIES, Row, Wanted};
use super::kept::{Kept, Measured};
use super::noise;
use super::report::{Case, FamilyReport};
use crate::measure::{Facts, Machine, measure};
use soft_roce_setup::artifacts::Artifacts;
use soft_roce_setup::context::Context;
use soft_roce_setup::guest::{Clock, Guest};
use soft_roce_setup::host;
use soft_roce_setup::side_by_side::side_by_side;
use soft_roce_setup::signal;

/// What a row took.
pub type Took = (&'static str, Duration);

/// Guests that everything is measured in, quick and full: what differs between two of them is noise.
const BOOTS: (u32, u32) = (1, 2);

/// A row on one machine, and what was measured there.
struct Task {
    family: usize,
    row: &'static Row,
    machine: Machine,
    /// One for each guest.
    boots: Vec<Facts>,
    took: Duration,
    trouble: Vec<String>,
}

/// What is to be measured.
pub struct Run {
    quick: bool,
    tasks: Vec<Task>,
}

/// A task, by its number, in the guests of a boot.
#[derive(Debug, Clone, Copy)]
struct Job {
    boot: u32,
    task: usize,
}

/// What came of a job.
struct Done {
    job: Job,
    accel: Option<String>,
    facts: Facts,
    took: Duration,
    trouble: Option<String>,
}

/// A guest that goes on to the next row, and the boot that it is.
type Idle = Option<(u32, Guest)>;

impl Done {
    /// What an interrupted run has measured.
    fn before(job: Job, known: &Measured) -> Self {
        Self {
            job,
            accel: known.accel.clone(),
            facts: known.facts.clone(),
            took: Duration::from_secs_f64(known.seconds),
            trouble: None,
        }
    }

    fn without_guest(job: Job, error: &anyhow::Error) -> Self {
        Self {
            job,
            accel: None,
            facts: Facts::default(),
            took: Duration::ZERO,
            trouble: Some(format!("no guest: {error:#}")),
        }
    }
}

impl Run {
    /// The rows of `families`, on `clock` if it is given.
    pub fn new(quick: bool, clock: Option<Clock>, families: &[Wanted]) -> Self {
        let mut tasks = Vec::new();
        for (family, (_, rows)) in families.iter().enumerate() {
            for row in rows.iter().copied() {
                let machines = row.machines(clock);
                tasks.extend(machines.into_iter().map(|machine| Task {
                    family,
                    row,
                    machine,
                    boots: Vec::new(),
                    took: Duration::ZERO,
                    trouble: Vec::new(),
                }));
            }
        }
        Self { quick, tasks }
    }

    /// What each row took.
    pub fn took(&self) -> Vec<Took> {
        self.tasks.iter().map(|t| (t.row.name, t.took)).collect()
    }

    /// Measures machine by machine, and notes in `accel` what drove them. In a quick run rows that want the same machine share a
    /// guest, as long as it lives. What is in `kept` is not measured again.
    pub fn measure(
        &mut self,
        context: &Context,
        artifacts: &Artifacts,
        accel: &mut Vec<String>,
        kept: Option<&Kept>,
    ) -> Result<()> {
        let boots = if self.quick { BOOTS.0 } else { BOOTS.1 };
        let mut machines: Vec<Machine> = Vec::new();
        for task in &self.tasks {
            if !machines.contains(&task.machine) {
                machines.push(task.machine);
            }
        }
        let begun = AtomicUsize::new(0);
        for machine in machines {
            let of_it = |task: &usize| self.tasks[*task].machine == machine;
            let tasks = (0..self.tasks.len()).filter(of_it);
            let mut jobs: Vec<Job> = (0..boots)
                .flat_map(|boot| tasks.clone().map(move |task| Job { boot, task }))
                .collect();
            jobs.sort_by_key(|job| !self.tasks[job.task].row.long);
            let at_once = match machine.clock {
                Clock::Icount => host::room_for_guests(machine.spec().mem.0, machine.smp),
                Clock::Wall => 1,
            };
            let count = (&begun, self.tasks.len() * boots as usize);
            let done = side_by_side(jobs, at_once, |guest, job| {
                let Task { row, machine, .. } = &self.tasks[job.task];
                let machine = machine.name();
                if let Some(known) = kept.and_then(|k| k.find(row.name, &machine, job.boot)) {
                    return Ok(Done::before(job, known));
                }
                let done = self.job(context, artifacts, guest, job, boots, count)?;
                // What went wrong is tried again.
                if let Some(kept) = kept.filter(|_| done.trouble.is_none()) {
                    kept.add(Measured {
                        row: row.name.to_owned(),
                        machine,
                        boot: job.boot,
                        accel: done.accel.clone(),
                        seconds: done.took.as_secs_f64(),
                        facts: done.facts.clone(),
                        elapsed: 0.0,
                    })?;
                }
                Ok(done)
            })?;
            self.keep(done, accel);
        }
        self.sort();
        Ok(())
    }

    /// One row, in `guest` if it is alive and of the same boot, else in a new one that takes its place.
    fn job(
        &self,
        context: &Context,
        artifacts: &Artifacts,
        guest: &mut Idle,
        job: Job,
        boots: u32,
        (begun, total): (&AtomicUsize, usize),
    ) -> Result<Done> {
        signal::check()?;
        let Task { row, machine, .. } = &self.tasks[job.task];
        // One that is of no use gives its memory back here, before another is booted.
        let idle = guest
            .take()
            .filter(|(boot, guest)| *boot == job.boot && guest.alive() && !row.alone);
        let mut usable = match idle {
            Some((_, guest)) => guest,
            None => match Guest::boot(context, artifacts, &machine.spec()) {
                Ok(guest) => guest,
                Err(error) => {
                    signal::check()?;
                    if begun.load(Ordering::Relaxed) == 0 {
                        return Err(error);
                    }
                    return Ok(Done::without_guest(job, &error));
                }
            },
        };
        let number = begun.fetch_add(1, Ordering::Relaxed) + 1;
        let title = format!("bench {number}/{total}: {}, {}", row.name, machine.name());
        let options = options(row, self.quick, job.boot, boots);
        let start = Instant::now();
        let (facts, trouble) = measure(context, &mut usable, &title, &options)?;
        let done = Done {
            job,
            accel: Some(usable.accel.clone()),
            facts,
            took: start.elapsed(),
            trouble,
        };
        // In a full run each row has its own guest: which rows ran there before depends on what the host does, and so would memory.
        *guest = (self.quick && !row.alone).then_some((job.boot, usable));
        Ok(done)
    }

    /// Gives each task what came of its jobs. What goes wrong is the row's trouble, and the others go on.
    fn keep(&mut self, mut done: Vec<Done>, accel: &mut Vec<String>) {
        done.sort_by_key(|done| done.job.boot);
        for done in done {
            let new = done.accel.filter(|new| !accel.contains(new));
            accel.extend(new);
            let task = &mut self.tasks[done.job.task];
            task.took += done.took;
            task.boots.push(done.facts);
            let told = done.trouble.map(|why| format!("{}: {why}", task.row.name));
            task.trouble.extend(told);
        }
    }

    /// Gives each fact to its own row: the last lines of a program can arrive when the next one runs already.
    fn sort(&mut self) {
        let names: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|family| family.rows.iter().map(|row| row.name))
            .collect();
        let mut stray = Vec::new();
        for task in &mut self.tasks {
            for (boot, facts) in task.boots.iter_mut().enumerate() {
                let own = task.row.name;
                // A row may measure more than its name says, but nothing that another one does.
                let other = facts.split(|fact| fact.row == own || !names.contains(&&*fact.row));
                stray.push((task.machine, boot, other));
            }
        }
        for (machine, boot, facts) in stray {
            for task in self.tasks.iter_mut().filter(|t| t.machine == machine) {
                let own = facts.clone().split(|fact| fact.row != task.row.name);
                if let Some(known) = task.boots.get_mut(boot) {
                    known.extend(own);
                }
            }
        }
    }

    /// What came out, family by family.
    pub fn families(&self, families: &[Wanted]) -> Vec<FamilyReport> {
        let mut reports: Vec<FamilyReport> = families
            .iter()
            .map(|(family, _)| FamilyReport::of(family))
            .collect();
        for task in &self.tasks {
            let mut all = Facts::default();
            task.boots
                .iter()
                .for_each(|facts| all.extend(facts.clone()));
            let report = &mut reports[task.family];
            let case = |key| Case::of(key, task.machine, &task.boots);
            report.cases.extend(all.cases().into_iter().map(case));
            report.trouble.extend(task.trouble.iter().cloned());
        }
        reports.iter_mut().for_each(|r| noise::pool(&mut r.cases));
        reports
    }
}

/// The options of `emm-bench` for a row in the guest number `boot`: each takes its share of the rounds.
fn options(row: &Row, quick: bool, boot: u32, boots: u32) -> String {
    let rounds = if quick { row.rounds.0 } else { row.rounds.1 };
    let share = rounds.div_ceil(boots);
    let first = boot * share;
    let quick = if quick { " --quick" } else { "" };
    format!("{} --rounds {share} --first {first}{quick}", row.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_share_the_rounds() {
        let row = Row {
            name: "cold",
            machines: &[],
            rounds: (3, 5),
            alone: false,
            long: false,
        };
        assert_eq!(
            options(&row, true, 0, 1),
            "cold --rounds 3 --first 0 --quick"
        );
        assert_eq!(options(&row, false, 1, 2), "cold --rounds 3 --first 3");
    }
}
