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
    /// The same as a library that needs a libibverbs of another name, and what opens it for itself: a Python wheel.
    pub wheel: [PathBuf; 2],
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
const CLIENT: [&str; 3] = ["client.c", "around.c", "crowd.c"];

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

fn build() -> Built {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).expect("the folder for tests can be made");
    let fake = folder.join("libibverbs.so.1");
    let version_script = "-Wl,--version-script=fake.map";
    let soname = "-Wl,-soname,libibverbs.so.1";
    cc(
        &["fake.c"],
        &fake,
        &["-shared", "-fPIC", soname, version_script],
    );
    let client = folder.join("client");
    let fake = fake.to_str().expect("the folder's name is text");
    let mlx5 = folder.join("libmlx5.so.1");
    let soname_mlx5 = "-Wl,-soname,libmlx5.so.1";
    cc(&["mlx5.c"], &mlx5, &["-shared", "-fPIC", soname_mlx5, fake]);
    let mlx5 = mlx5.to_str().expect("the folder's name is text");
    cc(&CLIENT, &client, &[fake, mlx5, "-pthread"]);
    let (wrap, older) = (
        folder.join("libwrap.so"),
        folder.join("libverbs_shim_older.so"),
    );
    cc(&["wrap.c"], &wrap, &["-shared", "-fPIC"]);
    cc(&["wrap.c"], &older, &["-shared", "-fPIC", "-DPADDING"]);
    let hashed = folder.join("libibverbs-1de1263b.so.1.14");
    let soname = "-Wl,-soname,libibverbs-1de1263b.so.1.14";
    let shared = ["-shared", "-fPIC", soname, version_script];
    cc(&["fake.c"], &hashed, &shared);
    let (wheel, opener) = (folder.join("wheel.so"), folder.join("opener"));
    let hashed = hashed.to_str().expect("the folder's name is text");
    let hashed_mlx5 = folder.join("libmlx5-2e2d3c7e.so.1.25");
    let soname = "-Wl,-soname,libmlx5-2e2d3c7e.so.1.25";
    cc(
        &["mlx5.c"],
        &hashed_mlx5,
        &["-shared", "-fPIC", soname, hashed],
    );
    let hashed_mlx5 = hashed_mlx5.to_str().expect("the folder's name is text");
    cc(
        &CLIENT,
        &wheel,
        &["-shared", "-fPIC", hashed, hashed_mlx5, "-pthread"],
    );
    cc(&["opener.c"], &opener, &["-ldl"]);
    Built {
        shim: shim(&folder),
        client,
        wheel: [opener, wheel],
        wrap,
        older,
        folder,
    }
}
