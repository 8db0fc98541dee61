//! What families of cases have in common.

use anyhow::Result;

use crate::report::Report;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// How often something is attached and detached.
    pub attaches: usize,
    /// How many processes attach one segment.
    pub attachers: usize,
}

/// A case's name and what it does.
pub type Case<'a> = (&'a str, &'a dyn Fn() -> Result<String>);

/// Runs all cases of a family.
pub fn report_all(report: &Report, family: &str, cases: &[Case<'_>]) {
    for (name, case) in cases {
        report.case("", family, name, true, case());
    }
}
