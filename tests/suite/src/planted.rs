//! Tests of the tests: each fault that a region must not have is planted into `ib_emm` by a patch of `tests/planted`, and a test
//! has to catch it. A check that passes with the fault would pass without the code.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::group::{Group, options};
use super::guest::{Collected, roomy, spec, tail};
use super::tally::{Outcome, Tally};
use soft_roce_setup::build::modules::Variant;
use soft_roce_setup::build::{self, BuildOptions};
use soft_roce_setup::context::Context;
use soft_roce_setup::guest::{End, Guest, Job};
use soft_roce_setup::signal;

/// A planted fault, and who has to catch it.
struct Planted {
    /// The patch, without its ending.
    name: &'static str,
    /// For /bin/sh: the checks.
    script: &'static str,
    /// The case that must fail, as it begins in the line behind `FAIL`, unless the kernel reports a problem first.
    catcher: &'static str,
    /// The check needs the debug kernel, and so `--long`: to build for it and to boot it takes minutes.
    debug: bool,
}

impl Planted {
    /// The test's name.
    fn test(&self) -> String {
        format!("planted::{}", self.name)
    }

    /// The kernel `kernel` and an `ib_emm` with the fault.
    fn options(&self, kernel: &str) -> BuildOptions {
        BuildOptions {
            modules: Variant::Planted(format!("{}.patch", self.name)),
            ..options(kernel)
        }
    }
}

const PLANTED: &[Planted] = &[
    Planted {
        name: "drop-invalidation",
        script: "emm-check event dontneed --mr emm",
        catcher: "emm    dontneed: in turn with traffic",
        debug: false,
    },
    Planted {
        name: "skip-dirty-marking",
        script: "emm-check matrix free-reclaim --verb write --mr emm",
        catcher: "emm    matrix: WRITE x free-reclaim",
        debug: false,
    },
    Planted {
        name: "ignore-read-only",
        script: "emm-check event readonly --mr emm",
        catcher: "emm    readonly: ",
        debug: false,
    },
    Planted {
        name: "skip-hold-off",
        script: "insmod /emm/modules/emm_client.ko; emm-check event holdoff --mr emm",
        catcher: "emm    holdoff: WRITE, ",
        debug: false,
    },
    Planted {
        name: "leak-page-reference",
        script: "emm-check matrix move-pages --verb write --mr emm",
        catcher: "emm    matrix: WRITE x move-pages",
        debug: false,
    },
    Planted {
        name: "lose-accessed-bits",
        script: "emm-check event aging --mr emm",
        catcher: "emm    aging: what the device reads stays",
        debug: false,
    },
    Planted {
        name: "leak-region-memory",
        script: "emm-check fuzz --seconds 10 && emm-check leaks",
        catcher: "kmemleak: ",
        debug: true,
    },
    Planted {
        name: "forget-second-hold",
        script: "insmod /emm/modules/emm_client.ko; emm-check event holdoff --mr emm",
        catcher: "emm    holdoff: WRITE, two at once",
        debug: false,
    },
    Planted {
        name: "repeat-faults",
        script: "emm-check event uffd --mr emm",
        catcher: "emm    uffd: one question for one page",
        debug: false,
    },
    // It must end, with an error.
    Planted {
        name: "lose-every-race",
        script: "emm-check event progress --mr emm",
        catcher: "emm    progress: the page of each operation: completion: ",
        debug: false,
    },
    Planted {
        name: "let-go-of-mmap-lock",
        script: "emm-check event progress --mr emm",
        catcher: "emm    progress: prefetches against forks: ",
        debug: false,
    },
];

/// Longest time of one.
const LIMIT: Duration = Duration::from_secs(240);

/// The faults for the kernel `kernel` that are wanted. Each is planted here: its modules are built.
pub fn group<'a>(
    context: &'a Context,
    kernel: &'a str,
    tally: &'a Tally,
) -> Result<Option<Group<'a>>> {
    let mut built = of(kernel, tally);
    built.retain(|planted| {
        let start = Instant::now();
        let why = build::ensure(context, &planted.options(kernel)).err();
        let failed = why.filter(|_| !signal::interrupted());
        if let Some(error) = &failed {
            let why = Outcome::Failed(format!("{error:#}"));
            tally.add(&planted.test(), start.elapsed(), why);
        }
        failed.is_none()
    });
    signal::check()?;
    if built.is_empty() {
        return Ok(None);
    }
    let work = move || run(context, kernel, &built, tally);
    Group::of_kernel(context, kernel, work).map(|group| Some(group.boots()))
}

/// Sees each caught.
fn run(context: &Context, kernel: &str, all: &[&'static Planted], tally: &Tally) -> Result<()> {
    for planted in all {
        signal::check()?;
        let start = Instant::now();
        let outcome = caught(context, kernel, planted)?;
        tally.add(&planted.test(), start.elapsed(), outcome);
    }
    Ok(())
}

/// The names of those for the kernel `kernel` that are wanted.
pub fn names(kernel: &str, tally: &Tally) -> impl Iterator<Item = String> {
    of(kernel, tally).into_iter().map(Planted::test)
}

/// Whether a fault may be wanted that is for the kernel `kernel`.
pub fn wanted(kernel: &str, tally: &Tally) -> bool {
    !of(kernel, tally).is_empty()
}

fn of(kernel: &str, tally: &Tally) -> Vec<&'static Planted> {
    let debug = kernel == build::debug::NAME;
    let fits = |p: &&Planted| p.debug == debug && tally.wants(&p.test());
    PLANTED.iter().filter(fits).collect()
}

fn caught(context: &Context, kernel: &str, planted: &Planted) -> Result<Outcome> {
    let artifacts = build::ensure(context, &planted.options(kernel))?;
    let spec = if planted.debug { roomy() } else { spec() };
    let mut guest = Guest::boot(context, &artifacts, &spec)?;
    let output = Collected::default();
    let job = Job {
        script: format!("cd /root\n{}\n", planted.script),
        stdin: false,
        silence: LIMIT,
        limit: Some(LIMIT),
    };
    let end = guest.run(&job, Box::new(output.clone()), Box::new(output.clone()))?;
    let text = output.text();
    let line = format!("FAIL  {}", planted.catcher);
    // Some faults corrupt the kernel's memory, and it may say so before the check compares.
    let held = matches!(end, End::Report(_)) || text.lines().any(|l| l.starts_with(&line));
    Ok(if held {
        Outcome::Passed
    } else {
        let how = match end {
            End::Exited(status) => format!("the checks ended with status {status}"),
            other => guest.describe(&other),
        };
        Outcome::Failed(format!("no line `{line}`; {how}\n{}", tail(&text)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_patch_has_its_catcher() {
        let folder = build::workspace().join("tests/planted");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut named: Vec<String> = PLANTED
            .iter()
            .map(|p| format!("{}.patch", p.name))
            .collect();
        named.sort();
        assert_eq!(files, named);
    }

    /// As `patch --fuzz=0` wants it: what each hunk expects is there, here or further on.
    #[test]
    fn each_patch_fits_the_source() {
        let workspace = build::workspace();
        for planted in PLANTED {
            let path = workspace.join(format!("tests/planted/{}.patch", planted.name));
            let patch = std::fs::read_to_string(path).unwrap();
            let (_, diff) = patch.split_once("\n--- a/").unwrap();
            for file in diff.split("\n--- a/") {
                let mut hunks = file.split("\n@@ ");
                let head = hunks.next().unwrap();
                let source = workspace.join(head.lines().next().unwrap());
                let source = std::fs::read_to_string(source).unwrap();
                for hunk in hunks {
                    let lines = hunk.lines().skip(1);
                    let old = lines.filter_map(|line| line.strip_prefix([' ', '-']));
                    let old: String = old.map(|line| format!("{line}\n")).collect();
                    assert!(source.contains(&old), "{}.patch:\n{old}", planted.name);
                }
            }
        }
    }
}
