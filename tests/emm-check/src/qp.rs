//! Traffic: a pair of connected reliable queue pairs, operations, completions.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use crate::cq::Cq;
use crate::ffi;
use crate::verbs::{ALL_ACCESS, Link, Pd, gid};

pub use crate::error::{OpError, errno_of, hang_limit};

/// A local or remote piece of a region: address as the device knows it, and key.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Address (iova).
    pub addr: u64,
    /// lkey for the local side, rkey for the remote one.
    pub key: u32,
}

/// One operation of the queue pair.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// RDMA WRITE, local to remote.
    Write,
    /// RDMA READ, remote to local.
    Read,
    /// SEND; the remote piece is not used.
    Send,
    /// 8-byte compare and swap; the old value comes to the local piece.
    CmpSwp(u64, u64),
    /// 8-byte fetch and add; the old value comes to the local piece.
    FetchAdd(u64),
}

/// Where a queue pair is that another one is connected to.
#[derive(Clone, Copy)]
pub struct Far {
    /// Its number.
    pub number: u32,
    /// The address of its port.
    pub gid: ffi::ibv_gid,
}

/// One queue pair, destroyed when dropped.
pub struct RawQp(NonNull<ffi::ibv_qp>);

// SAFETY: libibverbs objects may be used from any thread.
unsafe impl Send for RawQp {}
// SAFETY: and from several at once: the library locks a queue that is posted to, the kernel what it changes.
unsafe impl Sync for RawQp {}

impl Drop for RawQp {
    fn drop(&mut self) {
        // SAFETY: the queue pair was created and is not used again.
        unsafe { ffi::ibv_destroy_qp(self.0.as_ptr()) };
    }
}

/// A requester and the responder it is connected to. One queue pair connected to itself would do for the data, but a request
/// that the responder refuses puts it into the error state, and the requester would say "flushed" instead of why.
pub struct Qp {
    requester: RawQp,
    responder: RawQp,
    send: Cq,
    recv: Cq,
    // The two that get no completions: the responder's sends, the requester's receives.
    _unused: Cq,
    _pd: Arc<Pd>,
}

// SAFETY: see Device.
unsafe impl Send for Qp {}
// SAFETY: see Device; two threads that wait at once could get each other's completions, which is no memory error.
unsafe impl Sync for Qp {}

impl RawQp {
    /// A reliable one that is not connected yet: what comes for it is dropped.
    pub fn new(pd: &Pd, send: &Cq, recv: &Cq) -> Result<Self> {
        let mut init = ffi::ibv_qp_init_attr {
            send_cq: send.as_raw(),
            recv_cq: recv.as_raw(),
            cap: ffi::ibv_qp_cap {
                max_send_wr: 64,
                max_recv_wr: 64,
                max_send_sge: 1,
                max_recv_sge: 1,
                ..ffi::zeroed()
            },
            qp_type: ffi::IBV_QPT_RC,
            ..ffi::zeroed()
        };
        // SAFETY: domain and queues are alive, `init` outlives the call.
        let raw = unsafe { ffi::ibv_create_qp(pd.raw.as_ptr(), &mut init) };
        Ok(Self(
            NonNull::new(raw)
                .ok_or_else(io::Error::last_os_error)
                .context("ibv_create_qp")?,
        ))
    }

    /// Takes over a queue pair.
    ///
    /// # Safety
    ///
    /// Nobody else destroys it, and what it was made of outlives it.
    pub unsafe fn from_raw(raw: NonNull<ffi::ibv_qp>) -> Self {
        Self(raw)
    }

    /// The queue pair, which stays this object's.
    pub fn as_raw(&self) -> *mut ffi::ibv_qp {
        self.0.as_ptr()
    }

    /// Changes the attributes that `mask` names; `what` is for the error.
    pub fn modify(&self, attr: &mut ffi::ibv_qp_attr, mask: u32, what: &str) -> Result<()> {
        // SAFETY: the queue pair is alive and `attr` outlives the call.
        let ret = unsafe { ffi::ibv_modify_qp(self.0.as_ptr(), attr, mask as i32) };
        if ret != 0 {
            bail!("ibv_modify_qp to {what}: {}", errno_of(ret));
        }
        Ok(())
    }

    /// Ends what is under way, and makes it as new.
    pub fn reset(&self) -> Result<()> {
        let mut attr = ffi::ibv_qp_attr {
            qp_state: ffi::IBV_QPS_RESET,
            ..ffi::zeroed()
        };
        self.modify(&mut attr, ffi::IBV_QP_STATE, "RESET")
    }

    /// Ends what is under way; only a reset makes it work again.
    pub fn fail(&self) -> Result<()> {
        let mut attr = ffi::ibv_qp_attr {
            qp_state: ffi::IBV_QPS_ERR,
            ..ffi::zeroed()
        };
        self.modify(&mut attr, ffi::IBV_QP_STATE, "ERR")
    }

    /// Posts a WRITE of `len` bytes, from an address and its key to those of the peer.
    pub fn post_write(&self, from: (u64, u32), len: u32, to: (u64, u32)) -> Result<(), OpError> {
        let mut sge = ffi::ibv_sge {
            addr: from.0,
            length: len,
            lkey: from.1,
        };
        let mut wr = ffi::ibv_send_wr {
            opcode: ffi::IBV_WR_RDMA_WRITE,
            sg_list: &mut sge,
            num_sge: 1,
            send_flags: ffi::IBV_SEND_SIGNALED,
            ..ffi::zeroed()
        };
        wr.wr.rdma.remote_addr = to.0;
        wr.wr.rdma.rkey = to.1;
        let mut bad = ptr::null_mut();
        // SAFETY: request and element live through the call, which copies them.
        match unsafe { ffi::ibv_post_send(self.0.as_ptr(), &mut wr, &mut bad) } {
            0 => Ok(()),
            ret => Err(OpError::Post(
                errno_of(ret).raw_os_error().unwrap_or(libc::EIO),
            )),
        }
    }

    /// Gives it `resources` for READs, atomics and FLUSHes of its peer.
    pub fn responds(&self, resources: u8) -> Result<()> {
        let mut attr = ffi::ibv_qp_attr {
            max_dest_rd_atomic: resources,
            ..ffi::zeroed()
        };
        let what = "another number of responder resources";
        self.modify(&mut attr, ffi::IBV_QP_MAX_DEST_RD_ATOMIC, what)
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        // SAFETY: the queue pair is alive.
        unsafe { self.0.as_ref() }.qp_num
    }

    /// Makes it ready to exchange messages with `to`, of the same device, whose requests may do what `access` says.
    pub fn connect(&self, to: &Self, link: Link, mtu: u32, access: u32) -> Result<()> {
        // SAFETY: the queue pair is alive.
        let context = unsafe { self.0.as_ref() }.context;
        // SAFETY: the context of a queue pair is open.
        let gid = unsafe { gid(context, link)? };
        let number = to.number();
        self.connect_to(Far { number, gid }, link, mtu, access)
    }

    /// The same with one that may be anywhere.
    pub fn connect_to(&self, to: Far, link: Link, mtu: u32, access: u32) -> Result<()> {
        let Link {
            gid_index,
            ack_timeout,
            retries,
        } = link;
        let mut attr = ffi::ibv_qp_attr {
            qp_state: ffi::IBV_QPS_INIT,
            port_num: 1,
            qp_access_flags: access,
            ..ffi::zeroed()
        };
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_PKEY_INDEX
            | ffi::IBV_QP_PORT
            | ffi::IBV_QP_ACCESS_FLAGS;
        self.modify(&mut attr, mask, "INIT")?;
        let mut attr = ffi::ibv_qp_attr {
            qp_state: ffi::IBV_QPS_RTR,
            path_mtu: match mtu {
                256 => ffi::IBV_MTU_256,
                512 => ffi::IBV_MTU_512,
                1024 => ffi::IBV_MTU_1024,
                2048 => ffi::IBV_MTU_2048,
                4096 => ffi::IBV_MTU_4096,
                other => bail!("MTU {other}: 256, 512, 1024, 2048 or 4096 is possible"),
            },
            dest_qp_num: to.number,
            max_dest_rd_atomic: 16,
            min_rnr_timer: 1,
            ah_attr: ffi::ibv_ah_attr {
                grh: ffi::ibv_global_route {
                    dgid: to.gid,
                    sgid_index: gid_index,
                    hop_limit: 64,
                    ..ffi::zeroed()
                },
                is_global: 1,
                port_num: 1,
                ..ffi::zeroed()
            },
            ..ffi::zeroed()
        };
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_AV
            | ffi::IBV_QP_PATH_MTU
            | ffi::IBV_QP_DEST_QPN
            | ffi::IBV_QP_RQ_PSN
            | ffi::IBV_QP_MAX_DEST_RD_ATOMIC
            | ffi::IBV_QP_MIN_RNR_TIMER;
        self.modify(&mut attr, mask, "RTR")?;
        let mut attr = ffi::ibv_qp_attr {
            qp_state: ffi::IBV_QPS_RTS,
            timeout: ack_timeout,
            retry_cnt: retries,
            rnr_retry: 7,
            max_rd_atomic: 16,
            ..ffi::zeroed()
        };
        let mask = ffi::IBV_QP_STATE
            | ffi::IBV_QP_TIMEOUT
            | ffi::IBV_QP_RETRY_CNT
            | ffi::IBV_QP_RNR_RETRY
            | ffi::IBV_QP_SQ_PSN
            | ffi::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(&mut attr, mask, "RTS")
    }
}

impl Qp {
    /// Creates both queue pairs and connects them with path MTU `mtu` bytes.
    pub fn new(pd: &Arc<Pd>, mtu: u32) -> Result<Self> {
        let send = Cq::new(&pd.device)?;
        let recv = Cq::new(&pd.device)?;
        let unused = Cq::new(&pd.device)?;
        let requester = RawQp::new(pd, &send, &unused)?;
        let responder = RawQp::new(pd, &unused, &recv)?;
        let link = pd.device.link();
        responder.connect(&requester, link, mtu, ALL_ACCESS)?;
        requester.connect(&responder, link, mtu, ALL_ACCESS)?;
        Ok(Self {
            requester,
            responder,
            send,
            recv,
            _unused: unused,
            _pd: pd.clone(),
        })
    }

    /// Posts `op` of `len` bytes.
    pub fn post(&self, op: Op, local: Piece, len: u32, remote: Piece) -> Result<(), OpError> {
        let mut sge = ffi::ibv_sge {
            addr: local.addr,
            length: len,
            lkey: local.key,
        };
        let mut wr = ffi::ibv_send_wr {
            sg_list: &mut sge,
            num_sge: 1,
            send_flags: ffi::IBV_SEND_SIGNALED,
            ..ffi::zeroed()
        };
        let mut atomic = |compare_add, swap| {
            wr.wr.atomic.remote_addr = remote.addr;
            wr.wr.atomic.rkey = remote.key;
            wr.wr.atomic.compare_add = compare_add;
            wr.wr.atomic.swap = swap;
        };
        match op {
            Op::CmpSwp(compare, swap) => {
                atomic(compare, swap);
                wr.opcode = ffi::IBV_WR_ATOMIC_CMP_AND_SWP;
            }
            Op::FetchAdd(add) => {
                atomic(add, 0);
                wr.opcode = ffi::IBV_WR_ATOMIC_FETCH_AND_ADD;
            }
            Op::Send => wr.opcode = ffi::IBV_WR_SEND,
            Op::Write | Op::Read => {
                wr.wr.rdma.remote_addr = remote.addr;
                wr.wr.rdma.rkey = remote.key;
                wr.opcode = if matches!(op, Op::Write) {
                    ffi::IBV_WR_RDMA_WRITE
                } else {
                    ffi::IBV_WR_RDMA_READ
                };
            }
        }
        let mut bad = ptr::null_mut();
        // SAFETY: request and element live through the call, which copies them.
        let ret = unsafe { ffi::ibv_post_send(self.requester.0.as_ptr(), &mut wr, &mut bad) };
        if ret != 0 {
            return Err(OpError::Post(
                errno_of(ret).raw_os_error().unwrap_or(libc::EIO),
            ));
        }
        Ok(())
    }

    /// Posts a receive of `len` bytes at the responder.
    pub fn post_recv(&self, local: Piece, len: u32) -> Result<(), OpError> {
        let mut sge = ffi::ibv_sge {
            addr: local.addr,
            length: len,
            lkey: local.key,
        };
        let mut wr = ffi::ibv_recv_wr {
            sg_list: &mut sge,
            num_sge: 1,
            ..ffi::zeroed()
        };
        let mut bad = ptr::null_mut();
        // SAFETY: request and element live through the call, which copies them.
        let ret = unsafe { ffi::ibv_post_recv(self.responder.0.as_ptr(), &mut wr, &mut bad) };
        if ret != 0 {
            return Err(OpError::Post(
                errno_of(ret).raw_os_error().unwrap_or(libc::EIO),
            ));
        }
        Ok(())
    }

    /// Waits for the next completion of the send queue.
    pub fn wait(&self) -> Result<(), OpError> {
        self.send.wait().map(drop)
    }

    /// The same without sleeping.
    pub fn spin(&self) -> Result<(), OpError> {
        self.send.spin().map(drop)
    }

    /// Waits for the next completion of the receive queue.
    pub fn wait_recv(&self) -> Result<(), OpError> {
        self.recv.wait().map(drop)
    }

    /// Posts `op` and waits for its completion.
    pub fn run(&self, op: Op, local: Piece, len: u32, remote: Piece) -> Result<(), OpError> {
        self.post(op, local, len, remote)?;
        self.wait()
    }
}
