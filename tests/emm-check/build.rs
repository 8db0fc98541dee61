//! Generates the types that user space shares with the kernel and that the crate rdma-mummy-sys, which has libibverbs, leaves out.

use std::env;
use std::path::PathBuf;

/// What of `rdma/ib_user_ioctl_verbs.h`, `rdma/ib_user_verbs.h` and `rdma/rdma_user_rxe.h` is used.
const TYPES: &str = "ib_uverbs_(advise_mr_advice|advise_mr_flag|cmd_hdr|rereg_mr|rereg_mr_resp)|rxe_(queue_buf|send_wqe)";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=wrapper.h");
    bindgen::Builder::default()
        .header("wrapper.h")
        .allowlist_type(TYPES)
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(false)
        .generate()
        .expect("bindgen on the kernel's headers (linux-libc-dev and libclang are needed)")
        .write_to_file(out.join("kernel.rs"))
        .expect("writing the bindings");
}
