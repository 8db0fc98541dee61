//! `emm-check` runs inside the guest: it moves data over a verbs device between regions of its own, lets the VM do its worst
//! to their pages meanwhile, and compares every byte, the ones around each target included.

mod cli;
mod demo;
mod events;
mod ffi;
mod kill;
mod mem;
mod programs;
mod qp;
mod reg;
mod report;
mod stress;
mod sweep;
mod system;
mod target;
mod verbs;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use serde_json::json;

use cli::{Cli, Cmd, Common};
use report::Report;
use system::Kind;
use target::Env;
use verbs::{Device, Pd};
use verify::Matrix;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("emm-check: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn env(c: &Common) -> Result<Env> {
    let device = Device::open(&c.device, c.gid_index)?;
    let child_args = [
        "--device".into(),
        c.device.clone(),
        "--gid-index".into(),
        c.gid_index.to_string(),
        "--mtu".into(),
        c.mtu.to_string(),
        "--seed".into(),
        c.seed.to_string(),
    ];
    Ok(Env {
        pd: Pd::new(&device)?,
        mtu: c.mtu,
        seed: c.seed,
        report: Report::new(c.json),
        child_args: child_args.into(),
    })
}

/// Does `work` for each kind that can be had; says why for the others.
fn each(env: &Env, allow_stock: bool, kinds: &[Kind], mut work: impl FnMut(Kind) -> Result<()>) {
    for &kind in kinds {
        if let Err(e) = kind.select(allow_stock) {
            env.report
                .skip(kind.label(), &format!("{e:#}"), !allow_stock);
        } else if let Err(e) = work(kind) {
            env.report
                .skip(kind.label(), &format!("{e:#}"), kind.resolve() != Kind::Odp);
        }
    }
}

fn run(cli: Cli) -> Result<bool> {
    let env = env(&cli.common)?;
    let stock = cli.common.allow_stock;
    match &cli.command {
        Cmd::TrafficChild { qps, mr } => return kill::child(&env, *mr, *qps).map(|()| true),
        Cmd::ForkChild { mr } => return events::fork::parent_exits_first(&env, *mr).map(|()| true),
        _ => {}
    }
    let backend = system::backend().unwrap_or_else(|| "stock".into());
    env.report.say(
        &format!("emm-check on {} ({}), mr_backend {backend}, seed {}", cli.common.device, system::kernel(), env.seed),
        &json!({"t": "start", "device": cli.common.device, "kernel": system::kernel(), "backend": backend,
                "backends": if system::backend().is_some() { json!(["emm", "odp"]) } else { json!(["odp"]) },
                "seed": env.seed, "mtu": env.mtu}),
    );
    match cli.command {
        Cmd::Reg { size, mr } => each(&env, stock, &mr, |kind| reg::reg(&env, kind, size)),
        Cmd::Verify {
            mr,
            op,
            offsets,
            lengths,
            iova,
            hot_only,
        } => {
            let matrix = Matrix {
                verbs: op,
                offsets: if offsets.is_empty() {
                    verify::OFFSETS.into()
                } else {
                    offsets.into_iter().map(usize::from).collect()
                },
                lengths: if lengths.is_empty() {
                    verify::LENGTHS.into()
                } else {
                    lengths
                },
                iova,
                fresh: if hot_only {
                    vec![false]
                } else {
                    vec![true, false]
                },
            };
            if let Some(n) = matrix.lengths.iter().find(|&&n| n > target::MAX_OP) {
                anyhow::bail!("length {n}: at most 1M");
            }
            each(&env, stock, &mr, |kind| verify::verify(&env, kind, &matrix));
        }
        Cmd::Sweep { size, mr } => each(&env, stock, &mr, |kind| sweep::sweep(&env, kind, size)),
        Cmd::Event { names, mr } => each(&env, stock, &mr, |kind| {
            events::run(&env, kind, &names);
            Ok(())
        }),
        Cmd::Kill { rounds, qps, mr } => each(&env, stock, &[mr], |kind| {
            kill::kill(&env, kind, rounds, qps)
        }),
        Cmd::Stress {
            seconds,
            qps,
            size,
            mr,
        } => {
            each(&env, stock, &[mr], |kind| {
                stress::stress(&env, kind, seconds, qps, size)
            });
        }
        Cmd::Demo { size, shim } => demo::demo(&env, size, &shim),
        Cmd::TrafficChild { .. } | Cmd::ForkChild { .. } => {}
    }
    Ok(env.report.verdict())
}
