//! The root: a Debian trixie tree with what builds the modules, with QEMU, and with the guest's programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::debian::{self, Recipe};
use super::key::Key;
use crate::context::Context;
use crate::enter::Enter;
use crate::host::{self, Made, Mirror};
use crate::proc::Cmd;
use crate::ui::Step;

/// The place of the root in the cache.
pub const PLACE: &str = "root";
/// To be raised when the recipe below changes in a way that its lists do not show.
const RECIPE: u32 = 1;

/// What to do when apt fails.
pub const REACH: &str =
    "check the network and the archive's address (--mirror URL chooses another)";
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Age from which on it is offered anew.
const OLD: Duration = Duration::from_secs(4 * WEEK.as_secs());
/// The file beside the tree that tells which edition it is.
const EDITION: &str = "edition";
/// GiB that making it takes.
const GIB: f64 = 2.5;

const SUITES: [&str; 2] = ["trixie", "trixie-backports"];

/// Everything that is installed, by what it is for.
const PACKAGES: &[&str] = &[
    // The kernel's build.
    "build-essential",
    "gcc-14",
    "bc",
    "bison",
    "flex",
    "cpio",
    "kmod",
    "xz-utils",
    "zstd",
    "patch",
    "libelf-dev",
    "libssl-dev",
    "dwarves",
    "python3",
    // Its Rust part.
    "rustc",
    "cargo",
    "rust-src",
    "bindgen",
    "clang-19",
    // The debug kernel, which clang builds: KASAN with Rust needs it.
    "lld-19",
    "llvm-19",
    // The guest.
    "qemu-system-x86",
    "busybox-static",
    "iproute2",
    "procps",
    "util-linux",
    "strace",
    // RDMA: libraries to build against and the programs of the demo.
    "libibverbs-dev",
    "librdmacm-dev",
    "ibverbs-providers",
    "ibverbs-utils",
    "rdmacm-utils",
    "rdma-core",
    "perftest",
    "pkg-config",
    // What users run on RDMA, unchanged, and the suites of rdma-core.
    "infiniband-diags",
    "libfabric-bin",
    "libopenmpi-dev",
    "numactl",
    "openmpi-bin",
    "python3-pyverbs",
    "qperf",
    "ucx-utils",
];

/// What is installed besides for guests alone: nothing is built with it, so that what was built without it stays good.
const OF_GUESTS: &[&str] = &["e2fsprogs"];

/// Files that nothing here reads. Without them the root is half the size and done sooner.
///
/// dpkg's `*` matches slashes too, so a version is written with `?`: `rustc-*/src/*` would take
/// `library/core/src` along, and `llvm-*/include/*` clang's own headers.
const LEFT_OUT: &[&str] = &[
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/lib/llvm-??/lib/*.a",
    "/usr/lib/llvm-??/include/*",
    "/usr/src/rustc-?.??.?/src/*",
    "/usr/src/rustc-?.??.?/compiler/*",
];

/// What stays of those: rdma-core's own tests are among the documentation.
const KEPT: &[&str] = &[
    "/usr/share/doc/rdma-core/*",
    "/usr/share/doc/python3-pyverbs/*",
];

/// The key of the root. The mirror is no part of it: all mirrors have the same packages.
pub fn key() -> String {
    builders().text(&OF_GUESTS.join(" ")).finish()
}

/// The key of what is built with.
fn builders() -> Key {
    let lists = [&SUITES[..], PACKAGES, LEFT_OUT, KEPT];
    let key = Key::new("root", RECIPE);
    lists
        .iter()
        .fold(key, |key, list| key.text(&list.join(" ")))
}

/// The root's tree in the cache.
pub fn tree(context: &Context) -> PathBuf {
    context.cache.path(PLACE).join("tree")
}

/// What is built in the root depends on: what it is made of and, if it was made anew since and came out otherwise, which edition it is.
/// The compilers may be others then.
pub fn version(context: &Context) -> String {
    let key = builders().finish();
    match edition(&context.cache.path(PLACE)) {
        Some(edition) => format!("{key} {edition}"),
        None => key,
    }
}

fn edition(dir: &Path) -> Option<String> {
    fs::read_to_string(dir.join(EDITION)).ok()
}

/// Writes the edition of the root in `fresh`, which takes the place of the one in `old`, if there is one.
fn set_edition(fresh: &Path, old: &Path) -> Result<()> {
    let contents = |dir: &Path| -> Result<BTreeSet<(String, String)>> {
        let path = dir.join("tree/var/lib/dpkg/status");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        let mut packages = BTreeSet::new();
        let mut name = "";
        for line in text.lines() {
            name = line.strip_prefix("Package: ").unwrap_or(name);
            if let Some(version) = line.strip_prefix("Version: ") {
                packages.insert((name.to_owned(), version.to_owned()));
            }
        }
        Ok(packages)
    };
    let new = contents(fresh)?;
    let edition = match contents(old) {
        // What was built in the old one is as good in the new one, which may have more.
        Ok(before) if before.is_subset(&new) => edition(old),
        Ok(_) => {
            let add = |key: Key, (name, version): &(String, String)| key.text(name).text(version);
            Some(new.iter().fold(Key::new("edition", 2), add).finish())
        }
        // Nothing was built in it, or it can't be told what is in it, by another recipe.
        Err(_) => None,
    };
    match edition {
        Some(edition) => fs::write(fresh.join(EDITION), edition).context("cannot write an edition"),
        None => Ok(()),
    }
}

/// How old the root is, if that is long.
fn age_of_an_old_one(context: &Context, now: SystemTime) -> Option<Duration> {
    let made = UNIX_EPOCH + Duration::from_secs(context.cache.stamp(PLACE)?.made);
    now.duration_since(made).ok().filter(|age| *age > OLD)
}

/// Says once in a run that an old root can be had anew.
pub fn offer(context: &Context) {
    static SAID: Once = Once::new();
    if let Some(age) = age_of_an_old_one(context, SystemTime::now()) {
        let weeks = age.as_secs() / WEEK.as_secs();
        SAID.call_once(|| {
            context.ui.note(format!(
                "the root is {weeks} weeks old: `soft-roce-setup build --refresh` makes it anew, of today's packages"
            ));
        });
    }
}

/// Makes the root if it is not there, or if `refresh` is asked for and it is old.
pub fn ensure(context: &Context, refresh: bool) -> Result<PathBuf> {
    let old = context.cache.path(PLACE);
    let renew = refresh && age_of_an_old_one(context, SystemTime::now()).is_some();
    context.cache.ensure_or_renew(
        renew,
        &context.ui,
        PLACE,
        &key(),
        "root (Debian trixie with build tools, QEMU, RDMA programs)",
        |dir, step| {
            host::require_for_root(context, Made::default())?;
            host::require_room(context, GIB, "root")?;
            make(context, dir, step)?;
            set_edition(dir, &old)
        },
    )?;
    Ok(tree(context))
}

fn make(context: &Context, dir: &Path, step: &Step) -> Result<()> {
    let log = context.cache.fresh_log("root");
    let recipe = Recipe {
        suites: &SUITES,
        packages: &[PACKAGES, OF_GUESTS].concat(),
        left_out: LEFT_OUT,
        kept: KEPT,
        stale: false,
    };
    let tree = recipe.make(context, dir, &log, step)?;
    // Files to be covered when something in the root needs them; and no name of this host.
    Enter::new(&tree)
        .cmd("sh")
        .args(["-ec", "rm -f /etc/resolv.conf /etc/hosts; echo '127.0.0.1 localhost' >/etc/hosts; : >/etc/resolv.conf; echo guest >/etc/hostname; mkdir -p /emm"])
        .run(&log, step)
}

/// apt-get inside the root. It keeps its lists and packages in the cache and leaves the root as it is.
pub struct Apt {
    enter: Enter,
    /// Where its lists come from.
    sources: String,
    /// The file that says of which sources the lists were fetched, when it was written.
    asked: PathBuf,
}

impl Apt {
    /// Where apt keeps its state, as the root sees it.
    const STATE: &'static str = "/mnt/apt";

    /// That of the root, with the mirror of `context`.
    pub fn new(context: &Context) -> Result<Self> {
        Self::within(context, &tree(context))
    }

    /// That of another tree: what is asked for changes the tree, and nothing but that.
    pub fn within(context: &Context, tree: &Path) -> Result<Self> {
        let mirror = Mirror::of(context)?;
        let state = context.cache.path("apt");
        for sub in ["lists/partial", "archives/partial"] {
            let dir = state.join(sub);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let mut enter = Enter::new(tree)
            .bind(&state, Self::STATE)
            .envs([("DEBIAN_FRONTEND", "noninteractive")])
            .with_network();
        let inside = match mirror.directory() {
            Some(dir) => {
                enter = enter.bind_ro(dir, "/mnt/mirror");
                Mirror {
                    url: "file:///mnt/mirror".to_owned(),
                }
            }
            None => mirror,
        };
        let list = state.join("sources.list");
        let sources = debian::sources(&inside, &SUITES, host::KEYRING_INSIDE, false);
        fs::write(&list, &sources).with_context(|| format!("cannot write {}", list.display()))?;
        enter = enter.envs(host::proxies());
        if inside.url.starts_with("https:") {
            let own = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            if let Some(bundle) = host::ca_bundle(Path::new("/"), own) {
                enter = enter.bind_ro(bundle, host::CA_BUNDLE_INSIDE);
            }
        }
        Ok(Self {
            enter,
            sources,
            asked: state.join("asked"),
        })
    }

    /// A tool of apt with the state of the cache; `dir` is its working directory inside the root.
    pub fn tool(&self, tool: &str) -> Cmd {
        self.enter.cmd(tool).args([
            "-q",
            "-o",
            "Dir::State::Lists=/mnt/apt/lists",
            "-o",
            "Dir::Cache::Archives=/mnt/apt/archives",
            "-o",
            "Dir::Cache::pkgcache=",
            "-o",
            "Dir::Cache::srcpkgcache=",
            "-o",
            "Dir::Etc::SourceList=/mnt/apt/sources.list",
            "-o",
            "Dir::Etc::SourceParts=-",
            "-o",
            "APT::Sandbox::User=root",
            "-o",
            "Acquire::Languages=none",
            "-o",
            "Acquire::GzipIndexes=false",
            "-o",
            "Acquire::Retries=3",
        ])
    }

    /// Asks the archive for its lists as they are now.
    pub fn update(&self, log: &Path, step: &Step) -> Result<()> {
        self.tool("apt-get")
            .args(["update", "--error-on=any"])
            .hint(REACH)
            .run(log, step)?;
        fs::write(&self.asked, &self.sources)
            .with_context(|| format!("cannot write {}", self.asked.display()))
    }

    /// Whether the lists are of today: who does not find something in them need not ask again.
    pub fn is_up_to_date(&self) -> bool {
        let of_today = |asked: SystemTime| asked.elapsed().is_ok_and(|age| age < DAY);
        let asked = fs::metadata(&self.asked).and_then(|meta| meta.modified());
        asked.is_ok_and(of_today)
            && fs::read_to_string(&self.asked).is_ok_and(|sources| sources == self.sources)
    }

    /// Changes the working directory to a folder of the state.
    #[must_use]
    pub fn in_folder(mut self, folder: &str) -> Self {
        self.enter = self.enter.dir(format!("{}/{folder}", Self::STATE));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn tree_with(packages: &str) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let dpkg = dir.path().join("tree/var/lib/dpkg");
        fs::create_dir_all(&dpkg).unwrap();
        fs::write(dpkg.join("status"), packages).unwrap();
        dir
    }

    #[test]
    fn what_was_built_in_a_root_of_the_same_packages_stays_good() {
        let first = tree_with("Package: gcc\nVersion: 14.2\nStatus: a\n");
        let none = tempfile::tempdir().unwrap();
        let is = |dir: &TempDir| edition(dir.path());
        set_edition(first.path(), none.path()).unwrap();
        assert_eq!(is(&first), None, "the first one has no other");
        let same = tree_with("Package: gcc\nVersion: 14.2\nStatus: b\n");
        set_edition(same.path(), first.path()).unwrap();
        assert_eq!(is(&same), None);
        let more = tree_with("Package: e2fsprogs\nVersion: 1.47\n\nPackage: gcc\nVersion: 14.2\n");
        set_edition(more.path(), same.path()).unwrap();
        assert_eq!(is(&more), None, "what it has besides is built with nothing");
        let newer = tree_with("Package: gcc\nVersion: 14.3\n");
        set_edition(newer.path(), same.path()).unwrap();
        assert!(is(&newer).is_some());
        let again = tree_with("Package: gcc\nVersion: 14.3\n");
        set_edition(again.path(), newer.path()).unwrap();
        assert_eq!(is(&again), is(&newer));
    }

    #[test]
    fn a_root_is_old_after_four_weeks() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context::for_tests(dir.path());
        let _lock = context.cache.lock_exclusive(&context.ui).unwrap();
        let now = SystemTime::now();
        assert_eq!(age_of_an_old_one(&context, now), None, "there is none");
        let mut made = 0;
        let mut ensure = |renew: bool| {
            let cache = &context.cache;
            cache
                .ensure_or_renew(renew, &context.ui, PLACE, &key(), "root", |_, _| {
                    made += 1;
                    Ok(())
                })
                .unwrap();
            made
        };
        assert_eq!(ensure(false), 1);
        assert_eq!(age_of_an_old_one(&context, now + OLD - WEEK), None);
        let age = age_of_an_old_one(&context, now + OLD + WEEK).unwrap();
        assert!(age > OLD);
        assert_eq!(ensure(false), 1);
        assert_eq!(ensure(true), 2);
        // A clock that was set back makes nothing old.
        assert_eq!(age_of_an_old_one(&context, now - WEEK), None);
    }
}
