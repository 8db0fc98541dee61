// SPDX-License-Identifier: MIT OR Apache-2.0

//! `run`: sets the environment and becomes the program.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::ErrorKind,
    os::unix::{ffi::OsStrExt as _, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::ValueEnum as _;

use crate::{
    cli::{Mode, RunArgs, word},
    device, sigpipe,
};

const LIBRARY: &str = "libverbs_shim.so";

/// The preload library that lies beside this program, or in `../lib`.
pub fn library() -> Option<PathBuf> {
    let own = env::current_exe().ok()?;
    let folder = own.parent()?;
    let places = [folder.join(LIBRARY), folder.join("../lib").join(LIBRARY)];
    places.into_iter().find_map(|p| p.canonicalize().ok())
}

fn fail(status: u8, message: &str) -> ExitCode {
    eprintln!("verbs-shim: {message}");
    ExitCode::from(status)
}

/// Runs the program; returns if that was not possible.
pub fn run(args: &RunArgs) -> ExitCode {
    let found = match &args.shim {
        Some(path) => path.canonicalize().ok(),
        None => library(),
    };
    let Some(library) = found else {
        let place = match &args.shim {
            Some(path) => format!("{} was not found", path.display()),
            None => format!(
                "{LIBRARY} was not found beside this program or in ../lib; name it with --shim"
            ),
        };
        return fail(125, &place);
    };
    if !preloadable(&library) {
        let message = format!(
            "{} can't be preloaded: the loader takes a space or a colon for the end of a name; put it elsewhere, or name a copy with --shim",
            library.display()
        );
        return fail(125, &message);
    }
    if args.audit && !audits(&library) {
        let message = format!(
            "{} can't be used with --audit, which knows it by its name: call it {LIBRARY}",
            library.display()
        );
        return fail(125, &message);
    }
    if !args.quiet {
        announce(mode(args));
    }
    let mut command = Command::new(&args.program[0]);
    command.args(&args.program[1..]);
    command.envs(environment(args, &library, |name| env::var_os(name)));
    sigpipe::restore(&mut command);
    let error = command.exec();
    let status = if error.kind() == ErrorKind::NotFound {
        127
    } else {
        126
    };
    let program = args.program[0].to_string_lossy();
    fail(status, &format!("{program}: {error}"))
}

/// Whether the library knows itself by this name: see its `audit.rs`.
fn audits(library: &Path) -> bool {
    let name = library.file_name().unwrap_or_default();
    name.as_bytes().starts_with(b"libverbs_shim")
}

/// Whether the loader would find the library: `LD_PRELOAD` and `LD_AUDIT` are lists without quotes (ld.so(8)).
fn preloadable(library: &Path) -> bool {
    let name = library.as_os_str().as_bytes();
    !name.iter().any(|byte| matches!(byte, b' ' | b':'))
}

/// What the library will read: the option, else the variable, else the default.
fn mode(args: &RunArgs) -> Mode {
    let set = env::var("VERBS_SHIM").ok();
    args.mode
        .or_else(|| Mode::from_str(&set?, false).ok())
        .unwrap_or(Mode::Auto)
}

/// Says what the devices will do.
fn announce(mode: Mode) {
    let devices = device::all();
    for device in &devices {
        eprintln!("verbs-shim: {}: {}", device.name, device.outlook(mode));
    }
    if devices.is_empty() {
        eprintln!("verbs-shim: no RDMA device (/sys/class/infiniband is empty)");
    }
}

/// The variables to be set.
fn environment(
    args: &RunArgs,
    library: &Path,
    present: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, OsString)> {
    let with = |name: &'static str| (name, joined(library, present(name).as_deref()));
    let mut all = vec![with("LD_PRELOAD")];
    if args.audit {
        all.push(with("LD_AUDIT"));
    }
    let words = [
        ("VERBS_SHIM", args.mode.map(word)),
        ("VERBS_SHIM_MIN_BYTES", args.min_bytes.clone()),
        ("VERBS_SHIM_PREFETCH", args.prefetch.map(word)),
        ("VERBS_SHIM_LOG", args.log.map(word)),
        ("VERBS_SHIM_IMPLICIT", args.implicit.then(|| "1".to_owned())),
        ("VERBS_SHIM_STATS", args.stats.then(|| "1".to_owned())),
    ];
    all.extend(words.into_iter().filter_map(|(n, v)| Some((n, v?.into()))));
    if let Some(file) = &args.log_file {
        all.push(("VERBS_SHIM_LOG_FILE", file.into()));
    }
    all
}

/// The library, and behind it what the variable holds already.
fn joined(library: &Path, others: Option<&OsStr>) -> OsString {
    let mut all = library.as_os_str().to_owned();
    if let Some(others) = others.filter(|v| !v.is_empty()) {
        all.push(":");
        all.push(others);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as Sub};
    use clap::Parser;

    fn variables(options: &[&str]) -> Vec<(&'static str, OsString)> {
        let line = ["verbs-shim", "run"]
            .iter()
            .chain(options)
            .chain(&["--", "p"]);
        let Sub::Run(args) = Cli::parse_from(line).command else {
            panic!("`run` was given");
        };
        environment(&args, Path::new("/s.so"), |name| {
            (name == "LD_PRELOAD").then(|| "/other.so".into())
        })
    }

    #[test]
    fn names_that_the_loader_would_split_are_refused() {
        assert!(preloadable(Path::new("/usr/lib/libverbs_shim.so")));
        assert!(!preloadable(Path::new(
            "/home/me/my tools/libverbs_shim.so"
        )));
        assert!(!preloadable(Path::new("/opt/a:b/libverbs_shim.so")));
    }

    #[test]
    fn names_that_audit_does_not_know_are_refused() {
        assert!(audits(Path::new("/usr/lib/libverbs_shim.so.0.1.0")));
        assert!(!audits(Path::new("/tmp/shim.so")));
    }

    #[test]
    fn nothing_but_the_library_by_default() {
        assert_eq!(variables(&[]), [("LD_PRELOAD", "/s.so:/other.so".into())]);
    }

    #[test]
    fn each_option_has_its_variable() {
        let options = [
            "--mode=force",
            "--min-bytes=64K",
            "--prefetch=sync",
            "--log=debug",
            "--implicit",
            "--stats",
            "--log-file=/tmp/%d",
            "--audit",
        ];
        assert_eq!(
            variables(&options),
            [
                ("LD_PRELOAD", "/s.so:/other.so".into()),
                ("LD_AUDIT", "/s.so".into()),
                ("VERBS_SHIM", "force".into()),
                ("VERBS_SHIM_MIN_BYTES", "64K".into()),
                ("VERBS_SHIM_PREFETCH", "sync".into()),
                ("VERBS_SHIM_LOG", "debug".into()),
                ("VERBS_SHIM_IMPLICIT", "1".into()),
                ("VERBS_SHIM_STATS", "1".into()),
                ("VERBS_SHIM_LOG_FILE", "/tmp/%d".into()),
            ]
            .map(|(n, v): (_, OsString)| (n, v))
        );
    }
}
