// SPDX-License-Identifier: MIT OR Apache-2.0

//! Builds the preload library, the fake and the client, once.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// What the tests run.
pub struct Built {
    /// The preload library.
    pub shim: PathBuf,
    /// The client.
    pub client: PathBuf,
    /// What opens libraries for themselves alone, as Python does.
    pub opener: PathBuf,
    /// The client as a library that needs a libibverbs of another name: a Python wheel.
    pub wheel: PathBuf,
    /// The same that needs the libibverbs of the usual name.
    pub plain: PathBuf,
    /// The same that needs an older libibverbs, whose name does not say what it is.
    pub odd: PathBuf,
    /// A preload library of somebody else's that wraps verbs.
    pub wrap: PathBuf,
    /// The same by another name: an older preload library of ours, laid out in another way.
    pub older: PathBuf,
    /// Where the fake is.
    pub folder: PathBuf,
}

/// Everything, built at the first use.
pub static BUILT: LazyLock<Built> = LazyLock::new(build);

fn run(command: &mut Command) {
    let output = command.output().expect("the command is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{said}");
}

/// Cargo builds no preload library for tests, since nothing links it.
fn shim(folder: &Path) -> PathBuf {
    let target = folder.join("shim");
    run(Command::new(env!("CARGO"))
        .args([
            "build",
            "--profile",
            "shim",
            "--offline",
            "--lib",
            "--target-dir",
        ])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR")));
    target.join("shim/libverbs_shim.so")
}

/// The client's files.
const CLIENT: [&str; 4] = ["client.c", "around.c", "crowd.c", "kinds.c"];

fn cc(source: &[&str], output: &Path, flags: &[&str]) {
    let cc = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boundary");
    run(Command::new(cc)
        .args(["-O2", "-Wall", "-Wextra", "-o"])
        .arg(output)
        .args(source)
        .args(flags)
        .current_dir(sources));
}

/// A libibverbs of this name and a provider of mlx5 that goes with it: their paths.
fn pair(folder: &Path, verbs: &str, mlx5: &str, flags: &[&str]) -> [String; 2] {
    let text = |path: PathBuf| path.to_str().expect("the folder's name is text").to_owned();
    let soname = |name: &str| format!("-Wl,-soname,{name}");
    let library = folder.join(verbs);
    let script = "-Wl,--version-script=fake.map";
    let shared = ["-shared", "-fPIC", &soname(verbs), script];
    cc(&["fake.c"], &library, &[&shared, flags].concat());
    let library = text(library);
    let provider = folder.join(mlx5);
    let shared = ["-shared", "-fPIC", &soname(mlx5), &library];
    cc(&["mlx5.c"], &provider, &shared);
    [library, text(provider)]
}

/// The client as a library that needs these, which are known to it as `verbs`.
fn module(folder: &Path, name: &str, verbs: &str, [library, mlx5]: &[String; 2]) -> PathBuf {
    let module = folder.join(name);
    let known = format!("-DLIBRARY=\"{verbs}\"");
    let flags = ["-shared", "-fPIC", &known, library, mlx5, "-pthread"];
    cc(&CLIENT, &module, &flags);
    module
}

fn build() -> Built {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).expect("the folder for tests can be made");
    let (system, wheels, odd) = (
        "libibverbs.so.1",
        "libibverbs-1de1263b.so.1.14",
        "libodd.so",
    );
    let client = folder.join("client");
    let fake = pair(&folder, system, "libmlx5.so.1", &["-DEX"]);
    cc(&CLIENT, &client, &[&fake[0], &fake[1], "-pthread"]);
    let (wrap, older) = (
        folder.join("libwrap.so"),
        folder.join("libverbs_shim_older.so"),
    );
    cc(&["wrap.c"], &wrap, &["-shared", "-fPIC"]);
    cc(&["wrap.c"], &older, &["-shared", "-fPIC", "-DPADDING"]);
    let hashed = pair(&folder, wheels, "libmlx5-2e2d3c7e.so.1.25", &["-DEX"]);
    let old = pair(&folder, odd, "libodd-mlx5.so", &[]);
    let opener = folder.join("opener");
    cc(&["opener.c"], &opener, &["-ldl"]);
    Built {
        shim: shim(&folder),
        client,
        opener,
        wheel: module(&folder, "wheel.so", wheels, &hashed),
        plain: module(&folder, "plain.so", system, &fake),
        odd: module(&folder, "odd.so", odd, &old),
        wrap,
        older,
        folder,
    }
}
