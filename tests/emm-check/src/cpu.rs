//! The guest's CPUs, and threads that stay on one.

use std::io;

/// CPUs that are online.
pub fn online() -> usize {
    // SAFETY: takes a number only.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }.max(1) as usize
}

/// The calling thread runs on `cpu` only.
pub fn stay_on(cpu: usize) -> io::Result<()> {
    // SAFETY: every bit pattern is a set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is that of a CPU that is online.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set has the size that is said.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The calling thread runs on `cpu` only, and before all others there.
pub fn alone_on(cpu: usize) -> io::Result<()> {
    stay_on(cpu)?;
    let first = libc::sched_param { sched_priority: 10 };
    // SAFETY: the parameters outlive the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The calling thread comes before all others of the usual kind, and is soon on again when it wakes.
///
/// A real-time thread that keeps a CPU would be more certain, but then the scheduler's server for the rest has deadlines,
/// and warns of those that a busy host makes it miss.
pub fn first() -> io::Result<()> {
    // SAFETY: takes numbers only; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
