// SPDX-License-Identifier: MIT OR Apache-2.0

//! `run`: sets the environment and becomes the program.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt as _, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::ValueEnum as _;

use crate::{
    cli::{Mode, RunArgs, word},
    device, say, sigpipe,
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
    say::error(message);
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
    let present = |name: &str| env::var_os(name);
    if let Some(other) = another(&library, present, fs::read(PRELOADS).ok()) {
        let message = format!(
            "{other} is to be preloaded already, and two of them would do the same twice: take it out, or name it with --shim"
        );
        return fail(125, &message);
    }
    let log_file = match args.log_file.as_deref().map(absolute).transpose() {
        Ok(file) => file,
        Err(error) => return fail(125, &format!("--log-file: {error}")),
    };
    if !args.quiet {
        announce(mode(args));
        let prefetched = args.prefetch.is_some() || present("VERBS_SHIM_PREFETCH").is_some();
        if let Some(advice) = monitor(present("FI_MR_CACHE_MONITOR").as_deref(), prefetched) {
            say::error(advice);
        }
    }
    let mut command = Command::new(&args.program[0]);
    command.args(&args.program[1..]);
    command.envs(environment(args, &library, log_file, present));
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

/// What to do where libfabric is told to watch memory by a userfaultfd, unless pages are `prefetched`. It registers first and watches
/// then, and answers no fault: what was never touched stays out of reach for good.
pub fn monitor(set: Option<&OsStr>, prefetched: bool) -> Option<&'static str> {
    (!prefetched && set? == "userfaultfd").then_some(
        "FI_MR_CACHE_MONITOR=userfaultfd leaves faults unanswered: traffic to pages that were never touched fails; \
         take --prefetch sync, or FI_MR_CACHE_MONITOR=memhooks",
    )
}

/// Says what the devices will do.
fn announce(mode: Mode) {
    let devices = device::all();
    for device in &devices {
        say::error(&format!("{}: {}", device.name, device.outlook(mode)));
    }
    if devices.is_empty() {
        say::error("no RDMA device (/sys/class/infiniband is empty)");
    }
}

/// The variables to be set.
fn environment(
    args: &RunArgs,
    library: &Path,
    log_file: Option<PathBuf>,
    present: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, OsString)> {
    let with = |name: &'static str| (name, joined(library, present(name).as_deref()));
    let mut all = vec![with("LD_PRELOAD")];
    if args.audit {
        all.push(with("LD_AUDIT"));
        all.extend(tunables(present("GLIBC_TUNABLES").as_deref()));
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
    if let Some(file) = log_file {
        all.push(("VERBS_SHIM_LOG_FILE", file.into()));
    }
    all
}

/// Room for libraries that want memory of each thread at a fixed place, of which an audit leaves too little for some that are preloaded
/// (jemalloc: "cannot allocate memory in static TLS block"). Nothing if the variable says how much there is to be.
fn tunables(set: Option<&OsStr>) -> Option<(&'static str, OsString)> {
    /// In bytes. glibc's own is 512; releases before 2.33 have no such setting, and don't mind.
    const ROOM: &str = "glibc.rtld.optional_static_tls";
    let mut all = set.unwrap_or_default().to_owned();
    let text = all.to_string_lossy();
    if text
        .split(':')
        .any(|one| one.split('=').next() == Some(ROOM))
    {
        return None;
    }
    if !all.is_empty() {
        all.push(":");
    }
    all.push(format!("{ROOM}=4096"));
    Some(("GLIBC_TUNABLES", all))
}

/// The library, and behind it what else the variable holds already.
fn joined(library: &Path, others: Option<&OsStr>) -> OsString {
    let mut all = library.as_os_str().to_owned();
    let others = others.map(names).unwrap_or_default();
    for other in others {
        if other.canonicalize().ok().as_deref() != Some(library) {
            all.push(":");
            all.push(other);
        }
    }
    all
}

/// What a list of the loader's holds: its names end with spaces or colons.
fn names(list: &OsStr) -> Vec<PathBuf> {
    let names = list.as_bytes().split(|b| matches!(b, b' ' | b':'));
    names
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(OsStr::from_bytes(name)))
        .collect()
}

/// The loader's own list, which is for all programs.
const PRELOADS: &str = "/etc/ld.so.preload";

/// Another preload library of ours that the program would get: in the variables, or in the text of [`PRELOADS`].
fn another(
    library: &Path,
    present: impl Fn(&str) -> Option<OsString>,
    preloads: Option<Vec<u8>>,
) -> Option<String> {
    let ours = |name: &Path| {
        let whole = name.canonicalize().ok();
        let named = [Some(name), whole.as_deref()];
        named.into_iter().flatten().any(audits) && whole.as_deref() != Some(library)
    };
    let found = |list: &OsStr| names(list).into_iter().find(|name| ours(name));
    let variables = ["LD_PRELOAD", "LD_AUDIT"].into_iter().find_map(|variable| {
        let name = found(&present(variable)?)?;
        Some(format!("{} (of {variable})", name.display()))
    });
    variables.or_else(|| {
        let text: Vec<u8> = preloads?
            .iter()
            .map(|b| if b.is_ascii_whitespace() { b' ' } else { *b })
            .collect();
        let name = found(OsStr::from_bytes(&text))?;
        Some(format!("{} (of {PRELOADS})", name.display()))
    })
}

/// The longest path that the library takes: see its `settings.rs`.
const LONGEST: usize = 1013;

/// The path as it is now: the program may change its directory.
///
/// # Errors
///
/// The working directory is gone, or the path is longer than the library takes.
fn absolute(file: &Path) -> io::Result<PathBuf> {
    let file = std::path::absolute(file)?;
    let length = file.as_os_str().len();
    if length > LONGEST {
        let message = format!("a path of {length} bytes; the library takes {LONGEST} at most");
        return Err(io::Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(file)
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
        let log_file = args.log_file.clone();
        environment(&args, Path::new("/s.so"), log_file, |name| {
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

    /// Two files of the library's name, and a link to the first.
    fn libraries(test: &str) -> [PathBuf; 3] {
        let folder = env::temp_dir().join(format!("verbs-shim-{test}-{}", std::process::id()));
        let [one, two] = ["one", "two"].map(|name| folder.join(name));
        for folder in [&one, &two] {
            fs::create_dir_all(folder).expect("a folder can be made");
            fs::write(folder.join(LIBRARY), "").expect("a file can be written");
        }
        let link = folder.join("link.so");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(one.join(LIBRARY), &link).expect("a link can be made");
        let whole = |path: PathBuf| path.canonicalize().expect("it is there");
        [whole(one.join(LIBRARY)), whole(two.join(LIBRARY)), link]
    }

    #[test]
    fn a_second_library_of_ours_is_refused() {
        let [one, two, link] = libraries("second");
        let list = |name: &Path| {
            let mut list = OsString::from("/other.so ");
            list.push(name);
            Some(list)
        };
        for variable in ["LD_PRELOAD", "LD_AUDIT"] {
            let set = |name: &Path| {
                let list = list(name);
                another(&one, |v| list.clone().filter(|_| v == variable), None)
            };
            assert_eq!(set(&one), None, "the same");
            assert_eq!(set(&link), None, "the same by another name");
            let said = set(&two).expect("another");
            assert_eq!(said, format!("{} (of {variable})", two.display()));
            assert!(set(Path::new(LIBRARY)).is_some(), "wherever it is found");
            assert!(set(Path::new("/opt/libverbs_shim.so.0.0.9")).is_some());
        }
        let text = format!("/other.so\n{}\n", two.display());
        let said = another(&one, |_| None, Some(text.into()));
        assert!(said.is_some_and(|said| said.ends_with("(of /etc/ld.so.preload)")));
        // The other way round the link is the other one.
        assert!(another(&two, |v| list(&link).filter(|_| v == "LD_AUDIT"), None).is_some());
    }

    #[test]
    fn the_same_library_is_named_once() {
        let [one, _, link] = libraries("same");
        let mut others = one.clone().into_os_string();
        others.push(":/other.so ");
        others.push(link);
        let mut wanted = one.clone().into_os_string();
        wanted.push(":/other.so");
        assert_eq!(joined(&one, Some(&others)), wanted);
    }

    #[test]
    fn log_files_are_where_they_were_named() {
        let here = env::current_dir().expect("there is one");
        assert_eq!(absolute(Path::new("a.%d")).ok(), Some(here.join("a.%d")));
        assert_eq!(absolute(Path::new("/a")).ok(), Some("/a".into()));
        let long = format!("/{}", "a".repeat(LONGEST));
        assert!(absolute(Path::new(&long)).is_err());
        assert!(absolute(Path::new(&long[..LONGEST])).is_ok());
    }

    #[test]
    fn nothing_but_the_library_by_default() {
        assert_eq!(variables(&[]), [("LD_PRELOAD", "/s.so:/other.so".into())]);
    }

    #[test]
    fn who_watches_by_userfaultfd_is_told_what_to_do() {
        let told = |set: &str, prefetched| monitor(Some(set.as_ref()), prefetched).is_some();
        assert!(told("userfaultfd", false));
        assert!(!told("userfaultfd", true) && !told("memhooks", false));
        assert!(monitor(None, false).is_none());
    }

    #[test]
    fn what_the_user_tunes_stays() {
        let tuned = |set: &str| tunables(Some(set.as_ref())).map(|(_, value)| value);
        let own = "glibc.malloc.check=1:glibc.rtld.optional_static_tls=1024";
        assert_eq!(tuned(own), None);
        let more = tuned("glibc.malloc.check=1");
        let wanted = "glibc.malloc.check=1:glibc.rtld.optional_static_tls=4096";
        assert_eq!(more, Some(wanted.into()));
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
                (
                    "GLIBC_TUNABLES",
                    "glibc.rtld.optional_static_tls=4096".into()
                ),
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
