//! `emm-bench` runs inside the guest: it measures what memory regions cost, pinned, in-tree on demand and on demand by EMM
//! notifiers, one row of the targets' table at a time, and writes what it measured as JSON lines.

mod alone;
mod apps;
mod cold;
mod events;
mod facts;
mod guest;
mod hot;
mod invalidation;
mod isolated;
mod many;
mod oom;
mod overcommit;
mod owner;
mod patterns;
mod plan;
mod pressure;
mod probe;
mod registration;
mod rig;
mod sharing;
mod storm;
mod table;
mod traffic;
mod who;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use plan::Plan;
use who::Who;

/// Measures one row of the targets' table.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The row
    row: Row,
    /// Measure one kind of region in this process; for rows that have a process for each
    #[arg(long, hide = true)]
    mr: Option<Who>,
    /// And this one of the row's cases, by its number; for rows that have a process for each
    #[arg(long, hide = true, default_value_t = 0)]
    case: usize,
    #[command(flatten)]
    plan: Plan,
}

#[derive(Clone, Copy, ValueEnum)]
enum Row {
    /// Registration against the length
    Registration,
    /// A region that comes and goes with no other one there
    Alone,
    /// Memory that the kernel keeps for a region
    Table,
    /// Hot WRITE, READ and SEND against the size
    Throughput,
    /// Eight queue pairs on one region
    Sharing,
    /// Throughput against the number of queue pairs
    Qps,
    /// Time that a 4 MiB WRITE takes longer on cold memory
    Cold,
    /// Fault calls and pages brought in
    Faults,
    /// Hot operations one at a time, atomics too
    Latency,
    /// READs of cold memory, by order and by where the pages are
    Patterns,
    /// munmap, mprotect, fork and migration of translated memory
    Events,
    /// Traffic while its memory is invalidated, ever faster
    Storm,
    /// The owner's accounts
    Owner,
    /// Our own numbers beside perftest's
    Perftest,
    /// Programs of others, and the larger-than-memory table
    Apps,
    /// MADV_DONTNEED of translated memory
    Invalidation,
    /// An unrelated munmap beside many regions
    Munmap,
    /// Registering and deregistering many regions
    Many,
    /// What stays resident of memory that only the device uses
    Pressure,
    /// A region bigger than its owner's memory
    Overcommit,
    /// The OOM reaper on a process with regions
    Oom,
}

fn run(cli: &Cli) -> Result<()> {
    let plan = cli.plan;
    match (cli.row, cli.mr) {
        (Row::Registration, _) => registration::run(plan),
        (Row::Alone, None) => alone::all(plan),
        (Row::Alone, Some(who)) => alone::one(plan, who, cli.case),
        (Row::Table, _) => table::run(plan),
        (Row::Throughput, _) => hot::throughput(plan),
        (Row::Sharing, _) => sharing::run(plan),
        (Row::Qps, _) => sharing::qps(plan),
        (Row::Cold, _) => cold::time(plan),
        (Row::Faults, _) => cold::faults(plan),
        (Row::Latency, _) => hot::latency(plan),
        (Row::Invalidation, None) => invalidation::all(plan),
        (Row::Invalidation, Some(who)) => invalidation::one(plan, who),
        (Row::Patterns, _) => patterns::run(plan),
        (Row::Events, None) => events::all(plan),
        (Row::Events, Some(who)) => events::one(plan, who),
        (Row::Storm, _) => storm::run(plan),
        (Row::Owner, None) => owner::all(plan),
        (Row::Owner, Some(who)) => owner::one(plan, who),
        (Row::Perftest, _) => apps::perftest(plan),
        (Row::Apps, _) => apps::run(plan),
        (Row::Munmap, None) => many::munmap_all(plan),
        (Row::Munmap, Some(who)) => many::munmap_one(plan, who),
        (Row::Many, None) => many::all(plan),
        (Row::Many, Some(who)) => many::one(plan, who, cli.case),
        (Row::Pressure, None) => pressure::all(plan),
        (Row::Pressure, Some(who)) => pressure::one(plan, who),
        (Row::Overcommit, None) => overcommit::all(plan),
        (Row::Overcommit, Some(who)) => overcommit::one(plan, who, cli.case),
        (Row::Oom, None) => oom::all(plan),
        (Row::Oom, Some(who)) => oom::one(who),
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("emm-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
