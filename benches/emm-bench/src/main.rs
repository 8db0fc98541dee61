//! `emm-bench` runs inside the guest: it measures what memory regions cost, pinned, in-tree on demand and on demand by EMM
//! notifiers, one row of the targets' table at a time, and writes what it measured as JSON lines.

mod cold;
mod facts;
mod guest;
mod hot;
mod invalidation;
mod isolated;
mod many;
mod oom;
mod overcommit;
mod pressure;
mod probe;
mod registration;
mod rig;
mod sharing;
mod table;
mod traffic;
mod who;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};

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
}

#[derive(Clone, Copy, ValueEnum)]
enum Row {
    /// Registration against the length
    Registration,
    /// Memory that the kernel keeps for a region
    Table,
    /// Hot WRITE and READ, 64 B to 1 MiB
    Throughput,
    /// Eight queue pairs on one region
    Sharing,
    /// Time that a 4 MiB WRITE takes longer on cold memory
    Cold,
    /// Fault calls and pages brought in
    Faults,
    /// Hot WRITE and READ of 8 bytes
    Latency,
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
    match (cli.row, cli.mr) {
        (Row::Registration, _) => registration::run(),
        (Row::Table, _) => table::run(),
        (Row::Throughput, _) => hot::throughput(),
        (Row::Sharing, _) => sharing::run(),
        (Row::Cold, _) => cold::time(),
        (Row::Faults, _) => cold::faults(),
        (Row::Latency, _) => hot::latency(),
        (Row::Invalidation, None) => invalidation::all(),
        (Row::Invalidation, Some(who)) => invalidation::one(who),
        (Row::Munmap, None) => many::munmap_all(),
        (Row::Munmap, Some(who)) => many::munmap_one(who),
        (Row::Many, None) => many::all(),
        (Row::Many, Some(who)) => many::one(who),
        (Row::Pressure, None) => pressure::all(),
        (Row::Pressure, Some(who)) => pressure::one(who),
        (Row::Overcommit, None) => overcommit::all(),
        (Row::Overcommit, Some(who)) => overcommit::one(who),
        (Row::Oom, None) => oom::all(),
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
