// SPDX-License-Identifier: MIT OR Apache-2.0

//! Calls within calls: which hook of a thread came first.

use core::{
    arch::{asm, global_asm},
    cell::Cell,
    marker::PhantomData,
};

/// Held by the outermost hook that a thread is in.
///
/// libibverbs reaches `ibv_reg_mr_iova2` through its own PLT, so that one registration can come by
/// twice. What the outer hook has decided must not be decided again.
pub(crate) struct Outermost(PhantomData<*const ()>);

// One word of each thread. `thread_local!` is std's, and `pthread_getspecific` is in a library of its own before glibc 2.34. A
// library that is loaded with its program has its words at a known place, so that nothing is allocated.
global_asm!(
    ".pushsection .tbss.verbs_shim_inside,\"awT\",%nobits",
    ".p2align 2",
    ".globl verbs_shim_inside",
    ".hidden verbs_shim_inside",
    ".type verbs_shim_inside, %object",
    ".size verbs_shim_inside, 4",
    "verbs_shim_inside:",
    ".zero 4",
    ".popsection",
);

/// This thread's word: whether it is in a hook.
fn inside() -> *const Cell<u32> {
    let place: *const Cell<u32>;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the initial-exec way to a thread's word, which touches the named register only.
    unsafe {
        asm!(
            "mov {place}, qword ptr [rip + verbs_shim_inside@GOTTPOFF]",
            "add {place}, qword ptr fs:[0]",
            place = out(reg) place,
            options(readonly, nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the initial-exec way to a thread's word, which touches the named registers only.
    unsafe {
        asm!(
            "mrs {start}, tpidr_el0",
            "adrp {place}, :gottprel:verbs_shim_inside",
            "ldr {place}, [{place}, :gottprel_lo12:verbs_shim_inside]",
            "add {place}, {place}, {start}",
            start = out(reg) _,
            place = out(reg) place,
            options(readonly, nostack),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    compile_error!("verbs-shim knows the threads' words of x86-64 and aarch64 only");
    place
}

impl Outermost {
    /// `None` if this thread is in a hook already.
    pub(crate) fn enter() -> Option<Self> {
        // SAFETY: this thread's word, which lives as long as the thread.
        let inside = unsafe { &*inside() };
        // Lazily: one that is dropped takes the mark away.
        (inside.replace(1) == 0).then(|| Self(PhantomData))
    }
}

impl Drop for Outermost {
    fn drop(&mut self) {
        // SAFETY: this thread's word: an `Outermost` does not change threads.
        unsafe { &*inside() }.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own() {
        let outer = Outermost::enter();
        assert!(outer.is_some() && Outermost::enter().is_none());
        let other = std::thread::spawn(|| Outermost::enter().is_some());
        assert!(other.join().expect("it ends"));
        drop(outer);
        assert!(Outermost::enter().is_some());
    }
}
