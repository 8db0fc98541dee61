//! Files of persistent memory: a guest that takes some of its memory for such.

use std::time::Instant;

use anyhow::Result;

use super::cases::{Case, case};
use super::group::{Asked, Group, options};
use super::guest::{script, spec};
use soft_roce_setup::build;
use soft_roce_setup::guest::{Guest, Spec};
use soft_roce_setup::signal;

const CASES: &[Case] = &[case("dax_files", 200, "emm-check event dax --mr emm")];

/// 512 MiB of it, from 1 GiB on.
fn with_pmem() -> Spec {
    let spec = spec();
    let append = spec.append.unwrap_or_default();
    Spec {
        append: Some(format!("{append} memmap=512M!1G")),
        ..spec
    }
}

fn name(series: &str, case: &Case) -> String {
    format!("guest::{series}::{}", case.name)
}

/// The names of those on the kernel `series`.
pub fn names(series: &str) -> impl Iterator<Item = String> {
    CASES.iter().map(move |case| name(series, case))
}

/// Those that are wanted.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let Asked {
        context, series, ..
    } = asked;
    let wanted = asked.wanted(CASES.iter(), name);
    if wanted.is_empty() {
        return Ok(None);
    }
    let work = move || {
        let artifacts = build::ensure(context, &options(series))?;
        for case in wanted {
            signal::check()?;
            let start = Instant::now();
            let mut guest = Guest::boot(context, &artifacts, &with_pmem())?;
            let (outcome, text) = script(&mut guest, case.script, case.seconds, case.wants)?;
            asked.said.keep(name(series, case), text);
            asked
                .tally
                .add(&name(series, case), start.elapsed(), outcome);
        }
        Ok(())
    };
    Group::of_kernel(context, series, work).map(|group| Some(group.boots()))
}
