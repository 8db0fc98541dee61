//! `reg`: what registering untouched memory costs in time and in pinned and resident memory.

use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::mem::Map;
use crate::system::{Kind, vm_kib};
use crate::target::Env;
use crate::verbs::{ALL_ACCESS, Mr};

/// Registers `size` fresh bytes as `kind` and reports one line.
pub fn reg(env: &Env, kind: Kind, size: usize) -> Result<()> {
    let map = Map::anon(size).context("mapping the memory to register")?;
    let rss_before = vm_kib("self", "VmRSS");
    let start = Instant::now();
    let mr = Mr::new(&env.pd, map.addr(), size, ALL_ACCESS | kind.flags());
    let reg_us = start.elapsed().as_secs_f64() * 1e6;
    let mr = mr.with_context(|| format!("registering {size} bytes ({})", kind.label()))?;
    let pin = vm_kib("self", "VmPin");
    let rss = vm_kib("self", "VmRSS");
    let start = Instant::now();
    drop(mr);
    let dereg_us = start.elapsed().as_secs_f64() * 1e6;
    let left = vm_kib("self", "VmPin");
    let want_pin = if kind == Kind::Pinned {
        size as u64 >> 10
    } else {
        0
    };
    let grown = rss.saturating_sub(rss_before);
    let mut detail = String::new();
    let mut ok = pin == want_pin && left == 0;
    if !ok {
        detail = format!("VmPin should be {want_pin} KiB, and 0 after deregistration (is {left})");
    }
    // In-tree ODP and EMM touch no page at registration; a little of the process's own may come in.
    if kind != Kind::Pinned && grown > 1024 {
        ok = false;
        detail = format!("registering made {grown} KiB resident");
    }
    let text = format!(
        "{:6} reg {:>8} KiB: {reg_us:>10.0} µs, dereg {dereg_us:>8.0} µs, VmPin {pin} KiB, VmRSS +{grown} KiB {detail}",
        kind.label(),
        size >> 10
    );
    env.report.fact(
        ok,
        env.report.requires(kind),
        &text,
        json!({"t": "reg", "mr": kind.label(), "bytes": size, "reg_us": round1(reg_us), "dereg_us": round1(dereg_us),
               "vmpin_kib": pin, "vmrss_kib": rss, "rss_delta_kib": grown, "detail": detail}),
    );
    Ok(())
}

/// One decimal.
pub fn round1(x: f64) -> f64 {
    (x * 10.0).round() / 10.0
}
