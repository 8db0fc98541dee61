//! What the program does to the directory that it is given as its cache.

#![expect(
    clippy::disallowed_methods,
    reason = "cargo starts this test, and what it starts ends by itself"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

/// Every subcommand, with the options that matter to the cache. Each is to end before it does anything.
const SUBCOMMANDS: [&[&str]; 17] = [
    &["doctor"],
    &["doctor", "--fix"],
    &["build"],
    &["build", "--refresh"],
    &["build", "--kernel", "debug"],
    &["run", "--", "true"],
    &["shell"],
    &["status"],
    &["status", "--json"],
    &["clean"],
    &["clean", "--kernels"],
    &["clean", "--keep-downloads"],
    &["demo"],
    &["test", "--json", "results.json", "tool::"],
    &["targets"],
    &["bench", "--quick"],
    &["bench", "compare", "a", "b"],
];

/// The program in `dir`, with an environment of nothing but what is given.
fn tool(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soft-roce-setup"));
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null());
    command
}

fn put(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Content, mode and time of change of all below a directory.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, i64, i64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let mut content = Vec::new();
        if meta.is_dir() {
            all.extend(tree(&path));
        } else if meta.is_file() {
            content = fs::read(&path).unwrap();
        }
        all.insert(
            path,
            (content, meta.mode(), meta.ctime(), meta.ctime_nsec()),
        );
    }
    all
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_strangers_directory_survives_every_subcommand() {
    let ground = tempfile::tempdir().unwrap();
    let project = ground.path().join("project");
    for file in [
        "vendor/crate/lib.rs",
        "target/x",
        "tmp/x",
        "root/x",
        "apt/x",
        "downloads/x",
        "modules/x",
    ] {
        put(&project, file, "mine");
    }
    put(&project, "lock", "mine");
    // Cargo's mark of its own folders is no mark of ours.
    put(
        &project,
        "CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55\n# cargo\n",
    );
    symlink(&project, ground.path().join("link")).unwrap();
    symlink("project/../link", ground.path().join("another")).unwrap();
    fs::create_dir(ground.path().join("xdg")).unwrap();
    symlink(&project, ground.path().join("xdg/ib-emm")).unwrap();
    fs::create_dir_all(ground.path().join("home/.cache")).unwrap();
    // Refused although it is empty, as a new cache's directory may be.
    fs::create_dir(ground.path().join("bare")).unwrap();
    symlink(&project, ground.path().join("home/.cache/ib-emm")).unwrap();
    let whole = project.display().to_string();
    let places = [
        "project",
        "./project/",
        "link",
        "another",
        whole.as_str(),
        "project/vendor/..",
    ];
    let before = tree(ground.path());
    let refused = |command: &mut Command, what: &str| {
        let output = command.output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        assert!(
            said.contains("is not taken as cache") && said.contains("--cache DIR"),
            "{what}: {said}"
        );
        assert!(tree(ground.path()) == before, "{what} changed something");
    };
    for args in SUBCOMMANDS {
        for place in places {
            let mut command = tool(ground.path());
            // An archive that nobody serves: should it not be refused, it gets no further.
            command.args(["--cache", place, "--mirror", "http://127.0.0.1:9/x"]);
            refused(command.args(args), &format!("{args:?} on {place}"));
        }
        let mut command = tool(ground.path());
        refused(
            command
                .args(args)
                .env("XDG_CACHE_HOME", ground.path().join("xdg")),
            "by XDG_CACHE_HOME",
        );
        let mut command = tool(ground.path());
        refused(
            command.args(args).env("HOME", ground.path().join("home")),
            "by HOME",
        );
    }
    for (place, home) in [("/", "/nowhere"), ("home", "home"), ("bare", "bare")] {
        let mut command = tool(ground.path());
        command
            .env("HOME", ground.path().join(home))
            .args(["--cache", place, "clean"]);
        refused(&mut command, place);
    }
}

#[test]
fn without_a_place_for_the_cache_nothing_begins() {
    let ground = tempfile::tempdir().unwrap();
    let output = tool(ground.path()).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("--cache DIR"));
}

#[test]
fn who_only_looks_makes_no_directories() {
    let ground = tempfile::tempdir().unwrap();
    for args in [
        &["doctor"][..],
        &["status"],
        &["status", "--json"],
        &["clean"],
        &["clean", "--kernels"],
    ] {
        let mut command = tool(ground.path());
        let command = command.args(["--cache", "new/cache", "--mirror", "http://127.0.0.1:9/x"]);
        let output = command.args(args).output().unwrap();
        assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "{}",
            said(&output)
        );
        assert_eq!(fs::read_dir(ground.path()).unwrap().count(), 0, "{args:?}");
    }
}

/// A run of the program that is ended if it takes too long.
struct Run(Child);

impl Run {
    fn of(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(piped.spawn().unwrap())
    }

    /// Its status, or nothing if it does not end by then.
    fn within(&mut self, limit: Duration) -> Option<i32> {
        let end = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty()).unwrap();
        let limit = Timespec::try_from(limit).unwrap();
        let ready = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&limit)).unwrap();
        (ready > 0).then(|| self.0.wait().unwrap().code()).flatten()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cache that a build made which got no further than to its archive.
fn begun(ground: &TempDir) -> PathBuf {
    let mut command = tool(ground.path());
    let command = command.args([
        "--cache",
        "cache",
        "--mirror",
        "http://127.0.0.1:9/x",
        "build",
    ]);
    let mut run = Run::of(command);
    assert!(matches!(run.within(Duration::from_secs(60)), Some(3 | 125)));
    let cache = ground.path().join("cache");
    let mark = fs::read_to_string(cache.join("CACHEDIR.TAG")).unwrap();
    assert!(mark.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
    assert!(mark.contains("soft-roce-setup"));
    cache
}

#[test]
fn a_refresh_ends() {
    let ground = tempfile::tempdir().unwrap();
    begun(&ground);
    let mut command = tool(ground.path());
    let command = command.args(["--cache", "cache", "--mirror", "http://127.0.0.1:9/x"]);
    let mut run = Run::of(command.args(["build", "--refresh"]));
    assert!(
        matches!(run.within(Duration::from_secs(60)), Some(3 | 125)),
        "it waits for itself"
    );
}

#[test]
fn clean_waits_for_who_uses_the_cache_and_removes_it_whole() {
    let ground = tempfile::tempdir().unwrap();
    let cache = begun(&ground);
    put(&cache, "forky/tree/x", "ours");
    put(ground.path(), "outside/x", "mine");
    symlink(ground.path().join("outside"), cache.join("kernels")).unwrap();
    // As a guest does.
    let guest = File::open(cache.join("CACHEDIR.TAG")).unwrap();
    rustix::fs::flock(&guest, rustix::fs::FlockOperation::LockShared).unwrap();
    let mut command = tool(ground.path());
    let command = command.args(["--cache", "cache", "clean"]);
    let mut run = Run(command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap());
    let mut said = BufReader::new(run.0.stderr.take().unwrap()).lines();
    let waits = |line: std::io::Result<String>| line.unwrap().contains("waiting");
    // Until then it has not decided; if it does not wait, its output ends.
    assert!(said.any(waits), "a guest runs");
    assert_eq!(run.within(Duration::ZERO), None, "a guest runs");
    assert!(cache.join("forky/tree/x").exists());
    drop(guest);
    assert_eq!(run.within(Duration::from_secs(60)), Some(0));
    assert!(!cache.exists());
    assert_eq!(fs::read(ground.path().join("outside/x")).unwrap(), b"mine");
}

#[test]
fn clean_crosses_no_mount() {
    let ground = tempfile::tempdir().unwrap();
    let cache = begun(&ground);
    put(ground.path(), "outside/x", "mine");
    put(&cache, "downloads/place", "ours");
    let own = if rustix::process::geteuid().is_root() {
        "--mount"
    } else {
        "--map-root-user"
    };
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args([own, "--mount", "sh", "-c"]);
        command
    };
    if !unshare()
        .arg("true")
        .output()
        .is_ok_and(|o| o.status.success())
    {
        println!("skipped: this host permits no mount namespaces");
        return;
    }
    let mut command = unshare();
    command
        .arg("mount --bind \"$1/outside\" \"$1/cache/downloads\" && exec \"$2\" --cache \"$1/cache\" clean")
        .arg("sh")
        .arg(ground.path())
        .arg(env!("CARGO_BIN_EXE_soft-roce-setup"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", said(&output));
    assert!(said(&output).contains("mounted at"), "{}", said(&output));
    assert_eq!(fs::read(ground.path().join("outside/x")).unwrap(), b"mine");
    assert!(cache.join("CACHEDIR.TAG").exists(), "it is still a cache");
}
