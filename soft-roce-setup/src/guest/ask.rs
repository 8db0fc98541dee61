//! What is to be built, and which guests to boot, for the options of `run` and `shell`.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustix::fs::FileType;

use super::accel::Cpu;
use super::boot::Spec;
use super::newcomer::meet;
use super::options::{Backend, Clock, GuestArgs, MrMode};
use crate::artifacts::Artifacts;
use crate::build::modules::Variant;
use crate::build::{self, BuildOptions, packages};
use crate::context::Context;
use crate::exit;
use crate::proc::quote;

/// The guest's path of the shim.
pub const SHIM: &str = "/emm/lib/libverbs_shim.so";
/// CPUs of a guest whose clock is the wall's.
const CPUS: u32 = 2;

/// Refuses what does not go together.
///
/// # Errors
/// [`exit::USAGE`], with what to do.
pub fn check(args: &GuestArgs) -> Result<()> {
    let wrong = |what: String, todo: &str| {
        let message = format!("{what}\n  what to do: {todo}");
        Err(exit::coded(exit::USAGE, message))
    };
    if args.clock == Clock::Icount && args.smp.is_some_and(|smp| smp > 1) {
        let smp = args.smp.unwrap_or_default();
        return wrong(
            format!("--smp {smp}: a guest whose clock counts instructions has one CPU"),
            "leave out --smp, or take --clock wall",
        );
    }
    if args.hosts > 1 {
        if args.clock == Clock::Icount {
            return wrong(
                "--clock icount: each of two hosts would count its own instructions, and they would have no common time".to_owned(),
                "leave out --clock, or --hosts",
            );
        }
        return Ok(());
    }
    let pairs = [
        (
            "--kernel",
            args.kernel.as_ref().is_some_and(|k| k.is_pair()),
        ),
        ("--rxe", args.rxe.is_pair()),
        ("--backend", args.backend.is_pair()),
        ("--mr", args.mr.is_pair()),
    ];
    if let Some((name, _)) = pairs.iter().find(|(_, is_pair)| *is_pair) {
        return wrong(
            format!("{name}: a pair of values is for two hosts"),
            "give one value, or --hosts 2",
        );
    }
    if args.wire.is_some() {
        return wrong(
            "--wire: there is a wire between two hosts only".to_owned(),
            "add --hosts 2, or leave out --wire",
        );
    }
    Ok(())
}

/// What each of the guests is made of, built if it is not there.
pub fn build_for(context: &Context, args: &GuestArgs) -> Result<Vec<Arc<Artifacts>>> {
    let hosts = usize::from(args.hosts);
    let options = (0..hosts).map(|host| BuildOptions {
        kernel: args.kernel.as_ref().map(|kernel| kernel.of(host).clone()),
        modules: Variant::of(*args.rxe.of(host)),
        ..BuildOptions::default()
    });
    let mut options: Vec<BuildOptions> = options.collect();
    options.dedup();
    let all = loop {
        let mut all = build::ensure_each(context, &options)?;
        if !args.packages.is_empty() {
            let Some(tree) = packages::fresh(context, &args.packages) else {
                // What is being used keeps the cache locked.
                drop(all);
                packages::ensure(context, &args.packages)?;
                continue;
            };
            for artifacts in &mut all {
                artifacts.root.clone_from(&tree);
            }
        }
        break all;
    };
    for (artifacts, options) in all.iter().zip(&options) {
        meet(context, artifacts, options.kernel.is_some())?;
    }
    let all: Vec<Arc<Artifacts>> = all.into_iter().map(Arc::new).collect();
    Ok(all.iter().cycle().take(hosts).cloned().collect())
}

/// What the only guest is made of.
pub fn build_one(context: &Context, args: &GuestArgs) -> Result<Arc<Artifacts>> {
    let one = build_for(context, args)?.into_iter().next();
    one.context("nothing was built")
}

/// The guest `host`, from 0.
pub fn spec(args: &GuestArgs, host: usize, terminal: bool) -> Spec {
    Spec {
        backend: *args.backend.of(host),
        clock: args.clock,
        cpu: Cpu::Max,
        smp: match args.clock {
            Clock::Icount => 1,
            Clock::Wall => args.smp.unwrap_or(CPUS),
        },
        nodes: args.nodes,
        mem: args.mem,
        shares: args.share.clone(),
        disk: args.disk,
        append: args.append.clone(),
        terminal,
    }
}

/// What the user is told if a guest's driver serves on-demand regions by other means than it was to.
pub fn other_backend(found: &str, wanted: Backend) -> Option<String> {
    (found != wanted.as_str()).then(|| {
        format!("this rdma_rxe is without ib_emm: what serves on-demand regions is {found}")
    })
}

/// Whether something is given to the tool to read: a pipe or a file, not a terminal.
pub fn has_input() -> bool {
    rustix::fs::fstat(std::io::stdin()).is_ok_and(|stat| {
        matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::Fifo | FileType::RegularFile | FileType::Socket
        )
    })
}

/// Whether commands get the shim: if asked for, and if it was built.
pub fn wants_shim(context: &Context, artifacts: &Artifacts, mr: MrMode) -> bool {
    if mr == MrMode::Pinned {
        return false;
    }
    let built = artifacts.userland.join("libverbs_shim.so").exists();
    if !built {
        context.ui.note_once(format!(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::rxe::Rxe;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        guest: GuestArgs,
    }

    fn args(words: &str) -> Result<GuestArgs, String> {
        let words = ["x"].into_iter().chain(words.split_whitespace());
        let line = <Line as clap::Parser>::try_parse_from(words);
        line.map(|line| line.guest).map_err(|e| e.to_string())
    }

    #[test]
    fn two_hosts_may_differ() {
        let args = args(
            "--hosts 2 --kernel 7.3,7.2 --mr unpinned,pinned --backend emm,odp --rxe ours,stock",
        )
        .unwrap();
        check(&args).unwrap();
        let kernel = args.kernel.as_ref().unwrap();
        assert_eq!(
            (kernel.of(0).as_str(), kernel.of(1).as_str()),
            ("7.3", "7.2")
        );
        assert_eq!(
            (args.mr.of(0), args.mr.of(1)),
            (&MrMode::Unpinned, &MrMode::Pinned)
        );
        assert_eq!((args.rxe.of(0), args.rxe.of(1)), (&Rxe::Emm, &Rxe::Stock));
        assert_eq!(spec(&args, 1, false).backend, Backend::Odp);
        assert_eq!(spec(&args, 0, false).backend, Backend::Emm);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (words, part) in [
            ("--hosts 3", "there can be 1 or 2"),
            ("--hosts two", "there can be 1 or 2"),
            ("--hosts 2 --mr unpinned,pinned,pinned", "3 values"),
            ("--hosts 2 --kernel 7.3,7.2,7.3", "3 values"),
            ("--hosts 2 --kernel 7.3,", "a value is missing"),
            ("--hosts 2 --backend emm,none", "none"),
            ("--hosts 2 --wire loss=200%", "0% to 50%"),
            ("--hosts 2 --clock icount", "no common time"),
            ("--kernel 7.3,7.2", "--kernel: a pair"),
            ("--mr unpinned,pinned", "--mr: a pair"),
            ("--backend emm,odp", "--backend: a pair"),
            ("--rxe ours,stock", "--rxe: a pair"),
            ("--wire loss=1%", "two hosts only"),
            ("--clock icount --smp 2", "--smp 2"),
        ] {
            let error = match args(words) {
                Err(error) => error,
                Ok(args) => {
                    let error = check(&args).unwrap_err();
                    assert_eq!(exit::code_of(&error), exit::USAGE);
                    error.to_string()
                }
            };
            assert!(error.contains(part), "{words}: {error}");
        }
        check(&args("").unwrap()).unwrap();
        check(&args("--hosts 2 --wire loss=1%").unwrap()).unwrap();
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
