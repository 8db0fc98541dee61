//! Eight queue pairs on one region.

use anyhow::{Result, bail};

use super::Ctx;
use crate::target::Target;

const SIZE: usize = 8 << 20;
const QPS: usize = 8;

pub fn multiqp(c: &Ctx<'_>) -> Result<()> {
    let first = c.target(SIZE)?;
    let mut targets = Vec::new();
    for _ in 0..QPS {
        targets.push(Target::sharing(c.env, first.map.clone(), first.mr.clone())?);
    }
    // Odd borders inside pages: neighbours write the same page at the same time.
    let border = |i: usize| {
        if i == QPS {
            SIZE
        } else {
            i * (SIZE / QPS) + i * 13
        }
    };
    let outcome = std::thread::scope(|s| {
        let threads: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let (from, to) = (border(i), border(i + 1));
                s.spawn(move || -> Result<()> {
                    for round in 0..3u64 {
                        t.write(from, to - from, c.seed(round))?;
                        t.read(from, to - from, c.seed(round))?;
                    }
                    Ok(())
                })
            })
            .collect();
        for t in threads {
            match t.join() {
                Ok(r) => r?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        first.cpu_check(0, SIZE, c.seed(2))?;
        Ok(format!(
            "{QPS} threads, {} MiB written and read: 0 wrong bytes",
            3 * (SIZE >> 20)
        ))
    });
    c.case("eight queue pairs write and read at once", outcome);
    Ok(())
}
