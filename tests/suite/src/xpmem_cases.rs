//! Memory of one process in another by `/dev/xpmem`, in the guest of all other cases.

use super::cases::{Case, case};

/// Those that run on each further kernel without `--long` too: faults, and mappings of another process's pages, differ there.
pub const ON_EACH_KERNEL: &[&str] = &["xpmem", "xpmem_matrix"];

/// All cases, in order.
pub const CASES: &[Case] = &[
    // One command for both: the owner starts the attacher.
    Case {
        name: "xpmem_samples",
        script: "xpmem_owner xpmem_attacher && ldd /emm/bin/xpmem_owner",
        seconds: 60,
        wants: &[
            "attacher: 0 of 1048576 bytes",
            "owner: 0 of 1048576 bytes",
            "libxpmem.so.0 => /emm/bin/libxpmem.so.0",
        ],
        long: false,
    },
    case("xpmem", 300, "emm-check xpmem --attaches 500"),
    case("xpmem_matrix", 300, MATRIX),
    case("xpmem_matrix_whole", 3600, "emm-check xpmem-matrix").long(),
    case("xpmem_many", 3600, "emm-check xpmem many --attaches 100000").long(),
];

/// Events in which something else is done to page tables each, and the operations that meet them in another way each.
pub const MATRIX: &str = "emm-check xpmem-matrix --verb load,copy,syscall dontneed swap-zram fork-cow mprotect move-pages ksm thp hugetlb punch-hole && \
     emm-check xpmem-matrix --verb store,atomic,beside-mr free-reclaim remap mremap fork-child-first";
