//! A driver that can't do it without sleeping: XPMEM takes the pages of a range out of other processes' page tables.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use ::xpmem::{Access, Permit, SegmentId, abi, raw};
use anyhow::{Context as _, Result, bail};

use super::contract::release;
use super::{Client, DELAY, SIZE, touched};
use crate::child::pidfd;
use crate::events::fork::child;
use crate::mem::{Map, PAGE};

/// A killed process whose memory is attached, and is to be taken as the OOM reaper does it.
pub fn refuses() -> Result<String> {
    let map = touched()?;
    let other = Map::anon(PAGE)?;
    let slow = Client::open()?;
    slow.command(&format!("delay {}", (8 * DELAY).as_millis()))?;
    let (mut here, mut there) = UnixStream::pair()?;
    let victim = child(|| {
        let mut work = || {
            // SAFETY: this process does nothing with that memory.
            let made = unsafe { raw::make(map.addr() as *mut _, SIZE, abi::PERMIT_MODE, 0o600) };
            there.write_all(&made?.to_ne_bytes())?;
            there.read_exact(&mut [0])?;
            slow.command("register")?;
            other.advise(0, PAGE, libc::MADV_DONTNEED)
        };
        i32::from(work().is_err())
    })?;
    let mut look = || -> Result<()> {
        let mut segment = [0; 8];
        here.read_exact(&mut segment)?;
        let segment = SegmentId::from_raw(i64::from_ne_bytes(segment));
        let attachment = Permit::get(segment, Access::ReadWrite)?.attach(0, SIZE)?;
        let mut before = vec![0; SIZE];
        attachment.try_read_at(0, &mut before)?;
        here.write_all(&[0])?;
        slow.await_start()?;
        let fd = pidfd(victim).context("pidfd_open")?;
        // SAFETY: a signal to our own child.
        unsafe { libc::kill(victim, libc::SIGKILL) };
        match release(&fd) {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
            other => bail!("process_mrelease: {other:?}, of what is attached"),
        }
        let mut bytes = vec![0; SIZE];
        attachment
            .try_read_at(0, &mut bytes)
            .context("what stays")?;
        if bytes != before {
            bail!("what stays has other bytes");
        }
        drop(attachment);
        release(&fd).context("process_mrelease, of what is not attached any more")
    };
    let result = look();
    // SAFETY: a signal to our own child, which may be dead already.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    // SAFETY: its status is not asked for.
    unsafe { libc::waitpid(victim, std::ptr::null_mut(), 0) };
    result?;
    Ok("EAGAIN, and its bytes stay; taken when it is detached".into())
}
