//! Queue pairs with the extended posting interface: several elements a request, several requests at once, both ends usable.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::cq::Cq;
use crate::ffi;
use crate::qp::{OpError, Piece, RawQp, errno_of};
use crate::verbs::{ALL_ACCESS, Pd};

/// Elements a request may have.
pub const SGES: usize = 16;
/// What requests of the peer may do.
pub const ACCESS: u32 =
    ALL_ACCESS | ffi::IBV_ACCESS_FLUSH_GLOBAL | ffi::IBV_ACCESS_FLUSH_PERSISTENT;

/// A request.
#[derive(Clone, Copy)]
pub enum Work {
    Write(Piece),
    /// WRITE with immediate data, which takes a receive.
    WriteImm(Piece, u32),
    Read(Piece),
    Send,
    /// SEND that invalidates this remote key.
    SendInvalidate(u32),
    CmpSwp(Piece, u64, u64),
    FetchAdd(Piece, u64),
    AtomicWrite(Piece, u64),
    /// FLUSH of so many bytes, with type and level.
    Flush(Piece, usize, u32, u32),
    /// Binds a window of type 2 under this key.
    Bind(*mut ffi::ibv_mw, u32, ffi::ibv_mw_bind_info),
    /// Invalidates a local key.
    Invalidate(u32),
    /// SEND to a queue pair number with a key, by an address handle.
    SendTo(*mut ffi::ibv_ah, u32, u32),
}

impl Work {
    /// Adds the request to what is being posted.
    ///
    /// # Safety
    ///
    /// `qp` is an extended queue pair between start and complete; windows and address handles are alive.
    unsafe fn add(self, qp: *mut ffi::ibv_qp_ex) {
        match self {
            Self::Write(to) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_rdma_write(qp, to.key, to.addr) }
            }
            Self::WriteImm(to, data) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_rdma_write_imm(qp, to.key, to.addr, data) }
            }
            Self::Read(from) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_rdma_read(qp, from.key, from.addr) }
            }
            Self::Send | Self::SendTo(..) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_send(qp) }
            }
            Self::SendInvalidate(key) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_send_inv(qp, key) }
            }
            Self::CmpSwp(at, compare, swap) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_atomic_cmp_swp(qp, at.key, at.addr, compare, swap) }
            }
            Self::FetchAdd(at, add) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_atomic_fetch_add(qp, at.key, at.addr, add) }
            }
            Self::AtomicWrite(to, value) => {
                // SAFETY: by this function's contract; the value is copied.
                unsafe { ffi::ibv_wr_atomic_write(qp, to.key, to.addr, &value.to_ne_bytes()) }
            }
            Self::Flush(at, len, kind, level) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_flush(qp, at.key, at.addr, len, kind as u8, level as u8) }
            }
            Self::Bind(mw, key, info) => {
                // SAFETY: by this function's contract; the information is copied.
                unsafe { ffi::ibv_wr_bind_mw(qp, mw, key, &info) }
            }
            Self::Invalidate(key) => {
                // SAFETY: by this function's contract.
                unsafe { ffi::ibv_wr_local_inv(qp, key) }
            }
        }
        if let Self::SendTo(ah, number, key) = self {
            // SAFETY: by this function's contract.
            unsafe { ffi::ibv_wr_set_ud_addr(qp, ah, number, key) }
        }
    }
}

/// One queue pair and its two completion queues.
pub struct End {
    pub qp: RawQp,
    pub sent: Cq,
    pub received: Cq,
}

impl End {
    /// A queue pair of `qp_type`; with a shared receive queue it has no receives of its own.
    pub fn new(
        pd: &Arc<Pd>,
        qp_type: ffi::ibv_qp_type::Type,
        srq: Option<NonNull<ffi::ibv_srq>>,
    ) -> Result<Self> {
        let sent = Cq::new(pd.device())?;
        let received = Cq::new(pd.device())?;
        let sends = ffi::IBV_QP_EX_WITH_SEND;
        let reliable = ffi::IBV_QP_EX_WITH_RDMA_WRITE
            | ffi::IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM
            | ffi::IBV_QP_EX_WITH_RDMA_READ
            | ffi::IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP
            | ffi::IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD
            | ffi::IBV_QP_EX_WITH_LOCAL_INV
            | ffi::IBV_QP_EX_WITH_BIND_MW
            | ffi::IBV_QP_EX_WITH_SEND_WITH_INV
            | ffi::IBV_QP_EX_WITH_FLUSH
            | ffi::IBV_QP_EX_WITH_ATOMIC_WRITE;
        let is_rc = qp_type == ffi::IBV_QPT_RC;
        let mut init = ffi::ibv_qp_init_attr_ex {
            send_cq: sent.as_raw(),
            recv_cq: received.as_raw(),
            srq: srq.map_or(ptr::null_mut(), NonNull::as_ptr),
            cap: ffi::ibv_qp_cap {
                max_send_wr: 64,
                max_recv_wr: 64,
                max_send_sge: SGES as u32,
                max_recv_sge: SGES as u32,
                ..ffi::zeroed()
            },
            qp_type,
            comp_mask: ffi::IBV_QP_INIT_ATTR_PD | ffi::IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
            pd: pd.as_raw(),
            send_ops_flags: u64::from(if is_rc { sends | reliable } else { sends }),
            ..ffi::zeroed()
        };
        // SAFETY: domain and queues are alive, `init` outlives the call.
        let raw = unsafe { ffi::ibv_create_qp_ex(pd.device().as_raw(), &mut init) };
        let raw = NonNull::new(raw)
            .ok_or_else(io::Error::last_os_error)
            .context("ibv_create_qp_ex")?;
        Ok(Self {
            // SAFETY: new, and the completion queues go after it.
            qp: unsafe { RawQp::from_raw(raw) },
            sent,
            received,
        })
    }

    /// Whether it is one of a connected pair.
    pub fn is_reliable(&self) -> bool {
        // SAFETY: the queue pair is alive.
        unsafe { (*self.qp.as_raw()).qp_type == ffi::IBV_QPT_RC }
    }

    /// Posts requests at once, each with its elements and a completion.
    pub fn post(&self, works: &[(Work, &[ffi::ibv_sge])]) -> Result<(), OpError> {
        // SAFETY: made by ibv_create_qp_ex with operations.
        let qp = unsafe { ffi::ibv_qp_to_qp_ex(self.qp.as_raw()) };
        // SAFETY: the queue pair is alive, and nobody else posts on it.
        unsafe { ffi::ibv_wr_start(qp) };
        for (number, &(work, list)) in works.iter().enumerate() {
            // SAFETY: the queue pair is alive.
            let request = unsafe { &mut *qp };
            request.wr_id = number as u64;
            request.wr_flags = ffi::IBV_SEND_SIGNALED;
            // SAFETY: between start and complete; callers keep windows and handles alive.
            unsafe { work.add(qp) };
            if !list.is_empty() {
                // SAFETY: as above; the list is copied.
                unsafe { ffi::ibv_wr_set_sge_list(qp, list.len(), list.as_ptr()) };
            }
        }
        // SAFETY: as above.
        posted(unsafe { ffi::ibv_wr_complete(qp) })
    }

    /// Posts one request and waits for its completion.
    pub fn run(&self, work: Work, list: &[ffi::ibv_sge]) -> Result<ffi::ibv_wc, OpError> {
        self.post(&[(work, list)])?;
        self.sent.wait()
    }

    /// As [`Self::run`] with several elements.
    pub fn run_list(&self, work: Work, list: &[ffi::ibv_sge]) -> Result<ffi::ibv_wc, OpError> {
        self.post_list(work, list)?;
        self.sent.wait()
    }

    /// Posts one request with several elements by `ibv_post_send`: in rdma-core 56, rxe's part of the extended interface takes
    /// the first element's length for that of each.
    pub fn post_list(&self, work: Work, list: &[ffi::ibv_sge]) -> Result<(), OpError> {
        let mut list = list.to_vec();
        let mut wr = ffi::ibv_send_wr {
            sg_list: list.as_mut_ptr(),
            num_sge: list.len() as i32,
            send_flags: ffi::IBV_SEND_SIGNALED,
            ..ffi::zeroed()
        };
        let (opcode, remote) = match work {
            Work::Write(to) => (ffi::IBV_WR_RDMA_WRITE, Some(to)),
            Work::Read(from) => (ffi::IBV_WR_RDMA_READ, Some(from)),
            Work::Send => (ffi::IBV_WR_SEND, None),
            _ => return Err(OpError::Post(libc::EINVAL)),
        };
        wr.opcode = opcode;
        if let Some(remote) = remote {
            wr.wr.rdma.remote_addr = remote.addr;
            wr.wr.rdma.rkey = remote.key;
        }
        let mut bad = ptr::null_mut();
        // SAFETY: request and elements live through the call, which copies them.
        posted(unsafe { ffi::ibv_post_send(self.qp.as_raw(), &mut wr, &mut bad) })
    }

    /// Posts a receive.
    pub fn post_recv(&self, wr_id: u64, list: &[ffi::ibv_sge]) -> Result<(), OpError> {
        let mut list = list.to_vec();
        let mut wr = receive(wr_id, &mut list);
        let mut bad = ptr::null_mut();
        // SAFETY: request and elements live through the call, which copies them.
        posted(unsafe { ffi::ibv_post_recv(self.qp.as_raw(), &mut wr, &mut bad) })
    }
}

/// A receive into `list`, which must outlive it.
pub fn receive(wr_id: u64, list: &mut [ffi::ibv_sge]) -> ffi::ibv_recv_wr {
    ffi::ibv_recv_wr {
        wr_id,
        sg_list: list.as_mut_ptr(),
        num_sge: list.len() as i32,
        ..ffi::zeroed()
    }
}

/// What posting said.
pub fn posted(ret: i32) -> Result<(), OpError> {
    if ret == 0 {
        return Ok(());
    }
    let errno = errno_of(ret).raw_os_error();
    Err(OpError::Post(errno.unwrap_or(libc::EIO)))
}

/// Two reliable queue pairs that are connected.
pub struct Pair {
    pub near: End,
    pub far: End,
    pd: Arc<Pd>,
}

impl Pair {
    /// Makes and connects them; `srq` is where the far one receives.
    pub fn new(pd: &Arc<Pd>, mtu: u32, srq: Option<NonNull<ffi::ibv_srq>>) -> Result<Self> {
        let near = End::new(pd, ffi::IBV_QPT_RC, None)?;
        let far = End::new(pd, ffi::IBV_QPT_RC, srq)?;
        let pair = Self {
            near,
            far,
            pd: pd.clone(),
        };
        pair.connect(mtu)?;
        Ok(pair)
    }

    /// Connects them, which are new or reset.
    pub fn connect(&self, mtu: u32) -> Result<()> {
        let link = self.pd.device().link();
        self.far.qp.connect(&self.near.qp, link, mtu, ACCESS)?;
        self.near.qp.connect(&self.far.qp, link, mtu, ACCESS)
    }
}
