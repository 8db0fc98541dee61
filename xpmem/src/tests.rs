// SPDX-License-Identifier: MIT OR Apache-2.0

//! Segments and attachments, on a device that attaches a process's own memory.

use std::sync::atomic::Ordering::Relaxed;

use crate::fake::Xpmem;
use crate::memory::Mapping;
use crate::{Access, AttachError, GetError, MakeError, Mode, Permit, Segment, SegmentId};

const SIZE: usize = 4 * 4096;

/// A segment of memory that the device can attach.
fn segment(device: &'static Xpmem, mode: Mode) -> (Mapping, Segment) {
    let mapping = Mapping::with(SIZE, libc::MAP_SHARED).unwrap();
    // SAFETY: it is reached through the segment only, which goes first.
    let segment = unsafe { Segment::of_by(device, mapping.start(), SIZE, mode) };
    (mapping, segment.unwrap())
}

#[test]
fn both_see_the_same_bytes() {
    let device = Xpmem::leaked();
    let (_mapping, segment) = segment(device, Mode::USER);
    let permit = Permit::get_by(device, segment.id(), Access::ReadWrite).unwrap();
    let attachment = permit.attach(4096, 2 * 4096).unwrap();
    let bytes: Vec<u8> = (0..8192_u32).map(|n| (n % 241) as u8).collect();
    segment.write_at(4096, &bytes);
    let mut got = vec![0; 8192];
    attachment.read_at(0, &mut got);
    assert_eq!(got, bytes);
    attachment.write_at(8000, b"to the owner");
    segment.read_at(4096 + 8000, &mut got[..12]);
    assert_eq!(&got[..12], b"to the owner");
    attachment.atomic_u64(16).store(5, Relaxed);
    assert_eq!(segment.atomic_u64(4096 + 16).fetch_add(2, Relaxed), 5);
    assert_eq!(attachment.atomic_u32(16).load(Relaxed), 7);
    attachment.try_write_at(4000, &bytes[..200]).unwrap();
    attachment.try_read_at(4000, &mut got[..200]).unwrap();
    assert_eq!(got[..200], bytes[..200]);
}

#[test]
fn what_is_dropped_ends() {
    let device = Xpmem::leaked();
    let (_mapping, segment) = segment(device, Mode::USER);
    let permit = Permit::get_by(device, segment.id(), Access::ReadOnly).unwrap();
    let (one, other) = (
        permit.attach(0, 1).unwrap(),
        permit.attach(0, SIZE).unwrap(),
    );
    assert_eq!(device.counts(), (1, 1, 2));
    drop(permit);
    drop(other);
    assert_eq!(device.counts(), (1, 1, 1));
    drop(one);
    assert_eq!(device.counts(), (1, 0, 0));
    segment.remove().unwrap();
    assert_eq!(device.counts(), (0, 0, 0));
}

#[test]
fn what_is_refused_has_its_reason() {
    let device = Xpmem::leaked();
    let (_mapping, segment) = segment(device, Mode::new(0o444).unwrap());
    let get = |id, access| Permit::get_by(device, id, access);
    let denied = get(segment.id(), Access::ReadWrite);
    assert!(matches!(denied, Err(GetError::Denied)));
    let unknown = get(SegmentId::from_raw(5), Access::ReadOnly);
    assert!(matches!(unknown, Err(GetError::NoSegment)));
    let permit = get(segment.id(), Access::ReadOnly).unwrap();
    for (offset, length) in [(0, 0), (1, 1), (0, SIZE + 1), (u64::MAX, 1), (1 << 40, 1)] {
        let refused = permit.attach(offset, length);
        assert!(
            matches!(refused, Err(AttachError::Range)),
            "{offset} {length}"
        );
    }
    segment.remove().unwrap();
    assert!(matches!(permit.attach(0, 1), Err(AttachError::Gone)));
    assert_eq!(Mode::new(0o1000), None);
}

#[test]
fn a_forked_process_ends_nothing() {
    let device = Xpmem::leaked();
    let (_mapping, segment) = segment(device, Mode::USER);
    let permit = Permit::get_by(device, segment.id(), Access::ReadOnly).unwrap();
    let attachment = permit.attach(0, SIZE).unwrap();
    // SAFETY: the child allocates nothing, and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop((attachment, permit, segment));
        let left = device.counts() == (1, 1, 1);
        // SAFETY: ends the child without handlers of the parent.
        unsafe { libc::_exit(i32::from(!left)) };
    }
    let mut status = -1;
    // SAFETY: room for the status.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
}

#[test]
fn identifiers_are_words_of_a_command_line() {
    let id = SegmentId::from_raw(0x1234_0000_0001);
    assert_eq!(id.to_string(), "123400000001");
    assert_eq!(id.to_string().parse(), Ok(id));
    assert!("x".parse::<SegmentId>().is_err());
}

/// The build machine has no such device; where it has, the segment is made.
#[test]
fn without_a_device_it_is_said() {
    match Segment::new(4096, Mode::USER) {
        Ok(segment) => assert_eq!(segment.len(), 4096),
        Err(MakeError::NoDevice) => assert!(!std::path::Path::new("/dev/xpmem").exists()),
        Err(error) => panic!("{error}"),
    }
}
