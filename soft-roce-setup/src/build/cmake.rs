//! CMake, which the build scripts of some crates want. It lies beside the root and not in it: kernels are built without it, and stay
//! as they are when it changes.

use anyhow::Result;

use super::key::Key;
use super::{fetch, root};
use crate::context::Context;
use crate::enter::Enter;
use crate::host;

/// The place of it in the cache.
const PLACE: &str = "cmake";
/// CMake and what it needs that the root lacks.
const PACKAGES: [&str; 6] = [
    "cmake",
    "cmake-data",
    "libarchive13t64",
    "libjsoncpp26",
    "librhash1",
    "libuv1t64",
];
/// GiB that it takes.
const GIB: f64 = 0.1;
/// Where it is to be bound.
const INSIDE: &str = "/mnt/cmake";
/// Unpacks the packages in `/mnt/out`, keeps nothing else, and tries it.
const UNPACK: &str = r#"
cd /mnt/out
for deb in *.deb; do dpkg-deb -x "$deb" .; done
rm ./*.deb
LD_LIBRARY_PATH=/mnt/out/usr/lib/x86_64-linux-gnu usr/bin/cmake --version
"#;

/// Unpacks it if it is not there. The root is there, and the caller holds the cache's lock.
pub fn ensure(context: &Context) -> Result<()> {
    let key = Key::new(PLACE, 1)
        .text(&root::version(context))
        .text(&PACKAGES.join(" "))
        .text(UNPACK)
        .finish();
    context
        .cache
        .ensure(&context.ui, PLACE, &key, "CMake", |dir, step| {
            host::require_room(context, GIB, "CMake")?;
            fetch::download(context, &PACKAGES, dir, step)?;
            let log = context.cache.fresh_log("cmake");
            Enter::new(&root::tree(context))
                .bind(dir, "/mnt/out")
                .cmd("bash")
                .args(["-euo", "pipefail", "-c", UNPACK])
                .run(&log, step)
        })
        .map(drop)
}

/// The root `enter` with CMake, which is there, where build scripts find it.
pub fn within(context: &Context, enter: Enter) -> Enter {
    enter.bind_ro(context.cache.path(PLACE), INSIDE).envs([
        ("CMAKE", format!("{INSIDE}/usr/bin/cmake")),
        (
            "LD_LIBRARY_PATH",
            format!("{INSIDE}/usr/lib/x86_64-linux-gnu"),
        ),
    ])
}
