//! In-tree on-demand paging as users have it, and as `kernel/rxe/odp` repairs it: the same checks of both, side by side.
//!
//! Nowhere else is the repaired one used: in every other comparison in-tree paging is what the distribution's module does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::group::{Asked, Group, options};
use super::guest::{ran, spec, tail};
use super::tally::Outcome;
use soft_roce_setup::artifacts::Artifacts;
use soft_roce_setup::build::modules::Variant;
use soft_roce_setup::build::rxe::Rxe;
use soft_roce_setup::build::{self, BuildOptions};
use soft_roce_setup::context::Context;
use soft_roce_setup::guest::{End, Guest};
use soft_roce_setup::signal;

/// One test.
struct Repaired {
    name: &'static str,
    /// `emm-check`'s arguments for checks of both.
    both: &'static [&'static str],
    /// And of what would be the end of the guest before it was repaired.
    after: &'static [&'static str],
    /// Longest time of all of one driver.
    seconds: u64,
    long: bool,
}

const TESTS: &[Repaired] = &[
    Repaired {
        name: "odp_repaired",
        both: &[
            "verify --mr odp --qps 4",
            "matrix first-touch free-reclaim mremap --verb write,read --mr odp",
            "event bounds madvfree --mr odp",
        ],
        after: &[
            "verify --mr odp --iova --op write,read,atomic --offsets 1,4095 --lengths 8,4097,65537",
            "event rare --mr odp",
            "verbs advise --mr odp",
        ],
        seconds: 200,
        long: false,
    },
    Repaired {
        name: "odp_repaired_matrix",
        both: &[
            "verify --mr odp --qps 8 --every-mtu --op write,read,send,atomic",
            "matrix --mr odp",
        ],
        after: &["verify --mr odp --iova --op write,read,send,atomic"],
        seconds: 7200,
        long: true,
    },
];

/// What stays wrong on 7.2, by a part of its name: there `hmm_range_fault()`, which in-tree paging rests on, does not wait for a
/// userfaultfd handler, and the access ends with an error.
const LEFT_ON_7_2: &[&str] = &["UFFDIO_CONTINUE", "uffd-missing", "uffd-wp"];

/// The driver that is tested.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// The distribution's module.
    InTree,
    /// That of `kernel/rxe/odp`.
    Repaired,
}

impl Driver {
    /// For /bin/sh: this driver instead of the one that is there, then the checks, whatever the ones before said.
    fn script(self, checks: &[&str]) -> String {
        let (load, option) = match self {
            Self::InTree => ("modprobe rdma_rxe", "--allow-stock"),
            Self::Repaired => ("insmod /emm/modules/rdma_rxe.ko", "--odp-is-repaired"),
        };
        let mut script = format!(
            "rdma link delete rxe0 && rmmod rdma_rxe && {load} && rdma link add rxe0 type rxe netdev eth9 || exit 99\nstatus=0\n"
        );
        for check in checks {
            script.push_str(&format!("emm-check --json {option} {check} || status=$?\n"));
        }
        script.push_str("exit $status");
        script
    }
}

/// The names of those on the kernel `series`.
pub fn names(series: &str, first: bool, long: bool) -> impl Iterator<Item = String> {
    tests(first, long).map(move |test| name(series, test))
}

fn tests(first: bool, long: bool) -> impl Iterator<Item = &'static Repaired> {
    TESTS.iter().filter(move |test| long || first && !test.long)
}

/// Those on the kernel `series` that are wanted: of one that is not the `first`, all are for `--long`.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let Asked {
        context, series, ..
    } = asked;
    let wanted = asked.wanted(tests(asked.first, asked.long), name);
    if wanted.is_empty() {
        return Ok(None);
    }
    let options = BuildOptions {
        modules: Variant::of(Rxe::Odp),
        ..options(series)
    };
    let work = {
        let options = options.clone();
        move || {
            let artifacts = build::ensure(context, &options)?;
            for test in wanted {
                signal::check()?;
                let start = Instant::now();
                let left = if series == "7.2" { LEFT_ON_7_2 } else { &[] };
                let (outcome, table) = run(context, &artifacts, test, left)?;
                asked.said.keep(name(series, test), table);
                asked
                    .tally
                    .add(&name(series, test), start.elapsed(), outcome);
            }
            Ok(())
        }
    };
    Group::with(context, &options, work).map(Some)
}

fn name(series: &str, test: &Repaired) -> String {
    format!("guest::{series}::{}", test.name)
}

/// Checks both drivers in one guest.
fn run(
    context: &Context,
    artifacts: &Artifacts,
    test: &Repaired,
    left: &[&str],
) -> Result<(Outcome, String)> {
    let mut guest = Guest::boot(context, artifacts, &spec())?;
    let before = match checked(&mut guest, Driver::InTree, test.both, test.seconds)? {
        Ok(facts) => facts,
        Err(why) => return Ok((Outcome::Failed(format!("in-tree: {why}")), String::new())),
    };
    let mut checks = test.both.to_vec();
    checks.extend(test.after);
    let after = match checked(&mut guest, Driver::Repaired, &checks, test.seconds)? {
        Ok(facts) => facts,
        Err(why) => return Ok((Outcome::Failed(format!("repaired: {why}")), String::new())),
    };
    let table = table(&before, &after);
    Ok((judge(&before, &after, left), table))
}

/// What the checks say of one driver, or why they did not come to their end.
fn checked(
    guest: &mut Guest,
    driver: Driver,
    checks: &[&str],
    seconds: u64,
) -> Result<Result<Vec<Fact>, String>> {
    let script = driver.script(checks);
    let (end, text) = ran(guest, &script, Duration::from_secs(seconds))?;
    // 1 are facts that did not hold, which are judged here.
    if !matches!(end, End::Exited(0 | 1)) {
        return Ok(Err(format!("{}\n{}", guest.describe(&end), tail(&text))));
    }
    let verdicts = text
        .lines()
        .filter(|line| line.contains("\"t\":\"verdict\""));
    if verdicts.count() != checks.len() {
        return Ok(Err(format!("a check has no verdict\n{}", tail(&text))));
    }
    Ok(Ok(text.lines().filter_map(Fact::read).collect()))
}

/// A line of `emm-check` about something that holds or does not.
#[derive(Debug, PartialEq, Eq)]
struct Fact {
    what: String,
    ok: bool,
    said: String,
}

impl Fact {
    fn read(line: &str) -> Option<Self> {
        let fact: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| fact[key].as_str().unwrap_or("").to_owned();
        let what = match fact["t"].as_str()? {
            "matrix" => {
                let iovas = if fact["iova"] == true {
                    ", other iovas"
                } else {
                    ""
                };
                format!("verify {}, MTU {}{iovas}", text("op"), fact["mtu"])
            }
            "event" if fact["event"] == "matrix" => text("case"),
            "event" => format!("{}: {}", text("event"), text("case")),
            // Of what this kernel has not; what had to be there is no skip.
            "skip" if fact["required"] == true => text("what"),
            _ => return None,
        };
        let said = match (fact["cases"].as_u64(), fact["wrong"].as_u64()) {
            (Some(cases), Some(wrong)) => format!("{wrong} of {cases} wrong"),
            _ if fact["ok"] == true => "right".to_owned(),
            _ => "wrong".to_owned(),
        };
        let ok = fact["ok"] == true;
        Some(Self { what, ok, said })
    }
}

/// Whether all is right of the repaired one, but for what is left, and something was wrong before: a check that finds nothing there
/// shows nothing here.
fn judge(before: &[Fact], after: &[Fact], left: &[&str]) -> Outcome {
    let wrong: Vec<&str> = after
        .iter()
        .filter(|fact| !fact.ok && !left.iter().any(|part| fact.what.contains(part)))
        .map(|fact| fact.what.as_str())
        .collect();
    if !wrong.is_empty() {
        return Outcome::Failed(format!(
            "{} of {} wrong although repaired: {}\n{}",
            wrong.len(),
            after.len(),
            wrong.join(", "),
            table(before, after)
        ));
    }
    if before.iter().all(|fact| fact.ok) || after.is_empty() {
        return Outcome::Failed("nothing is wrong of in-tree paging: what was shown?".to_owned());
    }
    Outcome::Passed
}

/// A line for each fact of the repaired one, and a last one that counts.
fn table(before: &[Fact], after: &[Fact]) -> String {
    let known: BTreeMap<&str, &Fact> = before.iter().map(|f| (f.what.as_str(), f)).collect();
    let mut lines = vec![
        "| check | in-tree | repaired |".to_owned(),
        "|---|---|---|".to_owned(),
    ];
    for fact in after {
        let said = known
            .get(fact.what.as_str())
            .map_or("not tried", |f| &f.said);
        lines.push(format!("| {} | {said} | {} |", fact.what, fact.said));
    }
    let wrong = |facts: &[Fact]| {
        let wrong = facts.iter().filter(|fact| !fact.ok).count();
        format!("{wrong} of {}", facts.len())
    };
    lines.push(format!("| wrong | {} | {} |", wrong(before), wrong(after)));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRONG: &str =
        r#"{"t":"matrix","op":"write","mtu":4096,"cases":320,"wrong":300,"ok":false}"#;
    const RIGHT: &str = r#"{"t":"matrix","op":"write","mtu":4096,"cases":320,"wrong":0,"ok":true}"#;
    const CELL: &str = r#"{"t":"event","event":"matrix","case":"read x brk","ok":true}"#;

    fn facts(lines: &[&str]) -> Vec<Fact> {
        lines.iter().filter_map(|line| Fact::read(line)).collect()
    }

    #[test]
    fn what_is_wrong_fails() {
        let (before, after) = (facts(&[WRONG]), facts(&[RIGHT, CELL]));
        assert_eq!(judge(&before, &after, &[]), Outcome::Passed);
        assert!(matches!(judge(&before, &before, &[]), Outcome::Failed(_)));
        assert!(matches!(
            judge(&before, &before, &["read x"]),
            Outcome::Failed(_)
        ));
        assert_eq!(judge(&before, &before, &["verify write"]), Outcome::Passed);
        // Nothing was wrong before, or nothing was asked.
        assert!(matches!(judge(&after, &after, &[]), Outcome::Failed(_)));
        assert!(matches!(judge(&before, &[], &[]), Outcome::Failed(_)));
    }

    #[test]
    fn both_columns() {
        let table = table(&facts(&[WRONG]), &facts(&[RIGHT, CELL]));
        assert!(table.contains("| verify write, MTU 4096 | 300 of 320 wrong | 0 of 320 wrong |"));
        assert!(table.contains("| read x brk | not tried | right |"));
        assert!(table.ends_with("| wrong | 1 of 1 | 0 of 2 |\n"));
    }
}
