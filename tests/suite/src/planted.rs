//! Tests of the tests: each fault that a region must not have is planted into `ib_emm` by a patch of `tests/planted`, and a test
//! has to catch it. A check that passes with the fault would pass without the code.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::group::{Asked, Group, options};
use super::guest::{ran, roomy, script, spec, tail};
use super::tally::{Outcome, Tally};
use soft_roce_setup::artifacts::Artifacts;
use soft_roce_setup::build::modules::Variant;
use soft_roce_setup::build::{self, BuildOptions};
use soft_roce_setup::context::Context;
use soft_roce_setup::guest::{End, Guest, Share, Spec};
use soft_roce_setup::signal;

/// A planted fault, and who has to catch it.
struct Planted {
    /// The patch, without its ending.
    name: &'static str,
    /// For /bin/sh: the checks.
    script: &'static str,
    /// The case that must fail, as it begins in the line behind `FAIL`, unless the kernel reports a problem first.
    catcher: &'static str,
    /// It may damage what is not the check's own, so nothing else is seen in its guest.
    harms: bool,
    /// The check needs the debug kernel, and so `--long`: to build for it and to boot it takes minutes.
    debug: bool,
    /// For `--long` only: another one shows that the checks of its kind can fail.
    long: bool,
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
        harms: true,
        debug: false,
        long: false,
    },
    Planted {
        name: "skip-dirty-marking",
        script: "emm-check matrix free-reclaim --verb write --mr emm",
        catcher: "emm    matrix: WRITE x free-reclaim",
        harms: false,
        debug: false,
        long: false,
    },
    Planted {
        name: "ignore-read-only",
        script: "emm-check event readonly --mr emm",
        catcher: "emm    readonly: ",
        harms: true,
        debug: false,
        long: false,
    },
    Planted {
        name: "skip-hold-off",
        script: "insmod /emm/modules/emm_client.ko; emm-check event holdoff --mr emm",
        catcher: "emm    holdoff: WRITE, ",
        harms: true,
        debug: false,
        long: false,
    },
    Planted {
        name: "leak-page-reference",
        script: "emm-check matrix move-pages --verb write --mr emm",
        catcher: "emm    matrix: WRITE x move-pages",
        harms: false,
        debug: false,
        long: false,
    },
    Planted {
        name: "lose-accessed-bits",
        script: "emm-check event aging --mr emm",
        catcher: "emm    aging: what the device reads stays",
        harms: false,
        debug: false,
        long: false,
    },
    Planted {
        name: "leak-region-memory",
        script: "emm-check fuzz --seconds 10 && emm-check leaks",
        catcher: "kmemleak: ",
        harms: true,
        debug: true,
        long: false,
    },
    Planted {
        name: "forget-second-hold",
        script: "insmod /emm/modules/emm_client.ko; emm-check event holdoff --mr emm",
        catcher: "emm    holdoff: WRITE, two at once",
        harms: true,
        debug: false,
        long: false,
    },
    Planted {
        name: "repeat-faults",
        script: "emm-check event uffd --mr emm",
        catcher: "emm    uffd: one question for one page",
        harms: false,
        debug: false,
        long: false,
    },
    Planted {
        name: "tell-twice",
        script: "insmod /emm/modules/emm_access.ko; emm-check access 'many cookies'",
        catcher: "       access: many cookies, one page",
        harms: false,
        debug: false,
        long: false,
    },
    // Its worker never ends, nor does ib_emm's unloading: half a minute is waited for it, in a guest of its own.
    Planted {
        name: "keep-the-worker",
        script: "insmod /emm/modules/emm_access.ko; emm-check access 'stopped, killed'",
        catcher: "       access: without a cookie: stopped, killed",
        harms: true,
        debug: false,
        long: true,
    },
    // It must end, with an error.
    Planted {
        name: "lose-every-race",
        script: "emm-check event progress --mr emm",
        catcher: "emm    progress: the page of each operation: completion: ",
        harms: false,
        debug: false,
        long: false,
    },
    Planted {
        name: "let-go-of-mmap-lock",
        script: "emm-check event progress --mr emm",
        catcher: "emm    progress: prefetches against forks: ",
        harms: false,
        debug: false,
        long: false,
    },
    Planted {
        name: "fault-as-nobody",
        script: "emm-check owner charge --mr emm",
        catcher: "emm    charge: page tables: ",
        harms: false,
        debug: false,
        long: false,
    },
    Planted {
        name: "xpmem-skip-zap",
        script: "emm-check xpmem-matrix dontneed --verb load",
        catcher: "       xpmem: load x dontneed",
        harms: false,
        debug: false,
        long: false,
    },
    Planted {
        name: "xpmem-keep-reference",
        script: "emm-check xpmem-matrix move-pages --verb load",
        catcher: "       xpmem: load x move-pages",
        harms: false,
        debug: false,
        long: true,
    },
    // It writes to what others have, too.
    Planted {
        name: "xpmem-ignore-read-only",
        script: "emm-check xpmem rights",
        catcher: "       xpmem rights: memory that the owner may only read",
        harms: true,
        debug: false,
        long: true,
    },
    Planted {
        name: "xpmem-block-or-not",
        script: "insmod /emm/modules/emm_client.ko; emm-check notifier",
        catcher: "       notifier: not now: of an attachment of XPMEM: ",
        harms: true,
        debug: false,
        long: true,
    },
];

/// Where a guest has the spoilt modules.
const PLANTED_INSIDE: &str = "/planted";

/// Longest time of one.
const LIMIT: Duration = Duration::from_secs(240);

/// The faults for the kernel `kernel` that are wanted. Each is planted here: its modules are built.
pub fn group(asked: Asked<'_>) -> Result<Option<Group<'_>>> {
    let Asked {
        context,
        series: kernel,
        tally,
        long,
        ..
    } = asked;
    let mut built = of(kernel, long, tally);
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

/// Sees each caught: those that leave a guest whole in one guest, each of the others in one of its own.
fn run(context: &Context, kernel: &str, all: &[&'static Planted], tally: &Tally) -> Result<()> {
    let (harmful, harmless): (Vec<&Planted>, _) = all.iter().partition(|planted| planted.harms);
    let mut bed = Bed::of(context, kernel, &harmless)?;
    for planted in harmless {
        signal::check()?;
        let start = Instant::now();
        let outcome = bed.caught(planted)?;
        tally.add(&planted.test(), start.elapsed(), outcome);
    }
    drop(bed);
    for planted in harmful {
        signal::check()?;
        let start = Instant::now();
        let artifacts = build::ensure(context, &planted.options(kernel))?;
        let spec = if planted.debug { roomy() } else { spec() };
        let mut guest = Guest::boot(context, &artifacts, &spec)?;
        let outcome = check(&mut guest, planted)?.outcome(&guest, planted);
        tally.add(&planted.test(), start.elapsed(), outcome);
    }
    Ok(())
}

/// The names of those for the kernel `kernel` that are wanted.
pub fn names(kernel: &str, long: bool, tally: &Tally) -> impl Iterator<Item = String> {
    of(kernel, long, tally).into_iter().map(Planted::test)
}

/// Whether a fault may be wanted that is for the kernel `kernel`.
pub fn wanted(kernel: &str, long: bool, tally: &Tally) -> bool {
    !of(kernel, long, tally).is_empty()
}

fn of(kernel: &str, long: bool, tally: &Tally) -> Vec<&'static Planted> {
    let debug = kernel == build::debug::NAME;
    let fits = |p: &&Planted| p.debug == debug && (long || !p.long) && tally.wants(&p.test());
    PLANTED.iter().filter(fits).collect()
}

/// A guest that takes one spoilt `ib_emm` after the other.
struct Bed<'a> {
    context: &'a Context,
    /// The sound modules, which it boots with.
    sound: Artifacts,
    /// Keep the spoilt modules where they are.
    _spoilt: Vec<Artifacts>,
    spec: Spec,
    guest: Option<Guest>,
}

impl<'a> Bed<'a> {
    fn of(context: &'a Context, kernel: &str, all: &[&Planted]) -> Result<Self> {
        let sound = build::ensure(context, &options(kernel))?;
        let spoilt = all
            .iter()
            .map(|planted| build::ensure(context, &planted.options(kernel)))
            .collect::<Result<Vec<_>>>()?;
        let folder = spoilt.first().and_then(|one| one.kernel.emm.parent());
        let shares = folder.map(|folder| Share {
            host: folder.to_owned(),
            guest: PLANTED_INSIDE.into(),
            read_only: true,
        });
        let spec = Spec {
            shares: shares.into_iter().collect(),
            ..spec()
        };
        Ok(Self {
            context,
            sound,
            _spoilt: spoilt,
            spec,
            guest: None,
        })
    }

    /// Whether `planted` is caught. What another fault may have left in the guest is no proof: then it is seen in a new one.
    fn caught(&mut self, planted: &Planted) -> Result<Outcome> {
        if let Some(mut guest) = self.guest.take().filter(Guest::alive) {
            if plant(&mut guest, planted)?.is_none() {
                let seen = check(&mut guest, planted)?;
                if !matches!(seen.end, End::Report(_)) {
                    let outcome = seen.outcome(&guest, planted);
                    self.guest = Some(guest);
                    return Ok(outcome);
                }
            }
        }
        let mut guest = Guest::boot(self.context, &self.sound, &self.spec)?;
        if let Some(why) = plant(&mut guest, planted)? {
            return Ok(Outcome::Failed(why));
        }
        let outcome = check(&mut guest, planted)?.outcome(&guest, planted);
        self.guest = Some(guest);
        Ok(outcome)
    }
}

/// Takes the spoilt modules in place of those that are loaded, or says why not.
fn plant(guest: &mut Guest, planted: &Planted) -> Result<Option<String>> {
    let folder = format!("{PLANTED_INSIDE}/{}.patch", planted.name);
    let text = format!(
        "set -e; rdma link delete rxe0; rmmod rdma_rxe emm_xpmem ib_emm\n\
         insmod {folder}/ib_emm.ko; insmod {folder}/emm_xpmem.ko; insmod {folder}/rdma_rxe.ko mr_backend=emm\n\
         rdma link add rxe0 type rxe netdev eth9"
    );
    let (outcome, _) = script(guest, &text, LIMIT.as_secs(), &[])?;
    Ok(match outcome {
        Outcome::Failed(why) | Outcome::Skipped(why) => Some(why),
        Outcome::Passed => None,
    })
}

/// What the checks of a fault came to.
struct Seen {
    end: End,
    text: String,
}

/// Runs the checks of a fault that is planted in the guest.
fn check(guest: &mut Guest, planted: &Planted) -> Result<Seen> {
    let (end, text) = ran(guest, planted.script, LIMIT)?;
    Ok(Seen { end, text })
}

impl Seen {
    /// Passed, if the fault was caught.
    fn outcome(self, guest: &Guest, planted: &Planted) -> Outcome {
        let line = format!("FAIL  {}", planted.catcher);
        // Some faults corrupt the kernel's memory, and it may say so before the check compares.
        let report = matches!(self.end, End::Report(_));
        if report || self.text.lines().any(|l| l.starts_with(&line)) {
            return Outcome::Passed;
        }
        let how = match self.end {
            End::Exited(status) => format!("the checks ended with status {status}"),
            other => guest.describe(&other),
        };
        Outcome::Failed(format!("no line `{line}`; {how}\n{}", tail(&self.text)))
    }
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
