//! The guest: a stock kernel in QEMU, the root as its file system, rxe0 set up, and commands run in it. Two of them can be two hosts,
//! on a wire of their own.

mod accel;
mod ask;
mod boot;
mod both;
mod channels;
mod confined;
mod cpio;
mod each;
mod ending;
mod exchange;
mod files;
mod hosts;
mod initramfs;
mod modules;
mod newcomer;
mod options;
mod prepare;
mod qemu;
mod report;
mod scratch;
mod session;
mod terminal;
mod wire;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

pub use self::accel::Cpu;
pub use self::ask::script;
use self::ask::{SHIM, build_one, spec, wants_shim};
pub use self::boot::Spec;
pub use self::ending::End;
pub use self::hosts::{Hosts, Order};
pub use self::newcomer::meet;
pub use self::options::{Backend, Clock, GuestArgs, MrMode, RunArgs, Share, ShellArgs, Size};
pub use self::session::{Guest, Job};
pub use self::wire::Shape;
use crate::build::{self, BuildArgs};
use crate::context::Context;
use crate::exit;
use crate::ui;

/// `build`: a kernel that is new here is tried, too.
pub fn build(context: &Context, args: &BuildArgs) -> Result<ExitCode> {
    let artifacts = build::run(context, args)?;
    meet(context, &artifacts, args.kernel.kernel.is_some())?;
    Ok(ExitCode::SUCCESS)
}

/// `run`
pub fn run(context: &Context, args: &RunArgs) -> Result<ExitCode> {
    ask::check(&args.guest)?;
    if args.guest.hosts == 2 {
        return both::run(context, args);
    }
    let artifacts = build_one(context, &args.guest)?;
    let (mr, backend) = (*args.guest.mr.of(0), *args.guest.backend.of(0));
    let shim = wants_shim(context, &artifacts, mr);
    let mut guest = Guest::boot(context, &artifacts, &spec(&args.guest, 0, false))?;
    if let Some(note) = ask::other_backend(&guest.backend, backend) {
        context.ui.note(note);
    }
    let job = Job {
        script: script(&args.command, shim.then_some(backend)),
        stdin: !args.no_stdin && ask::has_input(),
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
    ask::check(&args.guest)?;
    if args.guest.hosts == 2 {
        return Err(exit::coded(
            exit::USAGE,
            "`shell` is one host's: use `run --hosts 2 -- COMMAND` for two",
        ));
    }
    if !std::io::stdin().is_terminal() {
        return Err(exit::coded(
            2,
            "`shell` needs a terminal: use `run -- COMMAND` in a script",
        ));
    }
    let artifacts = build_one(context, &args.guest)?;
    let shim = wants_shim(context, &artifacts, *args.guest.mr.of(0));
    let mut guest = Guest::boot(context, &artifacts, &spec(&args.guest, 0, true))?;
    let end = terminal::attach(&mut guest, shim.then_some(SHIM))?;
    Ok(leave(&guest, &end))
}

/// The tool's own status for how a command ended; the user is told what is not the command's doing.
fn leave(guest: &Guest, end: &End) -> ExitCode {
    let status = match end {
        End::Exited(status) => return (*status).into(),
        End::Report(_) => exit::KERNEL,
        End::Timeout(..) => exit::TIMEOUT,
        End::Gone(_) | End::WithTheOther | End::SwitchedOff => exit::SETUP,
        End::OutputClosed => return exit::PIPE.into(),
    };
    ui::tell(format_args!(
        "soft-roce-setup: error: {}",
        guest.describe(end)
    ));
    status.into()
}
