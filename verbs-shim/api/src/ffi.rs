// SPDX-License-Identifier: MIT OR Apache-2.0

//! The functions and structures of libibverbs that are used. Source: `infiniband/verbs.h`.

use std::{
    ffi::{c_int, c_uint, c_void},
    ops::Deref,
    ptr,
    sync::OnceLock,
};

use verbs_abi::load::{Devices, Library};

use crate::abi::{Context, Mr, Pd, Sge};

/// `union ibv_gid`
pub(crate) type Gid = [u8; 16];

/// `struct ibv_qp_cap`
#[repr(C)]
pub(crate) struct QpCap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

/// `struct ibv_qp_init_attr`
#[repr(C)]
pub(crate) struct QpInitAttr {
    pub context: *mut c_void,
    pub send_cq: *mut Cq,
    pub recv_cq: *mut Cq,
    pub srq: *mut c_void,
    pub cap: QpCap,
    pub qp_type: c_uint,
    pub sq_sig_all: c_int,
}

/// `struct ibv_cq`, as far as it is read
#[repr(C)]
pub(crate) struct Cq {
    pub context: *mut Context,
    pub channel: *mut CompChannel,
    pub cq_context: *mut c_void,
    pub handle: u32,
    pub cqe: c_int,
}

/// `struct ibv_comp_channel`
#[repr(C)]
pub(crate) struct CompChannel {
    pub context: *mut Context,
    pub fd: c_int,
    pub refcnt: c_int,
}

/// `struct ibv_qp`, as far as it is read
#[repr(C)]
pub(crate) struct Qp {
    pub context: *mut Context,
    pub between: [*mut c_void; 5],
    pub handle: u32,
    pub qp_num: u32,
}

/// `struct ibv_ah_attr` with its `struct ibv_global_route`
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct AhAttr {
    pub dgid: GidAligned,
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

/// `union ibv_gid` holds 64-bit numbers.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct GidAligned(pub Gid);

/// `struct ibv_qp_attr`
#[repr(C)]
pub(crate) struct QpAttr {
    pub qp_state: c_uint,
    pub cur_qp_state: c_uint,
    pub path_mtu: c_uint,
    pub path_mig_state: c_uint,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: c_uint,
    pub cap: QpCap,
    pub ah_attr: AhAttr,
    pub alt_ah_attr: AhAttr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

/// `struct ibv_send_wr`, with the RDMA part of its union
#[repr(C)]
pub(crate) struct SendWr {
    pub wr_id: u64,
    pub next: *mut SendWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
    pub opcode: c_uint,
    pub send_flags: c_uint,
    pub imm_data: u32,
    pub remote_addr: u64,
    pub rkey: u32,
    pub rest: [u64; 9],
}

/// `struct ibv_recv_wr`
#[repr(C)]
pub(crate) struct RecvWr {
    pub wr_id: u64,
    pub next: *mut RecvWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
}

/// `struct ibv_wc`
#[derive(Default)]
#[repr(C)]
pub(crate) struct Wc {
    pub wr_id: u64,
    pub status: c_uint,
    pub opcode: c_uint,
    pub vendor_err: u32,
    pub byte_len: u32,
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: c_uint,
    pub rest: [u16; 4],
}

/// Sizes and places, the same numbers as in the guest test `shim_layouts_are_libibverbs`, which compares them with the header.
macro_rules! layout {
    ($($type:ident[$size:expr] { $($field:ident: $offset:expr),* })*) => {
        const _: () = {
            $(assert!(size_of::<$type>() == $size, stringify!($type));
            $(assert!(std::mem::offset_of!($type, $field) == $offset, stringify!($type.$field));)*)*
        };
    };
}

layout! {
    QpCap[20] { max_send_wr: 0, max_recv_wr: 4, max_send_sge: 8, max_recv_sge: 12 }
    QpInitAttr[64] { send_cq: 8, recv_cq: 16, cap: 32, qp_type: 52, sq_sig_all: 56 }
    QpAttr[144] {
        qp_state: 0, path_mtu: 8, rq_psn: 20, sq_psn: 24, dest_qp_num: 28, qp_access_flags: 32, ah_attr: 56, pkey_index: 120,
        max_rd_atomic: 126, max_dest_rd_atomic: 127, min_rnr_timer: 128, port_num: 129, timeout: 130, retry_cnt: 131, rnr_retry: 132
    }
    AhAttr[32] { dgid: 0, sgid_index: 20, hop_limit: 21, dlid: 24, is_global: 29, port_num: 30 }
    SendWr[128] { next: 8, sg_list: 16, num_sge: 24, opcode: 28, send_flags: 32, remote_addr: 40, rkey: 48 }
    RecvWr[32] { next: 8, sg_list: 16, num_sge: 24 }
    Wc[48] { wr_id: 0, status: 8, opcode: 12, byte_len: 20, qp_num: 28, wc_flags: 36 }
    CompChannel[16] { context: 0, fd: 8 }
    Sge[16] { addr: 0, length: 8, lkey: 12 }
}

const _: () = assert!(std::mem::offset_of!(Qp, qp_num) == 52);
const _: () = assert!(std::mem::offset_of!(Cq, cqe) == 28);

/// Places of inline functions in `struct ibv_context_ops`.
pub(crate) const POLL_CQ: usize = 11;
pub(crate) const REQ_NOTIFY_CQ: usize = 12;
pub(crate) const POST_SEND: usize = 25;
pub(crate) const POST_RECV: usize = 26;

// SAFETY: to be called as the inline functions in verbs.h do that make these calls.
type PollCq = unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int;
type ReqNotifyCq = unsafe extern "C" fn(*mut Cq, c_int) -> c_int;
// SAFETY: as above.
type PostSend = unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int;
type PostRecv = unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int;

/// `ibv_poll_cq`
///
/// # Safety
///
/// As for the function: a live queue, and room for `n` completions.
pub(crate) unsafe fn poll_cq(cq: *mut Cq, n: c_int, wc: *mut Wc) -> c_int {
    // SAFETY: a live queue has a live context.
    let context = unsafe { (*cq).context };
    // SAFETY: an open context has its operations.
    let op = unsafe { (*context).ops[POLL_CQ] };
    // SAFETY: the operation at this place has this type.
    let op: PollCq = unsafe { std::mem::transmute(op) };
    // SAFETY: by this function's contract.
    unsafe { op(cq, n, wc) }
}

/// `ibv_req_notify_cq`, for the next completion of any kind
///
/// # Safety
///
/// As for the function: a live queue with a channel.
pub(crate) unsafe fn req_notify_cq(cq: *mut Cq) -> c_int {
    // SAFETY: a live queue has a live context.
    let context = unsafe { (*cq).context };
    // SAFETY: an open context has its operations.
    let op = unsafe { (*context).ops[REQ_NOTIFY_CQ] };
    // SAFETY: the operation at this place has this type.
    let op: ReqNotifyCq = unsafe { std::mem::transmute(op) };
    // SAFETY: by this function's contract.
    unsafe { op(cq, 0) }
}

/// `ibv_post_send`
///
/// # Safety
///
/// As for the function: a live queue pair and a valid request.
pub(crate) unsafe fn post_send(qp: *mut Qp, wr: *mut SendWr) -> c_int {
    let mut bad = ptr::null_mut();
    // SAFETY: a live queue pair has a live context.
    let context = unsafe { (*qp).context };
    // SAFETY: an open context has its operations.
    let op = unsafe { (*context).ops[POST_SEND] };
    // SAFETY: the operation at this place has this type.
    let op: PostSend = unsafe { std::mem::transmute(op) };
    // SAFETY: by this function's contract.
    unsafe { op(qp, wr, &mut bad) }
}

/// `ibv_post_recv`
///
/// # Safety
///
/// As for the function: a live queue pair and a valid request.
pub(crate) unsafe fn post_recv(qp: *mut Qp, wr: *mut RecvWr) -> c_int {
    let mut bad = ptr::null_mut();
    // SAFETY: a live queue pair has a live context.
    let context = unsafe { (*qp).context };
    // SAFETY: an open context has its operations.
    let op = unsafe { (*context).ops[POST_RECV] };
    // SAFETY: the operation at this place has this type.
    let op: PostRecv = unsafe { std::mem::transmute(op) };
    // SAFETY: by this function's contract.
    unsafe { op(qp, wr, &mut bad) }
}

verbs_abi::functions! {
    /// The functions that libibverbs exports, besides those that open a device.
    pub(crate) struct Functions {
        query_gid: ibv_query_gid(*mut Context, u8, c_int, *mut Gid) -> c_int;
        alloc_pd: ibv_alloc_pd(*mut Context) -> *mut Pd;
        dealloc_pd: ibv_dealloc_pd(*mut Pd) -> c_int;
        reg_mr: ibv_reg_mr_iova2(*mut Pd, *mut c_void, usize, u64, c_uint) -> *mut Mr;
        dereg_mr: ibv_dereg_mr(*mut Mr) -> c_int;
        create_channel: ibv_create_comp_channel(*mut Context) -> *mut CompChannel;
        destroy_channel: ibv_destroy_comp_channel(*mut CompChannel) -> c_int;
        get_cq_event: ibv_get_cq_event(*mut CompChannel, *mut *mut Cq, *mut *mut c_void) -> c_int;
        ack_cq_events: ibv_ack_cq_events(*mut Cq, c_uint) -> ();
        create_cq: ibv_create_cq(*mut Context, c_int, *mut c_void, *mut CompChannel, c_int) -> *mut Cq;
        destroy_cq: ibv_destroy_cq(*mut Cq) -> c_int;
        create_qp: ibv_create_qp(*mut Pd, *mut QpInitAttr) -> *mut Qp;
        modify_qp: ibv_modify_qp(*mut Qp, *mut QpAttr, c_int) -> c_int;
        destroy_qp: ibv_destroy_qp(*mut Qp) -> c_int;
    }
}

/// All functions of libibverbs that are called.
#[derive(Debug)]
pub(crate) struct Verbs {
    pub devices: Devices,
    functions: Functions,
}

impl Deref for Verbs {
    type Target = Functions;

    fn deref(&self) -> &Functions {
        &self.functions
    }
}

impl Verbs {
    fn load() -> Option<Self> {
        let library = Library::load()?;
        Some(Self {
            devices: Devices::load(library)?,
            functions: Functions::load(library)?,
        })
    }

    /// These functions.
    #[cfg(test)]
    pub(crate) const fn new(devices: Devices, functions: Functions) -> Self {
        Self { devices, functions }
    }
}

/// The functions, loaded at the first use; `None` if libibverbs is missing or too old.
pub(crate) fn verbs() -> Option<&'static Verbs> {
    static VERBS: OnceLock<Option<Verbs>> = OnceLock::new();
    if cfg!(test) {
        #[cfg(test)]
        return Some(&crate::fake::VERBS);
    }
    VERBS.get_or_init(Verbs::load).as_ref()
}
