// SPDX-License-Identifier: MIT OR Apache-2.0

//! Says to the linker what programs know the library as.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libxpmem.so.0");
}
