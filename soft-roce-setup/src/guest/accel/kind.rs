//! What executes the guest's instructions, and what QEMU and the kernel are told of it.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::guest::options::Clock;

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
