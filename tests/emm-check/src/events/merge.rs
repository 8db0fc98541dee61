//! KSM: equal pages become one, and a write to either must part them again.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Ctx;
use crate::mem::{PAGE, pattern};

const PAGES: usize = 256;
const KSM: &str = "/sys/kernel/mm/ksm";

fn get(name: &str) -> Result<String> {
    let path = format!("{KSM}/{name}");
    Ok(fs::read_to_string(&path)
        .with_context(|| path)?
        .trim()
        .to_owned())
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("{KSM}/{name}");
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}

pub fn ksm(c: &Ctx<'_>) -> Result<()> {
    let t = c.target(2 * PAGES * PAGE)?;
    let half = PAGES * PAGE;
    let seed = c.seed(1);
    // The second half repeats the first one.
    let twice = |at: usize, out: &mut [u8]| {
        for (i, b) in out.iter_mut().enumerate() {
            let mut one = [0];
            pattern(seed, (at + i) % half, &mut one);
            *b = one[0];
        }
    };
    t.map.fill(0, half, seed, 0);
    t.map.fill(half, half, seed, 0);
    t.read_cmp(0, 2 * half, twice)?;
    let old = [
        ("pages_to_scan", get("pages_to_scan")?),
        ("sleep_millisecs", get("sleep_millisecs")?),
        ("run", get("run")?),
    ];
    set("pages_to_scan", "20000")?;
    set("sleep_millisecs", "5")?;
    t.map
        .advise(0, 2 * half, libc::MADV_MERGEABLE)
        .context("MADV_MERGEABLE (is KSM configured?)")?;
    set("run", "1")?;
    let start = Instant::now();
    let mut merged = 0;
    while start.elapsed() < Duration::from_secs(20) {
        merged = get("pages_sharing")?.parse::<usize>().unwrap_or(0);
        if merged >= PAGES {
            break;
        }
        // ksmd says nothing when it has merged.
        std::thread::sleep(Duration::from_millis(50));
    }
    let work = || {
        if merged < PAGES / 2 {
            bail!("only {merged} of {PAGES} pages were merged in 20 s");
        }
        t.read_cmp(0, 2 * half, twice)?;
        Ok(format!("{merged} pages merged; READ 0 wrong bytes"))
    };
    c.case("pages merge under the region", work());
    let work = || {
        let new = c.seed(2);
        t.write(0, half, new)?;
        t.cpu_check(0, half, new)?;
        t.map
            .check(half, half, seed, 0)
            .ok("the other page of each pair")?;
        t.read(0, half, new)?;
        Ok(format!(
            "{PAGES} pairs: the written one changed, its twin did not"
        ))
    };
    c.case("RDMA WRITE to one page of each pair", work());
    for (name, value) in old {
        set(name, &value)?;
    }
    Ok(())
}
