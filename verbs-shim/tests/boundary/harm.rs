// SPDX-License-Identifier: MIT OR Apache-2.0

//! That the library does no harm to the program: its descriptors, its signals, its files, its errors.

use crate::{
    build::BUILT,
    program::{ABLE, Said, shimmed, shimmed_in},
};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

const STATS: (&str, &str) = ("VERBS_SHIM_STATS", "1");
const DEBUG: (&str, &str) = ("VERBS_SHIM_LOG", "debug");

/// An empty folder of this name.
fn folder(name: &str) -> PathBuf {
    let folder = BUILT.folder.join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("the folder can be made");
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the folder's name is text")
}

/// One warning and the counts.
fn warned(start: &[&str]) -> Said {
    shimmed(&[STATS], &[start, &["reg:7:1", "reg:8:1"]].concat())
}

#[test]
fn a_reader_that_went_kills_nobody() {
    for start in ["start-closed-pipe", "start-closed-socket"] {
        warned(&[start]).has(&["length=7 lkey", "length=8 lkey"]);
        warned(&["start-old-kernel", start]).has(&["length=7 lkey", "length=8 lkey"]);
    }
}

#[test]
fn a_reader_that_does_not_read_stops_nobody() {
    for start in [
        &["start-full-pipe"][..],
        &["start-old-kernel", "start-full-pipe"],
    ] {
        warned(start).has(&["length=7 lkey", "length=8 lkey"]);
        // With room for a few lines, and threads that all see it.
        let nearly = [
            &start[..start.len() - 1],
            &["start-nearly-full-pipe", "threads"],
        ]
        .concat();
        shimmed(&[ABLE, DEBUG, ("FAKE_TRACE", "0")], &nearly).has(&["threads done"]);
    }
}

#[test]
fn a_file_of_the_programs_gets_no_lines() {
    let data = folder("data").join("file");
    shimmed(
        &[STATS, DEBUG, ("CLIENT_DATA", text(&data))],
        &["take-errors", "reg:7:1"],
    )
    .has(&["length=7 lkey"]);
    assert_eq!(fs::read_to_string(&data).expect("it is there"), "");
}

#[test]
fn a_log_file_is_where_it_was_named() {
    let folder = folder("relative");
    let file = ("VERBS_SHIM_LOG_FILE", "shim.log");
    shimmed_in(&folder, &[file, STATS], &["chdir", "reg:7:1"]).is_quiet();
    let said = fs::read_to_string(folder.join("shim.log")).expect("it is there");
    assert!(said.contains("memory stays pinned"), "{said}");
    assert!(said.contains("1 as the program asked"), "{said}");
}

#[test]
fn a_log_file_that_is_none_is_left_alone() {
    let folder = folder("odd");
    let (precious, link, pipe) = (
        folder.join("precious"),
        folder.join("link"),
        folder.join("pipe"),
    );
    fs::write(&precious, "precious").expect("it can be written");
    symlink(&precious, &link).expect("a link can be made");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo is there").success());
    for odd in [&link, &pipe, &folder] {
        let file = ("VERBS_SHIM_LOG_FILE", text(odd));
        let said = shimmed(&[file, STATS], &["reg:7:1"]);
        said.says(&[
            "VERBS_SHIM_LOG_FILE can't be opened",
            "memory stays pinned",
            "0 MRs on demand",
        ]);
    }
    assert_eq!(
        fs::read_to_string(&precious).expect("it is there"),
        "precious"
    );
}

#[test]
fn a_file_that_may_not_grow_kills_nobody() {
    let file = folder("limited").join("log");
    let file = ("VERBS_SHIM_LOG_FILE", text(&file));
    shimmed(&[file, STATS], &["no-file-growth", "reg:7:1"]).has(&["length=7 lkey"]);
}

#[test]
fn a_pending_error_of_the_linker_stays_pending() {
    shimmed(&[ABLE], &["dlerror"]).has(&["length=64 access=0x41", "dlerror: /there/is/none"]);
}

#[test]
fn the_whole_address_space_is_not_given_away() {
    for mode in ["auto", "force"] {
        for implicit in ["0", "1"] {
            let variables = [
                ABLE,
                ("VERBS_SHIM", mode),
                ("VERBS_SHIM_IMPLICIT", implicit),
            ];
            let said = shimmed(&variables, &["whole"]);
            let asked = said.count("register length=18446744073709551615 access=0x1 ");
            assert_eq!(asked, 4, "{}", said.out);
            let served = usize::from(implicit == "1");
            let made = said.count("register length=18446744073709551615 access=0x41");
            assert_eq!(made, served, "{}", said.out);
            assert_eq!(said.count("no region, errno=22"), 4, "{}", said.out);
            assert_eq!(said.count("length=18446744073709551615 access=0x41\n"), 0);
        }
    }
}

/// Nobody but rxe has the file that says what serves on-demand regions.
#[test]
fn other_devices_are_asked_once_and_no_file_is_read() {
    let said = shimmed(&[ABLE], &["no-open", "reg:1:1", "second", "reg:2:1"]);
    said.has(&["length=1 access=0x41", "length=2 access=0x41"]);
    assert_eq!(said.count("query_device_ex"), 1);
    let rxe = ("FAKE_VENDOR", "ffffff");
    let said = shimmed(&[ABLE, rxe], &["reg:1:1", "second", "reg:2:1"]);
    assert_eq!(said.count("query_device_ex"), 1, "its file has not changed");
}

#[test]
fn many_contexts_are_asked_once_each() {
    let said = shimmed(&[ABLE], &["contexts:100"]);
    assert_eq!(said.count("query_device_ex"), 100);
    assert_eq!(said.count("register length=64 access=0x41"), 300);
}
