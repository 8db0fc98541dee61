//! Accesses of memory that may answer with SIGBUS or SIGSEGV: then they end, with the signal.
//!
//! The instructions that touch are between two labels; a signal in there goes on behind them.

use std::arch::global_asm;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

global_asm!(
    ".pushsection .text.emm_touch,\"ax\",@progbits",
    "emm_touch_begin:",
    // (to, from, count)
    "emm_touch_copy:",
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep movsq",
    "mov rcx, rdx",
    "and rcx, 7",
    "rep movsb",
    "xor eax, eax",
    "ret",
    // (at, value, old)
    "emm_touch_add:",
    "mov rax, rsi",
    "lock xadd qword ptr [rdi], rax",
    "mov qword ptr [rdx], rax",
    "xor eax, eax",
    "ret",
    // (at, expected, new, old)
    "emm_touch_swap:",
    "mov rax, rsi",
    "lock cmpxchg qword ptr [rdi], rdx",
    "mov qword ptr [rcx], rax",
    "xor eax, eax",
    "ret",
    "emm_touch_end:",
    // Its number is in eax.
    "emm_touch_signalled:",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    static emm_touch_begin: u8;
    static emm_touch_end: u8;
    static emm_touch_signalled: u8;
    fn emm_touch_copy(to: usize, from: usize, count: usize) -> i32;
    fn emm_touch_add(at: usize, value: u64, old: *mut u64) -> i32;
    fn emm_touch_swap(at: usize, expected: u64, new: u64, old: *mut u64) -> i32;
}

/// The address that the last signal was about.
static ADDRESS: AtomicUsize = AtomicUsize::new(0);

/// An access that was answered with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signalled {
    /// Which.
    pub number: i32,
    /// The address that it named.
    pub address: usize,
}

fn ended(number: i32) -> Result<(), Signalled> {
    match number {
        0 => Ok(()),
        number => Err(Signalled {
            number,
            address: ADDRESS.load(Relaxed),
        }),
    }
}

/// # Safety
///
/// Called by the kernel as a handler with `SA_SIGINFO`.
unsafe extern "C" fn handler(number: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel gives a context, which goes on where it says.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as usize;
    let (begin, end) = (
        (&raw const emm_touch_begin).addr(),
        (&raw const emm_touch_end).addr(),
    );
    if !(begin..end).contains(&at) {
        // Somebody else's fault: it happens again, and ends the program.
        // SAFETY: the default.
        unsafe { libc::signal(number, libc::SIG_DFL) };
        return;
    }
    // SAFETY: these two signals have an address.
    let address = unsafe { (*info).si_addr() };
    ADDRESS.store(address.addr(), Relaxed);
    registers[libc::REG_RIP as usize] = (&raw const emm_touch_signalled).addr() as i64;
    registers[libc::REG_RAX as usize] = number.into();
}

/// From now on the accesses below may be answered with a signal.
pub fn prepare() -> io::Result<()> {
    for number in [libc::SIGBUS, libc::SIGSEGV] {
        // SAFETY: an all-zero action is one without flags and with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler is as the flags say.
        if unsafe { libc::sigaction(number, &action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Copies from anywhere.
pub fn load(from: usize, bytes: &mut [u8]) -> Result<(), Signalled> {
    // SAFETY: `bytes` is writable; what can't be read is answered with a signal, which is caught.
    ended(unsafe { emm_touch_copy(bytes.as_mut_ptr().addr(), from, bytes.len()) })
}

/// Copies to memory that no reference is of.
pub fn store(to: usize, bytes: &[u8]) -> Result<(), Signalled> {
    // SAFETY: as above.
    ended(unsafe { emm_touch_copy(to, bytes.as_ptr().addr(), bytes.len()) })
}

/// Copies within such memory; the ranges do not overlap.
pub fn copy(to: usize, from: usize, count: usize) -> Result<(), Signalled> {
    // SAFETY: as above.
    ended(unsafe { emm_touch_copy(to, from, count) })
}

/// Adds to 8 bytes, and returns what they were.
pub fn add(at: usize, value: u64) -> Result<u64, Signalled> {
    let mut old = 0;
    // SAFETY: as above.
    ended(unsafe { emm_touch_add(at, value, &mut old) }).map(|()| old)
}

/// Writes `new` to 8 bytes that are `expected`. Returns what they were.
pub fn swap(at: usize, expected: u64, new: u64) -> Result<u64, Signalled> {
    let mut old = 0;
    // SAFETY: as above.
    ended(unsafe { emm_touch_swap(at, expected, new, &mut old) }).map(|()| old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Map, PAGE};

    #[test]
    fn what_is_not_there_is_told() {
        prepare().unwrap();
        let map = Map::anon(3 * PAGE).unwrap();
        let at = map.addr();
        let bytes: Vec<u8> = (0..2 * PAGE).map(|n| (n % 253) as u8).collect();
        store(at + 5, &bytes).unwrap();
        let mut got = vec![0; bytes.len()];
        load(at + 5, &mut got).unwrap();
        assert_eq!(got, bytes);
        copy(at, at + PAGE, 13).unwrap();
        store(at + 8, &7u64.to_ne_bytes()).unwrap();
        assert_eq!(add(at + 8, 5), Ok(7));
        assert_eq!(swap(at + 8, 1, 2), Ok(12));
        assert_eq!(swap(at + 8, 12, 2), Ok(12));
        assert_eq!(add(at + 8, 0), Ok(2));
        map.protect(PAGE, PAGE, libc::PROT_NONE).unwrap();
        let refused = |address| {
            Err(Signalled {
                number: libc::SIGSEGV,
                address,
            })
        };
        assert_eq!(load(at + PAGE + 3, &mut got[..1]), refused(at + PAGE + 3));
        assert_eq!(store(at + PAGE - 8, &bytes[..16]), refused(at + PAGE));
        assert_eq!(copy(at, at + PAGE, 8), refused(at + PAGE));
        assert_eq!(add(at + PAGE, 1).map(drop), refused(at + PAGE));
        assert_eq!(swap(at + PAGE, 1, 1).map(drop), refused(at + PAGE));
    }
}
