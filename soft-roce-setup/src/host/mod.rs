//! The host: what is there, what is missing, and how to mend it.

mod check;
mod install;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::context::Context;
use crate::enter;
use crate::exit::{HOST, coded};

pub use check::{Finding, State, guest_memory, room_for_guests};

/// Debian's keys on the host.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The same in the root.
pub const KEYRING_INSIDE: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// `doctor`
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Install what is missing (needs root on a Debian-like host)
    #[arg(long)]
    pub fix: bool,
}

/// `doctor`
pub fn doctor(context: &Context, args: &DoctorArgs) -> Result<ExitCode> {
    let mut findings = check::all(context);
    if args.fix && install::possible() && !packages(&findings).is_empty() {
        install::install(context, &packages(&findings))?;
        findings = check::all(context);
    }
    for finding in &findings {
        println!("{finding}");
    }
    let missing = findings
        .iter()
        .filter(|finding| finding.state == State::Missing)
        .count();
    if missing == 0 {
        println!("\nThis host has all that is needed.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{missing} missing.");
    if install::possible() && !packages(&findings).is_empty() {
        println!(
            "`build`, `demo` and the others install missing packages themselves; so does `doctor --fix`."
        );
    }
    Ok(HOST.into())
}

/// Fails on a host whose processor cannot run the guest's programs directly.
pub fn require_architecture() -> Result<()> {
    fail_on_missing(&[check::architecture()])
}

/// Makes sure that the root can be made here; installs packages where that is possible.
pub fn require_for_root(context: &Context) -> Result<()> {
    let mut findings = check::all(context);
    let packages = packages(&findings);
    if !packages.is_empty() && install::possible() {
        install::install(context, &packages)?;
        findings = check::all(context);
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

/// The proxies to pass on into the root, as variables of the environment.
pub fn proxies() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = ["http_proxy", "https_proxy", "no_proxy", "all_proxy"]
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_uppercase()])
        .filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)))
        .collect();
    for scheme in ["http", "https"] {
        let name = format!("{scheme}_proxy");
        if found.iter().any(|(known, _)| *known == name) {
            continue;
        }
        if let Some(proxy) = apt_proxy(scheme) {
            found.push((name, proxy));
        }
    }
    found
}

/// The proxy of apt's own configuration.
fn apt_proxy(scheme: &str) -> Option<String> {
    let key = format!("Acquire::{scheme}::Proxy");
    let output = std::process::Command::new("apt-config")
        .args(["shell", "P", &key])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = text.trim().strip_prefix("P='")?.strip_suffix('\'')?;
    (!value.is_empty() && value != "DIRECT").then(|| value.to_owned())
}

/// How a fix begins that needs root.
fn sudo() -> &'static str {
    if enter::is_root() { "" } else { "sudo " }
}
