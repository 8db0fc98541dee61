// SPDX-License-Identifier: MIT OR Apache-2.0

//! `verbs-shim run -- PROGRAM…` starts a program with `libverbs_shim.so` preloaded, and
//! `verbs-shim check` says what would happen and why.

use clap::{Parser, Subcommand, ValueEnum};
use std::{
    env, fs,
    io::ErrorKind,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const LIBRARY: &str = "libverbs_shim.so";

/// Runs unmodified ibverbs programs with memory regions that are not pinned.
#[derive(Debug, Parser)]
#[command(
    name = "verbs-shim",
    version,
    about,
    after_help = "Exit status of `run`: the program's; 125 if the library is missing, 126 if the \
                  program can't be executed, 127 if it was not found.\n\nVariables: VERBS_SHIM=auto|\
                  force|off, VERBS_SHIM_STATS=1 (one line at exit)."
)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Run a program with on-demand memory regions
    Run {
        /// What to do where a region can't be made on-demand
        #[arg(long, value_enum, default_value_t = Mode::Auto)]
        mode: Mode,
        /// The preload library [default: beside this program, or in ../lib]
        #[arg(long, value_name = "FILE")]
        shim: Option<PathBuf>,
        /// Say nothing about the devices found
        #[arg(short, long)]
        quiet: bool,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "PROGRAM")]
        program: Vec<String>,
    },
    /// Show devices, kernel module and limits, and what would happen
    Check,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Pin where on-demand is not possible, with one warning
    Auto,
    /// Fail where on-demand is not possible
    Force,
    /// Change nothing
    Off,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Cmd::Run {
            mode,
            shim,
            quiet,
            program,
        } => run(mode, shim, quiet, &program),
        Cmd::Check => check(),
    }
}

fn fail(status: u8, message: &str) -> ExitCode {
    eprintln!("verbs-shim: {message}");
    ExitCode::from(status)
}

fn find_library() -> Option<PathBuf> {
    let own = env::current_exe().ok()?;
    let folder = own.parent()?;
    let places = [folder.join(LIBRARY), folder.join("../lib").join(LIBRARY)];
    places.into_iter().find_map(|p| p.canonicalize().ok())
}

fn run(mode: Mode, shim: Option<PathBuf>, quiet: bool, program: &[String]) -> ExitCode {
    let library = match shim {
        Some(path) => path.canonicalize().ok(),
        None => find_library(),
    };
    let Some(library) = library else {
        return fail(
            125,
            &format!(
                "{LIBRARY} was not found beside this program or in ../lib; name it with --shim"
            ),
        );
    };
    if !quiet {
        for device in devices() {
            eprintln!("verbs-shim: {}: {}", device.name, device.outlook(mode));
        }
    }
    let mut preload = library.into_os_string();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|v| !v.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let mode = mode.to_possible_value().map(|v| v.get_name().to_owned());
    let error = Command::new(&program[0])
        .args(&program[1..])
        .env("LD_PRELOAD", preload)
        .env("VERBS_SHIM", mode.unwrap_or_default())
        .exec();
    let status = if error.kind() == ErrorKind::NotFound {
        127
    } else {
        126
    };
    fail(status, &format!("{}: {error}", program[0]))
}

struct Device {
    name: String,
    /// Of an rxe device: what `mr_backend` says, if the module has it.
    rxe: Option<Option<String>>,
}

impl Device {
    fn outlook(&self, mode: Mode) -> String {
        match (&self.rxe, mode) {
            (_, Mode::Off) => "unchanged (mode off)".into(),
            (None, _) => "on demand if the device can".into(),
            (Some(Some(b)), _) if b == "emm" => "on demand, by ib_emm".into(),
            (Some(_), Mode::Force) => "on demand, by in-tree rxe, which corrupts data".into(),
            (Some(_), Mode::Auto) => {
                "pinned: the on-demand paging of in-tree rxe corrupts data; load ib_emm and the \
                 rdma_rxe that uses it"
                    .into()
            }
        }
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|s| s.trim().to_owned())
}

fn devices() -> Vec<Device> {
    let folder = Path::new("/sys/class/infiniband");
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|entry| Device {
            name: entry.file_name().to_string_lossy().into_owned(),
            rxe: entry
                .path()
                .join("parent")
                .exists()
                .then(|| read("/sys/module/rdma_rxe/parameters/mr_backend")),
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn check() -> ExitCode {
    let devices = devices();
    for device in &devices {
        println!("device {}: {}", device.name, device.outlook(Mode::Auto));
    }
    if devices.is_empty() {
        println!("no RDMA device (/sys/class/infiniband is empty)");
    }
    let emm = Path::new("/sys/module/ib_emm").exists();
    println!("ib_emm: {}", if emm { "loaded" } else { "not loaded" });
    let limits = read("/proc/self/limits").unwrap_or_default();
    if let Some(line) = limits.lines().find(|l| l.starts_with("Max locked memory")) {
        println!("{line} (pinned memory counts against it, on-demand memory does not)");
    }
    match find_library() {
        Some(library) => println!("library: {}", library.display()),
        None => println!("library: {LIBRARY} not found"),
    }
    ExitCode::from(u8::from(devices.is_empty()))
}
