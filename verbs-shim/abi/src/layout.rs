// SPDX-License-Identifier: MIT OR Apache-2.0

//! Layouts, flags and function types of libibverbs.
//!
//! Source: `infiniband/verbs.h` of rdma-core 56, and `ibv_reg_mr_ex(3)` of newer ones. The layouts
//! are part of libibverbs' ABI; the guest test `shim_layouts_are_libibverbs` compares them with the header.

use core::ffi::{c_char, c_int, c_uint, c_void};

/// `IBV_ACCESS_LOCAL_WRITE`
pub const LOCAL_WRITE: c_uint = 1;
/// `IBV_ACCESS_REMOTE_ATOMIC`
pub const REMOTE_ATOMIC: c_uint = 1 << 3;
/// `IBV_ACCESS_ON_DEMAND`
pub const ON_DEMAND: c_uint = 1 << 6;
/// `IBV_ACCESS_FLUSH_PERSISTENT`
pub const FLUSH_PERSISTENT: c_uint = 1 << 9;

/// `IBV_REREG_MR_CHANGE_TRANSLATION`
pub const CHANGE_TRANSLATION: c_int = 1;
/// `IBV_REREG_MR_CHANGE_PD`
pub const CHANGE_PD: c_int = 1 << 1;
/// `IBV_REREG_MR_CHANGE_ACCESS`
pub const CHANGE_ACCESS: c_int = 1 << 2;

/// `IBV_ODP_SUPPORT`
pub const ODP_SUPPORT: u64 = 1;
/// `IBV_ODP_SUPPORT_IMPLICIT`
pub const ODP_IMPLICIT: u64 = 1 << 1;
/// `IBV_ODP_SUPPORT_ATOMIC`
pub const ODP_ATOMIC: u32 = 1 << 4;

/// `struct ibv_pd`, as far as it is read.
#[repr(C)]
pub struct Pd {
    /// The open device that it is of
    pub context: *mut Context,
}

/// `struct ibv_mr`
#[repr(C)]
pub struct Mr {
    /// The open device that it is of
    pub context: *mut Context,
    /// Its protection domain
    pub pd: *mut Pd,
    /// The first byte, as it was registered
    pub addr: *mut c_void,
    /// Bytes
    pub length: usize,
    /// The kernel's number of it
    pub handle: u32,
    /// The key for the owner's own requests
    pub lkey: u32,
    /// The key for requests of peers
    pub rkey: u32,
}

/// `struct ibv_mr_init_attr`, in its first form; later fields follow, each with a bit of
/// `comp_mask`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MrInitAttr {
    /// Bytes
    pub length: usize,
    /// `enum ibv_access_flags`
    pub access: c_int,
    /// Which of the fields below are set: `MASK_…`
    pub comp_mask: u64,
    /// The address by which the HCA names the first byte
    pub iova: u64,
    /// The first byte
    pub addr: *mut c_void,
    /// A dma-buf
    pub fd: c_int,
    /// Where in the dma-buf the region begins, in bytes
    pub fd_offset: u64,
    /// `struct ibv_dmah`: hints how the memory is reached
    pub dmah: *mut c_void,
}

/// `IBV_REG_MR_MASK_IOVA`
pub const MASK_IOVA: u64 = 1;
/// `IBV_REG_MR_MASK_ADDR`
pub const MASK_ADDR: u64 = 1 << 1;
/// `IBV_REG_MR_MASK_FD`
pub const MASK_FD: u64 = 1 << 2;

/// `struct ibv_sge`
#[repr(C)]
pub struct Sge {
    /// The first byte, by the region's iova
    pub addr: u64,
    /// Bytes
    pub length: u32,
    /// The region's key
    pub lkey: u32,
}

/// `struct ibv_context`, as far as it is read.
#[repr(C)]
pub struct Context {
    /// `struct ibv_device`
    pub device: *const c_void,
    /// `struct ibv_context_ops`: the functions behind the header's inline ones
    pub ops: [*const c_void; 32],
    cmd_fd: c_int,
    async_fd: c_int,
    num_comp_vectors: c_int,
    mutex: [u64; 5],
    abi_compat: usize,
}

/// The part of `struct verbs_context` that is read. It grows at its front: `sz` tells how far.
#[repr(C)]
struct VerbsContext {
    advise_mr: Option<AdviseMr>,
    between: [*const c_void; 23],
    create_cq_ex: *const c_void,
    private: *const c_void,
    query_device_ex: Option<QueryDeviceEx>,
    after: [*const c_void; 11],
    sz: usize,
    context: Context,
}

/// Distance of an operation from the end of `struct verbs_context`, in bytes: `sz` has to reach it.
const REACH_ADVISE_MR: usize = size_of::<VerbsContext>();
const REACH_QUERY_DEVICE_EX: usize =
    REACH_ADVISE_MR - core::mem::offset_of!(VerbsContext, query_device_ex);
const REACH_CREATE_CQ_EX: usize =
    REACH_ADVISE_MR - core::mem::offset_of!(VerbsContext, create_cq_ex);

const _: () = {
    assert!(size_of::<Mr>() == 48, "struct ibv_mr");
    assert!(size_of::<Context>() == 328, "struct ibv_context");
    assert!(REACH_ADVISE_MR == 328 + 312, "verbs_context::advise_mr");
    assert!(
        REACH_QUERY_DEVICE_EX == 328 + 104,
        "verbs_context::query_device_ex"
    );
    assert!(
        REACH_CREATE_CQ_EX == 328 + 120,
        "verbs_context::create_cq_ex"
    );
    assert!(OPS_OF_DEVICE == 664, "verbs_device::ops");
};

/// Where the provider's operations stand in a device: behind `struct ibv_device`, in `struct verbs_device` of libibverbs and its
/// providers. In bytes.
const OPS_OF_DEVICE: usize = 2 * 8 + 2 * 4 + 2 * 64 + 2 * 256;

/// `ibv_context_ops::poll_cq`, which no provider leaves out.
const POLL_CQ: usize = 11;

// SAFETY: to be called with what the program passed, or with what its own call of the same kind could pass. The types are those
// of verbs.h.
/// `ibv_reg_mr`
pub type RegMr = unsafe extern "C" fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
/// `ibv_reg_mr_iova`
pub type RegMrIova = unsafe extern "C" fn(*mut Pd, *mut c_void, usize, u64, c_int) -> *mut Mr;
// SAFETY: as above.
/// `ibv_reg_mr_iova2`
pub type RegMrIova2 = unsafe extern "C" fn(*mut Pd, *mut c_void, usize, u64, c_uint) -> *mut Mr;
// SAFETY: as above.
/// `ibv_reg_mr_ex`
pub type RegMrEx = unsafe extern "C" fn(*mut Pd, *mut MrInitAttr) -> *mut Mr;
// SAFETY: as above.
/// `ibv_reg_dmabuf_mr`
pub type RegDmabufMr = unsafe extern "C" fn(*mut Pd, u64, usize, u64, c_int, c_int) -> *mut Mr;
/// `ibv_rereg_mr`
pub type ReregMr =
    unsafe extern "C" fn(*mut Mr, c_int, *mut Pd, *mut c_void, usize, c_int) -> c_int;
// SAFETY: to be called with an object that the program ends itself.
/// `ibv_dereg_mr`
pub type DeregMr = unsafe extern "C" fn(*mut Mr) -> c_int;
/// `ibv_dealloc_pd`
pub type DeallocPd = unsafe extern "C" fn(*mut Pd) -> c_int;
// SAFETY: to be called with an object that the program ends itself.
/// `ibv_unimport_pd`
pub type UnimportPd = unsafe extern "C" fn(*mut Pd);
/// `ibv_close_device`
pub type CloseDevice = unsafe extern "C" fn(*mut Context) -> c_int;
// SAFETY: to be called with live objects of the program's.
/// `ibv_get_device_name`
pub type DeviceName = unsafe extern "C" fn(*const c_void) -> *const c_char;
/// `ibv_advise_mr`
pub type AdviseMr = unsafe extern "C" fn(*mut Pd, c_uint, u32, *mut Sge, u32) -> c_int;
// SAFETY: to be called with a live context, a null input, and room for as many bytes as it is told.
type QueryDeviceEx =
    unsafe extern "C" fn(*mut Context, *const c_void, *mut DeviceAttrEx, usize) -> c_int;

/// `struct ibv_device_attr_ex`, as far as it is read; the rest is room for the driver.
#[repr(C)]
struct DeviceAttrEx {
    before: [u64; 12],
    vendor: u32,
    between: [u32; 35],
    odp: OdpCaps,
    after: [u64; 18],
}

const _: () = assert!(size_of::<DeviceAttrEx>() == 408, "room for 400 bytes");
const _: () = assert!(core::mem::offset_of!(DeviceAttrEx, vendor) == 96);
const _: () = assert!(core::mem::offset_of!(DeviceAttrEx, odp) == 240);

/// `struct ibv_odp_caps`: what a device can do on demand, in all and for each transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OdpCaps {
    /// `enum ibv_odp_general_caps`
    pub general: u64,
    /// `enum ibv_odp_transport_cap_bits` of reliable connections
    pub rc: u32,
    /// the same of unreliable connections
    pub uc: u32,
    /// the same of datagrams
    pub ud: u32,
}

impl core::fmt::Display for OdpCaps {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            general,
            rc,
            uc,
            ud,
        } = self;
        write!(
            f,
            "on-demand paging general {general:#x}, rc {rc:#x}, uc {uc:#x}, ud {ud:#x}"
        )
    }
}

/// The extended context that `context` is part of, if its operations reach `reach` bytes.
///
/// # Safety
///
/// `context` is an open context of libibverbs.
unsafe fn extended(context: *mut Context, reach: usize) -> Option<*mut VerbsContext> {
    // SAFETY: an open context has this field in every version.
    let abi = unsafe { (*context).abi_compat };
    if abi != usize::MAX {
        return None;
    }
    let front = context
        .wrapping_byte_sub(core::mem::offset_of!(VerbsContext, context))
        .cast::<VerbsContext>();
    // SAFETY: `abi_compat` says that a `verbs_context` surrounds it, and `sz` is its last field.
    let size = unsafe { (*front).sz };
    (size >= reach).then_some(front)
}

/// A place in the copy of libibverbs that made `context`: of its operations, `create_cq_ex` is the library's own and no provider's.
/// Null if the context has no such operation.
///
/// # Safety
///
/// `context` is an open context of libibverbs.
pub unsafe fn library_of(context: *mut Context) -> *const c_void {
    // SAFETY: by this function's contract.
    match unsafe { extended(context, REACH_CREATE_CQ_EX) } {
        // SAFETY: the context is large enough to have the operation.
        Some(extended) => unsafe { (*extended).create_cq_ex },
        None => core::ptr::null(),
    }
}

/// A place in the provider that made `context`.
///
/// # Safety
///
/// `context` is an open context of libibverbs.
pub unsafe fn provider_of(context: *mut Context) -> *const c_void {
    // SAFETY: by this function's contract.
    unsafe { (*context).ops[POLL_CQ] }
}

/// A place in the provider of a device.
///
/// # Safety
///
/// `device` is a device of libibverbs.
pub unsafe fn provider_of_device(device: *const c_void) -> *const c_void {
    let place = device.wrapping_byte_add(OPS_OF_DEVICE);
    // SAFETY: by this function's contract a `struct verbs_device`, as all are that libibverbs hands out.
    unsafe { *place.cast::<*const c_void>() }
}

/// The function behind `ibv_advise_mr`, which exists as an inline function of the header only.
///
/// # Safety
///
/// `context` is an open context of libibverbs.
pub unsafe fn advise_mr(context: *mut Context) -> Option<AdviseMr> {
    // SAFETY: by this function's contract.
    let extended = unsafe { extended(context, REACH_ADVISE_MR) }?;
    // SAFETY: the context is large enough to have the operation.
    unsafe { (*extended).advise_mr }
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Says {
    /// What it can do on demand
    pub odp: OdpCaps,
    /// `vendor_id`
    pub vendor: u32,
}

/// What `ibv_query_device_ex` says; `None` if it can't be asked.
///
/// # Safety
///
/// `context` is an open context of libibverbs.
pub unsafe fn says(context: *mut Context) -> Option<Says> {
    // SAFETY: by this function's contract.
    let extended = unsafe { extended(context, REACH_QUERY_DEVICE_EX) }?;
    // SAFETY: the context is large enough to have the operation.
    let query = unsafe { (*extended).query_device_ex }?;
    let mut attr = DeviceAttrEx {
        before: [0; 12],
        vendor: 0,
        between: [0; 35],
        odp: OdpCaps::default(),
        after: [0; 18],
    };
    // The size of rdma-core 56: drivers fill what fits.
    // SAFETY: the operation's own context, no input, and room for the size given.
    let status = unsafe { query(context, core::ptr::null(), &mut attr, 400) };
    (status == 0).then_some(Says {
        odp: attr.odp,
        vendor: attr.vendor,
    })
}
