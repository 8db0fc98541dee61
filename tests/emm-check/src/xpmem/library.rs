//! The Rust API, and with it what the library in C is made of, on the real device.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;

use ::xpmem::{Access, Attachment, GetError, Mode, Permit, Segment, SegmentId, raw};
use anyhow::{Context as _, Result, bail};

use super::cases::report_all;
use super::peer::Peer;
use super::wire::Order;
use crate::mem::PAGE;
use crate::report::Report;

const P: u64 = PAGE as u64;
const SIZE: usize = 16 * PAGE;

/// Runs all cases.
pub fn run(report: &Report) {
    report_all(
        report,
        "xpmem library",
        &[
            ("version", &version),
            ("a segment of this process", &segment),
            ("an attachment of this process", &attachment),
            ("the owner's end is an error for who asks", &ended),
            (
                "fork opens the device again, under the same number",
                &forked,
            ),
        ],
    );
}

fn version() -> Result<String> {
    let version = raw::version()?;
    if version < 0x26005 {
        bail!("{version:#x}");
    }
    Ok(format!("{version:#x}"))
}

fn segment() -> Result<String> {
    let mut attacher = Peer::start("attacher")?;
    let segment = Segment::new(SIZE - 100, Mode::USER)?;
    segment.write_at(5, b"hello");
    let (_, at) = attacher.join(segment.id().as_raw() as u64, SIZE as u64)?;
    let (_, bytes) = attacher.must(Order::Load, &[at + 5, 5])?;
    if bytes != b"hello" {
        bail!("the attacher sees {bytes:?}");
    }
    attacher.must(Order::Add, &[at + 64, 3])?;
    let was = segment.atomic_u64(64).fetch_add(4, SeqCst);
    let (now, _) = attacher.must(Order::Add, &[at + 64, 0])?;
    if (was, now) != (3, 7) {
        bail!("{was} and {now} instead of 3 and 7");
    }
    let id = segment.id();
    segment.remove()?;
    let gone = attacher.refused(Order::Load, &[at, 1])?;
    let got = Permit::get(id, Access::ReadOnly);
    if !gone.is_absence() || !matches!(got, Err(GetError::NoSegment)) {
        bail!("behind its end: {gone}, {got:?}");
    }
    Ok("bytes and atomics both ways".into())
}

fn attach(owner: &mut Peer, access: Access) -> Result<(u64, Attachment)> {
    let (there, segment) = owner.share(SIZE as u64, 1)?;
    let permit = Permit::get(SegmentId::from_raw(segment as i64), access)?;
    Ok((there, permit.attach(0, SIZE)?))
}

fn attachment() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let (there, attachment) = attach(&mut owner, Access::ReadWrite)?;
    let mut wanted = vec![0; SIZE];
    crate::mem::pattern(1, 0, &mut wanted);
    let mut found = vec![0; SIZE];
    attachment.read_at(0, &mut found);
    if found != wanted {
        bail!("other bytes than the owner's");
    }
    found.iter_mut().for_each(|byte| *byte = !*byte);
    attachment.write_at(333, &found[333..10_000]);
    attachment.try_write_at(10_000, &found[10_000..])?;
    wanted[333..].copy_from_slice(&found[333..]);
    owner.same(there, &wanted)?;
    Ok(format!(
        "{SIZE} bytes both ways, by copies and by system calls"
    ))
}

fn ended() -> Result<String> {
    let mut owner = Peer::start("owner")?;
    let (_, attachment) = attach(&mut owner, Access::ReadWrite)?;
    let mut bytes = [0; 9000];
    attachment.try_read_at(77, &mut bytes)?;
    owner.end_by_kill()?;
    for error in [
        attachment.try_read_at(77, &mut bytes).err(),
        attachment.try_write_at(77, &bytes).err(),
    ] {
        let errno = error.as_ref().and_then(std::io::Error::raw_os_error);
        if errno != Some(libc::EFAULT) {
            bail!("{error:?}, not EFAULT");
        }
    }
    Ok("EFAULT".into())
}

/// Descriptors of this process.
fn descriptors() -> Result<BTreeSet<std::ffi::OsString>> {
    let names = std::fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    names.collect()
}

fn forked() -> Result<String> {
    raw::version()?;
    let segment = Segment::new(PAGE, Mode::USER)?;
    let id = segment.id();
    // SAFETY: this thread is the only one that the child needs; it ends by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the child without handlers of the parent.
        unsafe { libc::_exit(as_child(segment).map_or(1, |()| 0)) };
    }
    let mut status = -1;
    // SAFETY: room for the status.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    if status != 0 {
        bail!("the child ended with status {status:#x}");
    }
    let permit = Permit::get(id, Access::ReadOnly).context("the parent's segment")?;
    permit.attach(0, P as usize)?.read_at(0, &mut [0; PAGE]);
    Ok("the child has a segment of its own, and no descriptor more".into())
}

/// Drops what is the parent's, and makes something of its own.
fn as_child(parents: Segment) -> Result<()> {
    let before = descriptors()?;
    drop(parents);
    let own = Segment::new(PAGE, Mode::USER)?;
    if descriptors()? != before {
        bail!("another set of descriptors");
    }
    own.write_at(0, b"x");
    Ok(own.remove()?)
}
