//! The host: what is there, what is missing, and how to mend it.

mod check;
mod checkout;
mod distro;
mod finding;
mod install;
mod limits;
mod mirror;
mod net;
mod place;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::exit::{HOST, coded};
use crate::ui;

pub use self::check::{KEYRING, KEYRING_INSIDE};
pub use self::checkout::{checkout, require_sources};
pub use self::finding::{Finding, State};
pub use self::limits::{guest_memory, room_for_guests};
pub use self::mirror::Mirror;
pub use self::net::{CA_BUNDLE_INSIDE, ca_bundle, proxies};
pub use self::place::{Made, require_room};

/// `doctor`
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Install what is missing (needs root on a Debian-like host)
    #[arg(long)]
    pub fix: bool,
}

/// `doctor`, where `made` is there already.
pub fn doctor(context: &Context, args: &DoctorArgs, made: Made) -> Result<ExitCode> {
    let mut findings = check::all(context, made);
    if args.fix && install::possible() && !packages(&findings).is_empty() {
        install::install(context, &packages(&findings))?;
        findings = check::all(context, made);
    }
    for finding in &findings {
        ui::say(format_args!("{finding}"));
    }
    let missing = findings
        .iter()
        .filter(|finding| finding.state == State::Missing)
        .count();
    if missing == 0 {
        ui::say(format_args!("\nThis host has all that is needed."));
        return Ok(ExitCode::SUCCESS);
    }
    ui::say(format_args!("\n{missing} missing."));
    if install::possible() && !packages(&findings).is_empty() {
        ui::say(format_args!(
            "`build`, `demo` and the others install missing packages themselves; so does `doctor --fix`."
        ));
    }
    Ok(HOST.into())
}

/// Fails on a host whose processor cannot run the guest's programs directly.
pub fn require_architecture() -> Result<()> {
    fail_on_missing(&[check::architecture()])
}

/// Makes sure that the root can be made here; installs packages where that is possible. `made` is there already.
pub fn require_for_root(context: &Context, made: Made) -> Result<()> {
    let mut findings = check::all(context, made);
    let packages = packages(&findings);
    if !packages.is_empty() && install::possible() {
        install::install(context, &packages)?;
        findings = check::all(context, made);
    }
    for finding in findings
        .iter()
        .filter(|finding| finding.state == State::Doubtful)
    {
        context.ui.note(finding.sentence());
    }
    fail_on_missing(&findings)
}

fn packages(findings: &[Finding]) -> Vec<&'static str> {
    let mut packages: Vec<&'static str> = findings
        .iter()
        .filter(|finding| finding.state == State::Missing)
        .filter_map(|finding| finding.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn fail_on_missing(findings: &[Finding]) -> Result<()> {
    let missing: Vec<String> = findings
        .iter()
        .filter(|finding| finding.state == State::Missing)
        .map(|finding| format!("\n  {}", finding.sentence()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(coded(
        HOST,
        format!("this host lacks something:{}", missing.concat()),
    ))
}
