// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reliable connections over RoCE, as far as the examples and small programs need them.

use std::{ffi::c_void, io, mem::zeroed, ops::Range, ptr};

use crate::{
    access::Access,
    channel::Channel,
    device::Domain,
    error::{ConnectError, PostError, QueueError, last, status},
    ffi::{self, Cq, Gid, GidAligned, Qp, QpAttr, QpInitAttr, RecvWr, SendWr, Wc},
    memory::Memory,
    region::{Region, Remote},
};

/// `IBV_QPT_RC`
const RC: u32 = 2;
/// The one port of most devices.
const PORT: u8 = 1;

/// `enum ibv_wr_opcode`
#[derive(Clone, Copy)]
enum Opcode {
    Write = 0,
    Send = 2,
    Read = 4,
}

/// A reliable connection with a completion queue of its own.
pub struct QueuePair {
    qp: *mut Qp,
    cq: *mut Cq,
    domain: Domain,
    gid: Gid,
    gid_index: u8,
    /// Where its events arrive; gone after the completion queue.
    channel: Option<Channel>,
}

// SAFETY: libibverbs' queues can be used by any thread.
unsafe impl Send for QueuePair {}
// SAFETY: they have locks of their own.
unsafe impl Sync for QueuePair {}

/// What the other side needs to know to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Queue pair number.
    pub number: u32,
    /// Address of the port.
    pub gid: [u8; 16],
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// As it was posted.
    pub id: u64,
    /// Of a receive: the bytes that came.
    pub bytes: u32,
    /// `enum ibv_wc_status`; 0 is success.
    pub status: u32,
}

impl QueuePair {
    /// Makes one for `depth` requests in each direction, or for more if the provider rounds up, behind the port's address of this
    /// index. Its completions are polled for.
    ///
    /// # Errors
    ///
    /// The device has no more, or not so deep ones, or no such address.
    pub fn new(domain: &Domain, gid_index: u8, depth: u32) -> Result<Self, QueueError> {
        Self::make(domain, gid_index, depth, None)
    }

    /// Makes one as [`QueuePair::new`] does, whose completions can make events on `channel`, which tells them by `id`.
    ///
    /// # Errors
    ///
    /// As for [`QueuePair::new`]. The channel is one of another device (`EINVAL`).
    pub fn with_events(
        domain: &Domain,
        gid_index: u8,
        depth: u32,
        channel: &Channel,
        id: usize,
    ) -> Result<Self, QueueError> {
        if channel.context().as_raw() != domain.context().as_raw() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL).into());
        }
        Self::make(domain, gid_index, depth, Some((channel, id)))
    }

    fn make(
        domain: &Domain,
        gid_index: u8,
        depth: u32,
        events: Option<(&Channel, usize)>,
    ) -> Result<Self, QueueError> {
        let context = domain.context();
        let raw = context.as_raw().cast();
        let mut gid = [0; 16];
        // SAFETY: the context is open, and there is room for the address.
        if unsafe { (context.verbs().query_gid)(raw, PORT, gid_index.into(), &mut gid) } != 0 {
            return Err(last().into());
        }
        let mut entries = depth.saturating_mul(2);
        for _ in 0..3 {
            let (qp, cq, made) = pair(domain, depth, entries, events)?;
            let this = Self {
                qp,
                cq,
                domain: domain.clone(),
                gid,
                gid_index,
                channel: events.map(|(channel, _)| channel.clone()),
            };
            // SAFETY: a live queue.
            let room = unsafe { (*cq).cqe };
            let wanted = made.max_send_wr.saturating_add(made.max_recv_wr);
            if u32::try_from(room).is_ok_and(|room| room >= wanted) {
                return Ok(this);
            }
            // The provider rounded up: as many requests can be under way, and a completion without room would end the queue.
            entries = wanted;
        }
        Err(io::Error::other("its completion queues are shorter than its queue pairs need").into())
    }

    /// The `struct ibv_qp`, for verbs that this crate lacks.
    #[must_use]
    pub fn as_raw(&self) -> *mut c_void {
        self.qp.cast()
    }

    /// The `struct ibv_cq` of its completions, for verbs that this crate lacks.
    #[must_use]
    pub fn completions_as_raw(&self) -> *mut c_void {
        self.cq.cast()
    }

    /// What the other side needs to know.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            // SAFETY: a live queue pair.
            number: unsafe { (*self.qp).qp_num },
            gid: self.gid,
        }
    }

    /// Connects to the other side, which may do to regions what `access` and the region's own flags say.
    ///
    /// # Errors
    ///
    /// It is connected already, or the device refuses.
    pub fn connect(&self, other: &Endpoint, access: Access) -> Result<(), ConnectError> {
        /// `IBV_QP_STATE`, `_PKEY_INDEX`, `_PORT`, `_ACCESS_FLAGS`
        const INIT: i32 = 1 | 1 << 4 | 1 << 5 | 1 << 3;
        /// `IBV_QP_STATE`, `_AV`, `_PATH_MTU`, `_DEST_QPN`, `_RQ_PSN`, `_MAX_DEST_RD_ATOMIC`, `_MIN_RNR_TIMER`
        const READY_TO_RECEIVE: i32 = 1 | 1 << 7 | 1 << 8 | 1 << 20 | 1 << 12 | 1 << 17 | 1 << 15;
        /// `IBV_QP_STATE`, `_TIMEOUT`, `_RETRY_CNT`, `_RNR_RETRY`, `_SQ_PSN`, `_MAX_QP_RD_ATOMIC`
        const READY_TO_SEND: i32 = 1 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16 | 1 << 13;
        // SAFETY: numbers only, of which zero is a value.
        let mut attr: QpAttr = unsafe { zeroed() };
        attr.port_num = PORT;
        attr.qp_access_flags = access.bits();
        // `IBV_MTU_1024`: every RoCE port has it.
        attr.path_mtu = 3;
        attr.dest_qp_num = other.number;
        attr.max_dest_rd_atomic = 16;
        attr.max_rd_atomic = 16;
        attr.min_rnr_timer = 12;
        attr.timeout = 14;
        attr.retry_cnt = 7;
        attr.rnr_retry = 7;
        attr.ah_attr.is_global = 1;
        attr.ah_attr.port_num = PORT;
        attr.ah_attr.dgid = GidAligned(other.gid);
        attr.ah_attr.sgid_index = self.gid_index;
        attr.ah_attr.hop_limit = 64;
        let steps = [(1, INIT), (2, READY_TO_RECEIVE), (3, READY_TO_SEND)];
        for (state, mask) in steps {
            attr.qp_state = state;
            let modify = self.domain.context().verbs().modify_qp;
            // SAFETY: a live queue pair, and attributes that the mask names.
            status(unsafe { modify(self.qp, &mut attr, mask) })?;
        }
        Ok(())
    }

    /// Asks for an event on the channel when the next completion arrives. One that is there already makes none: poll until
    /// nothing is left, ask, and poll once more before waiting.
    ///
    /// # Errors
    ///
    /// It was made without a channel (`EINVAL`), or the device refuses.
    pub fn request_event(&self) -> io::Result<()> {
        if self.channel.is_none() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: a live queue with a channel.
        status(unsafe { ffi::req_notify_cq(self.cq) })
    }

    /// Posts a receive into a part of a region.
    ///
    /// # Errors
    ///
    /// The queue is full.
    ///
    /// # Panics
    ///
    /// The range is reversed, not inside the region, or 4 GiB or longer.
    pub fn post_recv<M: Memory>(
        &self,
        id: u64,
        into: &Region<M>,
        range: Range<usize>,
    ) -> Result<(), PostError> {
        let mut sge = into.sge(range);
        let mut wr = RecvWr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list: &mut sge,
            num_sge: 1,
        };
        // SAFETY: a live queue pair, and a request that libibverbs copies.
        Ok(status(unsafe { ffi::post_recv(self.qp, &mut wr) })?)
    }

    /// Posts a send of a part of a region.
    ///
    /// # Errors
    ///
    /// The queue is full.
    ///
    /// # Panics
    ///
    /// The range is reversed, not inside the region, or 4 GiB or longer.
    pub fn post_send<M: Memory>(
        &self,
        id: u64,
        from: &Region<M>,
        range: Range<usize>,
    ) -> Result<(), PostError> {
        let nowhere = Remote {
            addr: 0,
            length: 0,
            rkey: 0,
        };
        self.post(id, Opcode::Send, from, range, nowhere)
    }

    /// Posts an RDMA READ of what is at `from` into a part of a region.
    ///
    /// # Errors
    ///
    /// The queue is full.
    ///
    /// # Panics
    ///
    /// The range is reversed, not inside the region, or 4 GiB or longer.
    pub fn post_read<M: Memory>(
        &self,
        id: u64,
        into: &Region<M>,
        range: Range<usize>,
        from: Remote,
    ) -> Result<(), PostError> {
        self.post(id, Opcode::Read, into, range, from)
    }

    /// Posts an RDMA WRITE of a part of a region to `to`.
    ///
    /// # Errors
    ///
    /// The queue is full.
    ///
    /// # Panics
    ///
    /// The range is reversed, not inside the region, or 4 GiB or longer.
    pub fn post_write<M: Memory>(
        &self,
        id: u64,
        from: &Region<M>,
        range: Range<usize>,
        to: Remote,
    ) -> Result<(), PostError> {
        self.post(id, Opcode::Write, from, range, to)
    }

    fn post<M: Memory>(
        &self,
        id: u64,
        opcode: Opcode,
        local: &Region<M>,
        range: Range<usize>,
        remote: Remote,
    ) -> Result<(), PostError> {
        /// `IBV_SEND_SIGNALED`
        const SIGNALED: u32 = 1 << 1;
        let mut sge = local.sge(range);
        let mut wr = SendWr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list: &mut sge,
            num_sge: 1,
            opcode: opcode as u32,
            send_flags: SIGNALED,
            imm_data: 0,
            remote_addr: remote.addr,
            rkey: remote.rkey,
            rest: [0; 9],
        };
        // SAFETY: a live queue pair, and a request that libibverbs copies.
        Ok(status(unsafe { ffi::post_send(self.qp, &mut wr) })?)
    }

    /// Takes a completion, if there is one.
    ///
    /// # Errors
    ///
    /// The queue has overrun.
    pub fn poll(&self) -> io::Result<Option<Completion>> {
        let mut wc = Wc::default();
        // SAFETY: a live queue, and room for one completion.
        match unsafe { ffi::poll_cq(self.cq, 1, &mut wc) } {
            0 => Ok(None),
            1 => Ok(Some(Completion {
                id: wc.wr_id,
                bytes: wc.byte_len,
                status: wc.status,
            })),
            _ => Err(io::Error::other("the completion queue has overrun")),
        }
    }
}

/// A queue pair for `depth` requests in each direction with a completion queue of `entries`, and what the provider made of the depth.
fn pair(
    domain: &Domain,
    depth: u32,
    entries: u32,
    events: Option<(&Channel, usize)>,
) -> Result<(*mut Qp, *mut Cq, ffi::QpCap), QueueError> {
    let context = domain.context();
    let verbs = context.verbs();
    let entries = i32::try_from(entries).unwrap_or(i32::MAX);
    let channel = events.map_or(ptr::null_mut(), |(channel, _)| channel.raw());
    let id = ptr::without_provenance_mut(events.map_or(0, |(_, id)| id));
    let raw = context.as_raw().cast();
    // SAFETY: the context is open, the channel is one of its own or none, and the identifier comes back as it is; the first vector.
    let cq = unsafe { (verbs.create_cq)(raw, entries, id, channel, 0) };
    if cq.is_null() {
        return Err(last().into());
    }
    let mut attr = QpInitAttr {
        context: ptr::null_mut(),
        send_cq: cq,
        recv_cq: cq,
        srq: ptr::null_mut(),
        cap: ffi::QpCap {
            max_send_wr: depth,
            max_recv_wr: depth,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: 0,
        },
        qp_type: RC,
        sq_sig_all: 0,
    };
    // SAFETY: a live domain and queue.
    let qp = unsafe { (verbs.create_qp)(domain.raw(), &mut attr) };
    if qp.is_null() {
        let error = last();
        // SAFETY: made above, and used by nobody.
        unsafe { (verbs.destroy_cq)(cq) };
        return Err(error.into());
    }
    Ok((qp, cq, attr.cap))
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let verbs = self.domain.context().verbs();
        // SAFETY: a live queue pair that nobody uses any more.
        unsafe { (verbs.destroy_qp)(self.qp) };
        // SAFETY: the same of its completion queue.
        unsafe { (verbs.destroy_cq)(self.cq) };
    }
}
