//! The peers' own suites, unchanged, on EMM, beside pinned regions and in-tree on-demand paging: rdma-core's
//! pyverbs tests of two releases, and programs that ask for on-demand regions by themselves.

mod cases;
mod pyverbs;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use self::pyverbs::Run;
use super::cases::Case;
use super::group::{Asked, Group, options};
use super::guest;
use super::tally::{Outcome, Tally};
use soft_roce_setup::build::{self, debug, forky, selftests};
use soft_roce_setup::context::Context;
use soft_roce_setup::guest::{Backend, Clock, Cpu, End, Guest, Share, Size, Spec};
use soft_roce_setup::signal;

const PROLOGUE: &str = include_str!("prologue.sh");
const RUNNER: &str = include_str!("runner.py");
/// Longest time of one module of a suite, in seconds: on stock kernels, and on the debug kernel.
const MODULE: (u64, u64) = (120, 600);
/// How often the module of a test that is lost runs again, pinned.
const AGAIN: u32 = 8;
/// Longest time of one run of a suite.
const SUITE: Duration = Duration::from_secs(900);

/// A user space of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    /// The root's: rdma-core 56.1, which has no prefetch for rxe.
    Trixie,
    /// rdma-core 65 or newer.
    Forky,
}

impl Space {
    const ALL: [Self; 2] = [Self::Forky, Self::Trixie];

    fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// Whether a test of `tests.test_odp` need not pass on EMM: rxe has no XRC, and trixie's user space can't
    /// ask rxe for a prefetch.
    fn excused(self, id: &str, why: &str) -> bool {
        let says = |word| id.to_lowercase().contains(word) || why.to_lowercase().contains(word);
        says("xrc") || (self == Self::Trixie && (says("prefetch") || says("advise")))
    }
}

/// How memory is registered in a run of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Regions {
    /// As the tests ask; that is pinned, but for those that want on-demand regions, and these are EMM's.
    Asked,
    /// As the tests ask, and on-demand ones are the in-tree implementation's.
    InTree,
    /// All on demand by the shim, and EMM's.
    Shim,
    /// All on demand by the shim, which is told not to stay away from the in-tree implementation.
    ShimInTree,
}

impl Regions {
    /// Whether its results are only shown: nobody here answers for them.
    fn shown_only(self) -> bool {
        self == Self::ShimInTree
    }
}

/// What is compared in a user space.
#[derive(Debug, Clone, Copy)]
enum Comparison {
    /// `tests.test_odp` on EMM passes, but for what is excused, and passes where in-tree paging passes.
    Odp,
    /// No test of all modules passes pinned and fails on EMM.
    Whole,
}

/// The suites that are wanted on the kernel `series`. On the debug kernel these are rdma-core's own tests of on-demand regions,
/// on EMM only: nobody here answers for what it would report of others.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let Asked {
        context, series, ..
    } = asked;
    let wanted = Wanted::of(series, asked.tally);
    if wanted.comparisons.is_empty() && wanted.cases.is_empty() {
        return Ok(None);
    }
    forky::ensure(context)?;
    // The kernel's own tests come out of its packages, which come with the kernel.
    let selftests = wanted.selftests();
    let work = move || run(asked, wanted);
    let group = Group::of_kernel(context, series, work)?;
    if selftests {
        selftests::ensure(context, series)?;
    }
    Ok(Some(group))
}

/// The names of all of them on the kernel `series`.
pub fn names(series: &str, tally: &Tally) -> Vec<String> {
    let all = Wanted::of(series, tally);
    let compared = all.comparisons.into_iter().map(|c| c.0);
    compared
        .chain(all.cases.iter().map(|case| name(series, case.name)))
        .collect()
}

/// Names and what is compared, and cases.
struct Wanted {
    comparisons: Vec<(String, Space, Comparison)>,
    cases: Vec<&'static Case>,
}

impl Wanted {
    fn of(series: &str, tally: &Tally) -> Self {
        let mut comparisons = Vec::new();
        for space in Space::ALL {
            for (what, comparison) in [("test_odp", Comparison::Odp), ("all", Comparison::Whole)] {
                if series == debug::NAME && matches!(comparison, Comparison::Whole) {
                    continue;
                }
                let what = format!("pyverbs_{}_{what}", space.name());
                comparisons.push((name(series, &what), space, comparison));
            }
        }
        comparisons.retain(|c| tally.wants(&c.0));
        let cases = cases::CASES
            .iter()
            .filter(|case| series != debug::NAME && tally.wants(&name(series, case.name)))
            .collect();
        Self { comparisons, cases }
    }

    /// Whether the kernel's own tests are needed.
    fn selftests(&self) -> bool {
        self.cases.iter().any(|c| c.script.contains("/selftests"))
    }
}

fn name(series: &str, what: &str) -> String {
    format!("guest::{series}::peers::{what}")
}

/// Runs them.
fn run(asked: Asked<'_>, wanted: Wanted) -> Result<()> {
    let Asked { tally, said, .. } = asked;
    let mut guests = Guests::new(asked.context, asked.series, wanted.selftests())?;
    for (name, space, comparison) in wanted.comparisons {
        signal::check()?;
        let start = Instant::now();
        let (outcome, text) = guests.compare(space, comparison)?;
        said.keep(name.clone(), text);
        tally.add(&name, start.elapsed(), outcome);
    }
    for case in wanted.cases {
        signal::check()?;
        let start = Instant::now();
        let mut usable = guests.take()?;
        // The suites may have left another one.
        let script = format!("{PROLOGUE}backend emm\n{}", case.script);
        let (outcome, text) = guest::script(&mut usable, &script, case.seconds, case.wants)?;
        guests.give_back(usable, !matches!(outcome, Outcome::Failed(_)));
        let name = name(asked.series, case.name);
        said.keep(name.clone(), text);
        tally.add(&name, start.elapsed(), outcome);
    }
    Ok(())
}

/// The guest of the suites: with forky's tree.
struct Guests<'a> {
    context: &'a Context,
    artifacts: soft_roce_setup::artifacts::Artifacts,
    spec: Spec,
    /// Whether it has the debug kernel.
    debug: bool,
    up: Option<Guest>,
}

impl<'a> Guests<'a> {
    fn new(context: &'a Context, series: &str, selftests: bool) -> Result<Self> {
        let mut shares = vec![Share {
            host: forky::ensure(context)?,
            guest: "/forky".into(),
            read_only: true,
        }];
        if selftests {
            shares.push(Share {
                host: selftests::ensure(context, series)?,
                guest: "/selftests".into(),
                read_only: true,
            });
        }
        let debug = series == debug::NAME;
        Ok(Self {
            context,
            artifacts: build::ensure(context, &options(series))?,
            spec: Spec {
                backend: Backend::Emm,
                clock: Clock::Wall,
                cpu: Cpu::Max,
                smp: 2,
                nodes: 1,
                mem: Size(if debug { 3 << 30 } else { 2 << 30 }),
                shares,
                disk: None,
                append: None,
                terminal: false,
            },
            debug,
            up: None,
        })
    }

    fn take(&mut self) -> Result<Guest> {
        match self.up.take() {
            Some(guest) if guest.alive() => Ok(guest),
            _ => Guest::boot(self.context, &self.artifacts, &self.spec),
        }
    }

    /// What a failed run left behind must not fail the next.
    fn give_back(&mut self, guest: Guest, clean: bool) {
        self.up = clean.then_some(guest);
    }

    /// Runs a suite the ways that are compared. Returns also what was counted.
    fn compare(&mut self, space: Space, comparison: Comparison) -> Result<(Outcome, String)> {
        let (modules, ways): (&str, &[Regions]) = match comparison {
            Comparison::Odp if self.debug => ("test_odp", &[Regions::Asked]),
            Comparison::Odp => ("test_odp", &[Regions::Asked, Regions::InTree]),
            Comparison::Whole => ("", &[Regions::Asked, Regions::Shim, Regions::ShimInTree]),
        };
        let mut runs = BTreeMap::new();
        let mut text = String::new();
        for way in ways {
            let (run, ended) = self.suite(space, modules, *way)?;
            text.push_str(&format!("{way:?}: {}\n", run.counts()));
            if let Some(problem) = ended.filter(|_| !way.shown_only()) {
                return Ok((Outcome::Failed(format!("{way:?}: {problem}")), text));
            }
            runs.insert(*way, run);
        }
        let mut wrong = match comparison {
            Comparison::Odp => {
                let none = Run::default();
                let in_tree = runs.get(&Regions::InTree).unwrap_or(&none);
                odp_is_whole(space, &runs[&Regions::Asked], in_tree)
            }
            Comparison::Whole => {
                let (pinned, shim) = (&runs[&Regions::Asked], &runs[&Regions::Shim]);
                let mut lost = Vec::new();
                for (id, why) in shim.lost(pinned) {
                    match self.fails_pinned(space, id)? {
                        Some(run) => text.push_str(&format!(
                            "Shim: {id}: {why}. It fails pinned, too: at run {run} of its module\n"
                        )),
                        None => lost.push(format!("{id}: {why}")),
                    }
                }
                lost.extend(shim_was_there(shim));
                lost
            }
        };
        for (way, run) in &runs {
            for (id, why) in run.others() {
                text.push_str(&format!("{way:?}: {id}: {why}\n"));
            }
        }
        if wrong.is_empty() {
            return Ok((Outcome::Passed, text));
        }
        wrong.insert(
            0,
            text.lines().take(ways.len()).collect::<Vec<_>>().join("; "),
        );
        Ok((Outcome::Failed(wrong.join("\n")), text))
    }

    /// Runs the module of the test `id` with pinned regions until that test fails: one that races with its own
    /// traffic (`test_resize_cq` of 56.1 shrinks a queue while completions come in) says nothing of regions.
    ///
    /// # Returns
    ///
    /// The number of the run that it failed in, if it did.
    fn fails_pinned(&mut self, space: Space, id: &str) -> Result<Option<u32>> {
        let module = id.split('.').nth(1).unwrap_or(id).to_owned();
        for number in 1..=AGAIN {
            let (run, _) = self.suite(space, &module, Regions::Asked)?;
            if run.others().any(|(other, _)| other == id) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// One run of a suite. Returns also why it is not whole, if so.
    fn suite(
        &mut self,
        space: Space,
        modules: &str,
        way: Regions,
    ) -> Result<(Run, Option<String>)> {
        let backend = match way {
            Regions::Asked | Regions::Shim => "emm",
            Regions::InTree | Regions::ShimInTree => "odp",
        };
        // Python loads verbs in a way that a preload alone does not meet.
        let shim = "LD_PRELOAD=/emm/lib/libverbs_shim.so LD_AUDIT=/emm/lib/libverbs_shim.so VERBS_SHIM_STATS=1";
        let shim = match way {
            Regions::Asked | Regions::InTree => String::new(),
            Regions::Shim => shim.to_owned(),
            Regions::ShimInTree => format!("{shim} VERBS_SHIM=force"),
        };
        let name = space.name();
        let module = if self.debug { MODULE.1 } else { MODULE.0 };
        let script = format!(
            "{PROLOGUE}backend {backend}\ncat > /tmp/peers/runner.py <<'END'\n{RUNNER}END\n\
             {name} env {shim} python3 /tmp/peers/runner.py /tmp/peers/{name} rxe0 1 {module} {modules} 2>&1"
        );
        let mut guest = self.take()?;
        let (end, text) = guest::ran(&mut guest, &script, SUITE)?;
        let run = Run::parse(&text);
        let problem = match end {
            End::Exited(0) if run.tests.is_empty() => Some("no test was run".to_owned()),
            End::Exited(0) => None,
            End::Exited(status) => Some(format!("the runner left with status {status}")),
            other => Some(guest.describe(&other)),
        };
        let problem = problem.map(|what| format!("{what}\n{}", guest::tail(&text)));
        self.give_back(guest, problem.is_none());
        Ok((run, problem))
    }
}

/// What is wrong with `tests.test_odp`.
fn odp_is_whole(space: Space, emm: &Run, in_tree: &Run) -> Vec<String> {
    let mut wrong: Vec<String> = emm
        .others()
        .filter(|(id, why)| !space.excused(id, why))
        .map(|(id, why)| format!("{id}: {why}"))
        .collect();
    let lost = emm.lost(in_tree);
    wrong.extend(
        lost.into_iter()
            .map(|(id, why)| format!("passes on in-tree paging: {id}: {why}")),
    );
    wrong
}

/// What is wrong if the shim was not in a run that it should have been in.
fn shim_was_there(shim: &Run) -> Option<String> {
    (shim.on_demand == 0).then(|| "the shim met no registration".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(results: &[(&str, &str)]) -> Run {
        let text: String = results
            .iter()
            .map(|(id, result)| {
                format!("{{\"t\":\"test\",\"id\":\"{id}\",\"result\":\"{result}\",\"why\":\"\"}}\n")
            })
            .collect();
        Run::parse(&text)
    }

    #[test]
    fn what_odp_tests_must_pass() {
        let emm = run(&[
            ("rc", "passed"),
            ("odp_xrc", "skipped"),
            ("rc_prefetch", "skipped"),
        ]);
        let in_tree = run(&[("rc", "passed")]);
        assert!(odp_is_whole(Space::Trixie, &emm, &in_tree).is_empty());
        assert_eq!(
            odp_is_whole(Space::Forky, &emm, &in_tree),
            ["rc_prefetch: "]
        );
        let worse = run(&[("rc", "failed")]);
        assert_eq!(odp_is_whole(Space::Trixie, &worse, &in_tree).len(), 2);
    }

    #[test]
    fn what_the_shim_must_not_lose() {
        let pinned = run(&[("a", "passed"), ("b", "failed")]);
        let mut shim = run(&[("a", "passed"), ("b", "failed")]);
        assert!(shim_was_there(&shim).is_some());
        shim.on_demand = 1;
        assert!(shim_was_there(&shim).is_none() && shim.lost(&pinned).is_empty());
        let none = run(&[("a", "skipped")]);
        assert_eq!(none.lost(&pinned), [("a", "skipped: ".to_owned())]);
    }
}
