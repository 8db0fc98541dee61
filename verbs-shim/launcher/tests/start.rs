// SPDX-License-Identifier: MIT OR Apache-2.0

//! The program as a user starts it.

use std::{
    env, fs,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
};

fn launcher() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verbs-shim"));
    command.env_remove("LD_PRELOAD").env_remove("LD_AUDIT");
    command
}

/// A place to write to whose reader has gone.
fn gone() -> Stdio {
    let (writer, reader) = UnixStream::pair().expect("two ends");
    drop(reader);
    Stdio::from(OwnedFd::from(writer))
}

/// An empty library that has the name of ours, in a folder of the test's.
fn library(folder: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fs::create_dir_all(&folder).expect("a folder can be made");
    let library = folder.join("libverbs_shim.so");
    let made = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-shared", "-x", "c", "/dev/null", "-o"])
        .arg(&library)
        .status();
    assert!(made.expect("cc is there").success());
    library
}

#[test]
fn a_reader_that_went_is_met_quietly() {
    let output = launcher().arg("check").stdout(gone()).output();
    let output = output.expect("it can be started");
    assert_eq!(output.status.code(), Some(141), "{:?}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_program_starts_though_nobody_hears_of_it() {
    let output = launcher()
        .args(["run", "--shim"])
        .arg(library("heard"))
        .args(["--", "sh", "-c", "echo started"])
        .stderr(gone())
        .output()
        .expect("it can be started");
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "started\n");
}

#[test]
fn a_relative_log_file_is_one_of_this_folder() {
    let output = launcher()
        .args(["run", "-q", "--log-file", "a.log", "--shim"])
        .arg(library("relative"))
        .args(["--", "sh", "-c", "cd / && echo $VERBS_SHIM_LOG_FILE"])
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output()
        .expect("it can be started");
    let wanted = format!("{}/a.log\n", env!("CARGO_TARGET_TMPDIR"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted);
}

#[test]
fn a_second_library_of_ours_is_refused() {
    let output = launcher()
        .args(["run", "-q", "--shim"])
        .arg(library("first"))
        .args(["--", "echo", "started"])
        .env("LD_PRELOAD", library("second"))
        .output()
        .expect("it can be started");
    assert_eq!(output.status.code(), Some(125), "{:?}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("(of LD_PRELOAD) is to be preloaded already"),
        "{said}"
    );
}
