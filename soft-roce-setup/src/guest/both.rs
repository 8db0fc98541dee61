//! `run --hosts 2`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::ask::{build_for, has_input, other_backend, script, spec, wants_shim};
use super::hosts::{Hosts, Lines, Order};
use super::options::RunArgs;
use super::session::Job;
use crate::context::Context;
use crate::ui;

/// What stands in front of each host's lines.
const PREFIXES: [&str; 2] = ["1: ", "2: "];

/// Runs the command in both hosts.
pub fn run(context: &Context, args: &RunArgs) -> Result<ExitCode> {
    let artifacts = build_for(context, &args.guest)?;
    let shape = args.guest.wire.clone().unwrap_or_default();
    let specs = [0, 1].map(|host| spec(&args.guest, host, false));
    let mut hosts = Hosts::boot(context, [&artifacts[0], &artifacts[1]], specs, &shape)?;
    for (host, known) in hosts.known().iter().enumerate() {
        if let Some(note) = other_backend(&known.backend, *args.guest.backend.of(host)) {
            context.ui.note(format!("host {}: {note}", host + 1));
        }
    }
    let orders = [0, 1].map(|host| {
        let shim = wants_shim(context, &artifacts[host], *args.guest.mr.of(host));
        let job = Job {
            script: script(&args.command, shim.then_some(*args.guest.backend.of(host))),
            // As mpirun has it: the first one reads.
            stdin: host == 0 && !args.no_stdin && has_input(),
            silence: Duration::from_secs(args.timeout),
            limit: None,
        };
        Order {
            job,
            out: Box::new(Lines::new(PREFIXES[host], std::io::stdout())),
            err: Box::new(Lines::new(PREFIXES[host], std::io::stderr())),
        }
    });
    let ends = hosts.run(orders)?;
    if let Some(said) = hosts.describe(&ends) {
        ui::tell(format_args!("soft-roce-setup: error: {said}"));
    }
    Ok(hosts.status(&ends).into())
}
