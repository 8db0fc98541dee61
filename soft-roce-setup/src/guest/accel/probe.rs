//! The probe boot: a kernel and an init that says one word, under KVM.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::super::confined::confined;
use super::super::initramfs;
use super::super::options::Clock;
use super::super::prepare::GuestKernel;
use super::super::scratch::scratch_file;
use super::kind::{Accel, Cpu};
use crate::artifacts::Artifacts;
use crate::enter::Enter;
use crate::proc::Running;
use crate::signal;

/// What a probe boot may take.
const LIMIT: Duration = Duration::from_secs(20);
/// What QEMU may take to end once its console is closed.
const END: Duration = Duration::from_secs(5);
/// What the probe's init says.
const WORD: &str = "kvm-probe-alive";
const INIT: &str = "#!/bin/busybox sh\n\
    /bin/busybox mount -t devtmpfs devtmpfs /dev\n\
    echo kvm-probe-alive > /dev/ttyS0\n\
    exec /bin/busybox poweroff -f\n";

/// How a probe boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The kernel came up.
    Alive,
    /// QEMU left without that.
    Gone(ExitStatus),
    /// Nothing happened for too long. The host may merely be busy.
    Late,
}

impl Ended {
    /// Whether it shows something of KVM, and not merely of what else went on.
    pub(super) fn is_telling(self) -> bool {
        match self {
            Self::Alive => true,
            Self::Gone(status) => killer(status).is_none(),
            Self::Late => false,
        }
    }

    /// What it means for the guest.
    pub(super) fn accel(self) -> Accel {
        let log = "logs/kvm-probe.log in the cache has QEMU's words";
        let reason = match self {
            Self::Alive => return Accel::Kvm,
            Self::Gone(status) => match killer(status) {
                None => format!("KVM is there, but a probe boot failed ({log})"),
                Some(signal) => format!(
                    "KVM is there, but its probe boot was ended from outside (signal {signal}); the next start tries again"
                ),
            },
            Self::Late => format!(
                "KVM is there, but a probe boot did not come up in {} s ({log}); the next start tries again",
                LIMIT.as_secs()
            ),
        };
        Accel::Tcg { reason }
    }
}

/// The signal of somebody else that ended it, as it comes through a shell too. QEMU's own end by a signal is SIGABRT or a
/// fault.
fn killer(status: ExitStatus) -> Option<i32> {
    let signal = status.signal().or_else(|| Some(status.code()? - 128))?;
    let outside = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP];
    outside
        .iter()
        .map(|signal| signal.as_raw())
        .find(|outside| *outside == signal)
}

/// Boots the probe; what QEMU says goes to `log`.
pub(super) fn boot(artifacts: &Artifacts, kernel: &GuestKernel, log: File) -> Result<Ended> {
    let initrd: OwnedFd = scratch_file(&initramfs::probe(kernel, INIT)?)?.into();
    let (host, guest) = UnixStream::pair().context("cannot make a socket")?;
    let again = log.try_clone().context("cannot duplicate a log's handle")?;
    let enter = Enter::new(&artifacts.root).bind_ro(&kernel.image, "/tmp/image");
    let mut cmd = confined(enter);
    // The tool's own copies go with the command: the console's end is QEMU's.
    let (initrd, console) = (cmd.pass(initrd), cmd.pass(guest.into()));
    let running = cmd
        .args([
            "-M",
            "pc",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(Accel::Kvm.args(Clock::Wall, Cpu::Max))
        .args(["-m", "512M", "-kernel", "/tmp/image", "-initrd"])
        .arg(format!("/proc/self/fd/{initrd}"))
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .args([
            "-chardev".to_owned(),
            format!("socket,id=console,fd={console}"),
            "-serial".to_owned(),
            "chardev:console".to_owned(),
        ])
        .spawn(Stdio::null(), log.into(), again.into())?;
    watch(running, host, LIMIT)
}

/// Waits for the word on `console`, for the end of QEMU, or for `limit`; QEMU is gone after that.
///
/// # Errors
/// The tool itself was interrupted: that ends QEMU too, and tells nothing.
fn watch(mut running: Running, console: UnixStream, limit: Duration) -> Result<Ended> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut console = console;
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = console.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
            if String::from_utf8_lossy(&seen).contains(WORD) {
                let _ = send.send(());
                return;
            }
        }
    });
    let begin = Instant::now();
    let ended = loop {
        signal::check()?;
        match receive.recv_timeout(Duration::from_millis(100)) {
            Ok(()) => break Ended::Alive,
            Err(RecvTimeoutError::Disconnected) => break leave(&mut running)?,
            Err(RecvTimeoutError::Timeout) if begin.elapsed() > limit => break Ended::Late,
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    running.kill();
    signal::check()?;
    Ok(ended)
}

/// The status of a QEMU that has closed its console.
fn leave(running: &mut Running) -> Result<Ended> {
    let status = running.wait_at_most(END)?;
    // A signal to the tool ends QEMU as well.
    signal::check()?;
    Ok(status.map_or(Ended::Late, Ended::Gone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::Cmd;

    /// A QEMU that does what `script` says, its standard output the console.
    fn probe(script: &str, limit: Duration) -> Ended {
        let (host, guest) = UnixStream::pair().unwrap();
        let guest: OwnedFd = guest.into();
        let running = Cmd::new("sh")
            .args(["-c", script])
            .spawn(Stdio::null(), guest.into(), Stdio::null())
            .unwrap();
        watch(running, host, limit).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_kernel_that_comes_up_is_one() {
        let ended = probe("echo booting; echo kvm-probe-alive; exec sleep 100", LONG);
        assert_eq!(ended, Ended::Alive);
        assert!(ended.is_telling());
        assert_eq!(ended.accel(), Accel::Kvm);
    }

    #[test]
    fn a_failure_is_kept_and_told_in_one_plain_line() {
        for script in ["exit 1", "kill -ABRT $$", "exit 0"] {
            let ended = probe(script, LONG);
            assert!(matches!(ended, Ended::Gone(_)), "{script}: {ended:?}");
            assert!(ended.is_telling(), "{script}");
            let line = ended.accel().describe(Clock::Wall);
            assert!(
                !line.contains('\n') && line.contains("kvm-probe.log"),
                "{line}"
            );
        }
    }

    #[test]
    fn what_was_ended_from_outside_or_was_late_tells_nothing() {
        for script in ["kill -KILL $$", "kill -TERM $$", "exit 137", "kill -INT $$"] {
            let ended = probe(script, LONG);
            assert!(!ended.is_telling(), "{script}: {ended:?}");
            assert!(matches!(ended.accel(), Accel::Tcg { .. }));
        }
        let late = probe("exec sleep 100", Duration::from_millis(300));
        assert_eq!(late, Ended::Late);
        assert!(!late.is_telling());
    }
}
