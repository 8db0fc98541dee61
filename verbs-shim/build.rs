// SPDX-License-Identifier: MIT OR Apache-2.0

//! Says to the linker that the library stays once it is loaded: exit and fork handlers point into it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
