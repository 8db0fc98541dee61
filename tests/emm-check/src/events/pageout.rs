//! Registered memory goes to swap and comes back by RDMA alone.

use anyhow::{Result, bail};

use super::Ctx;
use crate::swap::ensure_swap;
use crate::system::{smaps_kib, vm_kib};
use crate::target::Target;

const SIZE: usize = 24 << 20;

fn page_out(t: &Target) -> Result<String> {
    let before = vm_kib("self", "VmRSS");
    // One call can leave pages behind that were busy just then.
    for _ in 0..3 {
        t.map.advise(0, t.map.len(), libc::MADV_PAGEOUT)?;
        if smaps_kib(t.map.addr(), t.map.len(), "Rss") == 0 {
            break;
        }
    }
    let left = smaps_kib(t.map.addr(), t.map.len(), "Rss");
    let after = vm_kib("self", "VmRSS");
    let said = format!(
        "VmRSS {} -> {} MiB of it region {} MiB, VmSwap {} MiB",
        before >> 10,
        after >> 10,
        left >> 10,
        vm_kib("self", "VmSwap") >> 10
    );
    if left << 10 > t.map.len() as u64 / 8 {
        bail!("the region stays resident: {said}");
    }
    Ok(said)
}

pub fn pageout(c: &Ctx<'_>) -> Result<()> {
    let swap = ensure_swap()?;
    let t = c.target(SIZE)?;
    t.write(0, SIZE, c.seed(1))?;
    if !c.case(
        "region leaves memory while registered",
        page_out(&t).map(|s| format!("{s} (swap {swap})")),
    ) {
        return Ok(());
    }
    c.case(
        "RDMA READ from swap",
        t.read(0, SIZE, c.seed(1))
            .map(|()| format!("{} MiB, 0 wrong bytes", SIZE >> 20)),
    );
    let work = || {
        let said = page_out(&t)?;
        t.write(4095, SIZE / 2, c.seed(2))?;
        t.cpu_check(4095, SIZE / 2, c.seed(2))?;
        t.cpu_check(0, 4095, c.seed(1))?;
        let rest = 4095 + SIZE / 2;
        t.cpu_check(rest, SIZE - rest, c.seed(1))?;
        Ok(format!(
            "{said}; half overwritten, 0 wrong bytes in both halves"
        ))
    };
    c.case("RDMA WRITE to swapped pages", work());
    // What RDMA wrote must be marked dirty, or this loses it.
    let work = || {
        page_out(&t)?;
        t.cpu_check(4095, SIZE / 2, c.seed(2))?;
        Ok("what RDMA wrote survives another round of swap".into())
    };
    c.case("written data goes to swap", work());
    Ok(())
}
