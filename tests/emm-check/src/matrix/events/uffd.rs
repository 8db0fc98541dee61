//! Faults that a userfaultfd handler has to answer.

use anyhow::{Context as _, Result, bail};

use crate::matrix::scene::Scene;
use crate::mem::{PAGE, pattern};
use crate::uffd::Uffd;

/// Missing pages come from the handler with bytes of its own.
pub fn missing(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    s.traffic(6)?;
    let mut answers = 0;
    for round in 0..3u64 {
        let range = s.pages(8);
        s.advise(&range, libc::MADV_DONTNEED)?;
        let handler = Uffd::new().context("userfaultfd")?;
        let map_at = s.stage.at(range.start);
        handler
            .watch(s.stage.map(), map_at, range.len())
            .context("UFFDIO_REGISTER")?;
        let seed = s.seed(round + 5);
        s.stage.expect(range.clone(), seed);
        let base = s.address(0);
        let give = |address: usize| {
            let mut page = [0; PAGE];
            pattern(seed, address - base, &mut page);
            handler.answer(address, &page)
        };
        answers += handler.serve(give, || {
            s.traffic_in(range.clone(), 8)?;
            s.traffic(4)?;
            s.stage.verify("the stage")
        })?;
    }
    if answers == 0 {
        bail!("the handler was never asked");
    }
    Ok(format!("{answers} pages from the handler"))
}

/// Writes wait until the handler lifts the protection; reads do not.
pub fn write_protect(s: &mut Scene<'_>) -> Result<String> {
    s.fill(1);
    s.traffic(6)?;
    let mut answers = 0;
    for _ in 0..3 {
        let range = s.pages(8);
        let handler = Uffd::new().context("userfaultfd")?;
        let map_at = s.stage.at(range.start);
        handler
            .protect(s.stage.map(), map_at, range.len())
            .context("write protection by userfaultfd")?;
        answers += handler.serve(
            |address| handler.lift(address),
            || {
                s.traffic_in(range.clone(), 8)?;
                s.traffic(4)?;
                s.stage.verify("the stage")
            },
        )?;
    }
    let writes = s.verb.legs().iter().any(|leg| s.verb.writes(*leg));
    if writes && answers == 0 {
        bail!("the handler was never asked");
    }
    Ok(format!(
        "{answers} pages protected until the handler let go"
    ))
}
