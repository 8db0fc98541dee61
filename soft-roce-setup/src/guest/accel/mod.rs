//! Whether KVM can be used. Only a boot that works shows it: a host may offer /dev/kvm and still be
//! unable to run this kernel (nested virtualisation, a filter before the device).

mod probe;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::prepare::GuestKernel;
use crate::artifacts::Artifacts;
use crate::context::Context;
use crate::guest::Clock;
use crate::proc::open_log;

/// How long a verdict against KVM counts: what was wrong may be mended meanwhile.
const AGAIN: Duration = Duration::from_secs(3600);
/// The log of probe boots.
const LOG: &str = "kvm-probe";

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
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    /// The host's start and the kernel.
    key: String,
    accel: Accel,
    /// When it was found, in seconds of the Unix epoch.
    #[serde(default)]
    at: u64,
}

impl Kept {
    /// Whether it still counts at the time `now`: what works does so until the host starts anew, what failed may work later.
    fn counts(&self, key: &str, now: u64) -> bool {
        let recent = || {
            now.checked_sub(self.at)
                .is_some_and(|age| age < AGAIN.as_secs())
        };
        self.key == key && (self.accel == Accel::Kvm || recent())
    }
}

/// What this run has found out: all its guests are of one kind, and no probe that was late is repeated for each of them.
static FOUND: Mutex<Option<Kept>> = Mutex::new(None);

/// Finds out, or remembers it: for KVM since the host started, against it for a while.
///
/// # Errors
/// The probe can't be made; the tool was interrupted meanwhile, which says nothing about KVM.
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
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = found.as_ref().filter(|known| known.key == key) {
        return Ok(known.accel.clone());
    }
    let file = context.cache.path("guest").join("accel.json");
    let kept = fs::read_to_string(&file)
        .ok()
        .and_then(|text| serde_json::from_str::<Kept>(&text).ok())
        .filter(|kept| kept.counts(&key, now()));
    let known = match kept {
        Some(kept) => kept,
        None => {
            let step = context.ui.step("trying KVM with a probe boot");
            let mut log = open_log(&context.cache.fresh_log(LOG))?;
            let ended = probe::boot(
                artifacts,
                kernel,
                log.try_clone().context("a log's handle")?,
            )?;
            step.done();
            // Only for who reads the log.
            let _ = writeln!(log, "the probe boot ended: {ended:?}");
            let known = Kept {
                key,
                accel: ended.accel(),
                at: now(),
            };
            if ended.is_telling() {
                // It is only a shortcut: without it the next guest tries again.
                let _ = keep(&file, &known);
            }
            known
        }
    };
    *found = Some(known.clone());
    Ok(known.accel)
}

/// Writes a verdict beside its place and renames it: others may read it meanwhile.
fn keep(file: &std::path::Path, known: &Kept) -> Result<()> {
    let text = serde_json::to_string(known).context("cannot write a verdict")?;
    let fresh = file.with_extension(std::process::id().to_string());
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, file))?;
    Ok(())
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_against_kvm_expires_and_one_for_it_does_not() {
        let kept = |accel| Kept {
            key: "boot kernel".to_owned(),
            accel,
            at: 1_000_000,
        };
        let against = kept(Accel::Tcg {
            reason: String::new(),
        });
        let hour = AGAIN.as_secs();
        assert!(against.counts("boot kernel", 1_000_000 + hour - 1));
        assert!(!against.counts("boot kernel", 1_000_000 + hour));
        assert!(
            !against.counts("boot kernel", 999_999),
            "the clock was set back"
        );
        assert!(!against.counts("another boot", 1_000_000));
        assert!(kept(Accel::Kvm).counts("boot kernel", 1_000_000 + 1000 * hour));
        assert!(!kept(Accel::Kvm).counts("another boot", 1_000_000));
        // As it was kept before it had a time.
        let old = r#"{"key":"boot kernel","accel":{"Tcg":{"reason":"interrupted"}}}"#;
        let old: Kept = serde_json::from_str(old).unwrap();
        assert!(!old.counts("boot kernel", 1_000_000));
    }

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
