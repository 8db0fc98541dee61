// SPDX-License-Identifier: MIT OR Apache-2.0

//! `check`: what would happen, and why.

use std::{env, path::Path, process::ExitCode};

use anyhow::Result;

use crate::{
    cli::Mode,
    device::{self, Device, describe, read},
    run, say,
};

/// `CAP_IPC_LOCK`, by its number.
const CAP_IPC_LOCK: u32 = 14;

/// Prints it.
///
/// # Errors
///
/// It can't be written.
pub fn check() -> Result<ExitCode> {
    let devices = device::all();
    let mut text: String = devices.iter().map(describe_device).collect();
    if devices.is_empty() {
        text.push_str("no RDMA device (/sys/class/infiniband is empty)\n");
    }
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let emm = Path::new("/sys/module/ib_emm").exists();
    let emm = if emm { "loaded" } else { "not loaded" };
    let locked = locked_memory();
    let library = run::library().map_or_else(
        || "not found beside this program or in ../lib".to_owned(),
        |library| library.display().to_string(),
    );
    text.push_str(&format!(
        "kernel: {release}\nib_emm: {emm}\nlocked memory: {locked}\nlibrary: {library}\n"
    ));
    let prefetched = env::var_os("VERBS_SHIM_PREFETCH").is_some();
    if let Some(advice) = run::monitor(env::var_os("FI_MR_CACHE_MONITOR").as_deref(), prefetched) {
        text.push_str(&format!("libfabric: {advice}\n"));
    }
    let served = devices.iter().any(Device::serves_on_demand);
    let gone = say::text(&text)?;
    Ok(gone.unwrap_or_else(|| ExitCode::from(u8::from(!served))))
}

fn describe_device(device: &Device) -> String {
    let mut lines = vec![format!(
        "device {}: {}",
        device.name,
        device.outlook(Mode::Auto)
    )];
    lines.push(match &device.odp {
        Ok(odp) => format!("  on-demand paging: {}", describe(*odp)),
        Err(error) => format!("  on-demand paging: unknown: {error:#}"),
    });
    if let Some(backend) = &device.backend {
        lines.push(format!("  mr_backend: {backend}"));
    }
    if let Some(except) = device.exception() {
        lines.push(format!("  but pinned: {except}"));
    }
    lines.join("\n") + "\n"
}

/// How much the caller may pin. On-demand memory does not count.
fn locked_memory() -> String {
    let status = read("/proc/self/status").unwrap_or_default();
    if may_lock_any(&status) {
        return "no limit (CAP_IPC_LOCK)".into();
    }
    let limits = read("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|l| l.starts_with("Max locked memory"));
    match line.and_then(|l| l.split_whitespace().nth(3)) {
        Some("unlimited") => "no limit".into(),
        Some(bytes) => {
            format!("{bytes} bytes may be pinned; on-demand memory does not count against that")
        }
        None => "unknown".into(),
    }
}

/// Whether the `CapEff` of a status file has `CAP_IPC_LOCK`.
fn may_lock_any(status: &str) -> bool {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_to_lock() {
        assert!(may_lock_any("Name:\tx\nCapEff:\t0000000000004000\n"));
        assert!(!may_lock_any("CapEff:\t0000000000000000\n"));
        assert!(!may_lock_any(""));
    }
}
