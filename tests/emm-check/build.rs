//! Generates the bindings of libibverbs from the distribution's header. Much of the verbs API is `static inline`
//! in that header: bindgen writes C wrappers for those, which are compiled in here.
//!
//! No crate serves: rdma-sys 0.3.0 does not build (its bindgen 0.59 ends with "is not a valid Ident" at an anonymous union, with libclang
//! 17, 18, 19 and 21), and rdma-mummy-sys 0.2.6 has libibverbs, but not what the kernel and rxe share with user space
//! (`ib_uverbs_cmd_hdr`, `ib_uverbs_rereg_mr`, `rxe_queue_buf`, `rxe_send_wqe`, …), and wants CMake, which the first start goes without.

use std::env;
use std::path::PathBuf;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let wrappers = out.join("wrappers");
    println!("cargo::rerun-if-changed=wrapper.h");
    let bindings = bindgen::Builder::default()
        .header("wrapper.h")
        .allowlist_function("ibv_.*")
        .allowlist_type("ibv_.*")
        .allowlist_var("IBV_.*")
        .allowlist_type(
            "ib_uverbs_(advise_mr_flag|cmd_hdr|rereg_mr|rereg_mr_resp)|rxe_(queue_buf|send_wqe)",
        )
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(false)
        .wrap_static_fns(true)
        .wrap_static_fns_path(&wrappers)
        .generate()
        .expect("bindgen on infiniband/verbs.h (libibverbs-dev and libclang are needed)");
    bindings
        .write_to_file(out.join("verbs.rs"))
        .expect("writing the bindings");
    cc::Build::new()
        .file(wrappers.with_extension("c"))
        .include(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
        .warnings(false)
        .compile("verbs_wrappers");
    println!("cargo::rustc-link-lib=ibverbs");
}
