//! A region whose pages come from a userfaultfd handler.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Ctx;
use crate::mem::PAGE;
use crate::target::Target;
use crate::uffd::Uffd;

/// Its length.
pub(super) const SIZE: usize = 64 * PAGE;
/// Bytes that are there before the handler watches.
pub(super) const THERE: usize = 8 * PAGE;
/// Longest time until the handler hears of a fault.
pub(super) const HEARD: Duration = Duration::from_secs(20);

/// A region of which all but the first pages wait for a handler.
pub(super) fn watched(c: &Ctx<'_>) -> Result<(Target, Uffd)> {
    let t = c.target(SIZE)?;
    t.cpu_fill(0, THERE, c.seed(1));
    let handler = Uffd::new().context("userfaultfd")?;
    handler
        .watch(&t.map, THERE, SIZE - THERE)
        .context("UFFDIO_REGISTER")?;
    Ok((t, handler))
}
