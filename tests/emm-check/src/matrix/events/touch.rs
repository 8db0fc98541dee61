//! Memory that nobody has touched: the first access of each page is the device's.

use anyhow::Result;

use crate::matrix::scene::Scene;
use crate::mem::PAGE;

/// One operation of each kind on pages of their own, then anywhere.
pub fn first(s: &mut Scene<'_>) -> Result<String> {
    let pages = s.stage.len() / PAGE;
    for leg in s.verb.legs() {
        for page in (0..pages).step_by(7) {
            let len = s.verb.fixed_length().unwrap_or(PAGE - 1);
            let off = page * PAGE + s.verb.alignment(*leg).min(PAGE - len);
            s.stage.must(s.verb, *leg, off, len)?;
        }
        // Untouched again for the other leg.
        s.stage.verify("after first touches")?;
        s.advise(&s.all(), libc::MADV_DONTNEED)?;
        s.stage.zero(s.all());
    }
    s.traffic(20)?;
    s.stage.verify("the stage")?;
    Ok("what nobody wrote reads as zero".into())
}

/// The zero page is mapped for reading; a write must leave it alone.
pub fn read_then_write(s: &mut Scene<'_>) -> Result<String> {
    for round in 0..3u64 {
        s.advise(&s.all(), libc::MADV_DONTNEED)?;
        s.stage.zero(s.all());
        // By the CPU, and by the operation where it reads.
        s.stage.verify("untouched memory")?;
        s.traffic(10)?;
        let half = 0..s.stage.len() / 2;
        s.stage.fill(half, s.seed(round));
        s.traffic(10)?;
        s.stage.verify("the stage")?;
    }
    // A stray write to the zero page would show in every page of zeros.
    let fresh = crate::mem::Map::anon(8 * PAGE)?;
    fresh
        .check_byte(0, 8 * PAGE, 0)
        .ok("untouched memory elsewhere")?;
    Ok("the zero page stays zero".into())
}
