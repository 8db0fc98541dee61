//! `emm-check` runs inside the guest: it moves data over a verbs device between regions of its own, lets the VM do its worst
//! to their pages meanwhile, and compares every byte, the ones around each target included.

mod access;
mod across;
mod beat;
mod cli;
mod crowd;
mod demo;
mod events;
mod fuse;
mod fuzz;
mod inject;
mod kill;
mod leaks;
mod leftover;
mod matrix;
mod notifier;
mod owner;
mod pair;
mod programs;
mod reg;
mod removal;
mod report;
mod spent;
mod stall;
mod stress;
mod sweep;
mod target;
mod uffd;
mod verbs_cases;
mod verify;
mod xpmem;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use serde_json::json;

use emm_check::{
    child, counters, cpu, cq, ffi, kmsg, mem, nbd, pmem, private, qp, stacks, swap, system, trace,
    verbs,
};

use across::{Cases, Op, Plan};
use cli::{Cli, Cmd, Common};
use report::Report;
use system::Kind;
use target::Env;
use verbs::{Device, Link, Pd};
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

/// Options that a process of this program's own gets too.
fn child_args(c: &Common) -> Vec<String> {
    [
        ("--device", c.device.clone()),
        ("--gid-index", c.gid_index.to_string()),
        ("--ack-timeout", c.ack_timeout.to_string()),
        ("--mtu", c.mtu.to_string()),
        ("--seed", c.seed.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect()
}

fn report(c: &Common) -> Report {
    Report::new(c.json, c.odp_is_repaired)
}

fn env(c: &Common) -> Result<Env> {
    let link = Link {
        gid_index: c.gid_index,
        ack_timeout: c.ack_timeout,
        retries: 7,
    };
    let device = Device::open(&c.device, link)?;
    Ok(Env {
        device: c.device.clone(),
        pd: Pd::new(&device)?,
        mtu: c.mtu,
        seed: c.seed,
        report: report(c),
        child_args: child_args(c),
    })
}

/// Does `work` for each kind that can be had; says why for the others.
fn each(
    report: &Report,
    allow_stock: bool,
    kinds: &[Kind],
    mut work: impl FnMut(Kind) -> Result<()>,
) {
    for &kind in kinds {
        if let Err(e) = kind.select(allow_stock) {
            report.skip(kind.label(), &format!("{e:#}"), !allow_stock);
        } else if let Err(e) = work(kind) {
            report.skip(kind.label(), &format!("{e:#}"), report.requires(kind));
        }
    }
}

/// The offsets that were asked for, or all that are combined with every length.
fn offsets_or_all(offsets: Vec<u16>) -> Vec<usize> {
    if offsets.is_empty() {
        verify::OFFSETS.into()
    } else {
        offsets.into_iter().map(usize::from).collect()
    }
}

/// The same of lengths.
fn lengths_or_all(lengths: Vec<usize>) -> Result<Vec<usize>> {
    if let Some(n) = lengths.iter().find(|&&n| n > target::MAX_OP) {
        anyhow::bail!("length {n}: at most 1M");
    }
    Ok(if lengths.is_empty() {
        verify::LENGTHS.into()
    } else {
        lengths
    })
}

fn run(cli: Cli) -> Result<bool> {
    // These need no verbs device.
    match cli.command {
        Cmd::Notifier => {
            let report = report(&cli.common);
            notifier::notifier(&report);
            return Ok(report.verdict());
        }
        Cmd::NotifierChild => return notifier::child().map(|()| true),
        Cmd::Access { cases } => {
            let report = report(&cli.common);
            access::access(&report, &cases)?;
            return Ok(report.verdict());
        }
        Cmd::AccessChild { sleeping } => return access::child(sleeping).map(|()| true),
        Cmd::Xpmem {
            ref families,
            attaches,
            attachers,
        } => {
            let report = report(&cli.common);
            let scale = xpmem::Scale {
                attaches,
                attachers,
            };
            xpmem::run(&report, families, scale);
            return Ok(report.verdict());
        }
        Cmd::XpmemMatrix {
            ref events,
            ref verb,
        } => {
            let report = report(&cli.common);
            let open = || env(&cli.common);
            xpmem::matrix(&report, cli.common.seed, &open, verb, events)?;
            return Ok(report.verdict());
        }
        Cmd::XpmemChild => return xpmem::child().map(|()| true),
        Cmd::Removal => {
            let report = report(&cli.common);
            removal::removal(&report, &cli.common.device, &child_args(&cli.common));
            return Ok(report.verdict());
        }
        Cmd::Leftover => {
            let report = report(&cli.common);
            leftover::leftover(&report, &cli.common.device, &child_args(&cli.common))?;
            return Ok(report.verdict());
        }
        Cmd::Leaks => {
            let report = report(&cli.common);
            leaks::leaks(&report)?;
            return Ok(report.verdict());
        }
        Cmd::Matrix {
            ref events,
            ref verb,
            ref mr,
        } => {
            let report = report(&cli.common);
            let stand = matrix::Stand {
                open: &|| env(&cli.common),
                device: &cli.common.device,
                args: &child_args(&cli.common),
                report: &report,
            };
            each(&report, cli.common.allows_stock(), mr, |kind| {
                matrix::run(&stand, kind, verb, events)
            });
            return Ok(report.verdict());
        }
        _ => {}
    }
    let early = match cli.command {
        Cmd::UffdChild { first: true, .. } => Some(uffd::Uffd::new()?),
        _ => None,
    };
    let mut env = env(&cli.common)?;
    let stock = cli.common.allows_stock();
    match &cli.command {
        Cmd::TrafficChild { qps, mr } => return kill::child(&env, *mr, *qps).map(|()| true),
        Cmd::UffdChild { mr, advised, .. } => {
            return events::uffd::child(&env, *mr, early, *advised).map(|()| true);
        }
        Cmd::MatrixChild { mr, verb, fate } => {
            return matrix::child(&env, *mr, *verb, *fate).map(|()| true);
        }
        Cmd::AdviseChild { mr } => {
            return verbs_cases::killed::child(&env, *mr).map(|()| true);
        }
        Cmd::LeftoverChild { at, mr } => return leftover::child(&env, *mr, *at).map(|()| true),
        Cmd::ParkedChild { mr, file } => {
            return events::parked::child(&env, *mr, file.as_deref()).map(|()| true);
        }
        Cmd::CrowdChild { qps, mr } => return crowd::child(&env, *mr, *qps).map(|()| true),
        Cmd::OwnerChild { mr, node, hole } => {
            return owner::child(&env, *mr, *node, hole.as_deref()).map(|()| true);
        }
        Cmd::ReapChild { mr } => return events::reap::child(&env, *mr).map(|()| true),
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
        Cmd::Reg { size, mr } => each(&env.report, stock, &mr, |kind| reg::reg(&env, kind, size)),
        Cmd::Verify {
            mr,
            op,
            offsets,
            lengths,
            iova,
            hot_only,
            qps,
            every_mtu,
        } => {
            let matrix = Matrix {
                verbs: op,
                offsets: offsets_or_all(offsets),
                lengths: lengths_or_all(lengths)?,
                iova,
                fresh: if hot_only {
                    vec![false]
                } else {
                    vec![true, false]
                },
                qps: qps.into(),
            };
            let one = [env.mtu];
            for mtu in if every_mtu { &cli::MTUS[..] } else { &one } {
                env.mtu = *mtu;
                each(&env.report, stock, &mr, |kind| {
                    verify::verify(&env, kind, &matrix)
                });
            }
        }
        Cmd::Across {
            mr,
            op,
            state,
            offsets,
            lengths,
            every_mtu,
        } => {
            mr.select(stock)?;
            let plan = Plan {
                ops: if op.is_empty() { Op::ALL.into() } else { op },
                cases: Cases {
                    states: state,
                    offsets: offsets_or_all(offsets),
                    lengths: lengths_or_all(lengths)?,
                },
                mtus: if every_mtu {
                    cli::MTUS.into()
                } else {
                    vec![env.mtu]
                },
            };
            across::across(&mut env, mr, &plan)?;
        }
        Cmd::Gone { how, mr } => {
            mr.select(stock)?;
            across::gone::gone(&env, mr, how)?;
        }
        Cmd::Sweep { size, mr } => each(&env.report, stock, &mr, |kind| {
            sweep::sweep(&env, kind, size)
        }),
        Cmd::Event { names, mr } => each(&env.report, stock, &mr, |kind| {
            events::run(&env, kind, &names);
            Ok(())
        }),
        Cmd::Verbs { cases, mr } => each(&env.report, stock, &mr, |kind| {
            verbs_cases::run(&env, kind, &cases);
            Ok(())
        }),
        Cmd::Crowd { qps, seconds, mr } => each(&env.report, stock, &[mr], |kind| {
            crowd::crowd(&env, kind, qps, seconds)
        }),
        Cmd::Owner { parts, mr } => each(&env.report, stock, &mr, |kind| {
            owner::run(&env, kind, &parts);
            Ok(())
        }),
        Cmd::Kill { rounds, qps, mr } => each(&env.report, stock, &[mr], |kind| {
            kill::kill(&env, kind, rounds, qps)
        }),
        Cmd::Stress {
            seconds,
            operations,
            qps,
            size,
            no_compaction,
            mr,
        } => {
            let plan = stress::Plan {
                seconds,
                operations,
                qps,
                size,
                compaction: !no_compaction,
            };
            each(&env.report, stock, &[mr], |kind| {
                stress::stress(&env, kind, plan)
            });
        }
        Cmd::Programs {
            names,
            unpinned,
            page,
            shim,
        } => {
            Kind::Emm.select(false)?;
            programs::programs(&env, &shim, &names, unpinned, page.as_deref())?;
        }
        Cmd::Inject => inject::inject(&env)?,
        Cmd::Fuzz { seconds } => fuzz::fuzz(&env, seconds)?,
        Cmd::Demo { size, shim } => demo::demo(&env, size, &shim),
        Cmd::Notifier
        | Cmd::NotifierChild
        | Cmd::Access { .. }
        | Cmd::AccessChild { .. }
        | Cmd::Xpmem { .. }
        | Cmd::XpmemMatrix { .. }
        | Cmd::XpmemChild
        | Cmd::Leaks
        | Cmd::Removal
        | Cmd::Leftover
        | Cmd::LeftoverChild { .. }
        | Cmd::Matrix { .. }
        | Cmd::MatrixChild { .. }
        | Cmd::TrafficChild { .. }
        | Cmd::UffdChild { .. }
        | Cmd::ForkChild { .. }
        | Cmd::ParkedChild { .. }
        | Cmd::CrowdChild { .. }
        | Cmd::AdviseChild { .. }
        | Cmd::OwnerChild { .. }
        | Cmd::ReapChild { .. } => {}
    }
    Ok(env.report.verdict())
}
