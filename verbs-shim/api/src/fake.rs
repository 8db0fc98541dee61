// SPDX-License-Identifier: MIT OR Apache-2.0

//! A libibverbs without a device, for the tests: its functions, and the few rules of a provider that they are about.

use std::{
    alloc::{Layout, alloc_zeroed},
    cell::UnsafeCell,
    collections::VecDeque,
    ffi::{c_char, c_int, c_uint, c_void},
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
};

use verbs_abi::load::Devices;

use crate::{
    abi::{Context, Mr, Pd, Sge},
    ffi::{
        CompChannel, Cq, Functions, Gid, POLL_CQ, POST_RECV, POST_SEND, Qp, QpAttr, QpInitAttr,
        REQ_NOTIFY_CQ, RecvWr, SendWr, Verbs, Wc,
    },
};

/// What the crate calls in tests.
///
/// # Safety
///
/// Its functions are to be called as those of libibverbs: with objects that this fake made and that were not given back,
/// from any thread, and with pointers that are valid for what the manual page of that name says.
pub(crate) static VERBS: Verbs = Verbs::new(
    Devices {
        get_list,
        free_list,
        name,
        open,
        close,
    },
    Functions {
        query_gid,
        alloc_pd,
        dealloc_pd,
        reg_mr,
        dereg_mr,
        create_channel,
        destroy_channel,
        get_cq_event,
        ack_cq_events,
        create_cq,
        destroy_cq,
        create_qp,
        modify_qp,
        destroy_qp,
    },
);

/// How a device behaves, and what became of it. One for each test.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Device {
    /// `errno` of registrations; 0 makes them.
    pub refuse: AtomicI32,
    /// What `ibv_dereg_mr` returns.
    pub bound: AtomicI32,
    /// Queue pairs get depths that are multiples of it, if it is not 0.
    pub rounds_to: AtomicU32,
    /// Regions, domains, contexts, queues, queue pairs and channels that are live.
    pub regions: AtomicUsize,
    pub domains: AtomicUsize,
    pub contexts: AtomicUsize,
    pub queues: AtomicUsize,
    pub channels: AtomicUsize,
    /// Ranges of advice: offset in the address space, and bytes.
    pub advice: Mutex<Vec<(u64, u32)>>,
}

/// `struct verbs_context` and what is behind it. Sizes and places are those of the layout tests.
#[repr(C)]
struct Whole {
    advise_mr: AdviseMr,
    between: [usize; 37],
    size: usize,
    context: UnsafeCell<[usize; 41]>,
    device: *const Device,
}

// SAFETY: to be called as `ibv_advise_mr`.
type AdviseMr = unsafe extern "C" fn(*mut Pd, c_uint, u32, *mut Sge, u32) -> c_int;

/// A domain; its context is the fake's.
#[repr(C)]
struct Domain {
    pd: Pd,
}

#[repr(C)]
struct Queue {
    cq: Cq,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    done: VecDeque<Wc>,
    overrun: bool,
    armed: bool,
    acknowledged: u32,
    reported: u32,
}

#[repr(C)]
struct Pair {
    qp: Qp,
    queue: *const Queue,
    room: u32,
    posted: Mutex<[u32; 2]>,
}

#[repr(C)]
struct Events {
    channel: CompChannel,
    write: c_int,
}

fn set_errno(value: c_int) {
    // SAFETY: every thread has an errno.
    unsafe { *libc::__errno_location() = value };
}

impl Device {
    /// A context of this device, as others may have opened it.
    pub(crate) fn raw_context(&'static self) -> *mut c_void {
        let layout = Layout::new::<Whole>();
        // SAFETY: the layout is not empty.
        let whole = unsafe { alloc_zeroed(layout) }.cast::<Whole>();
        let mut context = [0; 41];
        context[0] = (&raw const *self).addr();
        context[1 + POLL_CQ] = poll_cq as *const () as usize;
        context[1 + REQ_NOTIFY_CQ] = req_notify_cq as *const () as usize;
        context[1 + POST_SEND] = post_send as *const () as usize;
        context[1 + POST_RECV] = post_recv as *const () as usize;
        // `abi_compat`: it is an extended context.
        context[40] = usize::MAX;
        // SAFETY: room of this size.
        unsafe {
            whole.write(Whole {
                advise_mr,
                between: [0; 37],
                size: size_of::<Whole>() - size_of::<*const Device>(),
                context: UnsafeCell::new(context),
                device: self,
            });
        }
        self.contexts.fetch_add(1, SeqCst);
        // SAFETY: initialised just now.
        unsafe { &raw mut (*whole).context }.cast()
    }

    /// A device of its own.
    pub(crate) fn new() -> &'static Self {
        Box::leak(Box::default())
    }

    /// An open context of it, which is not closed.
    pub(crate) fn context(&'static self) -> crate::Context {
        // SAFETY: the fake's contexts stay.
        unsafe { crate::Context::from_raw(self.raw_context(), ()) }.expect("the fake is there")
    }

    /// A domain of it, which is given back.
    pub(crate) fn domain(&'static self) -> crate::Domain {
        self.context().alloc_domain().expect("the fake has domains")
    }
}

/// The device of a context.
///
/// # Safety
///
/// A context of [`Device::raw_context`].
unsafe fn device(context: *mut Context) -> &'static Device {
    let front = context.wrapping_byte_sub(std::mem::offset_of!(Whole, context));
    // SAFETY: by this function's contract.
    unsafe { &*(*front.cast::<Whole>()).device }
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn get_list(_: *mut c_int) -> *mut *mut c_void {
    Box::into_raw(Box::new(ptr::null_mut()))
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn free_list(list: *mut *mut c_void) {
    // SAFETY: made by `get_list`.
    drop(unsafe { Box::from_raw(list) });
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn name(_: *mut c_void) -> *const c_char {
    c"fake0".as_ptr()
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn open(_: *mut c_void) -> *mut Context {
    ptr::null_mut()
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn close(context: *mut Context) -> c_int {
    // SAFETY: called with the fake's contexts.
    unsafe { device(context) }.contexts.fetch_sub(1, SeqCst);
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn query_gid(_: *mut Context, _: u8, _: c_int, gid: *mut Gid) -> c_int {
    // SAFETY: there is room.
    unsafe { *gid = [7; 16] };
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn alloc_pd(context: *mut Context) -> *mut Pd {
    // SAFETY: called with the fake's contexts.
    unsafe { device(context) }.domains.fetch_add(1, SeqCst);
    Box::into_raw(Box::new(Domain { pd: Pd { context } })).cast()
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn dealloc_pd(pd: *mut Pd) -> c_int {
    // SAFETY: made by `alloc_pd`.
    let device = unsafe { device((*pd).context) };
    if device.regions.load(SeqCst) != 0 {
        return libc::EBUSY;
    }
    device.domains.fetch_sub(1, SeqCst);
    // SAFETY: made by `alloc_pd`.
    drop(unsafe { Box::from_raw(pd.cast::<Domain>()) });
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn reg_mr(
    pd: *mut Pd,
    addr: *mut c_void,
    length: usize,
    _: u64,
    _: c_uint,
) -> *mut Mr {
    // SAFETY: made by `alloc_pd`.
    let context = unsafe { (*pd).context };
    // SAFETY: the fake's.
    let device = unsafe { device(context) };
    let refuse = device.refuse.load(SeqCst);
    if refuse != 0 {
        set_errno(refuse);
        return ptr::null_mut();
    }
    device.regions.fetch_add(1, SeqCst);
    Box::into_raw(Box::new(Mr {
        context,
        pd,
        addr,
        length,
        handle: 0,
        lkey: 11,
        rkey: 12,
    }))
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn dereg_mr(mr: *mut Mr) -> c_int {
    // SAFETY: made by `reg_mr`.
    let device = unsafe { device((*mr).context) };
    let bound = device.bound.load(SeqCst);
    if bound == 0 {
        device.regions.fetch_sub(1, SeqCst);
        // SAFETY: made by `reg_mr`.
        drop(unsafe { Box::from_raw(mr) });
    }
    bound
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn advise_mr(pd: *mut Pd, _: c_uint, _: u32, sge: *mut Sge, _: u32) -> c_int {
    // SAFETY: made by `alloc_pd`.
    let device = unsafe { device((*pd).context) };
    // SAFETY: one range.
    let (addr, length) = unsafe { ((*sge).addr, (*sge).length) };
    device.advice.lock().unwrap().push((addr, length));
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn create_channel(context: *mut Context) -> *mut CompChannel {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return ptr::null_mut();
    }
    // SAFETY: the fake's.
    unsafe { device(context) }.channels.fetch_add(1, SeqCst);
    Box::into_raw(Box::new(Events {
        channel: CompChannel {
            context,
            fd: ends[0],
            refcnt: 0,
        },
        write: ends[1],
    }))
    .cast()
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn destroy_channel(channel: *mut CompChannel) -> c_int {
    // SAFETY: made by `create_channel`.
    if unsafe { (*channel).refcnt } != 0 {
        return libc::EBUSY;
    }
    // SAFETY: the same.
    let events = unsafe { Box::from_raw(channel.cast::<Events>()) };
    // SAFETY: the fake's.
    unsafe { device(events.channel.context) }
        .channels
        .fetch_sub(1, SeqCst);
    for fd in [events.channel.fd, events.write] {
        // SAFETY: the channel's own descriptors.
        unsafe { libc::close(fd) };
    }
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn get_cq_event(
    channel: *mut CompChannel,
    cq: *mut *mut Cq,
    id: *mut *mut c_void,
) -> c_int {
    let mut queue: *mut Queue = ptr::null_mut();
    let size = size_of::<*mut Queue>();
    // SAFETY: room for an event.
    let got = unsafe { libc::read((*channel).fd, (&raw mut queue).cast(), size) };
    if got != size as isize {
        return -1;
    }
    // SAFETY: a queue with an event that is not acknowledged lives.
    unsafe {
        (*queue).state.lock().unwrap().reported += 1;
        *cq = queue.cast();
        *id = (*queue).cq.cq_context;
    }
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn ack_cq_events(cq: *mut Cq, n: c_uint) {
    // SAFETY: made by `create_cq`.
    unsafe { &*cq.cast::<Queue>() }
        .state
        .lock()
        .unwrap()
        .acknowledged += n;
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn create_cq(
    context: *mut Context,
    cqe: c_int,
    id: *mut c_void,
    channel: *mut CompChannel,
    _: c_int,
) -> *mut Cq {
    if !channel.is_null() {
        // SAFETY: made by `create_channel`.
        unsafe { (*channel).refcnt += 1 };
    }
    // SAFETY: the fake's.
    unsafe { device(context) }.queues.fetch_add(1, SeqCst);
    Box::into_raw(Box::new(Queue {
        cq: Cq {
            context,
            channel,
            cq_context: id,
            handle: 0,
            cqe,
        },
        state: Mutex::default(),
    }))
    .cast()
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn destroy_cq(cq: *mut Cq) -> c_int {
    // SAFETY: made by `create_cq`.
    let queue = unsafe { Box::from_raw(cq.cast::<Queue>()) };
    let state = queue.state.lock().unwrap();
    // libibverbs would wait for ever.
    assert_eq!(
        state.acknowledged, state.reported,
        "events are acknowledged"
    );
    drop(state);
    if !queue.cq.channel.is_null() {
        // SAFETY: a channel outlives its queues.
        unsafe { (*queue.cq.channel).refcnt -= 1 };
    }
    // SAFETY: the fake's.
    unsafe { device(queue.cq.context) }
        .queues
        .fetch_sub(1, SeqCst);
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn create_qp(pd: *mut Pd, attr: *mut QpInitAttr) -> *mut Qp {
    // SAFETY: made by `alloc_pd`.
    let context = unsafe { (*pd).context };
    // SAFETY: the fake's.
    let device = unsafe { device(context) };
    // SAFETY: the caller's attributes.
    let attr = unsafe { &mut *attr };
    let to = device.rounds_to.load(SeqCst).max(1);
    attr.cap.max_send_wr = attr.cap.max_send_wr.next_multiple_of(to);
    attr.cap.max_recv_wr = attr.cap.max_recv_wr.next_multiple_of(to);
    Box::into_raw(Box::new(Pair {
        qp: Qp {
            context,
            between: [ptr::null_mut(); 5],
            handle: 0,
            qp_num: 17,
        },
        queue: attr.send_cq.cast(),
        room: attr.cap.max_send_wr,
        posted: Mutex::default(),
    }))
    .cast()
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn modify_qp(_: *mut Qp, _: *mut QpAttr, _: c_int) -> c_int {
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn destroy_qp(qp: *mut Qp) -> c_int {
    // SAFETY: made by `create_qp`.
    drop(unsafe { Box::from_raw(qp.cast::<Pair>()) });
    0
}

/// A request that is done at once, if the queue pair has room for it.
///
/// # Safety
///
/// A queue pair of the fake.
unsafe fn post(qp: *mut Qp, way: usize, id: u64) -> c_int {
    // SAFETY: by this function's contract.
    let pair = unsafe { &*qp.cast::<Pair>() };
    let mut posted = pair.posted.lock().unwrap();
    if posted[way] == pair.room {
        return libc::ENOMEM;
    }
    posted[way] += 1;
    // SAFETY: a queue pair's queue outlives it.
    let queue = unsafe { &*pair.queue };
    let mut state = queue.state.lock().unwrap();
    if state.done.len() == queue.cq.cqe as usize {
        state.overrun = true;
        return 0;
    }
    state.done.push_back(Wc {
        wr_id: id,
        ..Wc::default()
    });
    if std::mem::take(&mut state.armed) {
        let event: *const Queue = queue;
        // SAFETY: the channel of a queue that was armed.
        let write = unsafe { (*queue.cq.channel.cast::<Events>()).write };
        let size = size_of::<*const Queue>();
        // SAFETY: an event of this size.
        let put = unsafe { libc::write(write, (&raw const event).cast(), size) };
        assert_eq!(put, size as isize);
    }
    0
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn post_send(qp: *mut Qp, wr: *mut SendWr, _: *mut *mut SendWr) -> c_int {
    // SAFETY: the caller's request.
    unsafe { post(qp, 0, (*wr).wr_id) }
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn post_recv(qp: *mut Qp, wr: *mut RecvWr, _: *mut *mut RecvWr) -> c_int {
    // SAFETY: the caller's request.
    unsafe { post(qp, 1, (*wr).wr_id) }
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn poll_cq(cq: *mut Cq, _: c_int, wc: *mut Wc) -> c_int {
    // SAFETY: made by `create_cq`.
    let mut state = unsafe { &*cq.cast::<Queue>() }.state.lock().unwrap();
    if state.overrun {
        return -1;
    }
    let Some(done) = state.done.pop_front() else {
        return 0;
    };
    // SAFETY: room for one.
    unsafe { *wc = done };
    1
}

/// # Safety
/// That of [`VERBS`].
unsafe extern "C" fn req_notify_cq(cq: *mut Cq, _: c_int) -> c_int {
    // SAFETY: made by `create_cq`.
    unsafe { &*cq.cast::<Queue>() }.state.lock().unwrap().armed = true;
    0
}
