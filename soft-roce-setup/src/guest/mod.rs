//! The guest: a stock kernel in QEMU, the root as its file system, rxe0 set up, and commands run in it.

mod accel;
mod boot;
mod channels;
mod confined;
mod cpio;
mod ending;
mod files;
mod initramfs;
mod modules;
mod options;
mod prepare;
mod qemu;
mod report;
mod scratch;
mod session;
mod terminal;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use rustix::fs::FileType;

pub use self::accel::Cpu;
pub use self::boot::Spec;
pub use self::ending::End;
pub use self::options::{Backend, Clock, GuestArgs, MrMode, RunArgs, Share, ShellArgs, Size};
pub use self::session::{Guest, Job};
use crate::artifacts::Artifacts;
use crate::build::modules::Variant;
use crate::build::{self, BuildOptions, packages};
use crate::context::Context;
use crate::exit;
use crate::proc::quote;
use crate::ui;

/// The guest's path of the shim.
const SHIM: &str = "/emm/lib/libverbs_shim.so";
/// CPUs of a guest whose clock is the wall's.
const CPUS: u32 = 2;

/// `run`
pub fn run(context: &Context, args: &RunArgs) -> Result<ExitCode> {
    let spec = spec(&args.guest, false)?;
    let artifacts = build_for(context, &args.guest)?;
    let shim = wants_shim(context, &artifacts, args.guest.mr);
    let mut guest = Guest::boot(context, &artifacts, &spec)?;
    if guest.backend != args.guest.backend.as_str() {
        context.ui.note(format!(
            "this rdma_rxe is without ib_emm: what serves on-demand regions is {}",
            guest.backend
        ));
    }
    let job = Job {
        script: script(&args.command, shim.then_some(args.guest.backend)),
        stdin: !args.no_stdin && has_input(),
        silence: Duration::from_secs(args.timeout),
        limit: None,
    };
    let end = guest.run(
        &job,
        Box::new(std::io::stdout()),
        Box::new(std::io::stderr()),
    )?;
    Ok(leave(&guest, &end))
}

/// `shell`
pub fn shell(context: &Context, args: &ShellArgs) -> Result<ExitCode> {
    if !std::io::stdin().is_terminal() {
        return Err(exit::coded(
            2,
            "`shell` needs a terminal: use `run -- COMMAND` in a script",
        ));
    }
    let spec = spec(&args.guest, true)?;
    let artifacts = build_for(context, &args.guest)?;
    let shim = wants_shim(context, &artifacts, args.guest.mr);
    let mut guest = Guest::boot(context, &artifacts, &spec)?;
    let end = terminal::attach(&mut guest, shim.then_some(SHIM))?;
    Ok(leave(&guest, &end))
}

/// The tool's own status for how a command ended; the user is told what is not the command's doing.
fn leave(guest: &Guest, end: &End) -> ExitCode {
    let status = match end {
        End::Exited(status) => return (*status).into(),
        End::Report(_) => exit::KERNEL,
        End::Timeout(..) => exit::TIMEOUT,
        End::Gone(_) => exit::SETUP,
        End::OutputClosed => return exit::PIPE.into(),
    };
    ui::tell(format_args!(
        "soft-roce-setup: error: {}",
        guest.describe(end)
    ));
    status.into()
}

fn build_for(context: &Context, args: &GuestArgs) -> Result<Artifacts> {
    let options = BuildOptions {
        kernel: args.kernel.kernel.clone(),
        modules: Variant::of(args.rxe.rxe),
        ..BuildOptions::default()
    };
    loop {
        let mut artifacts = build::ensure(context, &options)?;
        if args.packages.is_empty() {
            return Ok(artifacts);
        }
        if let Some(tree) = packages::fresh(context, &args.packages) {
            artifacts.root = tree;
            return Ok(artifacts);
        }
        // What is being used keeps the cache locked.
        drop(artifacts);
        packages::ensure(context, &args.packages)?;
    }
}

/// The guest that the options of `run` and `shell` ask for.
fn spec(args: &GuestArgs, terminal: bool) -> Result<Spec> {
    Ok(Spec {
        backend: args.backend,
        clock: args.clock,
        cpu: Cpu::Max,
        smp: match (args.clock, args.smp) {
            (Clock::Icount, Some(smp)) if smp > 1 => {
                return Err(exit::coded(
                    exit::USAGE,
                    format!(
                        "--smp {smp}: a guest whose clock counts instructions has one CPU\n  what to do: leave out --smp, or take --clock wall"
                    ),
                ));
            }
            (Clock::Icount, _) => 1,
            (Clock::Wall, smp) => smp.unwrap_or(CPUS),
        },
        nodes: args.nodes,
        mem: args.mem,
        shares: args.share.clone(),
        disk: args.disk,
        append: args.append.clone(),
        terminal,
    })
}

/// Whether commands get the shim: if asked for, and if it was built.
fn wants_shim(context: &Context, artifacts: &Artifacts, mr: MrMode) -> bool {
    if mr == MrMode::Pinned {
        return false;
    }
    let built = artifacts.userland.join("libverbs_shim.so").exists();
    if !built {
        context.ui.note(format!(
            "no libverbs_shim.so in {}: memory regions are as the program asks",
            artifacts.userland.display()
        ));
    }
    built
}

/// The script that runs `command`: one word is a line for the shell, several are a program and its
/// arguments.
///
/// With the shim, the in-tree backend is forced: whoever asks for it knows that it corrupts data.
pub fn script(command: &[String], shim: Option<Backend>) -> String {
    let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
    let what = match words.as_slice() {
        [line] => format!("/bin/sh -c {line}"),
        _ => words.join(" "),
    };
    let preload = match shim {
        None => String::new(),
        Some(Backend::Emm) => format!("export LD_PRELOAD={SHIM}\n"),
        Some(Backend::Odp) => format!("export LD_PRELOAD={SHIM} VERBS_SHIM=force\n"),
    };
    format!("cd /root\n{preload}exec {what}\n")
}

/// Whether something is given to the tool to read: a pipe or a file, not a terminal.
fn has_input() -> bool {
    rustix::fs::fstat(std::io::stdin()).is_ok_and(|stat| {
        matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::Fifo | FileType::RegularFile | FileType::Socket
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn one_word_is_a_line_and_several_are_arguments() {
        assert_eq!(
            script(&words(&["a & b 'c'"]), None),
            "cd /root\nexec /bin/sh -c \"a & b 'c'\"\n"
        );
        assert_eq!(
            script(&words(&["ib_write_bw", "-d", "rxe 0"]), Some(Backend::Emm)),
            "cd /root\nexport LD_PRELOAD=/emm/lib/libverbs_shim.so\nexec ib_write_bw -d 'rxe 0'\n"
        );
    }
}
