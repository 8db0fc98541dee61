//! What `build` leaves behind and the guest starts from.

use std::path::PathBuf;

use crate::cache::CacheLock;

/// Everything that a guest needs. While it lives, the cache is locked against rebuilding and
/// cleaning; several guests share that lock.
#[derive(Debug)]
pub struct Artifacts {
    /// The root: a Debian tree that is build root, home of QEMU and the guest's file system.
    pub root: PathBuf,
    /// Directory with `libverbs_shim.so`, `verbs-shim` and `emm-check`.
    pub userland: PathBuf,
    /// The kernel that was asked for.
    pub kernel: KernelArtifacts,
    /// Keeps the files above as they are.
    #[expect(dead_code, reason = "held for its drop")]
    pub(crate) lock: CacheLock,
}

/// A kernel and the modules built for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelArtifacts {
    /// `7.3`
    pub series: String,
    /// `uname -r`, for example `7.3.4+deb13-amd64`.
    pub version: String,
    /// Whether it is the debug kernel, which is several times slower.
    pub debug: bool,
    /// Whether its series is none of those that the tests run on.
    pub new: bool,
    /// The bootable image.
    pub vmlinuz: PathBuf,
    /// The stock modules: the folder `usr/lib/modules/VERSION`, with `modules.dep`.
    pub modules: PathBuf,
    /// Directory with `rdma_rxe.ko` and, unless the driver is one without it, `ib_emm.ko`, `emm_xpmem.ko`, `emm_client.ko` and `emm_access.ko`.
    pub emm: PathBuf,
}
