// SPDX-License-Identifier: MIT OR Apache-2.0

//! The crate against a libibverbs without a device.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use crate::{
    Access, Channel, DeregisterError, Domain, Memory, Paging, Prefetch, QueueError, QueuePair,
    RegisterError, fake::Device,
};

/// Memory that tells when it is dropped.
struct Watched(Vec<u8>, Arc<AtomicBool>);

impl Watched {
    fn new(bytes: usize) -> (Self, Arc<AtomicBool>) {
        let dropped = Arc::default();
        (Self(vec![3; bytes], Arc::clone(&dropped)), dropped)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, SeqCst);
    }
}

// SAFETY: the vector is its own.
unsafe impl Memory for Watched {
    fn range(&mut self) -> (*mut u8, usize) {
        self.0.range()
    }
}

fn region(domain: &Domain, bytes: usize) -> crate::Region<Vec<u8>> {
    domain
        .register(vec![0; bytes], Access::LOCAL_WRITE, Paging::Pinned)
        .expect("the fake registers")
}

#[test]
fn a_refused_registration_hands_the_memory_back() {
    let device = Device::new();
    device.refuse.store(libc::ENOMEM, SeqCst);
    let (memory, dropped) = Watched::new(100);
    let domain = device.domain();
    let refused = domain
        .register(memory, Access::LOCAL_WRITE, Paging::Pinned)
        .expect_err("it refuses");
    assert!(!dropped.load(SeqCst), "the memory was dropped");
    assert!(
        matches!(&refused.error, RegisterError::System(e) if e.raw_os_error() == Some(libc::ENOMEM))
    );
    assert_eq!(refused.given.0, [3; 100]);
    device.refuse.store(0, SeqCst);
    let again = domain.register(refused.given, Access::LOCAL_WRITE, Paging::Pinned);
    drop(again.map(|region| region.deregister()));
    assert!(dropped.load(SeqCst), "the memory is leaked");
    assert_eq!(device.regions.load(SeqCst), 0);
}

#[test]
fn an_empty_range_is_handed_back() {
    let refused = Device::new()
        .domain()
        .register(Vec::with_capacity(7), Access::LOCAL_WRITE, Paging::Pinned)
        .expect_err("there is nothing to register");
    assert!(matches!(refused.error, RegisterError::Empty));
    assert_eq!(refused.given.capacity(), 7);
}

#[test]
fn a_region_that_cant_end_goes_on() {
    let device = Device::new();
    let (memory, dropped) = Watched::new(64);
    let domain = device.domain();
    let region = domain
        .register(memory, Access::LOCAL_WRITE, Paging::OnDemand)
        .expect("the fake registers");
    device.bound.store(libc::EBUSY, SeqCst);
    let refused = region.deregister().err().expect("a window is bound to it");
    assert!(
        matches!(&refused.error, DeregisterError::System(e) if e.raw_os_error() == Some(libc::EBUSY))
    );
    let region = refused.given;
    region.write_at(1, b"goes on");
    device.bound.store(0, SeqCst);
    let memory = region.deregister().expect("the window is gone");
    assert_eq!(&memory.0[..9], b"\x03goes on\x03");
    assert!(!dropped.load(SeqCst), "the memory was dropped");
    drop((memory, domain));
    assert!(dropped.load(SeqCst), "the memory is leaked");
    assert_eq!(device.regions.load(SeqCst), 0);
    assert_eq!(device.domains.load(SeqCst), 0);
}

#[test]
fn memory_that_the_device_may_write_is_never_dropped() {
    let device = Device::new();
    device.bound.store(libc::EBUSY, SeqCst);
    let (memory, dropped) = Watched::new(64);
    let region = device
        .domain()
        .register(memory, Access::LOCAL_WRITE, Paging::OnDemand);
    drop(region);
    assert!(!dropped.load(SeqCst));
    assert_eq!(device.regions.load(SeqCst), 1);
}

#[test]
fn errors_become_each_other() {
    let device = Device::new();
    device.refuse.store(libc::EPERM, SeqCst);
    let domain = device.domain();
    let plain = |domain: &Domain| -> Result<(), RegisterError> {
        domain.register(vec![0; 9], Access::empty(), Paging::Pinned)?;
        Ok(())
    };
    let boxed = |domain: &Domain| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        domain.register(vec![0; 9], Access::empty(), Paging::Pinned)?;
        Ok(())
    };
    let said = "ibv_reg_mr: Operation not permitted (os error 1)";
    assert_eq!(plain(&domain).unwrap_err().to_string(), said);
    assert_eq!(boxed(&domain).unwrap_err().to_string(), said);
}

#[test]
fn a_completion_queue_has_room_for_what_was_made_of_the_depth() {
    let device = Device::new();
    device.rounds_to.store(64, SeqCst);
    let domain = device.domain();
    let queue = QueuePair::new(&domain, 1, 5).expect("the fake has queues");
    let region = region(&domain, 8);
    let mut posted = 0;
    while queue.post_send(posted, &region, 0..8).is_ok() {
        posted += 1;
    }
    while queue.post_recv(posted, &region, 0..8).is_ok() {
        posted += 1;
    }
    assert_eq!(posted, 128, "the provider rounded 5 up to 64");
    for id in 0..posted {
        let done = queue.poll().expect("it has not overrun");
        assert_eq!(done.map(|done| done.id), Some(id));
    }
    assert_eq!(queue.poll().expect("it has not overrun"), None);
    drop(queue);
    assert_eq!(device.queues.load(SeqCst), 0, "the first queue is left");
}

#[test]
#[should_panic(expected = "reversed")]
#[allow(clippy::reversed_empty_ranges, reason = "it is what the test is about")]
fn a_reversed_range_panics() {
    let domain = Device::new().domain();
    let queue = QueuePair::new(&domain, 1, 1).expect("the fake has queues");
    let _ = queue.post_send(0, &region(&domain, 100), 60..40);
}

#[test]
#[should_panic(expected = "reversed")]
#[allow(clippy::reversed_empty_ranges, reason = "it is what the test is about")]
fn reversed_advice_panics() {
    let region = region(&Device::new().domain(), 100);
    let _ = region.prefetch(60..40, Prefetch::Read, true);
}

#[test]
#[should_panic(expected = "0 bytes at 101 are not inside a region of 100 bytes")]
fn empty_advice_outside_panics() {
    let region = region(&Device::new().domain(), 100);
    let _ = region.prefetch(101..101, Prefetch::Read, true);
}

#[test]
fn advice_reaches_what_it_names() {
    let device = Device::new();
    let region = region(&device.domain(), 100);
    region
        .prefetch(7..100, Prefetch::Read, true)
        .expect("it takes advice");
    let asked = device.advice.lock().unwrap().clone();
    assert_eq!(asked, [(region.remote().addr + 7, 93)]);
}

#[test]
fn what_others_made_is_left_to_them() {
    /// Stands for another crate's domain: it has to outlive all that is made in it.
    struct Theirs(&'static Device);
    impl Drop for Theirs {
        fn drop(&mut self) {
            assert_eq!(
                self.0.regions.load(SeqCst),
                0,
                "a region outlives its domain"
            );
            self.0.refuse.store(-1, SeqCst);
        }
    }
    let device = Device::new();
    let other = device.domain();
    let theirs = Arc::new(Theirs(device));
    // SAFETY: a live domain; `other` keeps it.
    let ours = unsafe { Domain::from_raw(other.as_raw(), Arc::clone(&theirs)) };
    let ours = ours.expect("the fake is there");
    assert_eq!(ours.as_raw(), other.as_raw());
    assert_eq!(ours.context().as_raw(), other.context().as_raw());
    let region = region(&ours, 50);
    assert_eq!(region.lkey(), 11);
    let context = ours.context().clone();
    drop(theirs);
    drop(ours);
    assert_eq!(device.refuse.load(SeqCst), 0, "a region is left");
    drop(region);
    assert_eq!(device.refuse.load(SeqCst), 0, "the context is left");
    drop(context);
    assert_eq!(device.refuse.load(SeqCst), -1, "the owner is kept for ever");
    assert_eq!(
        device.domains.load(SeqCst),
        1,
        "it was not ours to give back"
    );
    assert_eq!(device.contexts.load(SeqCst), 1, "it was not ours to close");
    drop(other);
    assert_eq!(device.domains.load(SeqCst), 0);
}

#[test]
fn raw_objects_are_told() {
    let device = Device::new();
    let domain = device.domain();
    let channel = Channel::new(domain.context()).expect("the fake has channels");
    let queue = QueuePair::new(&domain, 1, 1).expect("the fake has queues");
    let region = region(&domain, 1);
    let all = [
        domain.context().as_raw(),
        domain.as_raw(),
        channel.as_raw(),
        queue.as_raw(),
        queue.completions_as_raw(),
        region.as_raw(),
    ];
    assert!(all.iter().all(|raw| !raw.is_null()));
}

#[test]
fn completions_make_events() {
    let device = Device::new();
    let domain = device.domain();
    let channel = Channel::new(domain.context()).expect("the fake has channels");
    let [left, right] = [5, 6].map(|id| {
        QueuePair::with_events(&domain, 1, 4, &channel, id).expect("the fake has queues")
    });
    let memory = region(&domain, 8);
    let readable = |channel: &Channel| {
        let mut fd = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&channel.as_fd()),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor.
        unsafe { libc::poll(&mut fd, 1, 0) == 1 }
    };
    left.post_send(1, &memory, 0..8).expect("there is room");
    assert!(!readable(&channel), "nobody asked");
    assert_eq!(channel.take().expect("the channel works"), None);
    right.request_event().expect("it has a channel");
    right.post_send(2, &memory, 0..8).expect("there is room");
    right.post_send(3, &memory, 0..8).expect("there is room");
    assert!(readable(&channel));
    assert_eq!(channel.take().expect("the channel works"), Some(6));
    assert!(!readable(&channel), "one event for each time it was asked");
    // A thread waits without spinning, and is woken.
    left.request_event().expect("it has a channel");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| channel.wait(Some(Duration::from_secs(60))));
        left.post_send(4, &memory, 0..8).expect("there is room");
        assert_eq!(waiting.join().unwrap().expect("the channel works"), Some(5));
    });
    let none = channel.wait(Some(Duration::from_millis(20)));
    assert_eq!(none.expect("the channel works"), None);
    drop(channel);
    drop(left);
    assert_eq!(device.channels.load(SeqCst), 1, "a queue pair uses it");
    drop(right);
    assert_eq!(device.channels.load(SeqCst), 0);
}

#[test]
fn events_need_a_channel_of_the_device() {
    let domain = Device::new().domain();
    let plain = QueuePair::new(&domain, 1, 1).expect("the fake has queues");
    let error = plain.request_event().expect_err("it has no channel");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    let other = Channel::new(&Device::new().context()).expect("the fake has channels");
    let error = QueuePair::with_events(&domain, 1, 1, &other, 0).err();
    assert!(matches!(error, Some(QueueError::System(e)) if e.raw_os_error() == Some(libc::EINVAL)));
}
