//! Whether KVM can be used. Only a boot that works shows it: a host may offer /dev/kvm and still be
//! unable to run this kernel (nested virtualisation, a filter before the device).

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::options::Clock;
use super::prepare::GuestKernel;
use super::qemu::inherited;
use super::{initramfs, scratch_file};
use crate::artifacts::Artifacts;
use crate::context::Context;
use crate::enter::Enter;
use crate::signal;

/// What a probe boot may take.
const LIMIT: Duration = Duration::from_secs(20);
/// What the probe's init says.
const WORD: &str = "kvm-probe-alive";
const INIT: &str = "#!/bin/busybox sh\n\
    /bin/busybox mount -t devtmpfs devtmpfs /dev\n\
    echo kvm-probe-alive > /dev/ttyS0\n\
    exec /bin/busybox poweroff -f\n";

/// How the guest's instructions are executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By QEMU's translator.
    Tcg {
        /// Why not by the processor.
        reason: String,
    },
}

/// What an emulated processor tells the guest that it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpu {
    /// All that QEMU has.
    Max,
    /// Not that `rep movsb` is fast: QEMU does it a byte at a time, and kernel and C library copy everything with it if they are told so.
    /// What copies much takes a fifth less time. For our own tests, not for benchmarks: it moves the cost of a byte, not that of a fault.
    PlainCopies,
}

impl Accel {
    /// QEMU's options for it.
    pub fn args(&self, clock: Clock, cpu: Cpu) -> Vec<&'static str> {
        let accel: &[_] = match (self, clock) {
            (_, Clock::Icount) => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
            ],
            (Self::Kvm, Clock::Wall) => &["-accel", "kvm"],
            (Self::Tcg { .. }, Clock::Wall) => &["-accel", "tcg,thread=multi"],
        };
        let cpu: &[_] = match (self, clock, cpu) {
            (Self::Kvm, Clock::Wall, _) => &["-cpu", "host"],
            (.., Cpu::Max) => &["-cpu", "max"],
            (.., Cpu::PlainCopies) => &["-cpu", "max,-erms,-fsrm"],
        };
        [accel, cpu].concat()
    }

    /// What the kernel is told about its clock.
    ///
    /// Emulated, the time stamp counter is the host's, and a kernel that measures its rate on a busy
    /// host can be off by tens of times: then a second of the guest is not one.
    pub fn kernel_args(&self, clock: Clock) -> String {
        let khz = match (self, clock) {
            (Self::Kvm, Clock::Wall) => return String::new(),
            (Self::Tcg { .. }, Clock::Wall) => host_tsc_khz(),
            // The counter counts the nanoseconds that instructions stand for.
            (_, Clock::Icount) => Some(1_000_000),
        };
        khz.map_or_else(String::new, |khz| {
            format!(" tsc=reliable tsc_early_khz={khz}")
        })
    }

    /// One line for the user.
    pub fn describe(&self, clock: Clock) -> String {
        match (self, clock) {
            (_, Clock::Icount) => {
                "the guest runs under TCG: --clock icount counts instructions".to_owned()
            }
            (Self::Kvm, Clock::Wall) => "the guest runs under KVM: a probe boot worked".to_owned(),
            (Self::Tcg { reason }, Clock::Wall) => format!("the guest runs under TCG: {reason}"),
        }
    }
}

/// A verdict that is kept, and what it was found for.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    key: String,
    accel: Accel,
}

/// Finds out, or remembers it from an earlier guest since the host started.
pub fn choose(
    context: &Context,
    artifacts: &Artifacts,
    kernel: &GuestKernel,
    clock: Clock,
) -> Result<Accel> {
    if clock == Clock::Icount {
        return Ok(Accel::Tcg {
            reason: "the clock counts instructions".to_owned(),
        });
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "this host has no /dev/kvm".to_owned(),
            std::io::ErrorKind::PermissionDenied => {
                "no permission for /dev/kvm (join the group kvm)".to_owned()
            }
            _ => format!("/dev/kvm cannot be opened: {error}"),
        };
        return Ok(Accel::Tcg { reason });
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let key = format!("{} {}", boot.trim(), artifacts.kernel.version);
    let file = context.cache.path("guest").join("accel.json");
    if let Some(kept) = fs::read_to_string(&file)
        .ok()
        .and_then(|text| serde_json::from_str::<Kept>(&text).ok())
        .filter(|kept| kept.key == key)
    {
        return Ok(kept.accel);
    }
    let step = context.ui.step("trying KVM with a probe boot");
    let accel = probe(artifacts, kernel)?;
    step.done();
    let kept = Kept { key, accel };
    let text = serde_json::to_string(&kept).context("cannot write a verdict")?;
    // It is only a shortcut: without it the next guest tries again.
    let _ = fs::write(&file, text);
    Ok(kept.accel)
}

/// Rate of the host's time stamp counter, measured for a moment.
#[cfg(target_arch = "x86_64")]
fn host_tsc_khz() -> Option<u64> {
    let ticks = || {
        // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
        unsafe { std::arch::x86_64::_rdtsc() }
    };
    let (begin, first) = (Instant::now(), ticks());
    thread::sleep(Duration::from_millis(50));
    let (time, last) = (begin.elapsed(), ticks());
    let ticks = u128::from(last.checked_sub(first)?);
    u64::try_from(ticks * 1_000_000 / time.as_nanos()).ok()
}

#[cfg(not(target_arch = "x86_64"))]
fn host_tsc_khz() -> Option<u64> {
    None
}

fn probe(artifacts: &Artifacts, kernel: &GuestKernel) -> Result<Accel> {
    let initrd: OwnedFd = scratch_file(&initramfs::probe(kernel, INIT)?)?.into();
    let (host, guest) = UnixStream::pair().context("cannot make a socket")?;
    let guest: OwnedFd = guest.into();
    let complaints = tempfile_for_complaints()?;
    let mut listen = complaints
        .try_clone()
        .context("cannot duplicate a handle")?;
    inherited(&guest)?;
    let mut running = Enter::new(&artifacts.root)
        .bind_ro(&kernel.image, "/tmp/image")
        .cmd("qemu-system-x86_64")
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
        .arg(inherited(&initrd)?)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .args([
            "-chardev".to_owned(),
            format!("socket,id=console,fd={}", guest.as_raw_fd()),
            "-serial".to_owned(),
            "chardev:console".to_owned(),
        ])
        .spawn(Stdio::null(), Stdio::null(), complaints.into())?;
    drop(guest);
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut host = host;
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = host.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..count]);
            if String::from_utf8_lossy(&seen).contains(WORD) {
                let _ = send.send(());
                return;
            }
        }
    });
    let begin = Instant::now();
    let reason = loop {
        signal::check()?;
        match receive.recv_timeout(Duration::from_millis(100)) {
            Ok(()) => break None,
            Err(RecvTimeoutError::Disconnected) => {
                running.kill();
                break Some(format!(
                    "KVM is there, but a probe boot failed{}",
                    complaint(&mut listen)
                ));
            }
            Err(RecvTimeoutError::Timeout) if begin.elapsed() > LIMIT => {
                break Some(format!(
                    "KVM is there, but a probe boot hung for {} s",
                    LIMIT.as_secs()
                ));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    running.kill();
    Ok(match reason {
        None => Accel::Kvm,
        Some(reason) => Accel::Tcg { reason },
    })
}

fn tempfile_for_complaints() -> Result<File> {
    scratch_file(&[])
}

/// The last line that QEMU said.
fn complaint(file: &mut File) -> String {
    use std::io::{Seek, SeekFrom};
    let mut text = String::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.read_to_string(&mut text);
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!(" ({})", line.trim()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_translated_guest_is_told_the_rate_of_its_clock() {
        assert_eq!(Accel::Kvm.kernel_args(Clock::Wall), "");
        assert!(
            Accel::Kvm
                .kernel_args(Clock::Icount)
                .contains("tsc_early_khz=1000000")
        );
    }

    #[test]
    fn counting_instructions_never_uses_kvm() {
        let counting = Accel::Kvm.args(Clock::Icount, Cpu::Max);
        assert!(counting.contains(&"-icount") && counting.contains(&"max"));
        assert!(!counting.contains(&"kvm"));
        assert!(Accel::Kvm.args(Clock::Wall, Cpu::Max).contains(&"kvm"));
    }

    #[test]
    fn only_an_emulated_processor_says_less_than_it_can() {
        let tcg = Accel::Tcg {
            reason: String::new(),
        };
        let last = |accel: &Accel, cpu| accel.args(Clock::Wall, cpu).pop();
        assert_eq!(last(&tcg, Cpu::Max), Some("max"));
        assert_eq!(last(&tcg, Cpu::PlainCopies), Some("max,-erms,-fsrm"));
        assert_eq!(last(&Accel::Kvm, Cpu::PlainCopies), Some("host"));
    }
}
