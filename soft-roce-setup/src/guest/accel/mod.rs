//! Whether KVM can be used. Only a boot that works shows it: a host may offer /dev/kvm and still be
//! unable to run this kernel (nested virtualisation, a filter before the device).

mod kind;
mod probe;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use self::kind::{Accel, Cpu};
use super::options::Clock;
use super::prepare::GuestKernel;
use crate::artifacts::Artifacts;
use crate::context::Context;
use crate::proc::open_log;

/// How long a verdict against KVM counts: what was wrong may be mended meanwhile.
const AGAIN: Duration = Duration::from_secs(3600);
/// The log of probe boots.
const LOG: &str = "kvm-probe";

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
}
