//! The programs of the guest: the shim and its launcher, the examples of the Rust API, libxpmem and its samples, `emm-check` and `emm-bench`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::key::Key;
use super::{cmake, root, sources, xpmem};
use crate::context::Context;
use crate::enter::Enter;
use crate::host;
use crate::proc::Cmd;
use crate::ui::Step;

/// To be raised when the recipe below changes.
const RECIPE: u32 = 3;
/// The place of the result in the cache.
pub const PLACE: &str = "userland";
/// GiB that the crates' sources take.
const GIB_CRATES: f64 = 0.4;
/// GiB that a build of the programs takes.
const GIB: f64 = 0.5;
/// The place of the crates' sources in the cache.
const VENDOR: &str = "vendor";
/// What cargo keeps in the cache from build to build.
pub(super) const TARGET: &str = "target";
/// The place of the unit tests' programs in the cache.
const TESTS: &str = "unit-tests";
/// Crates that build in the root only and have unit tests.
const TESTED: [&str; 2] = ["emm-check", "emm-bench"];
/// Their libraries and programs, as cargo names them.
pub const UNITS: [&str; 3] = ["emm_check", "emm-check", "emm-bench"];
/// One call of cargo.
struct Part {
    profile: &'static str,
    crates: &'static [&'static str],
    /// What counts of the result.
    files: &'static [&'static str],
}

/// The library by itself: cargo would build its dependency `libc` as the programs want it, and it is linked in its own way.
const PARTS: [Part; 2] = [
    Part {
        profile: "shim",
        crates: &["verbs-shim"],
        files: &["libverbs_shim.so"],
    },
    Part {
        profile: "release",
        crates: &[
            "verbs-shim-launcher",
            "unpinned",
            "libxpmem",
            "emm-check",
            "emm-bench",
        ],
        files: &[
            "verbs-shim",
            "emm-check",
            "emm-bench",
            "examples/pingpong",
            "examples/kv_fetch",
            xpmem::BUILT,
        ],
    },
];
/// Programs in C that users of MPI would write, built as they build them: folder and name.
const MPI_PROGRAMS: [(&str, &str); 2] = [
    ("tests/programs", "mpi_collectives"),
    ("benches/programs", "mpi_pingpong"),
];
/// Files and folders of the repository that the build reads.
const FILES: [&str; 2] = ["Cargo.toml", "Cargo.lock"];
const FOLDERS: [&str; 7] = [
    "ib-emm",
    "verbs-shim",
    "xpmem",
    "tests/emm-check",
    "tests/programs",
    "benches/emm-bench",
    "benches/programs",
];
/// Members that build on the host only. Cargo wants to see every member; of these, the manifest and an empty source are enough.
const HOST_ONLY: [(&str, &str); 4] = [
    ("soft-roce-setup", "src/lib.rs"),
    ("soft-roce-setup/cli", "src/main.rs"),
    ("tests/suite", "src/lib.rs"),
    ("benches/report", "src/lib.rs"),
];

/// The key of the crates' sources.
fn vendor_key() -> Result<String> {
    Ok(Key::new("vendor", RECIPE)
        .path(&sources::repository().join("Cargo.lock"))?
        .finish())
}

/// The key of the result.
pub fn key(context: &Context) -> Result<String> {
    let mut key = Key::new("userland", RECIPE).text(&root::version(context));
    for input in FILES.into_iter().chain(FOLDERS) {
        key = key.path(&sources::repository().join(input))?;
    }
    Ok(key.finish())
}

/// Fetches the crates' sources if Cargo.lock has changed. It needs no root, so it can go on beside it.
pub fn ensure_vendor(context: &Context) -> Result<PathBuf> {
    let key = vendor_key()?;
    context.cache.ensure(&context.ui, VENDOR, &key, "crates: download", |dir, step| {
        host::require_room(context, GIB_CRATES, "crates")?;
        let log = context.cache.fresh_log("vendor");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let config = Cmd::new(cargo)
            .args(["vendor", "--locked", "--versioned-dirs"])
            .arg(dir.join("crates"))
            .dir(sources::repository())
            .hint("check the network: the crates named in Cargo.lock are fetched with the host's cargo")
            .output(&log)?;
        step.line("crates are there");
        drop(config);
        fs::create_dir_all(dir.join("crates")).context("cannot create the folder of the crates")
    })
}

/// Downloads what the root lacks to build the programs, if they are to be built.
pub fn download(context: &Context) -> Result<()> {
    if context.cache.is_fresh(PLACE, &key(context)?) {
        return Ok(());
    }
    cmake::ensure(context)
}

/// Builds the programs inside the root, without network.
pub fn ensure(context: &Context) -> Result<PathBuf> {
    let key = key(context)?;
    if context.cache.is_fresh(PLACE, &key) {
        return Ok(context.cache.path(PLACE));
    }
    let vendor = ensure_vendor(context)?;
    cmake::ensure(context)?;
    context.cache.ensure(
        &context.ui,
        PLACE,
        &key,
        "programs: verbs-shim, emm-check, emm-bench",
        |dir, step| make(context, &vendor, dir, step),
    )
}

/// Builds the unit tests of [`UNITS`] inside the root, which is there: programs of the same names, to be run in the root.
pub fn ensure_tests(context: &Context) -> Result<PathBuf> {
    let key = key(context)?;
    if context.cache.is_fresh(TESTS, &key) {
        return Ok(context.cache.path(TESTS));
    }
    let _lock = context.cache.lock_exclusive(&context.ui)?;
    let vendor = ensure_vendor(context)?;
    cmake::ensure(context)?;
    context.cache.ensure(
        &context.ui,
        TESTS,
        &key,
        "unit tests of emm-check and emm-bench",
        |dir, _| {
            let log = context.cache.fresh_log("unit-tests");
            let source = dir.join("source");
            let enter = workshop(context, &vendor, &source)?;
            let told = cargo(&enter, "test", "release", &TESTED)
                .args([
                    "--lib",
                    "--bins",
                    "--no-run",
                    "--message-format",
                    "json-render-diagnostics",
                ])
                .output(&log)?;
            for name in UNITS {
                let built = executable(&told, name)
                    .with_context(|| format!("cargo did not say where the tests of {name} are"))?;
                let built = built
                    .strip_prefix("/mnt/target/")
                    .context("a foreign path")?;
                fs::copy(context.cache.path(TARGET).join(built), dir.join(name))
                    .with_context(|| format!("cannot copy the tests of {name}"))?;
            }
            crate::cache::remove_tree(&source)
        },
    )
}

/// The test program of the unit `name`, by what cargo told of its build (`--message-format json-render-diagnostics`).
fn executable(told: &str, name: &str) -> Option<String> {
    let messages = told
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == name && message["profile"]["test"] == true)
        .find_map(|message| Some(message["executable"].as_str()?.to_owned()))
}

fn make(context: &Context, vendor: &Path, dir: &Path, step: &Step) -> Result<()> {
    host::require_room(context, GIB, "programs of the guest")?;
    let log = context.cache.fresh_log("userland");
    let source = dir.join("source");
    let enter = workshop(context, vendor, &source)?;
    let target = context.cache.path(TARGET);
    for part in &PARTS {
        let kinds = ["--lib", "--bins", "--examples"];
        cargo(&enter, "build", part.profile, part.crates)
            .args(kinds)
            .run(&log, step)?;
        for file in part.files {
            let built = target.join(part.profile).join(file);
            let name = built.file_name().context("a built file has a name")?;
            fs::copy(&built, dir.join(name))
                .with_context(|| format!("the build did not make {}", built.display()))?;
        }
    }
    xpmem::finish(context, &source, dir, &log, step)?;
    for (folder, program) in MPI_PROGRAMS {
        Enter::new(&root::tree(context))
            .bind_ro(&source, "/mnt/source")
            .bind(dir, "/mnt/out")
            .cmd("mpicc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(format!("/mnt/out/{program}"))
            .arg(format!("/mnt/source/{folder}/{program}.c"))
            .run(&log, step)?;
    }
    crate::cache::remove_tree(&source)
}

/// A call of the root's cargo.
pub(super) fn cargo(enter: &Enter, what: &str, profile: &str, crates: &[&str]) -> Cmd {
    enter
        .cmd("cargo")
        .args([what, "--profile", profile, "--locked", "--offline"])
        .args(["--target-dir", "/mnt/target"])
        .args(crates.iter().flat_map(|name| ["-p", name]))
}

/// The root with CMake, with the crates' sources, copied to `source`, and with what cargo kept of earlier builds.
pub(super) fn workshop(context: &Context, vendor: &Path, source: &Path) -> Result<Enter> {
    let repo = sources::repository();
    for folder in FOLDERS {
        sources::copy_tree(&repo.join(folder), &source.join(folder))?;
    }
    for file in FILES {
        fs::copy(repo.join(file), source.join(file))
            .with_context(|| format!("cannot copy {file}"))?;
    }
    for (member, file) in HOST_ONLY {
        let (from, to) = (repo.join(member), source.join(member));
        fs::create_dir_all(to.join("src")).context("cannot create a member's folder")?;
        fs::copy(from.join("Cargo.toml"), to.join("Cargo.toml"))
            .context("cannot copy a member's manifest")?;
        fs::write(to.join(file), "fn main() {}\n").context("cannot write a member's source")?;
    }
    let config = source.join(".cargo");
    fs::create_dir_all(&config).context("cannot create .cargo")?;
    fs::write(
        config.join("config.toml"),
        "[source.crates-io]\nreplace-with = \"vendored\"\n\n\
         [source.vendored]\ndirectory = \"/mnt/vendor/crates\"\n",
    )
    .context("cannot write cargo's configuration")?;
    // Kept from build to build: cargo finds out itself what has changed.
    let target = context.cache.path(TARGET);
    fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
    let enter = Enter::new(&root::tree(context))
        .bind_ro(source, "/mnt/source")
        .bind_ro(vendor, "/mnt/vendor")
        .bind(&target, "/mnt/target")
        .envs([("CARGO_HOME", "/tmp/cargo")])
        .dir("/mnt/source");
    Ok(cmake::within(context, enter))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cargo builds nothing in the root of a workspace that lacks a member.
    #[test]
    fn each_member_is_copied_or_stood_in_for() {
        let manifest = fs::read_to_string(sources::repository().join("Cargo.toml")).unwrap();
        let members = manifest.split_once("\nmembers = [").unwrap().1;
        let members = members.split_once(']').unwrap().0;
        let names = members.split('"').skip(1).step_by(2);
        let mut count = 0;
        for member in names {
            let copied = FOLDERS
                .iter()
                .any(|folder| Path::new(member).starts_with(folder));
            let stub = HOST_ONLY.iter().any(|(name, _)| *name == member);
            assert!(copied != stub, "{member}");
            count += 1;
        }
        assert!(count > 8, "{count} members");
    }

    #[test]
    fn cargo_says_where_tests_are() {
        let told = r#"{"reason":"compiler-artifact","target":{"name":"libc"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"name":"emm-check"},"profile":{"test":false},"executable":"/mnt/target/release/emm-check"}
{"reason":"compiler-artifact","target":{"name":"emm-check"},"profile":{"test":true},"executable":"/mnt/target/release/deps/emm_check-1f"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(told, "emm-check").as_deref(),
            Some("/mnt/target/release/deps/emm_check-1f")
        );
        assert_eq!(executable(told, "emm-bench"), None);
    }
}
