//! The header's constants by their own names, as C has them: the crate has flags as numbers in a type of their own, and has other
//! enumerations as modules.

use rdma_mummy_sys as sys;

/// Flags that are or-ed, as the numbers that the structures want.
macro_rules! flags {
    ($($kind:ident: $($name:ident)*;)*) => {
        $($(#[allow(missing_docs, reason = "as in verbs.h")]
        pub const $name: u32 = sys::$kind::$name.0;)*)*
    };
}

flags! {
    ibv_access_flags:
        IBV_ACCESS_FLUSH_GLOBAL
        IBV_ACCESS_FLUSH_PERSISTENT
        IBV_ACCESS_HUGETLB
        IBV_ACCESS_LOCAL_WRITE
        IBV_ACCESS_MW_BIND
        IBV_ACCESS_ON_DEMAND
        IBV_ACCESS_REMOTE_ATOMIC
        IBV_ACCESS_REMOTE_READ
        IBV_ACCESS_REMOTE_WRITE
        IBV_ACCESS_ZERO_BASED;
    ibv_odp_general_caps:
        IBV_ODP_SUPPORT_IMPLICIT;
    ibv_qp_attr_mask:
        IBV_QP_ACCESS_FLAGS
        IBV_QP_AV
        IBV_QP_DEST_QPN
        IBV_QP_MAX_DEST_RD_ATOMIC
        IBV_QP_MAX_QP_RD_ATOMIC
        IBV_QP_MIN_RNR_TIMER
        IBV_QP_PATH_MTU
        IBV_QP_PKEY_INDEX
        IBV_QP_PORT
        IBV_QP_QKEY
        IBV_QP_RETRY_CNT
        IBV_QP_RNR_RETRY
        IBV_QP_RQ_PSN
        IBV_QP_SQ_PSN
        IBV_QP_STATE
        IBV_QP_TIMEOUT;
    ibv_qp_create_send_ops_flags:
        IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP
        IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD
        IBV_QP_EX_WITH_ATOMIC_WRITE
        IBV_QP_EX_WITH_BIND_MW
        IBV_QP_EX_WITH_FLUSH
        IBV_QP_EX_WITH_LOCAL_INV
        IBV_QP_EX_WITH_RDMA_READ
        IBV_QP_EX_WITH_RDMA_WRITE
        IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM
        IBV_QP_EX_WITH_SEND
        IBV_QP_EX_WITH_SEND_WITH_INV;
    ibv_qp_init_attr_mask:
        IBV_QP_INIT_ATTR_PD
        IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
    ibv_rereg_mr_flags:
        IBV_REREG_MR_CHANGE_ACCESS
        IBV_REREG_MR_CHANGE_PD
        IBV_REREG_MR_CHANGE_TRANSLATION;
    ibv_send_flags:
        IBV_SEND_INLINE
        IBV_SEND_SIGNALED;
    ibv_wc_flags:
        IBV_WC_GRH;
}

pub use sys::ibv_mtu::{IBV_MTU_256, IBV_MTU_512, IBV_MTU_1024, IBV_MTU_2048, IBV_MTU_4096};
pub use sys::ibv_mw_type::{IBV_MW_TYPE_1, IBV_MW_TYPE_2};
pub use sys::ibv_qp_state::{IBV_QPS_ERR, IBV_QPS_INIT, IBV_QPS_RESET, IBV_QPS_RTR, IBV_QPS_RTS};
pub use sys::ibv_qp_type::{IBV_QPT_RC, IBV_QPT_UD};
pub use sys::ibv_wc_opcode::{IBV_WC_ATOMIC_WRITE, IBV_WC_FLUSH, IBV_WC_RDMA_WRITE};
pub use sys::ibv_wc_status::{
    IBV_WC_LOC_PROT_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR,
    IBV_WC_REM_OP_ERR, IBV_WC_RETRY_EXC_ERR, IBV_WC_SUCCESS, IBV_WC_WR_FLUSH_ERR,
};
pub use sys::ibv_wr_opcode::{
    IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD, IBV_WR_ATOMIC_WRITE, IBV_WR_RDMA_READ,
    IBV_WR_RDMA_WRITE, IBV_WR_SEND,
};
