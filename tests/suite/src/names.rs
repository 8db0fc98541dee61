//! The names of all tests, before anything is built: for `--list`, and to say at once that a filter means none.

use std::collections::BTreeSet;

use anyhow::Result;

use soft_roce_setup::build::debug::NAME as DEBUG;
use soft_roce_setup::exit;
use soft_roce_setup::ui::Ui;

use super::group::RT;
use super::{
    Tally, TestArgs, bench, dax, debug, guest, host, hosts, inner, odp, owner, peers, planted,
    programs, rxe, tool,
};

/// The names of the tests that the arguments let run, without their filters, in the order of their groups. What is below a name that
/// ends with `::` is known in the guest only.
pub fn all(args: &TestArgs, series: &[&str], long: bool) -> Result<Vec<String>> {
    let tally = Tally::new(Vec::new(), Ui::quiet());
    let mut names = host::names()?;
    for (at, series) in series.iter().enumerate() {
        names.extend(guest::names(series, at == 0, long));
        names.extend(dax::names(series));
        names.extend(odp::names(series, at == 0, long));
        names.extend(owner::names(series));
        names.extend(rxe::names(series, at == 0, long));
        if long {
            names.extend(peers::names(series, &tally));
        }
    }
    if long && args.kernel.kernel.is_none() {
        names.extend(guest::names(RT, false, false));
    }
    if let Some(first) = series.first() {
        names.push(format!("{}::", programs::group_name(first)));
        names.extend(hosts::names(long));
        names.extend(planted::names(first, long, &tally));
        names.extend(inner::names()?);
        names.extend(tool::names(long).map(str::to_owned));
    }
    if args.kernel.kernel.is_none() || series.is_empty() {
        names.extend(debug::names(long));
        if long {
            names.extend(planted::names(DEBUG, long, &tally));
            names.extend(peers::names(DEBUG, &tally));
        }
    }
    if !series.is_empty() {
        names.extend(bench::names());
    }
    // Two programs of a crate may have tests of the same name.
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

/// Whether the kernel with PREEMPT_RT is tested, too.
pub fn with_rt(args: &TestArgs) -> bool {
    args.long && args.kernel.kernel.is_none()
}

/// Fails if one of the filters names no test.
pub fn check(args: &TestArgs, series: &[&str]) -> Result<()> {
    if args.filter.is_empty() {
        return Ok(());
    }
    let names = all(args, series, args.long)?;
    let unknown: Vec<&String> = args
        .filter
        .iter()
        .filter(|filter| !names.iter().any(|name| fits(filter, name)))
        .collect();
    let Some(filter) = unknown.first() else {
        return Ok(());
    };
    let mut what = "`test --list` shows all names";
    if !args.long
        && all(args, series, true)?
            .iter()
            .any(|name| fits(filter, name))
    {
        what = "give --long: without it this test is not run";
    }
    let message = format!("no test has a name with `{filter}`\n  what to do: {what}");
    Err(exit::coded(exit::USAGE, message))
}

/// Whether a filter asks for the test of this name, or for some of the group of this name.
pub fn fits(filter: &str, name: &str) -> bool {
    match name.strip_suffix("::") {
        Some(group) => Tally::new(vec![filter.to_owned()], Ui::quiet())
            .inside(group)
            .is_some(),
        None => name.contains(filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use soft_roce_setup::build::versions;

    fn args(filter: &[&str], long: bool) -> TestArgs {
        TestArgs {
            kernel: Default::default(),
            long,
            debug: false,
            jobs: None,
            json: None,
            report: None,
            list: false,
            filter: filter.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    #[test]
    fn each_filter_has_to_name_a_test() {
        let series = ["7.3", "7.2"];
        for known in [
            "vm_events",
            "guest::7.2::",
            "host::rustfmt",
            "names::tests::each_filter",
            "host::ib-emm::",
            "root::emm-check::",
            "programs::qperf",
            "tool::wrong_size",
            "planted::",
            "rxe::7.2::git_am",
            "bench::cold",
            "guest::debug::matrix",
        ] {
            check(&args(&[known], false), &series).unwrap_or_else(|e| panic!("{known}: {e}"));
        }
        let error = |filters: &[&str]| {
            let error = check(&args(filters, false), &series).unwrap_err();
            assert_eq!(exit::code_of(&error), exit::USAGE);
            error.to_string()
        };
        assert!(error(&["tool::", "vm_evnts"]).contains("no test has a name with `vm_evnts`"));
        assert!(error(&["ten_million"]).contains("--long"));
        assert!(check(&args(&["ten_million"], true), &series).is_ok());
    }

    #[test]
    fn the_kernel_with_preempt_rt_is_of_a_known_series() {
        assert_eq!(RT.strip_suffix(versions::RT), Some(versions::SERIES[0]));
    }

    #[test]
    fn each_kind_is_there() {
        let names = all(&args(&[], true), &["7.3", "7.2"], true).unwrap();
        for start in [
            "host::",
            "root::",
            "guest::7.2::",
            "hosts::",
            "planted::",
            "tool::",
            "bench::",
            "guest::7.3-rt::vm_events",
        ] {
            assert!(names.iter().any(|name| name.starts_with(start)), "{start}");
        }
    }
}
