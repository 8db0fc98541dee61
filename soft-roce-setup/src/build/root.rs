//! The root: a Debian trixie tree with what builds the modules, with QEMU, and with the guest's programs.

use std::fs;
use std::path::{Path, PathBuf};

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
    let mut key = Key::new("root", RECIPE);
    for list in [&SUITES[..], PACKAGES, LEFT_OUT, KEPT] {
        key = key.text(&list.join(" "));
    }
    key.finish()
}

/// The root's tree in the cache.
pub fn tree(context: &Context) -> PathBuf {
    context.cache.path(PLACE).join("tree")
}

/// Makes the root if it is not there.
pub fn ensure(context: &Context) -> Result<PathBuf> {
    context.cache.ensure(
        &context.ui,
        PLACE,
        &key(),
        "root (Debian trixie with build tools, QEMU, RDMA programs)",
        |dir, step| {
            host::require_for_root(context, Made::default())?;
            host::require_room(context, GIB, "root")?;
            make(context, dir, step)
        },
    )?;
    Ok(tree(context))
}

fn make(context: &Context, dir: &Path, step: &Step) -> Result<()> {
    let log = context.cache.fresh_log("root");
    let recipe = Recipe {
        suites: &SUITES,
        packages: PACKAGES,
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
}

impl Apt {
    /// Where apt keeps its state, as the root sees it.
    const STATE: &'static str = "/mnt/apt";

    /// Prepares the folders and the sources for the mirror of `context`.
    pub fn new(context: &Context) -> Result<Self> {
        let mirror = Mirror::of(context)?;
        let state = context.cache.path("apt");
        for sub in ["lists/partial", "archives/partial"] {
            let dir = state.join(sub);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let mut enter = Enter::new(&tree(context))
            .bind(&state, Self::STATE)
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
        fs::write(
            &list,
            debian::sources(&inside, &SUITES, host::KEYRING_INSIDE, false),
        )
        .with_context(|| format!("cannot write {}", list.display()))?;
        for (key, value) in host::proxies() {
            enter = enter.env(key, value);
        }
        if inside.url.starts_with("https:") {
            let own = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            if let Some(bundle) = host::ca_bundle(Path::new("/"), own) {
                enter = enter.bind_ro(bundle, host::CA_BUNDLE_INSIDE);
            }
        }
        Ok(Self { enter })
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

    /// Changes the working directory to a folder of the state.
    #[must_use]
    pub fn in_folder(mut self, folder: &str) -> Self {
        self.enter = self.enter.dir(format!("{}/{folder}", Self::STATE));
        self
    }
}
