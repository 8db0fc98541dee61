//! The day after: none of the series that are known is in the archive any more.

use std::fs;

use anyhow::{Context as _, Result};

use super::program::Tool;
use crate::tally::Outcome;
use soft_roce_setup::build::{kernel, versions};
use soft_roce_setup::context::Context;

pub(super) const NAME: &str = "tool::kernel_of_a_series_that_is_new";

/// What the tool says of it, each time.
const NEW: &str = " is new here, the tests run on ";
/// What it says when it tries it, which it does once.
const TRIED: &str = ": a short check of every byte";

/// With no known series, the newest kernel is built and tried, a line says that it is new, and it runs a program unpinned.
pub(super) fn run(context: &Context, tool: &Tool) -> Result<Outcome> {
    for again in [false, true] {
        if !again {
            forget(context)?;
        }
        let script = "uname -r; emm-check verify --mr emm --op write --lengths 4097";
        let output = tool
            .command(&["run", "-n", "--mr", "pinned", "--", script])
            .env(versions::KNOWN, "")
            .capture()?;
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        let said = format!("{}\n{out}{err}", output.status);
        let newest = kernel::remembered(context, Some(versions::NEWEST));
        let newest = newest.map(|chosen| chosen.release).unwrap_or_default();
        let begins = format!("kernel {newest}{TRIED}");
        let tried = err.lines().any(|line| line.contains(&begins));
        let held = output.status.success()
            && out.lines().next() == Some(newest.as_str())
            && err.matches(NEW).count() == 1
            && tried != again;
        if !held {
            return Ok(Outcome::Failed(said));
        }
    }
    Ok(Outcome::Passed)
}

/// Forgets what was tried.
fn forget(context: &Context) -> Result<()> {
    let modules = context.cache.path("modules");
    let of = || format!("cannot read {}", modules.display());
    for entry in fs::read_dir(&modules).with_context(of)? {
        let mark = entry.with_context(of)?.path().join("tried");
        if mark.exists() {
            fs::remove_file(&mark).with_context(|| format!("cannot remove {}", mark.display()))?;
        }
    }
    Ok(())
}
