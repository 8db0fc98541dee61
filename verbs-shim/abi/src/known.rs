// SPDX-License-Identifier: MIT OR Apache-2.0

//! Implementations of on-demand paging that are known to corrupt data, with the evidence.
//!
//! Everything else is decided by capabilities.

/// One implementation that is not to be trusted.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// The kind of device that has it.
    pub driver: Driver,
    /// What `mr_backend` says where a better implementation took its place.
    pub cured_by: &'static str,
    /// What is wrong.
    pub cause: &'static str,
    /// What the user can do.
    pub remedy: &'static str,
    /// Where it was seen, and what shows it again; for those who read this table.
    pub evidence: &'static str,
}

/// `RXE_VENDOR_ID` of `drivers/infiniband/sw/rxe/rxe_param.h`
pub const RXE_VENDOR: u32 = 0xff_ffff;

/// Kinds of device that the table names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Soft-RoCE
    Rxe,
    /// Any other
    Other,
}

/// The table.
pub const CORRUPTING: &[Known] = &[Known {
    driver: Driver::Rxe,
    cured_by: "emm",
    cause: "the on-demand paging of in-tree rxe corrupts data",
    remedy: "load ib_emm and set /sys/module/rdma_rxe/parameters/mr_backend to emm",
    evidence: "Linux 7.2.12 and 7.3.4: __rxe_odp_mr_copy ignores the offset inside a page and does \
               not advance across pages. `emm-check verify --mr odp` finds wrong bytes and stray \
               writes for all offsets but those of page-aligned data that ends in its page, with \
               successful completions.",
}];

/// The entry for a device of this kind, where `mr_backend` (if there is such a parameter) says what
/// serves on-demand regions.
pub fn corrupting(driver: Driver, mr_backend: Option<&[u8]>) -> Option<&'static Known> {
    CORRUPTING
        .iter()
        .find(|known| known.driver == driver && mr_backend != Some(known.cured_by.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rxe_is_trusted_with_ib_emm_only() {
        assert_eq!(corrupting(Driver::Rxe, Some(b"emm")), None);
        assert!(corrupting(Driver::Rxe, Some(b"odp")).is_some());
        assert!(corrupting(Driver::Rxe, None).is_some());
        assert_eq!(corrupting(Driver::Other, None), None);
        assert_eq!(corrupting(Driver::Other, Some(b"odp")), None);
    }
}
